"""Losses of the policy: one formula per function, per token, and what turns tokens into one number.

Legend: N tokens that carry a loss, flat, of C completions; w the policy ratio exp(logprobs - old_logprobs), A the
advantage of a token's completion.

A loss of a step is the sum over its tokens of weight x loss. The weight depends on the completions' lengths alone
(`completion_weights`), so any split of the completions into micro-batches gives the same gradient.

How this differs from the papers:
1. DeepSeekMath (https://arxiv.org/abs/2402.03300, eq. 3) averages within each completion first (`sequences` here);
   the default is DAPO's mean over all tokens of the step (`tokens`, https://arxiv.org/abs/2503.14476, eq. 8), so that
   a long completion's tokens weigh as much as a short one's.
2. CISPO's and DAPO's "epsilon_high" is what is added to 1, here as there; trl's `epsilon_high` for CISPO is the bound
   itself.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a loss sees of N tokens, all [N]."""

    logprobs: Tensor
    """Under the policy, with gradient."""
    old_logprobs: Tensor
    """Under the policy at the start of the update."""
    advantages: Tensor
    """Each token its completion's."""
    completion: Tensor
    """Whole numbers: which completion a token belongs to. What looks at sequences wants all tokens of each."""


@dataclass(frozen=True, slots=True)
class ClipRange:
    """How far the policy ratio counts: from 1 - low to 1 + high."""

    low: float = 0.2
    high: float = 0.2
    dual: float | None = None
    """With a negative advantage ratios above this count no more either; None: they do."""


def token_ratio(tokens: Tokens) -> Tensor:
    """[N], w = exp(logprobs - old_logprobs)."""
    return torch.exp(tokens.logprobs - tokens.old_logprobs)


def sequence_ratio(tokens: Tokens) -> Tensor:
    """[N], each token its completion's s = exp(mean over its tokens of (logprobs - old_logprobs)).

    GSPO, https://arxiv.org/abs/2507.18071, eq. 7.
    """
    return torch.exp(_per_completion(tokens.logprobs - tokens.old_logprobs, tokens.completion, mean=True))


def clipped_surrogate(ratio: Tensor, advantages: Tensor, clip: ClipRange) -> Tensor:
    """[N], PPO's clipped surrogate: -min(w A, clip(w, 1 - low, 1 + high) A).

    PPO, https://arxiv.org/abs/1707.06347, eq. 7. A ratio above 1 + high earns a good completion no more, one below
    1 - low a bad one. With `dual` c, a bad completion costs at most -c A: max(min(...), c A) for A < 0
    (dual clip, https://arxiv.org/abs/1912.09729).
    """
    clipped = torch.clamp(ratio, 1.0 - clip.low, 1.0 + clip.high)
    surrogate = torch.minimum(ratio * advantages, clipped * advantages)
    if clip.dual is not None:
        bounded = torch.maximum(surrogate, clip.dual * advantages)
        surrogate = torch.where(advantages < 0, bounded, surrogate)
    return -surrogate


def ppo(tokens: Tokens, clip: ClipRange) -> Tensor:
    """[N], the clipped surrogate on each token's own ratio: GRPO as in DeepSeekMath, DAPO and Dr. GRPO."""
    return clipped_surrogate(token_ratio(tokens), tokens.advantages, clip)


def gspo(tokens: Tokens, clip: ClipRange) -> Tensor:
    """[N], the clipped surrogate on the completion's ratio, the same for each of its tokens.

    GSPO, https://arxiv.org/abs/2507.18071, eq. 5; with the aggregation `sequences` the sum is exactly its objective.
    """
    return clipped_surrogate(sequence_ratio(tokens), tokens.advantages, clip)


def cispo(tokens: Tokens, clip: ClipRange) -> Tensor:
    """[N], -sg(clip(w, 1 - low, 1 + high)) A logprobs: every token keeps a gradient, of bounded weight.

    CISPO (MiniMax-M1), https://arxiv.org/abs/2506.13585, eq. 4 and 5; sg stops the gradient.
    """
    weight = torch.clamp(token_ratio(tokens), 1.0 - clip.low, 1.0 + clip.high).detach()
    return -weight * tokens.advantages * tokens.logprobs


def policy_gradient(tokens: Tokens, clip: ClipRange) -> Tensor:
    """[N], -A logprobs: REINFORCE (Williams 1992); no ratio, so right for one update per batch only."""
    del clip
    return -tokens.advantages * tokens.logprobs


LOSSES: Mapping[str, Callable[[Tokens, ClipRange], Tensor]] = {
    "clip": ppo,
    "policy_gradient": policy_gradient,
    "gspo": gspo,
    "cispo": cispo,
}
"""Every loss, by the name that the option `loss` has for it."""

RATIOS: Mapping[str, Callable[[Tokens], Tensor]] = {
    "clip": token_ratio,
    "policy_gradient": token_ratio,
    "gspo": sequence_ratio,
    "cispo": token_ratio,
}
"""The policy ratio that each loss looks at."""


def is_clipped(ratio: Tensor, advantages: Tensor, clip: ClipRange) -> Tensor:
    """[N], True where the clip bounds a token's part: ratio above with A > 0, below (or above `dual`) with A < 0."""
    above = (ratio > 1.0 + clip.high) & (advantages > 0)
    below = (ratio < 1.0 - clip.low) & (advantages < 0)
    if clip.dual is not None:
        below |= (ratio > clip.dual) & (advantages < 0)
    return above | below


