"""From groups to tensors: the batch of a step, cut into micro-batches by a token budget.

Legend: B rows of a micro-batch, L its longest prompt and completion together, K columns that predict completion
tokens, N loss tokens of the micro-batch.

Rows are padded on the right. Under causal attention no token sees the padding behind it, so no attention mask is
needed, and which column is what is known from lengths, never from token ids.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gruppo.algorithm.losses import completion_weights
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
    has_signal: bool = True
    """Whether the rewards of its group differ."""
    weight: float = 0.0
    """What each of its loss tokens weighs in the loss of an optimizer step."""

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.token_ids)


@dataclass(frozen=True, slots=True)
class Batch:
    """All completions of a step, and the demonstrations of its SFT term."""

    rows: tuple[Row, ...]
    demonstrations: tuple[Row, ...] = ()


@dataclass(frozen=True, slots=True)
class LossTokens:
    """What a loss asks of the N tokens of a micro-batch that carry one, completion by completion: each [N]."""

    targets: Tensor
    """The tokens themselves."""
    sampler_logprobs: Tensor
    advantages: Tensor
    weights: Tensor
    """What a token weighs in the loss."""
    completion: Tensor
    """Which of the micro-batch's rows a token belongs to."""

    def part(self, which: slice) -> "LossTokens":
        """Some of the tokens."""
        return LossTokens(*(getattr(self, field.name)[which] for field in fields(self)))


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
    weights: Tensor
    """[B, K - 1]; what a token weighs in the loss, as the advantages."""
    numbers: tuple[int, ...]
    """Where each of the rows stands among those that were cut into micro-batches."""

    @property
    def completion(self) -> Tensor:
        """[N], which of the B rows a loss token belongs to."""
        return self.mask.nonzero()[:, 0]

    @property
    def loss_tokens(self) -> LossTokens:
        """The tokens that carry a loss."""
        mask = self.mask
        return LossTokens(
            targets=self.targets[mask],
            sampler_logprobs=self.sampler_logprobs[mask],
            advantages=self.advantages[mask],
            weights=self.weights[mask],
            completion=self.completion,
        )


def build_batch(groups: Sequence[Group], advantages: Tensor, *, mask_truncated: bool = False) -> Batch:
    """The batch of a step.

    Args:
        groups: P groups of G rollouts.
        advantages: [P, G].
        mask_truncated: tokens of truncated completions carry no loss.
    """
    rows: list[Row] = []
    for group, of_group in zip(groups, advantages.tolist(), strict=True):
        has_signal = any(advantage != 0.0 for advantage in of_group)
        for rollout, advantage in zip(group.rollouts, of_group, strict=True):
            completion = rollout.completion
            masked = mask_truncated and completion.truncated
            rows.append(
                Row(
                    prompt_ids=group.problem.prompt_ids,
                    token_ids=completion.token_ids,
                    mask=np.zeros_like(completion.mask) if masked else completion.mask,
                    sampler_logprobs=completion.sampler_logprobs,
                    advantage=advantage,
                    has_signal=has_signal,
                )
            )
    return Batch(tuple(rows))


def minibatches(rows: Sequence[Row], count: int, aggregation: str, max_length: int) -> list[list[Row]]:
    """The rows dealt out in turn to so many optimizer steps, each row with its weight in the loss of its step.

    Dealing in turn puts members of every group into every minibatch.

    Args:
        rows: those that count in the normaliser.
        count: optimizer steps.
        aggregation: tokens, sequences or constant, as in `completion_weights`.
        max_length: the constant length.
    """
    return [_weighted(rows[start::count], aggregation, max_length) for start in range(min(count, len(rows)))]


def _weighted(rows: Sequence[Row], aggregation: str, max_length: int) -> list[Row]:
    weights = completion_weights([int(row.mask.sum()) for row in rows], aggregation, max_length)
    return [replace(row, weight=weight) for row, weight in zip(rows, weights, strict=True)]


def micro_batches(rows: Sequence[Row], token_budget: int, device: torch.device) -> Iterator[MicroBatch]:
    """Rows of like length together, each micro-batch at most `token_budget` tokens with its padding.

    A row longer than the budget stands alone. The order is by length, longest first, ties as they came, so that the
    largest memory use comes first and the same rows always give the same micro-batches.
    """
    ordered = sorted(range(len(rows)), key=lambda number: len(rows[number]), reverse=True)
    start = 0
    while start < len(ordered):
        fits = max(1, token_budget // len(rows[ordered[start]]))
        numbers = tuple(ordered[start : start + fits])
        yield _pad([rows[number] for number in numbers], numbers, device)
        start += fits


def _pad(rows: Sequence[Row], numbers: tuple[int, ...], device: torch.device) -> MicroBatch:
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
    targets = slice(first + 1, None)
    tensor_mask = torch.from_numpy(mask[:, targets]).to(device)
    return MicroBatch(
        input_ids=torch.from_numpy(input_ids).to(device),
        columns=length - first,
        targets=torch.from_numpy(input_ids[:, targets]).to(device),
        mask=tensor_mask,
        sampler_logprobs=torch.from_numpy(sampler_logprobs[:, targets]).to(device),
        advantages=_per_row([row.advantage for row in rows], tensor_mask),
        weights=_per_row([row.weight for row in rows], tensor_mask),
        numbers=numbers,
    )


def _per_row(values: Sequence[float], like: Tensor) -> Tensor:
    """[B, K - 1], each row its value."""
    return torch.tensor(values, dtype=torch.float32, device=like.device)[:, None].expand(like.shape)


MEMORY_SHARE = 0.5
"""Of the free memory, for the activations of a micro-batch."""
PROMPTS = 2
"""Prompts whose tokens a micro-batch takes at the least, so that a group's completions stand with theirs."""

NARROW = 64
"""Width of a model, up to which a micro-batch on a CPU takes twice the tokens."""


def default_token_budget(
    vocabulary: int,
    device: torch.device,
    free_bytes: int | None = None,
    token_bytes: int = 1,
    longest_prompt: int = 0,
    *,
    hidden: int,
) -> int:
    """Tokens of a micro-batch: what fits into half of the free memory, and no more than makes it quicker.

    That is 16,384 on a GPU. On a CPU it is 2,048, or as many as have half a gibibyte of logits in float32: its matrix
    products gain nothing from more rows, and its caches lose. 26.5M parameters took as long with 2,048 as with 8,192
    and half the memory, the demo's model less time (benchmarks/update.py).

    A long prompt raises it to twice its tokens, where the memory is there: of a group that is cut into trees each reads
    the prompt again (docs/log.md: 16 completions of 64 after 2,048 tokens took six times as long).

    Args:
        vocabulary: V.
        device: where the model is.
        free_bytes: memory beside weights and optimizer; None: not known, and a GPU is bounded as a CPU is by V.
        token_bytes: what a token keeps for the backward pass.
        longest_prompt: its tokens.
        hidden: the model's width.
    """
    on_cpu = device.type == "cpu"
    most = (2_048 if hidden > NARROW else 4_096) if on_cpu else 16_384
    if on_cpu or free_bytes is None:
        most = min(most, 2**27 // vocabulary)
    most = max(most, PROMPTS * longest_prompt)
    if free_bytes is not None:
        most = min(most, int(MEMORY_SHARE * free_bytes / token_bytes))
    return max(256, most)
