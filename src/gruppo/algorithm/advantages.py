"""Advantages: how much better a completion did than its group.

Legend: P prompts, G completions in a group. Rewards stand as [P, G]; so do advantages.

How this differs from the papers:
1. DeepSeekMath (https://arxiv.org/abs/2402.03300, section 4.1.2) says "std" and leaves the estimator open; here it is
   the population's (divided by G, not G - 1).
2. STD_FLOOR is added to a std, so that nearly equal rewards don't blow up. Others add 1e-4, or 1e-6.
3. A group whose rewards are all equal gives exactly zero, not the rounding error of (r - mean) over the floor.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

STD_FLOOR = 1e-8


def over_group_std(rewards: Tensor) -> Tensor:
    """A_i = (r_i - mean(r)) / (std(r) + 1e-8) within the group. DeepSeekMath, https://arxiv.org/abs/2402.03300, 4.1.2.

    [0, 1, 1, 0] gives [-1, 1, 1, -1].
    """
    return centred(rewards) / (rewards.std(dim=1, correction=0, keepdim=True) + STD_FLOOR)


def centred(rewards: Tensor) -> Tensor:
    """A_i = r_i - mean(r) within the group: no group weighs more for being nearly solved, or nearly not.

    Dr. GRPO, https://arxiv.org/abs/2503.20783; also the plain policy gradient with the mean as baseline.
    [0, 1, 1, 0] gives [-0.5, 0.5, 0.5, -0.5].
    """
    return rewards - rewards.mean(dim=1, keepdim=True)


def over_batch_std(rewards: Tensor) -> Tensor:
    """A_i = (r_i - mean(r of the group)) / (std(all rewards of the batch) + 1e-8).

    https://arxiv.org/abs/2508.08221 ("Lite PPO"). The same scale for every group, so easy and hard
    problems weigh by their spread; one step's scale depends on which problems it drew.
    """
    return centred(rewards) / (rewards.std(correction=0) + STD_FLOOR)


def leave_one_out(rewards: Tensor) -> Tensor:
    """A_i = r_i - mean(the other G - 1 rewards) = G / (G - 1) (r_i - mean(r)): a baseline that r_i has no part in.

    RLOO, https://arxiv.org/abs/2402.14740. [0, 1, 1, 0] gives [-2/3, 2/3, 2/3, -2/3].
    """
    group_size = rewards.shape[1]
    return centred(rewards) * (group_size / (group_size - 1))


SCALES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "std": over_group_std,
    "none": centred,
    "batch": over_batch_std,
    "leave_one_out": leave_one_out,
}
"""Every form of the advantage, by the name that the option `advantage_scale` has for it."""


def group_advantages(rewards: Tensor, scale: str = "std", *, clip: float | None = None) -> Tensor:
    """Advantages of every completion of a batch.

    >>> group_advantages(torch.tensor([[0.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0]]))
    tensor([[-1.,  1.,  1., -1.],
            [ 0.,  0.,  0.,  0.]])

    Args:
        rewards: [P, G], any real numbers. Computed in float64.
        scale: std (over_group_std), none (centred), batch (over_batch_std) or leave_one_out.
        clip: advantages are clipped to plus and minus this; None: not at all.

    Returns:
        [P, G] in the dtype of the rewards (float32 for whole numbers). Groups of equal rewards are exactly zero.

    Raises:
        ValueError: rewards are not [P, G] with G of at least 2, or there is no such scale.
    """
    if rewards.dim() != 2 or rewards.shape[1] < 2:
        raise ValueError(f"rewards must be [P, G] with G >= 2, got {list(rewards.shape)}")
    if scale not in SCALES:
        raise ValueError(f"scale must be one of {', '.join(SCALES)}, got {scale!r}")
    advantages = SCALES[scale](rewards.double())
    if clip is not None:
        advantages = advantages.clamp(-clip, clip)
    advantages = torch.where(has_signal(rewards)[:, None], advantages, torch.zeros_like(advantages))
    return advantages.to(rewards.dtype if rewards.is_floating_point() else torch.float32)


def has_signal(rewards: Tensor) -> Tensor:
    """[P], True where the rewards [P, G] of a group are not all equal."""
    return (rewards != rewards[:, :1]).any(dim=1)
