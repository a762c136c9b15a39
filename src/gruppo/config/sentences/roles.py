"""Which name of a sentence is what: by its form, by the words around it, and last by what is still missing."""

from collections.abc import Set
from dataclasses import dataclass, field

from gruppo.config.sentences.cues import joined_names
from gruppo.config.sentences.names import Role, looks_like
from gruppo.config.sentences.reading import Reading

_SPECIAL: frozenset[Role] = frozenset({"eval", "output", "reward model"})


@dataclass(slots=True)
class Roles:
    """The names by what they are, and those that are open."""

    found: dict[int, Role] = field(default_factory=dict[int, Role])
    open: set[int] = field(default_factory=set[int])
    """Names of which it has to be asked what they are."""
    by_elimination: set[int] = field(default_factory=set[int])

    def of(self, role: Role) -> list[int]:
        """The names that are something."""
        return [index for index, known in self.found.items() if known == role]

    def without(self, tokens: Set[int]) -> "Roles":
        """The same, but for some names."""
        return Roles(
            {index: role for index, role in self.found.items() if index not in tokens},
            self.open - tokens,
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
        role = _decide(reading, index)
        if role is None:
            roles.open.add(index)
        else:
            roles.found[index] = role
    for first, second in joined_names(reading):
        if first in roles.found and second not in roles.found and looks_like(_text(reading, second))[0] is None:
            roles.found[second] = roles.found[first]
            roles.open.discard(second)
    _eliminate(reading, roles)
    return roles


def _decide(reading: Reading, index: int) -> Role | None:
    """What a name is; None: it has to be asked."""
    shape, sure = looks_like(_text(reading, index))
    strong: set[Role] = {cue.role for cue in reading.cues if cue.name == index and cue.strong}
    weak: set[Role] = {cue.role for cue in reading.cues if cue.name == index and not cue.strong}
    # An evaluation's data, a place to write to and a reward model have words around them that nothing else has.
    said = strong & _SPECIAL or strong
    if shape == "reward":
        return shape
    if said:
        (role, *more) = said
        contradicted = sure and shape != role and role not in _SPECIAL
        return None if more or contradicted else role
    if sure or not weak:
        return shape
    agreed = len(weak) == 1 and shape in (None, *weak)
    return weak.pop() if agreed else None


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
