"""The loss of a part of a micro-batch, put together from the formulas of `gruppo.algorithm`; what an update reports.

Legend: N loss tokens of the part, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gruppo.algorithm.kl import exact_kl, kl_estimate
from gruppo.algorithm.losses import LOSSES, RATIOS, ClipRange, Tokens, importance_weights, is_clipped, sequence_ratio
from gruppo.training.logprobs import TokenLogprobs
from gruppo.training.packing import LossTokens


@dataclass(frozen=True, slots=True)
class LossSettings:
    """The names and numbers of the loss; the words are those of the options."""

    temperature: float = 1.0
    loss: str = "clip"
    aggregation: str = "tokens"
    max_length: int = 1
    """The constant length of the aggregation `constant`."""
    clip: ClipRange = field(default_factory=ClipRange)
    updates_per_batch: int = 1
    minibatches: int = 1
    no_signal_groups: str = "count"
    sampler_correction: str = "none"
    sampler_correction_max: float = 2.0
    beta: float = 0.0
    kl_estimator: str = "k3"
    kl_in: str = "loss"
    demonstrations_weight: float = 0.0

    @property
    def penalty_in_loss(self) -> bool:
        """Whether the loss has a KL term."""
        return self.beta > 0 and self.kl_in == "loss"

    @property
    def exact_kl(self) -> bool:
        """Whether the KL term is taken over the whole vocabulary."""
        return self.penalty_in_loss and self.kl_estimator.startswith("exact")

    @property
    def of_sequences(self) -> bool:
        """Whether a token's loss depends on the other tokens of its completion."""
        return RATIOS[self.loss] is sequence_ratio or self.sampler_correction.startswith("sequence")

    def kl(self, logprobs: Tensor, ref_logprobs: Tensor, old_logprobs: Tensor | None = None) -> Tensor:
        """[N], the estimate of the option `kl_estimator`."""
        return kl_estimate(logprobs, ref_logprobs, self.kl_estimator, old_logprobs=old_logprobs)


@dataclass(frozen=True, slots=True)
class UpdateStats:
    """What an update did; None where nothing was computed. Means are over loss tokens that took part, of the last pass.

    Without a KL term the completions of groups without signal take no part: they can't move the weights.
    """

    stepped: bool
    skipped_optimizer_steps: int = 0
    """Optimizer steps left out because loss or gradient was not finite."""
    loss: float | None = None
    """What was minimised: the sum of weight x loss over the tokens of an optimizer step, mean over its steps."""
    kl_to_reference: float | None = None
    policy_ratio_mean: float | None = None
    clipped_share: float | None = None
    entropy: float | None = None
    grad_norm: float | None = None
    """Before clipping; mean over the optimizer steps of the last pass."""
    sampler_logprob_difference_max: float | None = None
    sampler_logprob_difference_mean: float | None = None
    sampler_kl: float | None = None
    """KL of the sampler from the trainer, by k3."""
    importance_weight_mean: float | None = None
    demonstrations_loss: float | None = None


@dataclass
class Sums:
    """Sums over loss tokens, gathered over micro-batches; read once at the end, so that a GPU is not waited for."""

    tokens: int = 0
    sums: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    difference: Tensor | None = None
    demonstrations: list[float] = field(default_factory=list[float])

    def add(self, **values: Tensor) -> None:
        """Add up figures per token."""
        for name, value in values.items():
            total = value.detach().float().sum()
            self.sums[name] = self.sums[name] + total if name in self.sums else total

    def mean(self, name: str) -> float | None:
        """A figure's mean over the tokens."""
        return float(self.sums[name]) / self.tokens if name in self.sums and self.tokens else None

    def stats(self, *, stepped: bool, skipped: int, grad_norms: Sequence[float]) -> UpdateStats:
        """The report, with the gradient norms of the last pass's optimizer steps."""
        demonstrations, steps = self.demonstrations, len(grad_norms)
        return UpdateStats(
            stepped=stepped,
            skipped_optimizer_steps=skipped,
            loss=float(self.sums["loss"]) / steps if "loss" in self.sums else None,
            kl_to_reference=self.mean("kl"),
            policy_ratio_mean=self.mean("ratio"),
            clipped_share=self.mean("clipped"),
            entropy=self.mean("entropy"),
            grad_norm=sum(grad_norms) / steps,
            sampler_logprob_difference_max=None if self.difference is None else float(self.difference),
            sampler_logprob_difference_mean=self.mean("sampler_difference"),
            sampler_kl=self.mean("sampler_kl"),
            importance_weight_mean=self.mean("importance_weight"),
            demonstrations_loss=sum(demonstrations) / len(demonstrations) if demonstrations else None,
        )


def part_loss(
    result: TokenLogprobs,
    wanted: LossTokens,
    settings: LossSettings,
    old_logprobs: Tensor | None,
    ref_logprobs: Tensor | None,
    ref_logits: Tensor | None,
    sums: Sums,
) -> Tensor:
    """The scalar to call backward on: the sum over tokens of weight x (policy loss + beta x KL).

    Args:
        result: the policy's forward pass, with gradient.
        wanted: the part's tokens that carry a loss.
        settings: names and numbers of the loss.
        old_logprobs: [N]; None: those of the forward pass.
        ref_logprobs: [N]; None: no KL term, or an exact one.
        ref_logits: [N, V], for an exact KL term.
        sums: where the figures per token are added up.
    """
    logprobs = result.logprobs
    old = logprobs.detach() if old_logprobs is None else old_logprobs
    tokens = Tokens(logprobs, old, wanted.advantages, wanted.completion)
    per_token = LOSSES[settings.loss](tokens, settings.clip)
    sampler = wanted.sampler_logprobs
    if settings.sampler_correction != "none":
        weights = importance_weights(tokens, sampler, settings.sampler_correction, settings.sampler_correction_max)
        per_token = per_token * weights
        sums.add(importance_weight=weights)
    kl = None
    if ref_logits is not None:
        assert result.logits is not None
        kl = exact_kl(result.logits, ref_logits, forward=settings.kl_estimator == "exact_forward")
    elif ref_logprobs is not None:
        kl = settings.kl(logprobs, ref_logprobs, old)
    if kl is not None:
        per_token = per_token + settings.beta * kl
        sums.add(kl=kl)
    loss = per_token * wanted.weights
    _add_up(sums, result, tokens, sampler, settings, loss)
    return loss.sum()


@torch.no_grad()
def _add_up(
    sums: Sums, result: TokenLogprobs, tokens: Tokens, sampler: Tensor, settings: LossSettings, loss: Tensor
) -> None:
    """What the metrics want to know of a micro-batch."""
    ratio = RATIOS[settings.loss](tokens)
    clipped = is_clipped(ratio, tokens.advantages, settings.clip)
    if settings.loss == "policy_gradient":
        clipped = torch.zeros_like(clipped)
    differences = (tokens.old_logprobs - sampler).abs()
    difference = differences.max()
    sums.difference = difference if sums.difference is None else torch.maximum(sums.difference, difference)
    sums.add(sampler_difference=differences, sampler_kl=kl_estimate(sampler, tokens.old_logprobs, "k3"))
    sums.tokens += len(ratio)
    sums.add(loss=loss, ratio=ratio, clipped=clipped, entropy=result.entropy)
