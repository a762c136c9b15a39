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
    logits: Tensor
    """[N, V] at the temperature in use."""
    normaliser: Tensor
    """[N], the log of the sum of exp(logits)."""

    def entropy(self) -> Tensor:
        """[N] nats, without gradient."""
        return _entropy(self.logits.detach(), self.normaliser.detach())


def token_logprobs(model: nn.Module, batch: MicroBatch, temperature: float) -> TokenLogprobs:
    """Log-probs of the targets that carry a loss.

    Args:
        model: a causal model of transformers, or one wrapped by peft.
        batch: B rows, padded on the right.
        temperature: logits are divided by it before the softmax.

    Returns:
        [N], N the True entries of `batch.mask`, row by row. Gradients flow through `logprobs` and `logits`.
    """
    logits = token_logits(model, batch, temperature)
    normaliser = torch.logsumexp(logits, dim=-1)
    chosen = logits.gather(1, batch.targets[batch.mask][:, None]).squeeze(1)
    return TokenLogprobs(chosen - normaliser, logits, normaliser)


def token_logits(model: nn.Module, batch: MicroBatch, temperature: float) -> Tensor:
    """[N, V] logits at the temperature, in float32 at least, that each loss token was drawn from."""
    output = model(input_ids=batch.input_ids, logits_to_keep=batch.columns, use_cache=False)
    logits = output.logits[:, -batch.columns : -1][batch.mask]
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return logits / temperature if temperature != 1.0 else logits


@torch.no_grad()
def _entropy(logits: Tensor, log_normaliser: Tensor, chunk: int = 512) -> Tensor:
    """[N] entropies of softmax(logits [N, V]), a chunk of tokens at a time: log Z - sum(p * logits)."""
    means = [
        (torch.exp(part - normaliser[:, None]) * part).sum(dim=-1)
        for part, normaliser in zip(logits.split(chunk), log_normaliser.split(chunk), strict=True)
    ]
    return log_normaliser - torch.cat(means)
