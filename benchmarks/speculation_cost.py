"""What a verification costs: n rows with q tokens each in one call, against the engine's n rows with one token.

The engine has no such call. Here is one, as the engine would have it: the tokens of a row stand at successive
positions of its slot, each attends to what lies before it, prompts of a group are kept once as in decoding. It pads
nothing to the numbers of rows that keep a row's bits (`rollout.invariance`): what it costs is a lower bound.

Legend: n rows, q tokens of each, H query heads, K key heads, G = H / K, T positions looked at, D head size.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from shapes import SHAPES
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from gruppo.rollout.continuous import PromptKey
from gruppo.rollout.sampling import sample_tokens
from gruppo.rollout.shared_prompts import attention_and_sums
from gruppo.rollout.slot_model import Prompt, SlotModel
from gruppo.rollout.slots import Form, SlotCache, round_up, slot_attention_in

QUERIES = (1, 2, 3, 4, 5, 9)
"""Tokens of a row in a call."""
ROWS = (1, 2, 4, 8, 16, 32, 64, 256)
Costs = dict[tuple[int, int], float]
"""CPU milliseconds by rows and tokens of each."""


class VerifyCache(SlotCache):
    """Slots that take several tokens of a row at a time."""

    queries = 0
    """Of the call under way; 0: as the engine calls."""
    exact = True
    """Attend token by token of a row, in products of the shape that a decode step has: the same bits as decoding."""

    def begin_verify(self, lengths: Tensor, queries: int, width: int, prompts: Sequence[PromptKey | None]) -> None:
        """The next call gives so many tokens to each of the first rows; arguments as `begin_decode`."""
        self.begin_decode(lengths, width)
        self.queries = queries
        self.prompts.begin([key for key in prompts for _ in range(queries)], len(lengths) * queries)
        ahead = torch.arange(width) - lengths[:, None, None]
        hidden = ahead > torch.arange(queries)[:, None]
        self._verify_bias = torch.zeros(hidden.shape).masked_fill_(hidden, float("-inf"))

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """As the engine's; several tokens go to successive positions."""
        if not self.queries:
            return super().update(key_states, value_states, layer_idx, *args, **kwargs)
        self._layer = layer_idx
        rows, heads, queries, size = key_states.shape
        first = torch.arange(rows * heads).view(rows, heads) * self.positions + self._lengths[:, None]
        places = (first[:, :, None] + torch.arange(queries)).view(-1)
        for buffer, states in zip(self._buffers[layer_idx], (key_states, value_states), strict=True):
            buffer.view(-1, size).index_copy_(0, places, states.reshape(-1, size))
        keys, values = self._buffers[layer_idx]
        return keys[:rows, :, : self._width], values[:rows, :, : self._width]

    def attend(self, query: Tensor, key: Tensor, value: Tensor, form: Form) -> Tensor:
        """Attention [n, q, H, D]; the G * q queries of a key head are those of one product."""
        if not self.queries:
            return super().attend(query, key, value, form)
        rows, heads, queries, size = query.shape
        key_heads, group = key.shape[1], heads // key.shape[1]
        by_head = query.reshape(rows, key_heads, group * queries, size)
        bias = self._verify_bias.repeat(1, group, 1)[:, None]
        if self.exact:
            apart = by_head.view(rows, key_heads, group, queries, size)
            parts = [
                attention_and_sums(
                    apart[:, :, :, place], key, value, form.scaling, self._verify_bias[:, None, None, place]
                )
                for place in range(queries)
            ]
            own = torch.stack([part for part, _ in parts], dim=1).flatten(0, 1)
            sums = torch.stack([part for _, part in parts], dim=1).flatten(0, 1)
        else:
            own, sums = attention_and_sums(by_head, key, value, form.scaling, bias)
            own, sums = self._by_token(own, group), self._by_token(sums[..., None], group)[..., 0]
        if self.prompts.asked:
            own = self.prompts.merged(self._layer, self._by_token(by_head, group), own, sums, form.scaling)
        return own.reshape(rows, queries, heads, -1)

    def _by_token(self, states: Tensor, group: int) -> Tensor:
        """[n, K, G * q, D] as [n * q, K, G, D]."""
        rows, heads, _, size = states.shape
        apart = states.view(rows, heads, group, self.queries, size).permute(0, 3, 1, 2, 4)
        return apart.reshape(rows * self.queries, heads, group, size)


