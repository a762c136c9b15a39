"""The trees of a row: where their parts stand, and which token sees which.

Legend: L tokens of a row, B segments of a call, Q queries, K keys.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Span(NamedTuple):
    """Where a tree stands in its row."""

    start: int
    prompt: int
    """Tokens of the prompt."""
    branches: tuple[int, ...]
    """Tokens of each branch; may be 0."""

    @property
    def body(self) -> int:
        """Where the prompt ends."""
        return self.start + self.prompt

    @property
    def end(self) -> int:
        """Where the tree ends."""
        return self.body + sum(self.branches)

    @property
    def depth(self) -> int:
        """Tokens of the longest way from the root."""
        return self.prompt + max(self.branches, default=0)


class Part(NamedTuple):
    """Segments of a row whose attention is one call: B of them, side by side, at most Q queries and K keys each.

    Shorter ones are filled up with their own last token, which changes nothing: no query sees a later key, and what
    comes out for a filled-up query is dropped.
    """

    queries: Tensor | slice
    """[B, Q] places; or the one segment."""
    keys: Tensor | slice
    """[B, K] places; or the one segment."""
    kept: Tensor | slice
    """[n] which of the flat queries are not filled up; or all."""
    places: Tensor | slice
    """[n] where they stand in the row."""
    causal: bool


@dataclass
class Layout:
    """The trees of a row, and what attention needs to know of them; made once per row, used by every layer."""

    spans: tuple[Span, ...]
    calls: int = 0
    """Attention calls that came by, for the gate."""
    seen: set[str] = field(default_factory=set[str])
    """Keywords that came with them and are not heeded here, for the gate."""
    blocks: dict[int | None, Any] = field(default_factory=dict[int | None, Any])
    """By window, the block mask of the row (`tree_blocks`)."""
    _masks: dict[tuple[int, int | None], Tensor] = field(default_factory=dict[tuple[int, int | None], Tensor])

    @cached_property
    def depth(self) -> int:
        """Tokens of the longest way from a root."""
        return max(span.depth for span in self.spans)

    @cached_property
    def segments(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """For the kernel: [n, 4] where a segment's prompt begins, the prompt's tokens, where the segment begins, its
        tokens, first the prompt itself, empty ones left out; and [S] where each tree's segments end."""
        found: list[tuple[int, int, int, int]] = []
        ends: list[int] = []
        for span in self.spans:
            start = span.start if span.prompt else -1
            if span.prompt:
                found.append((start, span.prompt, start, span.prompt))
            place = span.body
            for length in span.branches:
                if length:
                    found.append((start, span.prompt, place, length))
                place += length
            ends.append(len(found))
        return np.array(found, dtype=np.int64).reshape(-1, 4), np.array(ends, dtype=np.int64)

    @cached_property
    def own(self) -> list[Part]:
        """Causal attention inside every prompt and every branch."""
        segments: list[tuple[int, int]] = []
        for span in self.spans:
            segments.append((span.start, span.prompt))
            place = span.body
            for length in span.branches:
                segments.append((place, length))
                place += length
        return [_part(alike, alike, causal=True) for alike in _alike([each for each in segments if each[1]])]

    @cached_property
    def to_prompts(self) -> list[Part]:
        """Attention of branches to their whole prompt; prompts of equal length may share a call."""
        by_length: dict[int, list[Span]] = {}
        for span in self.spans:
            if span.end > span.body:
                by_length.setdefault(span.prompt, []).append(span)
        parts: list[Part] = []
        for spans in by_length.values():
            roots = {span.body: (span.start, span.prompt) for span in spans}
            groups = _alike([(span.body, span.end - span.body) for span in spans])
            parts += [_part(alike, [roots[start] for start, _ in alike], causal=False) for alike in groups]
        return parts

    def mask(self, number: int, window: int | None, device: torch.device) -> Tensor:
        """[L, L] of one tree: True where the row's token attends to the column's."""
        if (number, window) not in self._masks:
            span = self.spans[number]
            lengths = torch.tensor([span.prompt, *span.branches], device=device)
            branch = torch.arange(len(lengths), device=device).repeat_interleave(lengths)
            place = torch.arange(len(branch), device=device)
            starts = lengths.cumsum(0) - lengths
            depth = place - (starts - span.prompt).clamp_min(0).repeat_interleave(lengths)
            mask = (branch == 0) | (branch[:, None] == branch)
            mask = mask & (place[:, None] >= place)
            if window is not None:
                mask = mask & (depth[:, None] - depth < window)
            self._masks[number, window] = mask
        return self._masks[number, window]


def _alike(segments: Sequence[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """(start, length) sorted into calls, longest first: a call's padding is small, or small beside a call's cost."""
    groups: list[list[tuple[int, int]]] = []
    for segment in sorted(segments, key=lambda each: -each[1]):
        longest = groups[-1][0][1] if groups else 0
        if groups and longest * longest - segment[1] * segment[1] <= _WORTH_A_CALL:
            groups[-1].append(segment)
        else:
            groups.append([segment])
    return groups


_WORTH_A_CALL = 2_048
"""Scores that may be wasted on filling up a segment before it gets a call of its own."""


def _part(queries: Sequence[tuple[int, int]], keys: Sequence[tuple[int, int]], *, causal: bool) -> Part:
    if len(queries) == 1:
        (start, length), (first, count) = queries[0], keys[0]
        here = slice(start, start + length)
        return Part(here, slice(first, first + count), slice(None), here, causal)
    lengths = torch.tensor([length for _, length in queries])
    steps = torch.arange(int(lengths.max()))
    wanted = steps < lengths[:, None]
    places = _filled_up(queries)
    return Part(places, _filled_up(keys), wanted.flatten().nonzero()[:, 0], places[wanted], causal)


def _filled_up(segments: Sequence[tuple[int, int]]) -> Tensor:
    """[B, longest] places, a shorter segment's last one repeated."""
    starts, lengths = (torch.tensor(each)[:, None] for each in zip(*segments, strict=True))
    return starts + torch.minimum(torch.arange(int(lengths.max())), lengths - 1)
