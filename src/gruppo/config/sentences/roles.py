"""Which name of a sentence is what: by its form, by the words around it, and last by what is still missing."""

from collections.abc import Set
from dataclasses import dataclass, field

from gruppo.config.sentences.names import Role, looks_like
from gruppo.config.sentences.reading import Reading
from gruppo.config.sentences.cues import joined_names


@dataclass(slots=True)
class Roles:
    """The names by what they are, and those that are open."""

    found: dict[int, Role] = field(default_factory=dict[int, Role])
    open: dict[int, str] = field(default_factory=dict[int, str])
    """What has to be asked of a name."""
    by_elimination: set[int] = field(default_factory=set[int])

    def of(self, role: Role) -> list[int]:
        """The names that are something."""
        return [index for index, known in self.found.items() if known == role]

    def without(self, tokens: Set[int]) -> "Roles":
        """The same, but for some names."""
        return Roles(
            {index: role for index, role in self.found.items() if index not in tokens},
            {index: text for index, text in self.open.items() if index not in tokens},
            self.by_elimination - tokens,
        )


def assign(reading: Reading) -> Roles:
    """Decide about every name.

    A form that is sure stands over prepositions, a noun over a form that is only likely; where two that are sure
    disagree, or a preposition and a likely form, it is asked.
    """
    roles = Roles()
    for index in reading.words.names():
        if f"cited {index}" in reading.facts:
            continue
        role, text = _decide(reading, index)
        if role is not None:
            roles.found[index] = role
        elif text:
            roles.open[index] = text
    for first, second in joined_names(reading):
        if first in roles.found and second not in roles.found and looks_like(_text(reading, second))[0] is None:
            roles.found[second] = roles.found[first]
            roles.open.pop(second, None)
    _eliminate(reading, roles)
    return roles


def _decide(reading: Reading, index: int) -> tuple[Role | None, str]:
    """A name's role, or what to ask."""
    name = _text(reading, index)
    shape, sure = looks_like(name)
    strong = {cue.role for cue in reading.cues if cue.name == index and cue.strong}
    weak = {cue.role for cue in reading.cues if cue.name == index and not cue.strong}
    what = f'is \'{name}\' the model or the data? Say "the model {name}", or "the data {name}"'
    if strong & {"eval", "output", "reward model"}:
        special = strong & {"eval", "output", "reward model"}
        return (special.pop(), "") if len(special) == 1 else (None, f"what is '{name}'?")
    if shape == "reward":
        return shape, ""
    if len(strong) > 1:
        return None, what
    if strong:
        (said,) = strong
        return (None, what) if sure and shape != said else (said, "")
    if sure:
        return shape, ""
    if len(weak) > 1 or (weak and shape is not None and shape not in weak):
        return None, what
    if weak:
        return weak.pop(), ""
    return shape, "" if shape else what


def _eliminate(reading: Reading, roles: Roles) -> None:
    """`Run GRPO on X`, `with X on DATA`: X is the one of model and data that nothing else is."""
    objects = [index for index in roles.open if index in reading.neutral]
    if len(objects) != 1 or len(roles.open) != 1:
        return
    models, data = roles.of("model"), roles.of("data")
    if bool(models) != bool(data):
        roles.found[objects[0]] = "data" if models else "model"
        roles.open.clear()
        roles.by_elimination.add(objects[0])


def _text(reading: Reading, index: int) -> str:
    return reading.words.tokens[index].text