def completion_weights(
    lengths: Sequence[int], aggregation: str = "tokens", max_length: int | None = None
) -> list[float]:
    """[C], what each token of a completion weighs in the loss of a step of C completions.

    tokens: 1 / sum(lengths), DAPO. sequences: 1 / (C length), GRPO's mean of means. constant: 1 / (C max_length),
    Dr. GRPO (https://arxiv.org/abs/2503.20783, with the generation budget as the constant).

    Args:
        lengths: tokens that carry a loss, of each completion of the step.
        aggregation: tokens, sequences or constant.
        max_length: the constant length of `constant`.

    Raises:
        ValueError: no such aggregation, or `constant` without a max_length.
    """
    if aggregation == "tokens":
        return [1.0 / max(1, sum(lengths))] * len(lengths)
    if aggregation == "sequences":
        return [1.0 / (len(lengths) * max(1, length)) for length in lengths]
    if aggregation == "constant" and max_length:
        return [1.0 / (len(lengths) * max_length)] * len(lengths)
    raise ValueError(f"aggregation must be tokens, sequences or constant (with a max_length), got {aggregation!r}")


def importance_weights(tokens: Tokens, sampler_logprobs: Tensor, correction: str, largest: float) -> Tensor:
    """[N], weights for tokens that an engine drew whose log-probs are not quite the trainer's; no gradient.

    v = exp(old_logprobs - sampler_logprobs) of a token, or the product over its completion's tokens.
    *_truncate: min(v, largest), truncated importance sampling (https://fengyao.notion.site/off-policy-rl).
    *_mask: v between 1 / largest and largest, else 0, as IcePop (https://arxiv.org/abs/2510.18855) does with
    bounds of its own.

    Args:
        tokens: N tokens.
        sampler_logprobs: [N], under the distribution that the engine drew from.
        correction: token_truncate, token_mask, sequence_truncate or sequence_mask.
        largest: above 1.

    Raises:
        ValueError: no such correction.
    """
    level, _, form = correction.partition("_")
    if level not in ("token", "sequence") or form not in ("truncate", "mask"):
        raise ValueError(f"correction must be token_ or sequence_ with truncate or mask, got {correction!r}")
    difference = tokens.old_logprobs - sampler_logprobs
    if level == "sequence":
        difference = _per_completion(difference, tokens.completion, mean=False)
    weights = torch.exp(difference).detach()
    if form == "truncate":
        return weights.clamp(max=largest)
    return torch.where((weights >= 1.0 / largest) & (weights <= largest), weights, torch.zeros_like(weights))


def _per_completion(values: Tensor, completion: Tensor, *, mean: bool) -> Tensor:
    """[N], each token the sum (or mean) of its completion's values [N]."""
    count = int(completion.max()) + 1 if len(completion) else 0
    sums = values.new_zeros(count).index_add(0, completion, values)
    if mean:
        sums = sums / values.new_zeros(count).index_add(0, completion, torch.ones_like(values)).clamp(min=1.0)
    return sums[completion]


def policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    loss: str = "clip",
    aggregation: str = "tokens",
    clip: ClipRange | None = None,
    max_length: int | None = None,
) -> Tensor:
    """The loss of a batch of padded completions, in one call: for notebooks; a run weighs micro-batches by itself.

    >>> logprobs = torch.tensor([[-1.0, -2.0], [-0.5, 0.0]], requires_grad=True)
    >>> mask = torch.tensor([[True, True], [True, False]])
    >>> loss = policy_loss(logprobs, logprobs.detach(), torch.tensor([1.0, -1.0]), mask)
    >>> loss.backward()
    >>> logprobs.grad
    tensor([[-0.3333, -0.3333],
            [ 0.3333,  0.0000]])

    Args:
        logprobs: [C, T], with gradient; what lies outside the mask is not looked at.
        old_logprobs: [C, T], under the policy at the start of the update.
        advantages: [C].
        mask: [C, T], True where a token carries a loss.
        loss: clip, policy_gradient, gspo or cispo.
        aggregation: tokens, sequences or constant (with `max_length`).
        clip: the clip range; None: 0.2 on both sides.
        max_length: the constant length of the aggregation `constant`.

    Returns:
        A scalar to call backward on.

    Raises:
        ValueError: shapes that don't fit, or no such loss or aggregation.
    """
    if not logprobs.shape == old_logprobs.shape == mask.shape or advantages.shape != mask.shape[:1]:
        shapes = [list(tensor.shape) for tensor in (logprobs, old_logprobs, mask, advantages)]
        raise ValueError(f"logprobs, old_logprobs and mask must be [C, T] and advantages [C], got {shapes}")
    if loss not in LOSSES:
        raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {loss!r}")
    mask = mask.bool()
    completion = mask.nonzero()[:, 0]
    tokens = Tokens(logprobs[mask], old_logprobs[mask], advantages[completion], completion)
    weights = completion_weights([int(n) for n in mask.sum(dim=1)], aggregation, max_length)
    per_token = LOSSES[loss](tokens, clip or ClipRange())
    return (per_token * per_token.new_tensor(weights)[completion]).sum()
