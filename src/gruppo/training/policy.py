"""The policy: the model that is trained, and its update."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from gruppo.monitor.malloc import give_back, keep
from gruppo.monitor.native import KINDS, NONE_FOUND
from gruppo.training import tree_blocks, tree_kernel
from gruppo.training.export import exported_weights
from gruppo.training.logprobs import TokenLogprobs
from gruppo.training.losses import LossSettings, Sums, UpdateStats, part_loss
from gruppo.training.optimizers import OptimizerSet
from gruppo.training.packing import Batch, Row, minibatches
from gruppo.training.passes import LossOf, Micro, passes_of
from gruppo.training.reference import ReferencePolicy
from gruppo.types import TensorStream


class Policy(Protocol):
    """What the trainer needs of a policy, in this process or spread over ranks."""

    version: int
    """Batches that have moved the weights."""

    def update(self, batch: Batch, loss: LossSettings, lr_factor: float) -> UpdateStats:
        """Move the weights by a step's batch."""
        ...

    def kl_to_reference(self, rows: Sequence[Row], loss: LossSettings) -> list[float]:
        """The mean KL per token of each row's completion, in the rows' order."""
        ...

    def refresh_reference(self, decay: float) -> None:
        """Move the reference policy to the policy."""
        ...

    def named_weights(self) -> TensorStream:
        """The weights by name, for an engine that samples from this very model."""
        ...

    def exported_weights(self) -> TensorStream:
        """The weights as a saved model has them, for an engine with a copy of its own."""
        ...

    def logprobs(self, rows: Sequence[Row], temperature: float) -> list[Tensor]:
        """The policy's log-probs of each row's loss tokens, in the rows' order."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Weights, reference, optimizer, version."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        ...


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A micro-batch with the log-probs that stay the same over several updates."""

    micro: Micro
    old_logprobs: Tensor | None
    """[N]; None: those of the forward pass itself."""
    ref_logprobs: Tensor | None


