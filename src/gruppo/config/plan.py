"""What a sentence comes to: values with the words that they are from, assumptions, questions; as YAML, as a command."""

import shlex
from dataclasses import dataclass
from typing import Any, Literal, cast

from gruppo.config.checks import shown
from gruppo.config.load import STAGES, check
from gruppo.config.schema import Config
from gruppo.config.table import aligned, wrapped
from gruppo.config.yaml_text import flow, lines

Source = Literal["said", "assumed", "flag"]


@dataclass(frozen=True, slots=True)
class Slot:
    """One value of a plan."""

    option: str
    """By dotted name: `model`, `eval.data`."""
    value: Any
    source: Source
    words: str
    """Of the sentence; empty where there are none."""
    why: str = ""
    """Of an assumption."""


@dataclass(frozen=True, slots=True)
class Question:
    """What must be asked before a run."""

    about: str
    """An option; `partial_at` or `scale` of the levels of a reward; a name whose role is open; `words` for those that
    are not understood; `not` for a negation."""
    text: str
    words: str = ""

    @property
    def answer_is_a_value(self) -> bool:
        """Whether a value given for `about` answers it; otherwise the sentence has to be put differently."""
        return self.about in ("partial_at", "scale") or is_option(self.about)


def is_option(name: str) -> bool:
    """Whether this is an option's dotted name."""
    stage, _, leaf = name.rpartition(".")
    section = STAGES.get(stage, Config)
    return leaf in section.model_fields and (not stage or stage in STAGES)


@dataclass(frozen=True, slots=True)
class Plan:
    """A sentence as a run, with all that is not yet sure about it."""

    sentence: str
    slots: tuple[Slot, ...]
    questions: tuple[Question, ...]
    notes: tuple[str, ...] = ()
    """What is left to gruppo's defaults, where the sentence speaks of it."""

    @property
    def values(self) -> dict[str, Any]:
        """What a config file would say."""
        values: dict[str, Any] = {}
        for slot in self.slots:
            stage, _, leaf = slot.option.rpartition(".")
            (values.setdefault(stage, {}) if stage else values)[leaf] = slot.value
        return values

    @property
    def assumed(self) -> tuple[Slot, ...]:
        """The values that no word says."""
        return tuple(slot for slot in self.slots if slot.source == "assumed")

    @property
    def sure(self) -> bool:
        """Whether all of it was said, and all that was said is understood."""
        return not self.questions and not self.assumed

    def config(self) -> Config:
        """The checked config.

        Raises:
            ConfigError: fields are wrong; or questions are open, which is the first thing to look at.
        """
        return check(Config, self.values, "the sentence")

    @property
    def command(self) -> str:
        """The command line that is equal to it."""
        words = ["gruppo", "train"]
        for slot in self.slots:
            words.append("--" + slot.option.replace("_", "-"))
            value = slot.value
            items = cast(list[Any], value if isinstance(value, list) else [value])
            words += [flow(item) if isinstance(item, dict) else shown(item) for item in items]
        return shlex.join(words)

    @property
    def yaml(self) -> str:
        """The file that is equal to it, each line with where it is from."""
        comments = {slot.option: _origin(slot) for slot in self.slots}
        text = lines(self.values, comments)
        open_questions = [f"# {question.about}: {question.text}" for question in self.questions]
        return "\n".join([*text, *open_questions]) + "\n"

    def __str__(self) -> str:
        """The plan for a person: the file, what is assumed, what is asked, the command."""
        parts = ["The plan:", "", *(f"    {line}" for line in self.yaml.splitlines()), ""]
        parts += [wrapped(f"note: {note}") for note in self.notes]
        if self.assumed:
            rows = [(f"  {slot.option}", shown_value(slot.value), slot.why) for slot in self.assumed]
            parts += ["Assumed, not said:", aligned(rows, 48)]
        if self.questions:
            parts += ["To be answered first:", *(wrapped(f"  {q.about}: {q.text}", 4) for q in self.questions)]
        head = "The command line, so far" if self.questions else "The same"
        return "\n".join([*parts, f"{head}: {self.command}"])


def shown_value(value: Any) -> str:
    """A value in a cell."""
    return flow(value) if isinstance(value, (list, dict)) else shown(value)


def _origin(slot: Slot) -> str:
    if slot.source == "said":
        return f'"{slot.words}"'
    return "as the flag says" if slot.source == "flag" else f"assumed: {slot.why}"
