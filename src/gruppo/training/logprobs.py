"""Log-probs of completion tokens under a model, at logits / temperature, and the entropy beside them.

Legend: N loss tokens of a micro-batch or of a piece of one, V vocabulary.

The model is called through its root forward, never by reaching for its head (`gruppo.training.head`).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gruppo.training import logprob_kernel
from gruppo.training.head import Head, pieces
from gruppo.training.packing import MicroBatch
from gruppo.training.trees import TreeBatch

PRODUCTS = 2**18
"""Products that are held at a time where only their sums are wanted."""


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Figures per loss token, flat."""

    logprobs: Tensor
    """[N], with gradient."""
    entropy: Tensor
    """[N] nats, without."""
    logits: Tensor | None = None
    """[N, V] at the temperature in use, with gradient, where they were asked for."""


def token_logprobs(model: nn.Module, batch: MicroBatch | TreeBatch, temperature: float) -> TokenLogprobs:
    """Log-probs of the targets that carry a loss, in the order of `batch.loss_tokens`.

    Args:
        model: a causal model of transformers, or one wrapped by peft; for trees inside `attending_by_trees`.
        batch: rows padded on the right, or trees.
        temperature: logits are divided by it before the softmax.
    """
    targets = batch.loss_tokens.targets
    if isinstance(batch, MicroBatch):
        return with_logits(padded_logits(model, batch), targets, temperature)
    head = Head(model)
    hidden = head.hidden(batch)
    parts = pieces(batch.loss_tokens.completion, vocabulary_of(model))
    found = [from_logits(head.logits(hidden[part]), targets[part], temperature) for part in parts]
    if not found:
        return TokenLogprobs(hidden.new_zeros(0), hidden.new_zeros(0))
    return TokenLogprobs(torch.cat([each.logprobs for each in found]), torch.cat([each.entropy for each in found]))


def padded_logits(model: nn.Module, batch: MicroBatch) -> Tensor:
    """[N, V] logits that each loss token was drawn from, as the model gives them."""
    output = model(input_ids=batch.input_ids, logits_to_keep=batch.columns, use_cache=False)
    return output.logits[:, -batch.columns : -1][batch.mask]


def vocabulary_of(model: nn.Module) -> int:
    """V."""
    return model.get_input_embeddings().num_embeddings  # pyright: ignore


def at_temperature(logits: Tensor, temperature: float) -> Tensor:
    """In float32 at least."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return logits / temperature if temperature != 1.0 else logits


def with_logits(logits: Tensor, targets: Tensor, temperature: float) -> TokenLogprobs:
    """Log-probs by torch's own operators, and the logits beside them: the plain way, and that of an exact KL."""
    logits = at_temperature(logits, temperature)
    normaliser = torch.logsumexp(logits, dim=-1)
    chosen = logits.gather(1, targets[:, None]).squeeze(1)
    return TokenLogprobs(chosen - normaliser, _entropy(logits.detach(), normaliser.detach()), logits)


@torch.no_grad()
def _entropy(logits: Tensor, log_normaliser: Tensor, chunk: int = 512) -> Tensor:
    """[N] entropies of softmax(logits [N, V]), a chunk of tokens at a time: log Z - sum(p * logits)."""
    means = [
        (torch.exp(part - normaliser[:, None]) * part).sum(dim=-1)
        for part, normaliser in zip(logits.split(chunk), log_normaliser.split(chunk), strict=True)
    ]
    return log_normaliser - torch.cat(means)


def from_logits(logits: Tensor, targets: Tensor, temperature: float) -> TokenLogprobs:
    """Log-probs and entropies in one pass.

    Args:
        logits: [N, V]; they may be overwritten, which saves the copy.
        targets: [N].
        temperature: logits are divided by it.
    """
    if logprob_kernel.takes(logits):
        return TokenLogprobs(*logprob_kernel.logprobs_and_entropies(logits, targets, temperature))
    logprobs, entropy = _FromLogits.apply(logits, targets, temperature)  # pyright: ignore
    return TokenLogprobs(logprobs, entropy)


def _products(one: Tensor, other: Tensor) -> Tensor:
    """[N] sums of products of [N, V] and [N, V]; torch keeps the products, so a few rows at a time stay in a cache."""
    rows = max(1, PRODUCTS // one.shape[1])
    return torch.cat([torch.linalg.vecdot(*pair) for pair in zip(one.split(rows), other.split(rows), strict=True)])


class _FromLogits(torch.autograd.Function):
    """log p = z - log sum exp z at z = logits / temperature, of the targets; its gradient is (1[target] - p) / T.

    What autograd would put together takes a dozen passes over [N, V]; this takes five, and keeps one array.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:  # pyright: ignore
        scaled = logits.detach().to(torch.promote_types(logits.dtype, torch.float32))
        if temperature != 1.0:
            scaled = scaled.div_(temperature)
        every = torch.log_softmax(scaled, dim=-1)
        logprobs = every.gather(1, targets[:, None]).squeeze(1)
        probs = torch.exp(every, out=scaled)
        # An impossible token is 0 times minus infinity.
        entropy = -_products(probs, every.clamp_min_(torch.finfo(every.dtype).min))
        ctx.save_for_backward(targets)
        ctx.probs, ctx.temperature, ctx.dtype = probs, temperature, logits.dtype
        ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (targets,) = ctx.saved_tensors
        gradient = (gradient / ctx.temperature)[:, None]
        found = ctx.probs.mul_(-gradient).scatter_add_(1, targets[:, None], gradient)
        return found.to(ctx.dtype), None, None
