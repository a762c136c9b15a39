"""What a call of a reward function came to: a result, None (does not apply), or a failure.

A failure is data: it crosses from a worker process to the trainer, is counted, and is shown with its sample.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Literal, SupportsFloat, get_args

from gruppo.rewards.result import RewardResult

FailureKind = Literal["raised", "returned", "timeout", "crashed"]
KINDS: tuple[str, ...] = get_args(FailureKind)

_WANTED = "a finite number, None (does not apply) or a RewardResult"
_LONGEST_MESSAGE = 500


@dataclass(frozen=True, slots=True)
class Failure:
    """A call that gave no reward."""

    kind: FailureKind
    what: str
    """What stands before the problem's name: `raised ValueError for`, `took longer than 2 s on`."""
    detail: str = ""
    """What follows the problem's name: `: invalid literal`, `; wanted a finite number`."""
    fatal: bool = False
    """A contract that no other completion will keep either: it stops the run whatever the policy."""
    cause: BaseException | None = field(default=None, compare=False)

    def told(self, of: str) -> str:
        """The failure in words, for the completion or problem `of`."""
        return f"{self.what} {of}{self.detail}".rstrip(".: ")


Outcome = RewardResult | Failure | None


def raised(error: BaseException) -> Failure:
    """The failure that an exception is."""
    message = str(error)
    cut = message if len(message) <= _LONGEST_MESSAGE else message[: _LONGEST_MESSAGE - 3] + "..."
    return Failure("raised", f"raised {type(error).__name__} for", f": {cut}", cause=error)


def late(seconds: float) -> Failure:
    """The failure of a call that was stopped at its limit."""
    return Failure("timeout", f"took longer than {seconds:g} s on")


def crashed(how: str) -> Failure:
    """The failure of a call that took its process with it."""
    return Failure("crashed", f"ended its process ({how}) on")


def outcome_of(value: Any) -> Outcome:
    """What a function returned, as a result with finite numbers, or as a failure that says what was wanted."""
    if value is None:
        return None
    number = _finite(value)
    if number is None:
        return _no_reward(value)
    if not isinstance(value, RewardResult):
        return RewardResult(number)
    parts: dict[str, float] = {}
    for name, part in value.parts.items():
        if (of_part := _finite(part)) is None:
            return _no_reward(part, f" in the part '{name}'")
        parts[str(name)] = of_part
    return RewardResult(number, parts, str(value.reason))


def _finite(value: Any) -> float | None:
    """The value as a float, None for what is none. Arrays and tensors of one number count as that number."""
    try:
        number = float(value) if isinstance(value, SupportsFloat) else math.nan
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _no_reward(value: Any, where: str = "") -> Failure:
    hint = " (A function that returns a list takes `completions`, in the plural.)" if isinstance(value, list) else ""
    return Failure("returned", f"returned {shown(value)}{where} for", f"; wanted {_WANTED}.{hint}")


def shown(value: Any) -> str:
    """A value and its type, for a message."""
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"
