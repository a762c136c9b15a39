"""The mathematics of GRPO: pure functions of tensors, one formula each; usable in any training loop."""

from gruppo.algorithm.advantages import group_advantages, has_signal
from gruppo.algorithm.kl import exact_kl, kl_estimate
from gruppo.algorithm.losses import ClipRange, completion_weights, policy_loss

__all__ = [
    "ClipRange",
    "completion_weights",
    "exact_kl",
    "group_advantages",
    "has_signal",
    "kl_estimate",
    "policy_loss",
]
