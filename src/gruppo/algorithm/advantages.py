"""Advantages: how much better a completion did than its group.

Legend: P prompts, G completions in a group. Rewards stand as [P, G].

How this differs from the paper (DeepSeekMath, https://arxiv.org/abs/2402.03300, section 4.1.2):
1. The paper says "std" and leaves the estimator open; here it is the population's (divided by G, not G - 1).
2. STD_FLOOR is added to the std, so that nearly equal rewards don't blow up.
3. A group whose rewards are all equal gives exactly zero, not the rounding error of (r - mean) over the floor.
"""

import torch
from torch import Tensor

STD_FLOOR = 1e-8


def group_advantages(rewards: Tensor) -> Tensor:
    """Rewards standardised within each group.

    A_i = (r_i - mean(r)) / (std(r) + 1e-8), DeepSeekMath eq. in section 4.1.2 (outcome supervision).

    Args:
        rewards: [P, G], any real numbers.

    Returns:
        [P, G]; [0, 1, 1, 0] gives [-1, 1, 1, -1]; a group of equal rewards gives exactly 0.

    Raises:
        ValueError: rewards are not [P, G] with G of at least 2.
    """
    if rewards.dim() != 2 or rewards.shape[1] < 2:
        raise ValueError(f"rewards must be [P, G] with G >= 2, got {list(rewards.shape)}")
    rewards = rewards.double()
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    std = rewards.std(dim=1, correction=0, keepdim=True)
    advantages = centred / (std + STD_FLOOR)
    return torch.where(has_signal(rewards)[:, None], advantages, torch.zeros_like(advantages)).float()


def has_signal(rewards: Tensor) -> Tensor:
    """[P], True where the rewards [P, G] of a group are not all equal."""
    return (rewards != rewards[:, :1]).any(dim=1)
