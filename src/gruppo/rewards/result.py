"""What a reward function may return beside a plain number."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class RewardResult:
    """A reward with what it is made of and why, to show to people."""

    value: float
    """The reward; what a plain number would be."""
    parts: Mapping[str, float] = field(default_factory=dict[str, float])
    """Numbers by name to record beside it; they do not add to it."""
    reason: str = ""
    """Why, in a few words."""
