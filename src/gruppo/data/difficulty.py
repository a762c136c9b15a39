"""How hard a problem is, where the data says: a number read from a column, and a slice of problems by it.

1. The column is `difficulty`, else `level`, whatever its case; the first of them that can be read counts.
2. "Level 3" and "3" are 3.0; "introductory", "interview" and "competition", the levels of APPS, are 1, 2 and 3. What
   has no number, or more than one ("3/5"), is none.
3. A problem without difficulty is outside of every slice.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, SupportsFloat

from gruppo.errors import ConfigError, DataError
from gruppo.types import Problem

DIFFICULTY_NAMES = ("difficulty", "level")

_WORDS = {"introductory": 1.0, "interview": 2.0, "competition": 3.0}
_NUMBERED = re.compile(r"\D*?(\d+(?:\.\d+)?)")


@dataclass(frozen=True, slots=True)
class DifficultySlice:
    """The problems from one difficulty to another, both included; None: no bound. Raises ConfigError if none fits."""

    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ConfigError(
                f"min_difficulty: {self.low:g} is above max_difficulty, {self.high:g}, so that no problem fits; "
                "exchange them"
            )

    def holds(self, difficulty: float | None) -> bool:
        """Whether a problem of this difficulty is in the slice."""
        if difficulty is None:
            return False
        return (self.low is None or difficulty >= self.low) and (self.high is None or difficulty <= self.high)

    def __str__(self) -> str:
        if self.low is not None and self.high is not None:
            return f"from {self.low:g} to {self.high:g}"
        if self.low is None:
            return "that can be read" if self.high is None else f"of at most {self.high:g}"
        return f"of at least {self.low:g}"


def difficulty_slice(low: float | None, high: float | None) -> DifficultySlice | None:
    """The slice of min_difficulty and max_difficulty; None, all problems, where both are unset."""
    return None if low is None and high is None else DifficultySlice(low, high)


def within(problems: Sequence[Problem], limits: DifficultySlice) -> list[Problem]:
    """The problems of the slice. Raises DataError where there is none."""
    chosen = [problem for problem in problems if limits.holds(problem.difficulty)]
    if not chosen:
        raise empty_slice(problems, limits)
    return chosen


def empty_slice(problems: Sequence[Problem], limits: DifficultySlice) -> DataError:
    """The refusal of a slice that no problem is in."""
    rated = sum(problem.difficulty is not None for problem in problems)
    if not rated:
        return DataError(
            f"min_difficulty, max_difficulty: none of the {len(problems)} problems has a difficulty; give the rows a "
            "column `difficulty` or `level` with a number, or leave both unset."
        )
    return DataError(
        f"min_difficulty, max_difficulty: no problem has a difficulty {limits}; {rated} of {len(problems)} problems "
        f"have one, {range_of(problems)}: choose bounds within that."
    )


def range_of(problems: Sequence[Problem]) -> str:
    """`from 1 to 5`, the difficulties that there are."""
    rated = [problem.difficulty for problem in problems if problem.difficulty is not None]
    return f"from {min(rated):g} to {max(rated):g}"


def read_difficulty(columns: Mapping[str, Any]) -> float | None:
    """The difficulty of a row, None where no column of a known name can be read as a number."""
    by_name = {name.casefold(): value for name, value in columns.items()}
    numbers = (_number(by_name.get(name)) for name in DIFFICULTY_NAMES)
    return next((number for number in numbers if number is not None), None)


def _number(value: Any) -> float | None:
    """A cell as a finite number; None where it is none."""
    if isinstance(value, str) and value.strip().casefold() in _WORDS:
        return _WORDS[value.strip().casefold()]
    if isinstance(value, str):
        found = _NUMBERED.fullmatch(value.strip())
        value = float(found[1]) if found and not value.strip().startswith("-") else None
    if isinstance(value, bool) or not isinstance(value, SupportsFloat):
        return None
    number = float(value)
    return number if math.isfinite(number) else None
