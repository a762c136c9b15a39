"""What is said of fields that can't stand together."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Conflict:
    """A complaint: which fields it is about, and one line that says what to do."""

    fields: tuple[str, ...]
    text: str


class Conflicts(ValueError):
    """All the complaints about a config whose fields are right each by itself."""

    def __init__(self, conflicts: Sequence[Conflict]) -> None:
        super().__init__("\n".join(conflict.text for conflict in conflicts))
        self.conflicts = tuple(conflicts)
