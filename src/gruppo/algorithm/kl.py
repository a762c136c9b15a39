"""The KL divergence to the reference policy, in nats per token: estimates from the sampled token, and the exact one.

Legend: N tokens (any shape), V vocabulary. http://joschu.net/blog/kl-approx.html names the estimators k1, k2, k3.

What the estimators are good for, with tokens that the policy itself drew:
- as a **value** (a metric, a term of the reward): k1 and k3 are unbiased for KL(policy || reference), k3 with less
  noise and never negative; k2 is biased.
- as a **loss** (its mean gradient): k1's is zero, for it misses how the policy draws; k2's is that of
  KL(policy || reference); k3's is that of the other direction, KL(reference || policy). Weighted by the policy ratio
  (`k3_weighted`), k3's is that of KL(policy || reference) too, also where an older policy drew the tokens.
  (https://arxiv.org/abs/2506.09477 for the gradients; DeepSeek-V3.2, https://arxiv.org/abs/2512.02556, for the weight.)
"""

from collections.abc import Callable, Mapping
from typing import cast

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint  # pyright: ignore[reportUnknownVariableType]


def k1(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """k1 = logprobs - ref_logprobs: unbiased, often negative."""
    return logprobs - ref_logprobs


def k2(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """k2 = (logprobs - ref_logprobs)^2 / 2: biased as a value, the right gradient as a loss."""
    return 0.5 * (logprobs - ref_logprobs) ** 2


def k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """k3 = exp(d) - d - 1 with d = ref_logprobs - logprobs: unbiased, never negative.

    DeepSeekMath, eq. 4 (https://arxiv.org/abs/2402.03300).
    """
    log_ratio = ref_logprobs - logprobs
    return torch.expm1(log_ratio) - log_ratio


ESTIMATORS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {"k1": k1, "k2": k2, "k3": k3}
"""The estimates from the sampled token alone, by name."""


def kl_estimate(
    logprobs: Tensor, ref_logprobs: Tensor, estimator: str = "k3", *, old_logprobs: Tensor | None = None
) -> Tensor:
    """An estimate of KL(policy || reference) for each token that the policy drew.

    >>> kl_estimate(torch.tensor([-1.0, -2.0]), torch.tensor([-1.0, -1.0]))
    tensor([0.0000, 0.7183])

    Args:
        logprobs: [N], log-probs of the tokens under the policy.
        ref_logprobs: [N], the same under the reference policy.
        estimator: k1, k2, k3 or k3_weighted (k3 times exp(logprobs - old_logprobs), with its gradient).
        old_logprobs: [N], under the policy that drew the tokens; k3_weighted alone wants them.

    Returns:
        [N], nats per token.

    Raises:
        ValueError: no such estimator, or k3_weighted without old_logprobs.
    """
    if estimator == "k3_weighted":
        if old_logprobs is None:
            raise ValueError("k3_weighted wants old_logprobs, those of the policy that drew the tokens")
        return torch.exp(logprobs - old_logprobs) * k3(logprobs, ref_logprobs)
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator must be one of {', '.join(ESTIMATORS)}, k3_weighted; got {estimator!r}")
    return ESTIMATORS[estimator](logprobs, ref_logprobs)


def exact_kl(logits: Tensor, ref_logits: Tensor, *, forward: bool = False, chunk: int = 512) -> Tensor:
    """The KL divergence of each token's whole distribution.

    KL(p || q) = sum_v p(v) (log p(v) - log q(v)), with p the policy and q the reference; `forward` swaps them:
    KL(reference || policy). Tokens are taken a chunk at a time, and a chunk's log-softmax is computed anew in the
    backward pass, so that beside the logits no more than one chunk [chunk, V] is alive.

    >>> exact_kl(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 1.0986123]]))  # 1/2, 1/2 against 1/4, 3/4
    tensor([0.1438])

    Args:
        logits: [N, V] of the policy, at the temperature in use.
        ref_logits: [N, V] of the reference policy, at the same temperature.
        forward: KL(reference || policy) in place of KL(policy || reference).
        chunk: tokens at a time.

    Returns:
        [N], nats per token.
    """
    parts = [
        _recomputed(q, p) if forward else _recomputed(p, q)
        for p, q in ((logits[i : i + chunk], ref_logits[i : i + chunk]) for i in range(0, len(logits), chunk))
    ]
    return torch.cat(parts) if parts else logits.new_zeros(0)


def _recomputed(logits: Tensor, other_logits: Tensor) -> Tensor:
    return cast(Tensor, checkpoint(_divergence, logits, other_logits, use_reentrant=False))


def _divergence(logits: Tensor, other_logits: Tensor) -> Tensor:
    """[n] sums over the vocabulary of p (log p - log q), for logits [n, V] of p and of q."""
    log_p, log_q = torch.log_softmax(logits, dim=-1), torch.log_softmax(other_logits, dim=-1)
    return (log_p.exp() * (log_p - log_q)).sum(dim=-1)
