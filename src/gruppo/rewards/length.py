"""Rewards for the length of a completion in tokens: a cap, a penalty per token over a budget, a cosine.

1. None of them asks whether the completion is right: alone, they teach to be brief, down to the empty completion. Take
   `budget` as a small addition to a reward for being right; `cap` and `cosine` pay even a wrong answer for being short
   and should count only where another reward says success (a gate).
2. The cosine is the simple variant of "Demystifying Long Chain-of-Thought Reasoning in LLMs"
   (https://arxiv.org/abs/2502.03373): there, right and wrong answers have curves of their own (a right one falls with
   its length, a wrong one rises, so that the model thinks longer where it fails), and reaching the limit has a penalty.
   Here is one curve, from 1 at length 0 to 0 at the budget, meant for right answers only.
"""

import math
from typing import Literal

from gruppo.errors import ConfigError
from gruppo.rewards.result import RewardResult

LengthShape = Literal["cap", "budget", "cosine"]


def length_reward(
    completion: str,
    completion_length: int,
    *,
    shape: LengthShape = "budget",
    budget: int = 512,
    rate: float = 0.001,
) -> RewardResult:
    """A reward for the length alone, with T the completion's tokens and B the budget.

    cap: 1 for T <= B, else 0. budget: 0 for T <= B, else -min(1, rate * (T - B)), so in [-1, 0]. cosine:
    (1 + cos(pi T / B)) / 2 for T < B, else 0, so in [0, 1].

    >>> length_reward("...", 612, budget=512, rate=0.001).value
    -0.1

    Args:
        completion: not looked at.
        completion_length: tokens.
        shape: `cap`, `budget` or `cosine`.
        budget: tokens, 1 or more.
        rate: penalty per token over the budget, above 0; only for `budget`.

    Raises:
        ConfigError: for a shape, budget or rate that is none.
    """
    del completion
    if budget < 1 or not rate > 0:
        raise ConfigError(f"length: budget {budget}, rate {rate}: wanted a budget of 1 or more and a rate above 0.")
    match shape:
        case "cap":
            value = 1.0 if completion_length <= budget else 0.0
        case "budget":
            over = completion_length - budget
            value = -min(1.0, rate * over) if over > 0 else 0.0
        case "cosine":
            share = min(1.0, max(0.0, completion_length / budget))
            value = 0.0 if share >= 1 else (1 + math.cos(math.pi * share)) / 2
        case _:
            raise ConfigError(f"length: shape {shape!r} is none of cap, budget, cosine.")
    return RewardResult(value, reason=f"{completion_length} tokens, budget {budget}")
