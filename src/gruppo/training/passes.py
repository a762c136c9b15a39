"""Forward and backward passes over completions, the plain way and the quick one, behind one seam.

Legend: N loss tokens of a micro-batch, n of a part of it, V vocabulary.

`PaddedPasses` gives each completion a row with its prompt, pads, and takes all logits of a micro-batch by torch's own
operators; it is short, and the oracle of the tests. `TreePasses` gives each prompt a tree, pads nothing, and takes
logits a piece at a time. Both give the same loss and the same gradients, but for rounding.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

import torch
from torch import Tensor, nn

from gruppo.rollout.parts import KernelParts
from gruppo.training.head import Head, backward_in_pieces, pieces
from gruppo.training.logprobs import (
    TokenLogprobs,
    at_temperature,
    from_logits,
    padded_logits,
    token_logprobs,
    vocabulary_of,
    with_logits,
)
from gruppo.training.packing import MicroBatch, Row, micro_batches
from gruppo.training.products import quick_products
from gruppo.training.tree_attention import attending_by_trees
from gruppo.training.tree_gate import why_not_trees
from gruppo.training.trees import TreeBatch, tree_batches

Micro = MicroBatch | TreeBatch
LossOf = Callable[[TokenLogprobs, slice, Tensor | None], Tensor]
"""The loss of a part of a micro-batch's N tokens: of the policy's figures of that part, which part it is, and the
reference policy's logits [n, V] where those are wanted. Summed over the parts it is the micro-batch's loss."""
Swap = Callable[[], AbstractContextManager[None]]
"""Inside, the model is the reference policy."""


class Passes(Protocol):
    """What can be done with completions and a model."""

    def cut(self, rows: Sequence[Row]) -> list[Micro]:
        """The rows in micro-batches."""
        ...

    def ready(self) -> AbstractContextManager[None]:
        """Inside, the model takes what `cut` gave; after it, the model is as it was."""
        ...

    def logprobs(self, micro: Micro, temperature: float) -> Tensor:
        """[N], without gradient."""
        ...

    def backward(
        self,
        micro: Micro,
        temperature: float,
        loss_of: LossOf,
        *,
        whole_completions: bool = False,
        reference: Swap | None = None,
    ) -> Tensor:
        """Add the gradients of a micro-batch's loss to the parameters'; gives the loss.

        Args:
            micro: of `cut`.
            temperature: logits are divided by it.
            loss_of: the loss of a part.
            whole_completions: a part may not end within a completion.
            reference: its logits are wanted, and the policy's with gradient.
        """
        ...


class PaddedPasses:
    """Rows padded to the longest of their micro-batch.

    Args:
        model: a causal model.
        token_budget: tokens of a micro-batch, padding counted.
    """

    def __init__(self, model: nn.Module, token_budget: int) -> None:
        self._model = model
        self._token_budget = token_budget
        self._device = next(model.parameters()).device

    def cut(self, rows: Sequence[Row]) -> list[Micro]:
        """Rows of like length together."""
        return list(micro_batches(rows, self._token_budget, self._device))

    def ready(self) -> AbstractContextManager[None]:
        """Nothing has to be done."""
        return nullcontext()

    @torch.no_grad()
    def logprobs(self, micro: Micro, temperature: float) -> Tensor:
        """[N], without gradient."""
        return token_logprobs(self._model, micro, temperature).logprobs

    def backward(
        self,
        micro: Micro,
        temperature: float,
        loss_of: LossOf,
        *,
        whole_completions: bool = False,
        reference: Swap | None = None,
    ) -> Tensor:
        """One part, all of it."""
        assert isinstance(micro, MicroBatch)
        ref_logits = None
        if reference is not None:
            with torch.no_grad(), reference():
                ref_logits = at_temperature(padded_logits(self._model, micro), temperature)
        result = token_logprobs(self._model, micro, temperature)
        loss = loss_of(result, slice(None), ref_logits)
        loss.backward()
        return loss.detach()


class TreePasses:
    """Groups as trees, logits by pieces.

    Args:
        model: a causal model that `why_not_trees` has let through.
        token_budget: tokens of a micro-batch.
    """

    def __init__(self, model: nn.Module, token_budget: int) -> None:
        self._model = model
        self._head = Head(model)
        self._parts = KernelParts(model)
        self._vocabulary = vocabulary_of(model)
        self._token_budget = token_budget
        self._device = next(model.parameters()).device

    def cut(self, rows: Sequence[Row]) -> list[Micro]:
        """Trees behind each other."""
        return list(tree_batches(rows, self._token_budget, self._device))

    @contextmanager
    def ready(self) -> Iterator[None]:
        """The model attends by trees, multiplies by the quicker library, and has kernels for its parts."""
        with attending_by_trees(self._model), quick_products(self._device), self._parts.taken():
            yield

    @torch.no_grad()
    def logprobs(self, micro: Micro, temperature: float) -> Tensor:
        """[N], without gradient."""
        return token_logprobs(self._model, micro, temperature).logprobs

    def backward(
        self,
        micro: Micro,
        temperature: float,
        loss_of: LossOf,
        *,
        whole_completions: bool = False,
        reference: Swap | None = None,
    ) -> Tensor:
        """Piece by piece."""
        assert isinstance(micro, TreeBatch)
        targets = micro.loss_tokens.targets
        parts = pieces(micro.loss_tokens.completion, self._vocabulary, whole=whole_completions)
        ref_logits = self._reference(micro, temperature, reference) if reference is not None else None

        def piece_loss(logits: Tensor, part: slice) -> Tensor:
            if ref_logits is None:
                return loss_of(from_logits(logits, targets[part], temperature), part, None)
            return loss_of(with_logits(logits, targets[part], temperature), part, ref_logits(part))

        return backward_in_pieces(self._head, self._head.hidden(micro), parts, piece_loss)

    @torch.no_grad()
    def _reference(self, micro: TreeBatch, temperature: float, swap: Swap) -> Callable[[slice], Tensor]:
        """The reference policy's logits by piece."""
        with swap():
            hidden = self._head.hidden(micro)

        @torch.no_grad()
        def logits(part: slice) -> Tensor:
            with swap():
                return at_temperature(self._head.logits(hidden[part]), temperature)

        return logits


def passes_of(model: nn.Module, token_budget: int, packing: str) -> tuple[Passes, str]:
    """The passes that are asked for, or the plain ones and why it is those.

    Args:
        model: a causal model.
        token_budget: tokens of a micro-batch.
        packing: trees or padded.
    """
    why_padded = why_not_trees(model) if packing == "trees" else "packing: padded"
    return (PaddedPasses if why_padded else TreePasses)(model, token_budget), why_padded
