"""From groups to tensors: the batch of a step, cut into micro-batches by a token budget.

Legend: B rows of a micro-batch, L its longest prompt and completion together, K columns that predict completion
tokens, N loss tokens of the batch.

Rows are padded on the right. Under causal attention no token sees the padding behind it, so no attention mask is
needed, and which column is what is known from lengths, never from token ids.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gruppo.types import Group


@dataclass(frozen=True, slots=True)
class Row:
    """One completion as the update sees it."""

    prompt_ids: Sequence[int]
    token_ids: NDArray[np.int64]
    """[T]."""
    mask: NDArray[np.bool_]
    """[T], True where a token carries a loss."""
    sampler_logprobs: NDArray[np.float32]
    """[T]."""
    advantage: float

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.token_ids)


@dataclass(frozen=True, slots=True)
class Batch:
    """All completions of a step."""

    rows: tuple[Row, ...]

    @property
    def loss_tokens(self) -> int:
        """N, the normaliser of the token-level loss: every completion's tokens, with signal or without."""
        return sum(int(row.mask.sum()) for row in self.rows)


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Rows side by side. Everything from `targets` on covers the K columns whose logits predict completion tokens."""

    input_ids: Tensor
    """[B, L]."""
    columns: int
    """K: logits of the last K columns are wanted (the very last predicts nothing here and is dropped)."""
    targets: Tensor
    """[B, K - 1], the token that each column predicts."""
    mask: Tensor
    """[B, K - 1], True where the target carries a loss."""
    sampler_logprobs: Tensor
    """[B, K - 1]; 0 where the mask is False."""
    advantages: Tensor
    """[B, K - 1]; each completion's advantage under all its tokens."""


def build_batch(groups: Sequence[Group], advantages: Tensor) -> Batch:
    """The batch of a step.

    Args:
        groups: P groups of G rollouts.
        advantages: [P, G].
    """
    rows = [
        Row(
            prompt_ids=group.problem.prompt_ids,
            token_ids=rollout.completion.token_ids,
            mask=rollout.completion.mask,
            sampler_logprobs=rollout.completion.sampler_logprobs,
            advantage=float(advantage),
        )
        for group, group_advantages in zip(groups, advantages.tolist(), strict=True)
        for rollout, advantage in zip(group.rollouts, group_advantages, strict=True)
    ]
    return Batch(tuple(rows))


def micro_batches(rows: Sequence[Row], token_budget: int, device: torch.device) -> Iterator[MicroBatch]:
    """Rows of like length together, each micro-batch at most `token_budget` tokens with its padding.

    A row longer than the budget stands alone. The order is by length, longest first, ties as they came, so that the
    largest memory use comes first and the same rows always give the same micro-batches.
    """
    ordered = sorted(rows, key=len, reverse=True)
    start = 0
    while start < len(ordered):
        fits = max(1, token_budget // len(ordered[start]))
        yield _pad(ordered[start : start + fits], device)
        start += fits


def _pad(rows: Sequence[Row], device: torch.device) -> MicroBatch:
    length = max(map(len, rows))
    first = min(len(row.prompt_ids) for row in rows) - 1
    shape = (len(rows), length)
    input_ids = np.zeros(shape, dtype=np.int64)
    mask = np.zeros(shape, dtype=np.bool_)
    sampler_logprobs = np.zeros(shape, dtype=np.float32)
    for index, row in enumerate(rows):
        prompt = len(row.prompt_ids)
        input_ids[index, :prompt] = row.prompt_ids
        input_ids[index, prompt : len(row)] = row.token_ids
        mask[index, prompt : len(row)] = row.mask
        sampler_logprobs[index, prompt : len(row)] = row.sampler_logprobs
    advantages = np.array([row.advantage for row in rows], dtype=np.float32)[:, None]
    targets = slice(first + 1, None)
    tensor_mask = torch.from_numpy(mask[:, targets]).to(device)
    return MicroBatch(
        input_ids=torch.from_numpy(input_ids).to(device),
        columns=length - first,
        targets=torch.from_numpy(input_ids[:, targets]).to(device),
        mask=tensor_mask,
        sampler_logprobs=torch.from_numpy(sampler_logprobs[:, targets]).to(device),
        advantages=torch.from_numpy(advantages).to(device).expand(tensor_mask.shape),
    )


def default_token_budget(vocabulary: int) -> int:
    """Tokens of a micro-batch so that its logits stay below half a gibibyte in float32, at most 16,384."""
    return max(256, min(16_384, 2**27 // vocabulary))
