"""Losses of the policy, per token; sums are divided by a normaliser that the caller gives.

Legend: N completion tokens of a micro-batch, flat.

How this differs from the paper (DeepSeekMath, https://arxiv.org/abs/2402.03300, eq. 3):
1. Tokens are averaged over the whole batch of a step, not first within each completion (as in DAPO,
   https://arxiv.org/abs/2503.14476, eq. 8), so that a long completion's tokens weigh as much as a short one's.
2. The normaliser is an argument: the number of loss tokens in the batch of the step, whatever the micro-batches.
"""

import torch
from torch import Tensor


def clipped_surrogate(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, epsilon: float, epsilon_high: float
) -> Tensor:
    """PPO's clipped surrogate as a loss per token.

    -min(w A, clip(w, 1 - epsilon, 1 + epsilon_high) A) with w = exp(logprobs - old_logprobs).
    PPO, https://arxiv.org/abs/1707.06347, eq. 7.

    Args:
        logprobs: [N], with gradient.
        old_logprobs: [N], under the policy at the start of the update.
        advantages: [N], each token its completion's.
        epsilon: below 1 - epsilon a ratio earns no more (negative advantages).
        epsilon_high: above 1 + epsilon_high a ratio earns no more (positive advantages).

    Returns:
        [N], to be summed and divided by the normaliser.
    """
    ratio = torch.exp(logprobs - old_logprobs)
    clipped = torch.clamp(ratio, 1.0 - epsilon, 1.0 + epsilon_high)
    return -torch.minimum(ratio * advantages, clipped * advantages)


def is_clipped(ratio: Tensor, advantages: Tensor, epsilon: float, epsilon_high: float) -> Tensor:
    """[N], True where the clip takes a token's gradient away: ratio above with A > 0, or below with A < 0."""
    above = (ratio > 1.0 + epsilon_high) & (advantages > 0)
    below = (ratio < 1.0 - epsilon) & (advantages < 0)
    return above | below


def token_sum(per_token: Tensor, normaliser: float) -> Tensor:
    """The sum over loss tokens, over the normaliser: the scalar to call backward on.

    Args:
        per_token: [N], the tokens of a micro-batch that carry a loss, and no others.
        normaliser: loss tokens of the whole step's batch; any split into micro-batches gives the same sum.
    """
    return per_token.sum() / normaliser
