"""Groups as trees: a prompt once, its completions as branches, packed into one row without padding.

Legend: L tokens of a row, N loss tokens of a micro-batch.

The padded way pushes a prompt through the model once per completion. A tree pushes it once per group: the row is
[prompt | completion 1 | ... | completion G | next tree ...], positions go on from the prompt in every branch, and
attention follows the tree (`gruppo.training.tree_attention`), so every token sees exactly what it saw before.

What is left out beside the padding, since nothing depends on it: the last token of a completion is drawn but never
read, and so is whatever follows the last token that carries a loss.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gruppo.training.packing import LossTokens, Row
from gruppo.training.tree_layout import Layout, Span


@dataclass(frozen=True, slots=True)
class Tree:
    """A prompt and completions of it."""

    prompt_ids: Sequence[int]
    rows: tuple[Row, ...]
    numbers: tuple[int, ...]
    """Where each of the rows stands among those that were packed."""

    def __len__(self) -> int:
        return len(self.prompt_ids) + sum(map(read_tokens, self.rows))


@dataclass(frozen=True, slots=True)
class TreeBatch:
    """Trees behind each other in one row."""

    input_ids: Tensor
    """[1, L]."""
    position_ids: Tensor
    """[1, L]; go on from the prompt in every branch."""
    logit_places: Tensor
    """[N], the place in the row whose logits each loss token was drawn from."""
    layout: Layout
    loss_tokens: LossTokens
    numbers: tuple[int, ...]
    """Where each of the rows stands among those that were packed."""


def read_tokens(row: Row) -> int:
    """Tokens of a completion that a later token with a loss is drawn from: all before the last such token."""
    places = np.flatnonzero(row.mask)
    return int(places[-1]) if len(places) else 0


def tree_batches(rows: Sequence[Row], token_budget: int, device: torch.device) -> Iterator[TreeBatch]:
    """Rows with equal prompts together, each micro-batch at most `token_budget` tokens.

    A group too large for the budget becomes several trees of the same prompt. A prompt with one completion that is
    longer than the budget stands alone. The largest trees come first, ties as they came, each into the first
    micro-batch that has room, so that the same rows always give the same micro-batches.
    """
    trees = sorted(grow(rows, token_budget), key=len, reverse=True)
    bins: list[list[Tree]] = []
    room: list[int] = []
    for tree in trees:
        place = next((place for place, left in enumerate(room) if left >= len(tree)), None)
        if place is None:
            bins.append([tree])
            room.append(token_budget - len(tree))
        else:
            bins[place].append(tree)
            room[place] -= len(tree)
    for packed in bins:
        yield lay_out(packed, device)


def grow(rows: Sequence[Row], token_budget: int) -> list[Tree]:
    """Trees of at most `token_budget` tokens where one completion is shorter than that."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for number, row in enumerate(rows):
        groups.setdefault(tuple(row.prompt_ids), []).append(number)
    trees: list[Tree] = []
    for prompt, members in groups.items():
        branches, size = list[int](), len(prompt)
        for number in members:
            length = read_tokens(rows[number])
            if branches and size + length > token_budget:
                trees.append(_tree(prompt, rows, branches))
                branches, size = [], len(prompt)
            branches.append(number)
            size += length
        trees.append(_tree(prompt, rows, branches))
    return trees


def _tree(prompt: tuple[int, ...], rows: Sequence[Row], numbers: Sequence[int]) -> Tree:
    return Tree(prompt, tuple(rows[number] for number in numbers), tuple(numbers))


def lay_out(trees: Sequence[Tree], device: torch.device) -> TreeBatch:
    """Trees behind each other in one row, and what the loss asks of it."""
    spans: list[Span] = []
    ids: list[np.ndarray] = []
    positions: list[np.ndarray] = []
    places: list[np.ndarray] = []
    end = 0
    for tree in trees:
        prompt, lengths = len(tree.prompt_ids), tuple(map(read_tokens, tree.rows))
        spans.append(Span(end, prompt, lengths))
        last_of_prompt = end + prompt - 1
        ids.append(np.asarray(tree.prompt_ids, dtype=np.int64))
        positions.append(np.arange(prompt))
        end += prompt
        for row, length in zip(tree.rows, lengths, strict=True):
            ids.append(row.token_ids[:length])
            positions.append(np.arange(prompt, prompt + length))
            drawn_from = end - 1 + np.flatnonzero(row.mask)
            # A first token is drawn from the end of the prompt, which stands before all the branches.
            places.append(np.where(drawn_from < end, last_of_prompt, drawn_from))
            end += length
    rows = [row for tree in trees for row in tree.rows]
    return TreeBatch(
        input_ids=torch.from_numpy(np.concatenate(ids)).to(device)[None],
        position_ids=torch.from_numpy(np.concatenate(positions)).to(device)[None],
        logit_places=torch.from_numpy(np.concatenate(places)).to(device),
        layout=Layout(tuple(spans)),
        loss_tokens=_loss_tokens(rows, device),
        numbers=tuple(number for tree in trees for number in tree.numbers),
    )


def _loss_tokens(rows: Sequence[Row], device: torch.device) -> LossTokens:
    counts = torch.tensor([int(row.mask.sum()) for row in rows])
    advantages = torch.tensor([row.advantage for row in rows], dtype=torch.float32)
    weights = torch.tensor([row.weight for row in rows], dtype=torch.float32)
    return LossTokens(
        targets=torch.from_numpy(np.concatenate([row.token_ids[row.mask] for row in rows])).to(device),
        sampler_logprobs=torch.from_numpy(
            np.concatenate([row.sampler_logprobs[row.mask] for row in rows]).astype(np.float32)
        ).to(device),
        advantages=advantages.repeat_interleave(counts).to(device),
        weights=weights.repeat_interleave(counts).to(device),
        completion=torch.arange(len(rows)).repeat_interleave(counts).to(device),
    )
