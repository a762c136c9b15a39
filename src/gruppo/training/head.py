"""The body and the head of a model apart, both through its root forward: logits of a few tokens at a time.

Legend: N loss tokens of a micro-batch, n of a piece, D hidden size, V vocabulary.

A root forward gives all logits at once, and at a large vocabulary they are most of an update's memory. So it is called
twice, in other words: once with nothing to keep, which leaves the hidden states that its body has made; then once for
each piece of them, with a body that hands over the piece. Whatever a model does behind its head (scales, caps) and
whatever is wrapped around the head (adapters, shards) is done as ever, and no name of a head is known here. A model
that does not go along is found by the trial of `gruppo.training.tree_gate`.

A piece's backward pass follows at once, so no more than one piece of logits is alive. Measured at 26.5M parameters and
a vocabulary of 16,384: benchmarks/update.md.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils.generic import ModelOutput

from gruppo.training.tree_attention import KEYWORD, base_of
from gruppo.training.trees import TreeBatch

FEWEST = 256
"""Tokens of a piece at the least: fewer would spend more on reading the head's weights than on computing."""
LOGITS = {"cpu": 2**22}
"""Logits of a piece on a kind of device: on a CPU what its cache holds; on others a quarter of a gibibyte."""


class Head:
    """Calls a causal model's body and head apart; for trees, inside `attending_by_trees`.

    Args:
        model: a causal model of transformers, or one wrapped by peft.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._body = base_of(model).get_decoder()
        self._output: type[ModelOutput] = ModelOutput

    def hidden(self, batch: TreeBatch) -> Tensor:
        """[N, D], the hidden states whose logits the loss tokens were drawn from."""
        found: list[Any] = []
        body = self._body.forward

        def watched(*args: Any, **keywords: Any) -> Any:
            found.append(body(*args, **keywords))
            return found[-1]

        inputs = {"input_ids": batch.input_ids, "position_ids": batch.position_ids, KEYWORD: batch.layout}
        with _forward_of(self._body, watched):
            self._model(**inputs, use_cache=False, logits_to_keep=batch.logit_places[:0])
        (output,) = found
        self._output = type(output)
        return output.last_hidden_state[0, batch.logit_places]

    def logits(self, hidden: Tensor) -> Tensor:
        """[n, V] of hidden states [n, D] that `hidden` gave."""
        output = self._output(last_hidden_state=hidden[None])  # pyright: ignore[reportCallIssue]
        ids = torch.zeros(1, len(hidden), dtype=torch.long, device=hidden.device)
        with _forward_of(self._body, lambda *args, **keywords: output):
            return self._model(input_ids=ids, use_cache=False, logits_to_keep=0).logits[0]


@contextmanager
def _forward_of(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """The module computes this inside the block."""
    before = module.__dict__.get("forward")
    module.__dict__["forward"] = forward
    try:
        yield
    finally:
        if before is None:
            del module.__dict__["forward"]
        else:
            module.__dict__["forward"] = before


def pieces(completion: Tensor, vocabulary: int, *, whole: bool = False) -> list[slice]:
    """N loss tokens in pieces.

    Args:
        completion: [N], which completion a token belongs to, in order.
        vocabulary: V.
        whole: no completion is cut; one that is longer than a piece is a piece by itself.
    """
    tokens = len(completion)
    size = max(FEWEST, LOGITS.get(completion.device.type, 2**26) // vocabulary)
    if not whole:
        return [slice(start, min(start + size, tokens)) for start in range(0, tokens, size)]
    ends = torch.cumsum(torch.bincount(completion), 0).tolist()
    return list(_joined(ends, size))


def _joined(ends: Sequence[int], size: int) -> Iterator[slice]:
    """Neighbours together while they fit."""
    start, last = 0, 0
    for end in ends:
        if last > start and end - start > size:
            yield slice(start, last)
            start = last
        last = end
    if last > start:
        yield slice(start, last)


def backward_in_pieces(
    head: Head, hidden: Tensor, parts: Sequence[slice], loss_of: Callable[[Tensor, slice], Tensor]
) -> Tensor:
    """Forward and backward of the head piece by piece, then backward of the body; gives the summed loss.

    Args:
        head: the model.
        hidden: [N, D] as `Head.hidden` gave it.
        parts: slices of the N tokens.
        loss_of: a piece's loss from its logits [n, V], which it may overwrite.
    """
    total = torch.zeros((), device=hidden.device)
    gradient = torch.empty_like(hidden)
    for part in parts:
        piece = hidden.detach()[part].requires_grad_()
        loss = loss_of(head.logits(piece), part)
        loss.backward()
        gradient[part] = 0.0 if piece.grad is None else piece.grad
        total += loss.detach()
        del loss  # it holds the piece's probabilities, which the next piece would stand beside
    if hidden.requires_grad:
        hidden.backward(gradient)
    return total
