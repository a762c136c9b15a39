"""What a reward function may return beside a plain number."""

from collections.abc import Mapping
from typing import Any, SupportsFloat


class RewardResult(float):
    """A reward that is a float, with what it is made of and why, to show to people.

    >>> result = RewardResult(0.5, {"tests": 0.5}, "1 of 2 tests passed")
    >>> result + 1, result.reason
    (1.5, '1 of 2 tests passed')
    """

    __slots__ = ("parts", "reason")

    parts: Mapping[str, Any]
    """Numbers by name to record beside it; they do not add to it."""
    reason: str
    """Why, in a few words."""

    def __new__(cls, value: SupportsFloat, parts: Mapping[str, Any] | None = None, reason: str = "") -> "RewardResult":
        """The reward, its parts and its reason.

        Raises:
            TypeError, ValueError: the value is no number.
        """
        result = super().__new__(cls, value)
        result.parts = {} if parts is None else parts
        result.reason = reason
        return result

    @property
    def value(self) -> float:
        """The reward as a plain number."""
        return float(self)

    def __repr__(self) -> str:
        return f"RewardResult({self.value!r}, parts={dict(self.parts)!r}, reason={self.reason!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return RewardResult, (self.value, self.parts, self.reason)
