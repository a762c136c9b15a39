"""A reward for the form of a completion: the whole of it matches a regular expression, or not.

1. A dot matches line ends too.
2. Nothing limits the time of a match: a pattern of nested repeats, such as `(a+)+b`, can take for ever on a
   completion that almost matches. Write patterns without one repeat inside another.
"""

import re
from collections.abc import Callable

from gruppo.errors import ConfigError
from gruppo.rewards.result import RewardResult


def format_reward(pattern: str) -> Callable[[str], RewardResult]:
    """A reward function: 1 where the whole completion matches the pattern, else 0.

    Raises ConfigError for a pattern that is no regular expression, with the position of what is wrong.
    """
    try:
        compiled = re.compile(pattern, re.DOTALL)
    except (re.error, OverflowError, RecursionError) as error:
        raise ConfigError(f"pattern: {pattern!r} is no regular expression: {error}") from error

    def format(completion: str) -> RewardResult:
        if compiled.fullmatch(completion):
            return RewardResult(1.0, reason="matches the pattern")
        return RewardResult(0.0, reason="does not match the pattern")

    return format
