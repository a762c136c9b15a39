"""Log-probs of completion tokens under a model, at logits / temperature, and the entropy beside them.

The model is called through its root forward with `logits_to_keep`, never by reaching for its head.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gruppo.training.packing import MicroBatch
from gruppo.training.tree_attention import KEYWORD
from gruppo.training.trees import TreeBatch


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


def token_logprobs(model: nn.Module, batch: MicroBatch | TreeBatch, temperature: float) -> TokenLogprobs:
    """Log-probs of the targets that carry a loss.

    Args:
        model: a causal model of transformers, or one wrapped by peft; for trees inside `attending_by_trees`.
        batch: rows padded on the right, or trees.
        temperature: logits are divided by it before the softmax.

    Returns:
        [N], in the order of `batch.loss_tokens`. Gradients flow through `logprobs` and `logits`.
    """
    logits = token_logits(model, batch, temperature)
    normaliser = torch.logsumexp(logits, dim=-1)
    chosen = logits.gather(1, batch.loss_tokens.targets[:, None]).squeeze(1)
    return TokenLogprobs(chosen - normaliser, logits, normaliser)


def token_logits(model: nn.Module, batch: MicroBatch | TreeBatch, temperature: float) -> Tensor:
    """[N, V] logits at the temperature, in float32 at least, that each loss token was drawn from."""
    logits = _of_trees(model, batch) if isinstance(batch, TreeBatch) else _of_padded(model, batch)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return logits / temperature if temperature != 1.0 else logits


def _of_padded(model: nn.Module, batch: MicroBatch) -> Tensor:
    output = model(input_ids=batch.input_ids, logits_to_keep=batch.columns, use_cache=False)
    return output.logits[:, -batch.columns : -1][batch.mask]


def _of_trees(model: nn.Module, batch: TreeBatch) -> Tensor:
    """The head sees the loss tokens alone; a prompt's last place once for each completion, cheaper than copying."""
    inputs = {
        "input_ids": batch.input_ids,
        "position_ids": batch.position_ids,
        "logits_to_keep": batch.logit_places,
        "use_cache": False,
        KEYWORD: batch.layout,
    }
    return model(**inputs).logits[0]


@torch.no_grad()
def _entropy(logits: Tensor, log_normaliser: Tensor, chunk: int = 512) -> Tensor:
    """[N] entropies of softmax(logits [N, V]), a chunk of tokens at a time: log Z - sum(p * logits)."""
    means = [
        (torch.exp(part - normaliser[:, None]) * part).sum(dim=-1)
        for part, normaliser in zip(logits.split(chunk), log_normaliser.split(chunk), strict=True)
    ]
    return log_normaliser - torch.cat(means)