class LocalPolicy:
    """A policy in this process.

    Args:
        model: without dropout, trainable parameters marked by requires_grad.
        optimizers: over those parameters.
        token_budget: tokens of a micro-batch, padding counted.
        reference: keep a reference policy, for a KL penalty.
        packing: trees (each prompt once per group, without padding) or padded. A model that can't attend by trees
            gets padded rows.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: OptimizerSet,
        token_budget: int,
        *,
        reference: bool = False,
        packing: str = "trees",
    ) -> None:
        self.model = model
        self.version = 0
        self._optimizers = optimizers
        self._device = next(model.parameters()).device
        if self._device.type == "cpu":
            keep()
        self.reference = ReferencePolicy(model) if reference else None
        self._passes, self.why_padded = passes_of(model, token_budget, packing)
        """`why_padded`: why rows are padded; empty where they are trees."""

    @property
    def slower(self) -> list[str]:
        """Why the update goes a slower way than trees in a kernel made for them; its result is the same."""
        if self.why_padded:
            return [f"padded rows in place of group trees, since {self.why_padded}; slower, same update"]
        dtype = next(self.model.parameters()).dtype
        if self._device.type == "cpu" and str(dtype) in KINDS and not tree_kernel.available(dtype):
            return [f"attention by trees without its kernel, which is slower: {NONE_FOUND}"]
        reasons = sorted({why for why in tree_blocks.why_not.values() if why})
        return [f"attention by trees without its fused kernel, since {why}; slower, same update" for why in reasons]

    def update(self, batch: Batch, loss: LossSettings, lr_factor: float) -> UpdateStats:
        """`updates_per_batch` passes of `minibatches` optimizer steps each over the batch.

        An optimizer step is left out where no completion of its minibatch has a signal (and there are no
        demonstrations), and where its loss or gradient is not finite: the weights stay as they are, bit for bit.
        """
        counted = [row for row in batch.rows if row.has_signal or loss.no_signal_groups == "count"]
        parts = minibatches(counted, loss.minibatches, loss.aggregation, loss.max_length)
        shares = [batch.demonstrations[start :: len(parts)] for start in range(len(parts))]
        steps = [(part, share) for part, share in zip(parts, shares, strict=True) if _moves(part) or share]
        if not steps:
            return UpdateStats(stepped=False)
        with self._passes.ready():
            return self._steps(steps, loss, lr_factor)

    def _steps(
        self, steps: Sequence[tuple[Sequence[Row], Sequence[Row]]], loss: LossSettings, lr_factor: float
    ) -> UpdateStats:
        """The optimizer steps, each on completions and demonstrations of its own, over and over."""
        prepared = [self._prepare(part, loss) for part, _ in steps]
        sums, norms, made = Sums(), list[float](), 0
        for _ in range(loss.updates_per_batch):
            sums, norms = Sums(), []
            for micros, (_, share) in zip(prepared, steps, strict=True):
                total = self._accumulate(micros, loss, sums) + self._accumulate_demonstrations(share, loss, sums)
                norm, stepped = self._optimizers.step(lr_factor, loss=total)
                norms.append(norm)
                made += stepped
        self.version += int(made > 0)
        skipped = loss.updates_per_batch * len(steps) - made
        return sums.stats(stepped=made > 0, skipped=skipped, grad_norms=norms)

    def _prepare(self, rows: Sequence[Row], loss: LossSettings) -> list[_Prepared]:
        """The micro-batches of an optimizer step, with old and reference log-probs where they are wanted."""
        alive = [row for row in rows if row.mask.any() and (row.advantage != 0.0 or loss.penalty_in_loss)]
        micros = self._passes.cut(alive)
        several = loss.updates_per_batch * loss.minibatches > 1
        old = self._logprobs(micros, loss.temperature) if several else [None] * len(micros)
        wanted = loss.penalty_in_loss and not loss.exact_kl
        ref = self._reference_logprobs(micros, loss.temperature) if wanted else [None] * len(micros)
        return [_Prepared(*each) for each in zip(micros, old, ref, strict=True)]

    def _accumulate(self, micros: Sequence[_Prepared], loss: LossSettings, sums: Sums) -> float:
        """Forward, loss and backward of every micro-batch of an optimizer step; gives the loss."""
        total = torch.zeros((), device=self._device)
        reference = self._held_to().swapped_in if loss.exact_kl else None
        for each in micros:
            if self._device.type == "cpu":
                give_back()
            total += self._passes.backward(
                each.micro,
                loss.temperature,
                self._loss_of(each, loss, sums),
                whole_completions=loss.of_sequences,
                reference=reference,
            )
        return float(total)

    @staticmethod
    def _loss_of(each: _Prepared, loss: LossSettings, sums: Sums) -> LossOf:
        """The loss of any part of a micro-batch."""
        wanted = each.micro.loss_tokens

        def loss_of(result: TokenLogprobs, part: slice, ref_logits: Tensor | None) -> Tensor:
            old = None if each.old_logprobs is None else each.old_logprobs[part]
            ref = None if each.ref_logprobs is None else each.ref_logprobs[part]
            return part_loss(result, wanted.part(part), loss, old, ref, ref_logits, sums)

        return loss_of

    def _accumulate_demonstrations(self, rows: Sequence[Row], loss: LossSettings, sums: Sums) -> float:
        """The SFT term: its weight times the mean negative log-likelihood of the demonstrations' tokens."""
        if not rows:
            return 0.0
        factor = loss.demonstrations_weight / sum(int(row.mask.sum()) for row in rows)
        total = torch.zeros((), device=self._device)
        for micro in self._passes.cut(rows):
            total += self._passes.backward(micro, 1.0, lambda result, *_: -factor * result.logprobs.sum())
        sums.demonstrations.append(float(total) / loss.demonstrations_weight)
        return float(total)

    def _logprobs(self, micros: Sequence[Micro], temperature: float) -> list[Tensor]:
        return [self._passes.logprobs(micro, temperature) for micro in micros]

    def _reference_logprobs(self, micros: Sequence[Micro], temperature: float) -> list[Tensor]:
        with self._held_to().swapped_in():
            return self._logprobs(micros, temperature)

    def _held_to(self) -> ReferencePolicy:
        if self.reference is None:
            raise ValueError("a KL penalty wants LocalPolicy(..., reference=True)")
        return self.reference

    def kl_to_reference(self, rows: Sequence[Row], loss: LossSettings) -> list[float]:
        """The mean KL per token of each row's completion, in the rows' order; 0 for one without loss tokens."""
        found = [0.0] * len(rows)
        numbers = [number for number, row in enumerate(rows) if row.mask.any()]
        micros = self._passes.cut([rows[number] for number in numbers])
        with self._passes.ready():
            policy = self._logprobs(micros, loss.temperature)
            reference = self._reference_logprobs(micros, loss.temperature)
        for micro, logprobs, ref in zip(micros, policy, reference, strict=True):
            counts = torch.bincount(micro.loss_tokens.completion, minlength=len(micro.numbers)).tolist()
            for place, kl in zip(micro.numbers, torch.split(loss.kl(logprobs, ref), counts), strict=True):
                found[numbers[place]] = float(kl.mean())
        return found

    def refresh_reference(self, decay: float) -> None:
        """Move the reference policy to the policy: decay x reference + (1 - decay) x policy."""
        self._held_to().refresh(decay)

    def logprobs(self, rows: Sequence[Row], temperature: float) -> list[Tensor]:
        """The policy's log-probs of each row's loss tokens, in the rows' order: for parity checks."""
        with self._passes.ready():
            return [self._logprobs(self._passes.cut([row]), temperature)[0] for row in rows]

    def named_weights(self) -> TensorStream:
        """Trainable and frozen parameters by name."""
        yield from self.model.named_parameters()

    def exported_weights(self) -> TensorStream:
        """Every weight under its plain name, adapters merged in, a tied one under both names."""
        return exported_weights(self.model)

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


def _moves(rows: Sequence[Row]) -> bool:
    """Whether any completion has an advantage and tokens to put it on."""
    return any(row.advantage != 0.0 and row.mask.any() for row in rows)
