"""Continuous batching: a row that has finished gives its slot to a waiting one, or to the last row, at once.

Every row begins with the last token of its prompt: a group's prompt is prefilled once, without that token, into the
slots of the group's rows, and what follows is decode steps alone. A row whose prompt is in a slot already, live or
just finished, takes it from there; where that slot is its own, nothing is copied. A long prompt is not copied at all:
it is kept once, beside the slots, while a row of it lives (`rollout.shared_prompts`).

State by slot is in numpy, a column at a time, so that a step costs no Python by row but for rows that finish (and for
stop strings, whose text has to be read).
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from gruppo.rollout.rows import Row, holds_stop_string, not_finite, row_uniforms
from gruppo.rollout.sampling import sample_tokens
from gruppo.rollout.shared_prompts import PromptKey
from gruppo.rollout.slot_model import Prompt, SlotModel
from gruppo.rollout.slots import round_up
from gruppo.types import Completion, SamplingParams, TextDecoder

PACK_FROM = 16
"""Completion tokens from which packing the weights pays: it costs about two steps."""

FIRST = 192
"""Positions that the slots have from the start, where completions may become so long: to grow is to copy."""


@dataclass
class DecodeStats:
    """What an engine has done so far."""

    decode_steps: int = 0
    prefilled_prompts: int = 0
    prefilled_tokens: int = 0
    shared_prompts: int = 0
    """Prompts that were kept once for all their rows."""
    captured_graphs: int = 0
    """Shapes of decode steps that were captured (`rollout.graphs`), some of them again."""
    replayed_steps: int = 0
    """Decode steps that replayed one."""
    peak_rows: int = 0
    """Slots of the cache."""
    peak_cache_bytes: int = 0


class _Table:
    """What is known of each slot, a column at a time; the columns grow as slots and lengths ask for it."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.keys: list[PromptKey] = []
        self.shared: list[PromptKey | None] = []
        """The key, where the prompt is kept once."""
        self.lengths = np.zeros(0, dtype=np.int64)
        """Tokens that have their keys and values in the slot."""
        self.counts = np.zeros(0, dtype=np.int64)
        """Completion tokens drawn."""
        self.limits = np.zeros(0, dtype=np.int64)
        self.pending = np.zeros(0, dtype=np.int64)
        """The token that the next step runs."""
        self.tokens = np.zeros((0, 0), dtype=np.int64)
        self.logprobs = np.zeros((0, 0), dtype=np.float32)
        self.uniforms = np.zeros((0, 0), dtype=np.float32)

    def reserve(self, rows: int, tokens: int) -> None:
        """Make room for so many slots and completion tokens."""
        for name in ("lengths", "counts", "limits", "pending"):
            column = getattr(self, name)
            setattr(self, name, np.pad(column, (0, max(0, rows - len(column)))))
        for name in ("tokens", "logprobs", "uniforms"):
            grid = getattr(self, name)
            more = [(0, max(0, wanted - have)) for wanted, have in zip((rows, tokens), grid.shape, strict=True)]
            setattr(self, name, np.pad(grid, more) if any(more_of for _, more_of in more) else grid)

    def put(self, slot: int, row: Row, key: PromptKey, *, shared: bool) -> None:
        """A row begins in a slot; the slot after the last is appended."""
        prompt, limit = row.request.prompt_ids, row.request.sampling.max_completion_length
        if slot == len(self.rows):
            self.rows.append(row)
            self.keys.append(key)
            self.shared.append(None)
        self.rows[slot], self.keys[slot], self.shared[slot] = row, key, key if shared else None
        self.lengths[slot], self.counts[slot], self.limits[slot] = 0 if shared else len(prompt) - 1, 0, limit
        self.pending[slot] = prompt[-1]
        self.uniforms[slot, :limit] = row_uniforms(row, limit)

    def move(self, source: Sequence[int], target: Sequence[int]) -> None:
        """Rows change their slots."""
        for name in ("lengths", "counts", "limits", "pending", "tokens", "logprobs", "uniforms"):
            column = getattr(self, name)
            column[list(target)] = column[list(source)]
        for old, new in zip(source, target, strict=True):
            self.rows[new], self.keys[new], self.shared[new] = self.rows[old], self.keys[old], self.shared[old]

    def cut(self, live: int) -> None:
        """Only the first rows are left."""
        del self.rows[live:], self.keys[live:], self.shared[live:]


