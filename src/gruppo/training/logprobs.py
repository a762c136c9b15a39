"""Log-probs of completion tokens under a model, at logits / temperature, and the entropy beside them.

The model is called through its root forward with `logits_to_keep`, never by reaching for its head.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gruppo.training.packing import MicroBatch


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Figures per loss token of a micro-batch, flat: [N]."""

    logprobs: Tensor
    entropy: Tensor | None
    """Nats, without gradient; None where it wasn't asked for."""


def token_logprobs(model: nn.Module, batch: MicroBatch, temperature: float, *, entropy: bool = False) -> TokenLogprobs:
    """Log-probs of the targets that carry a loss.

    Args:
        model: a causal model of transformers, or one wrapped by peft.
        batch: B rows, padded on the right.
        temperature: logits are divided by it before the softmax.
        entropy: also the entropy of the distribution at each token.

    Returns:
        [N], N the True entries of `batch.mask`, row by row. Gradients flow through `logprobs` alone.
    """
    output = model(input_ids=batch.input_ids, logits_to_keep=batch.columns, use_cache=False)
    logits = output.logits[:, -batch.columns : -1]
    logits = logits[batch.mask].float()
    if temperature != 1.0:
        logits = logits / temperature
    log_normaliser = torch.logsumexp(logits, dim=-1)
    chosen = logits.gather(1, batch.targets[batch.mask][:, None]).squeeze(1)
    spread = _entropy(logits.detach(), log_normaliser.detach()) if entropy else None
    return TokenLogprobs(chosen - log_normaliser, spread)


@torch.no_grad()
def _entropy(logits: Tensor, log_normaliser: Tensor, chunk: int = 512) -> Tensor:
    """[N] entropies of softmax(logits [N, V]), a chunk of tokens at a time: log Z - sum(p * logits)."""
    means = [
        (torch.exp(part - normaliser[:, None]) * part).sum(dim=-1)
        for part, normaliser in zip(logits.split(chunk), log_normaliser.split(chunk), strict=True)
    ]
    return log_normaliser - torch.cat(means)
