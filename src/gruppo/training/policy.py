"""The policy: the model that is trained, its update, and the reference policy that it is held to."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from gruppo.algorithm.kl import k3
from gruppo.algorithm.losses import clipped_surrogate, is_clipped, token_sum
from gruppo.training.logprobs import token_logprobs
from gruppo.training.optimizers import OptimizerSet
from gruppo.training.packing import Batch, MicroBatch, Row, micro_batches
from gruppo.types import TensorStream


@dataclass(frozen=True, slots=True)
class LossSettings:
    """The numbers of the loss."""

    temperature: float
    epsilon: float
    epsilon_high: float
    beta: float
    updates_per_batch: int


@dataclass(frozen=True, slots=True)
class UpdateStats:
    """What an update did; None where nothing was computed. Means are over loss tokens that took part.

    With beta 0 the completions of groups without signal take no part: they can't move the weights.
    """

    stepped: bool
    loss: float | None = None
    kl_to_reference: float | None = None
    policy_ratio_mean: float | None = None
    clipped_share: float | None = None
    entropy: float | None = None
    grad_norm: float | None = None
    sampler_logprob_difference_max: float | None = None


class Policy(Protocol):
    """What the trainer needs of a policy, in this process or spread over ranks."""

    version: int
    """Batches that have moved the weights."""

    def update(self, batch: Batch, lr_factor: float) -> UpdateStats:
        """Move the weights by a step's batch."""
        ...

    def named_weights(self) -> TensorStream:
        """The weights by name, for an engine."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Weights, reference, optimizer, version."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        ...


class ReferencePolicy:
    """The trainable weights as they were at the start of GRPO, swapped in while reference log-probs are taken.

    Whatever is frozen is shared with the policy: a fresh LoRA adapter costs its own size (it then is the base
    model, since an adapter starts at zero), an adapter that SFT has trained is kept as it came, full fine-tuning
    keeps a second set of weights.
    """

    def __init__(self, model: nn.Module) -> None:
        self._trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._frozen = {name: p.detach().clone() for name, p in self._trainable.items()}

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """The model is the reference policy inside the block."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, parameter in self._trainable.items():
            parameter.data, self._frozen[name] = self._frozen[name], parameter.data

    def state_dict(self) -> dict[str, Tensor]:
        """The frozen weights."""
        return dict(self._frozen)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take frozen weights from a checkpoint."""
        for name, tensor in state.items():
            self._frozen[name].copy_(tensor)


@dataclass
class _Sums:
    """Sums over loss tokens, gathered over micro-batches; read once at the end, so that a GPU is not waited for."""

    tokens: int = 0
    sums: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    difference: Tensor | None = None

    def add(self, **values: Tensor) -> None:
        for name, value in values.items():
            total = value.detach().float().sum()
            self.sums[name] = self.sums[name] + total if name in self.sums else total

    def mean(self, name: str) -> float | None:
        return float(self.sums[name]) / self.tokens if name in self.sums and self.tokens else None


class LocalPolicy:
    """A policy in this process.

    Args:
        model: in evaluation mode (no dropout), trainable parameters marked by requires_grad.
        optimizers: over those parameters.
        loss: the numbers of the loss.
        token_budget: tokens of a micro-batch, padding counted.
    """

    def __init__(self, model: nn.Module, optimizers: OptimizerSet, loss: LossSettings, token_budget: int) -> None:
        self.model = model
        self.version = 0
        self._optimizers = optimizers
        self._loss = loss
        self._token_budget = token_budget
        self._device = next(model.parameters()).device
        self.reference = ReferencePolicy(model) if loss.beta > 0 else None

    def update(self, batch: Batch, lr_factor: float) -> UpdateStats:
        """`updates_per_batch` optimizer steps on the batch; none at all if no group of it has a signal."""
        if all(row.advantage == 0.0 for row in batch.rows):
            return UpdateStats(stepped=False)
        rows = [row for row in batch.rows if row.advantage != 0.0 or self._loss.beta > 0]
        micros = list(micro_batches(rows, self._token_budget, self._device))
        ref_logprobs = self._reference_logprobs(micros)
        several = self._loss.updates_per_batch > 1
        old_logprobs = self._logprobs(micros) if several else [None] * len(micros)
        sums, norm, stepped = _Sums(), 0.0, False
        for _ in range(self._loss.updates_per_batch):
            sums = _Sums()
            for micro, old, ref in zip(micros, old_logprobs, ref_logprobs, strict=True):
                self._accumulate(micro, old, ref, batch.loss_tokens, sums)
            norm, finite = self._optimizers.step(lr_factor)
            stepped = stepped or finite
        self.version += int(stepped)
        return _stats(sums, norm, stepped)

    def _accumulate(
        self, micro: MicroBatch, old: Tensor | None, ref: Tensor | None, normaliser: int, sums: _Sums
    ) -> None:
        """Forward, loss and backward of one micro-batch."""
        settings = self._loss
        result = token_logprobs(self.model, micro, settings.temperature, entropy=True)
        logprobs, entropy = result.logprobs, result.entropy
        assert entropy is not None
        old = logprobs.detach() if old is None else old
        advantages = micro.advantages[micro.mask]
        per_token = clipped_surrogate(logprobs, old, advantages, settings.epsilon, settings.epsilon_high)
        if ref is not None:
            kl = k3(logprobs, ref)
            per_token = per_token + settings.beta * kl
            sums.add(kl=kl)
        loss = token_sum(per_token, normaliser)
        loss.backward()
        ratio = torch.exp(logprobs.detach() - old)
        difference = (old - micro.sampler_logprobs[micro.mask]).abs().max()
        sums.difference = difference if sums.difference is None else torch.maximum(sums.difference, difference)
        sums.tokens += len(logprobs)
        clipped = is_clipped(ratio, advantages, settings.epsilon, settings.epsilon_high)
        sums.add(loss=per_token, ratio=ratio, clipped=clipped, entropy=entropy)

    @torch.no_grad()
    def _logprobs(self, micros: Sequence[MicroBatch]) -> list[Tensor]:
        return [token_logprobs(self.model, micro, self._loss.temperature).logprobs for micro in micros]

    def _reference_logprobs(self, micros: Sequence[MicroBatch]) -> list[Tensor] | list[None]:
        if self.reference is None:
            return [None] * len(micros)
        with self.reference.swapped_in():
            return self._logprobs(micros)

    def logprobs(self, rows: Sequence[Row]) -> list[Tensor]:
        """The policy's log-probs of each row's loss tokens, in the rows' order: for parity checks."""
        return [self._logprobs(list(micro_batches([row], 1, self._device)))[0] for row in rows]

    def named_weights(self) -> TensorStream:
        """Trainable and frozen parameters by name."""
        yield from self.model.named_parameters()

    def state_dict(self) -> dict[str, Any]:
        """Weights in float32, optimizer, reference, version."""
        state: dict[str, Any] = {"version": self.version, "optimizers": self._optimizers.state_dict()}
        if self.reference is not None:
            state["reference"] = self.reference.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.version = state["version"]
        self._optimizers.load_state_dict(state["optimizers"])
        if self.reference is not None:
            self.reference.load_state_dict(state["reference"])


def _stats(sums: _Sums, norm: float, stepped: bool) -> UpdateStats:
    return UpdateStats(
        stepped=stepped,
        loss=sums.mean("loss"),
        kl_to_reference=sums.mean("kl"),
        policy_ratio_mean=sums.mean("ratio"),
        clipped_share=sums.mean("clipped"),
        entropy=sums.mean("entropy"),
        grad_norm=norm,
        sampler_logprob_difference_max=None if sums.difference is None else float(sums.difference),
    )