def kind_of(sampling: SamplingParams) -> SamplingParams:
    """What rows that decode together must share: all but the length limit."""
    return replace(sampling, max_completion_length=0)


class ContinuousBatch:
    """Rows of one kind of sampling, decoded until none of the kind is left at the head of the queue.

    Args:
        model: the model, known to fit (`rollout.gate`).
        decoder: turns tokens into text, for stop strings.
        queue: waiting rows, first come first served; may grow meanwhile.
        max_live: the most slots.
        version: tells the version of the weights.
        stats: is counted up.
    """

    def __init__(
        self,
        model: SlotModel,
        decoder: TextDecoder,
        queue: deque[Row],
        max_live: int,
        version: Callable[[], int],
        stats: DecodeStats,
    ) -> None:
        self._model = model
        self._decoder = decoder
        self._queue = queue
        self._max_live = max_live
        self._version = version
        self._stats = stats
        self._kind = kind_of(queue[0].request.sampling)
        self._stops = np.array(self._kind.stop_token_ids, dtype=np.int64)
        self._cache = model.lend_cache()
        self._table = _Table()
        self._freed: list[int] = []
        self._longest = 0

    def run(self) -> Generator[Completion, None, None]:
        """Yield completions as they finish."""
        if max(row.request.sampling.max_completion_length for row in self._queue) >= PACK_FROM:
            self._model.pack()
        try:
            while True:
                self._fill()
                if not self._table.rows:
                    return
                yield from self._step()
        finally:
            self._model.release()
            self._model.give_back(self._cache)

    def _fill(self) -> None:
        """Give free slots to waiting rows, and close the gaps that remain."""
        table, left = self._table, bool(self._freed)
        free = self._max_live - len(table.rows) + len(self._freed)
        arriving = list(self._arriving(free))
        if arriving:
            self._reserve(arriving)
            arriving = self._take_over(arriving)
            self._place(arriving)
        self._close_gaps()
        if left:
            self._cache.prompts.keep({key for key in table.shared if key})

    def _arriving(self, free: int) -> Iterator[tuple[Row, PromptKey]]:
        while free and self._queue and kind_of(self._queue[0].request.sampling) == self._kind:
            row = self._queue.popleft()
            yield row, (self._version(), row.request.prompt_ids)
            free -= 1

    def _reserve(self, arriving: Sequence[tuple[Row, PromptKey]]) -> None:
        """Room for the rows that come and, at once, for those that wait behind them."""
        requests = [row.request for row, _ in arriving]
        longest = max(request.sampling.max_completion_length for request in requests)
        before = [0 if self._model.shares(r) else len(r.prompt_ids) - 1 for r in requests]
        ends = [first + 1 + r.sampling.max_completion_length for first, r in zip(before, requests, strict=True)]
        self._longest = max(self._longest, *ends)
        live = len(self._table.rows) - len(self._freed) + len(arriving)
        rows = max(self._cache.rows, self._model.steps.rows(min(self._max_live, live + len(self._queue))))
        self._table.reserve(rows, longest)
        self._widen(max(before) + 1, rows)

    def _widen(self, positions: int, rows: int = 0) -> int:
        """Make room for so many positions, half as many again where the buffers must grow; returns the width."""
        width = round_up(positions)
        cache, before = self._cache, self._cache.positions
        most = round_up(max(width, before * 3 // 2, FIRST))
        wanted = before if width <= before else min(round_up(self._longest), most)
        cache.reserve(rows, wanted)
        self._stats.peak_rows = max(self._stats.peak_rows, cache.rows)
        self._stats.peak_cache_bytes = max(self._stats.peak_cache_bytes, cache.bytes)
        return width

    def _take_over(self, arriving: Sequence[tuple[Row, PromptKey]]) -> list[tuple[Row, PromptKey]]:
        """Rows whose prompt lies in a freed slot begin in it, as it is; returns the others."""
        others: list[tuple[Row, PromptKey]] = []
        freed = {self._table.keys[slot]: [] for slot in self._freed}
        for slot in self._freed:
            freed[self._table.keys[slot]].append(slot)
        for row, key in arriving:
            if freed.get(key):
                self._freed.remove(slot := freed[key].pop())
                self._table.put(slot, row, key, shared=self._model.shares(row.request))
            else:
                others.append((row, key))
        return others

    def _place(self, arriving: Sequence[tuple[Row, PromptKey]]) -> None:
        """Rows get slots, and the keys and values of their prompts from a live slot or by a prefill."""
        table = self._table
        gone = set(self._freed)
        holders = {key: slot for slot, key in enumerate(table.keys) if slot not in gone}
        slots_of: dict[PromptKey, list[int]] = {}
        for row, key in arriving:
            slot = self._freed.pop() if self._freed else len(table.rows)
            table.put(slot, row, key, shared=self._model.shares(row.request))
            slots_of.setdefault(key, []).append(slot)
        missing: list[Prompt] = []
        for key, slots in slots_of.items():
            prefix = key[1][:-1]
            if table.shared[slots[0]]:
                missing += [] if key in self._cache.prompts else [Prompt(prefix, shared=key)]
            elif key in holders:
                self._cache.copy_rows([holders[key]], slots, len(prefix))
            elif prefix:
                missing.append(Prompt(prefix, slots=tuple(slots)))
        for pack in _packs(missing, self._model.pack_tokens):
            self._model.prefill(self._cache, pack)
            self._stats.prefilled_prompts += len(pack)
            self._stats.prefilled_tokens += sum(len(prompt.tokens) for prompt in pack)
            self._stats.shared_prompts += sum(prompt.shared is not None for prompt in pack)

    def _close_gaps(self) -> None:
        """The last rows move into slots that nobody took, so that the live rows are the first n."""
        if not self._freed:
            return
        table = self._table
        live = len(table.rows) - len(self._freed)
        gone = set(self._freed)
        target = sorted(slot for slot in gone if slot < live)
        source = [slot for slot in range(live, len(table.rows)) if slot not in gone]
        if target:
            self._cache.copy_rows(source, target, int(table.lengths[source].max()))
            table.move(source, target)
        table.cut(live)
        self._freed = []

    def _step(self) -> list[Completion]:
        """Run the pending token of every row and draw the next; returns the completions that ended with it."""
        table = self._table
        live = len(table.rows)
        rows = np.arange(live)
        lengths, counts = table.lengths[:live], table.counts[:live]
        width = self._widen(int(lengths.max()) + 1)
        logits = self._model.decode(self._cache, table.pending[:live], lengths, width, table.shared)
        numbers = torch.from_numpy(table.uniforms[rows, counts]).to(logits.device)
        kind = self._kind
        drawn, drawn_logprobs = sample_tokens(logits, kind.temperature, numbers, kind.top_k, kind.top_p)
        tokens, logprobs = drawn.cpu().numpy(), drawn_logprobs.cpu().numpy()
        self._stats.decode_steps += 1
        steps = self._model.steps
        self._stats.captured_graphs, self._stats.replayed_steps = steps.captures, steps.replays
        if not np.isfinite(logprobs).all():
            slot = int((~np.isfinite(logprobs)).argmax())
            raise not_finite(table.rows[slot], int(counts[slot]))
        table.tokens[rows, counts] = tokens
        table.logprobs[rows, counts] = logprobs
        table.pending[:live] = tokens
        lengths += 1
        counts += 1
        return self._finish(tokens)

    def _finish(self, tokens: NDArray[np.int64]) -> list[Completion]:
        """The completions that ended with these tokens; their slots are free from now on."""
        table = self._table
        live = len(tokens)
        counts = table.counts[:live]
        stopped = (tokens[:, None] == self._stops).any(axis=1)
        for slot in range(live) if self._kind.stop else ():
            drawn = table.tokens[slot, : counts[slot]].tolist()
            stopped[slot] |= holds_stop_string(self._decoder, self._kind.stop, drawn)
        self._freed = np.flatnonzero(stopped | (counts >= table.limits[:live])).tolist()
        return [self._completion(slot, bool(stopped[slot])) for slot in self._freed]

    def _completion(self, slot: int, stopped: bool) -> Completion:
        table = self._table
        drawn = slice(0, int(table.counts[slot]))
        tokens, logprobs = table.tokens[slot, drawn], table.logprobs[slot, drawn]
        return table.rows[slot].completion(
            tokens, logprobs, "stop" if stopped else "length", version=table.keys[slot][0]
        )


def _packs(prompts: Sequence[Prompt], most: int) -> Iterator[list[Prompt]]:
    """Prompts side by side, at most so many tokens; a longer one is alone."""
    pack: list[Prompt] = []
    size = 0
    for prompt in prompts:
        if pack and size + len(prompt.tokens) > most:
            yield pack
            pack, size = [], 0
        pack.append(prompt)
        size += len(prompt.tokens)
    if pack:
        yield pack