class Verifier(SlotModel):
    """The engine's model with a call for several tokens of a row."""

    @torch.inference_mode()
    def verify(
        self,
        cache: VerifyCache,
        tokens: NDArray[np.int64],
        lengths: NDArray[np.int64],
        width: int,
        prompts: Sequence[PromptKey | None],
    ) -> Tensor:
        """Logits [n, q, V] after each of the tokens [n, q]; arguments as `decode`."""
        before = np.array([len(key[1]) - 1 if key else 0 for key in prompts])
        places = (lengths + before)[:, None] + np.arange(tokens.shape[1])
        cache.begin_verify(self._tensor(lengths), tokens.shape[1], width, prompts)
        with slot_attention_in(self._configs):
            self.packed.enter()
            try:
                return self._model(
                    input_ids=self._tensor(tokens),
                    position_ids=self._tensor(places),
                    past_key_values=cache,
                    use_cache=True,
                    slots=cache,
                ).logits
            finally:
                self.packed.leave()
                cache.queries = 0


class Bench:
    """Rows of groups of eight with a prompt, half-way through their completions."""

    def __init__(self, model: nn.Module, prompt: int, length: int, rows: int) -> None:
        self.model = Verifier(model)
        self.length = length
        config: Any = model.config
        self.generator = np.random.default_rng(0)
        self.vocabulary = config.vocab_size
        self.cache = VerifyCache()
        self.shared = self.model.can_share and prompt > 64
        self.cache.reserve(rows, round_up((0 if self.shared else prompt) + length + max(QUERIES)))
        self.prompts: list[PromptKey | None] = [None] * rows
        self.prefill_ms = 0.0
        begun = time.process_time()
        for first in range(0, rows, 8):
            key = (0, tuple(self.generator.integers(0, self.vocabulary, prompt + 1).tolist()))
            slots = tuple(range(first, min(first + 8, rows)))
            self.model.prefill(self.cache, [Prompt(key[1][:-1], shared=key) if self.shared else Prompt(key[1], slots)])
            if self.shared:
                self.prompts[first : first + 8] = [key] * len(slots)
        self.prefill_ms = (time.process_time() - begun) * 1000 / (rows / 8)
        self.before = length if self.shared else prompt + length
        self.model.packed.pack()

    def call(self, rows: int, queries: int) -> Callable[[], Tensor]:
        """A step with its draws, to be timed: the engine's for one token."""
        lengths = np.full(rows, self.before)
        tokens = self.generator.integers(0, self.vocabulary, (rows, queries))
        numbers = torch.from_numpy(self.generator.random(rows * queries, dtype=np.float32))
        width, prompts = round_up(self.before + queries), self.prompts[:rows]

        def step() -> Tensor:
            if queries == 1:
                logits = self.model.decode(self.cache, tokens[:, 0], lengths, width, prompts)
            else:
                logits = self.model.verify(self.cache, tokens, lengths, width, prompts).flatten(0, 1)
            sample_tokens(logits, 1.0, numbers)
            return logits

        return step

    def costs(self, rounds: int) -> Costs:
        """Medians, all calls in turns, in CPU time: steadier than the clock where other processes share the core."""
        which = [(rows, queries) for rows in ROWS if rows <= len(self.prompts) for queries in QUERIES]
        calls = {each: self.call(*each) for each in which}
        taken: dict[tuple[int, int], list[float]] = {each: [] for each in which}
        for _ in range(rounds):
            for each, call in calls.items():
                call()  # else the call before it, which may be a large one, has emptied the processor's caches
                begun = time.process_time()
                call()
                taken[each].append((time.process_time() - begun) * 1000)
        return {each: statistics.median(found) for each, found in taken.items()}

    def equal_bits(self, rows: int, queries: int) -> tuple[float, float]:
        """Share of logits of a verification whose bits are those of as many decode steps; the largest difference."""
        lengths, width = np.full(rows, self.before), round_up(self.before + queries)
        tokens = self.generator.integers(0, self.vocabulary, (rows, queries))
        prompts = self.prompts[:rows]
        one_by_one = torch.stack(
            [
                self.model.decode(self.cache, tokens[:, place], lengths + place, width, prompts)
                for place in range(queries)
            ],
            dim=1,
        )
        at_once = self.model.verify(self.cache, tokens, lengths, width, prompts)
        return float((one_by_one == at_once).float().mean()), float((one_by_one - at_once).abs().max())


def bench(name: str, demo_model: str) -> Bench:
    """The demo's model, or a shape of `shapes.py`."""
    if name == "demo":
        return Bench(AutoModelForCausalLM.from_pretrained(demo_model).eval(), 40, 16, 256)
    shape = SHAPES[name]
    return Bench(shape.build(), shape.prompt_length, shape.new_tokens // 2, 64)
