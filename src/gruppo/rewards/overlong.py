"""A penalty for completions that come close to the length limit: DAPO's soft overlong punishment."""

from gruppo.rewards.result import RewardResult


def overlong_reward(completion: str, completion_length: int, *, limit: int, buffer: int) -> RewardResult:
    """0 up to limit - buffer tokens, then falling linearly to -1 at the limit.

    R = 0 for T <= L - B, ((L - B) - T) / B for T up to L, -1 beyond, with T the completion's tokens, L the limit and B
    the buffer. DAPO, https://arxiv.org/abs/2503.14476, eq. 13.

    >>> overlong_reward("...", 18, limit=20, buffer=4).value
    -0.5

    Args:
        completion: not looked at.
        completion_length: tokens.
        limit: the longest completion, tokens.
        buffer: tokens before the limit over which the penalty grows, 1 or more.
    """
    del completion
    over = completion_length - (limit - buffer)
    value = 0.0 if over <= 0 else -min(1.0, over / buffer)
    return RewardResult(value, reason=f"{completion_length} of {limit} tokens; free up to {limit - buffer}")
