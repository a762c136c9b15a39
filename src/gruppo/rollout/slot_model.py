"""A model called with a cache of slots: prompts are prefilled, then rows decoded a token at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gruppo.rollout.graphs import PlainSteps, StepRunner, round_rows
from gruppo.rollout.packed_weights import PackedWeights
from gruppo.rollout.parts import KernelParts
from gruppo.rollout.shared_prompts import BLOCK, SHARED_ROWS, SHARED_TOKENS, PromptKey
from gruppo.rollout.slots import Segment, SlotCache, attention_configs, slot_attention_in
from gruppo.types import GroupRequest

PREFILL_TOKENS = 4096
"""Tokens of prompts that are prefilled side by side; a longer prompt goes alone."""
INVARIANT_TOKENS = 256
"""The same where rows must not depend on each other: products of more rows may sum in other blocks."""

ROWS_STEP = 4
"""A decode step has a multiple of it as rows, some of them idle. Products of fewer rows than 4 go other ways, and the
last few numbers of an array are computed otherwise than those in full vectors: either changes a row's last bits."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is to be prefilled, and where its keys and values go: to slots, or to one place under a name."""

    tokens: Sequence[int]
    slots: tuple[int, ...] = ()
    shared: PromptKey | None = None


class SlotModel:
    """A model called with a cache of slots.

    Args:
        model: the model, known to fit (`rollout.gate`).
        rows_step: a prefill has a multiple of so many tokens, and a decode step of so many rows, so that a row's
            numbers do not depend on the others (`rollout.invariance`); None: nothing is filled up.
        steps: runs the decode steps (`rollout.graphs`); None: plainly.
        packs: prompts are prefilled in packs also where `rows_step` is given; else one by one.
    """

    def __init__(
        self,
        model: nn.Module,
        rows_step: int | None = ROWS_STEP,
        steps: StepRunner | None = None,
        *,
        packs: bool = False,
    ) -> None:
        self._model = model
        self.rows_step = rows_step or 1
        self.pack_tokens = PREFILL_TOKENS if rows_step is None else INVARIANT_TOKENS if packs else 0
        self._block = 1 if rows_step is None else BLOCK
        self._configs = attention_configs(model)
        self.packed = PackedWeights(model)
        self._parts = KernelParts(model)
        self.device = next(model.parameters()).device
        self.steps = PlainSteps(self.rows_step, self.device) if steps is None else steps
        self._kept: SlotCache | None = None
        self.can_share = not self.steps.keeps and self._attends_plainly()
        """Whether prompts may be kept once."""

    def new_cache(self) -> SlotCache:
        """A cache for this model."""
        return SlotCache(self._block)

    def lend_cache(self) -> SlotCache:
        """A cache for a batch: the one that was kept, if it is not lent, or a new one."""
        cache, self._kept = self.new_cache() if self._kept is None else self._kept, None
        self.steps.look_again()
        return cache

    def give_back(self, cache: SlotCache) -> None:
        """A batch has ended: keep its cache where the runner of steps asks for it."""
        cache.prompts.keep(set())
        self._kept = cache if self.steps.keeps else None
        if not self.steps.keeps:
            self.steps.forget()

    def pack(self) -> None:
        """Lay the weights out for few rows, until `release`."""
        if self.packed.any:
            self.steps.forget()
            self.packed.pack()

    def release(self) -> None:
        """Give the copies of the weights back."""
        if self.packed.held:
            self.steps.forget()
            self.packed.release()

    def weights_changed(self) -> None:
        """What was copied of the weights, or knows where they are, is made anew."""
        if self.packed.held:
            self.pack()
        self.steps.look_again()

    def forget(self) -> None:
        """Give back what is kept between batches."""
        self._kept = None
        self.steps.forget()

    def shares(self, request: GroupRequest) -> bool:
        """Whether the prompt of a request is kept once for all its rows; a matter of the request alone."""
        long = len(request.prompt_ids) > SHARED_TOKENS
        return self.can_share and long and request.group_size >= SHARED_ROWS

    def _attends_plainly(self) -> bool:
        """Whether every layer does, found by one call."""
        cache = self.new_cache()
        cache.reserve(1, 2)
        self.prefill(cache, [Prompt((0, 0), slots=(0,))])
        return all(form.plain for form in cache.forms_seen) and cache.alike

    def prefill(self, cache: SlotCache, prompts: Sequence[Prompt]) -> None:
        """Put the keys and values of each prompt to its place, all prompts in one row."""
        segments: list[Segment] = []
        start = 0
        for prompt in prompts:
            segments.append(Segment(start, start + len(prompt.tokens), prompt.slots, prompt.shared))
            start += len(prompt.tokens)
        ids = np.zeros(round_rows(start, self.rows_step), dtype=np.int64)
        positions = np.zeros_like(ids)
        for prompt, segment in zip(prompts, segments, strict=True):
            ids[segment.start : segment.end] = prompt.tokens
            positions[segment.start : segment.end] = np.arange(len(prompt.tokens))
        if start < len(ids):  # what fills it up goes nowhere
            segments.append(Segment(start, len(ids)))
        cache.begin_prefill(segments)
        self._call(cache, self._tensor(ids)[None], self._tensor(positions)[None])

    def decode(
        self,
        cache: SlotCache,
        tokens: NDArray[np.int64],
        lengths: NDArray[np.int64],
        width: int,
        prompts: Sequence[PromptKey | None] = (),
    ) -> Tensor:
        """Logits [n, V] after one more token of each row; the next call may overwrite them.

        Args:
            cache: with the rows in its first slots.
            tokens: [n], the one more.
            lengths: [n], tokens in the row's slot, without it.
            width: positions of the slots that are looked at.
            prompts: of each row the prompt that is kept once, if it is.
        """
        rows = len(tokens)
        shares = any(prompts)
        before = np.array([len(key[1]) - 1 if key else 0 for key in prompts]) if shares else 0
        # Idle rows write to slots behind the live ones, which are reserved for them.
        columns = np.zeros((3, self.steps.rows(rows)), dtype=np.int64)
        columns[:, :rows] = tokens, lengths, lengths + before
        cache.prompts.begin(prompts if shares else (), columns.shape[1], cache.rows)

        def step(columns: Tensor) -> Tensor:
            cache.begin_decode(columns[1], width)
            return self._call(cache, columns[0, :, None], columns[2, :, None])[:, -1]

        return self.steps.run(step, columns, width, cache, shares=shares)[:rows]

    @torch.inference_mode()
    def _call(self, cache: SlotCache, input_ids: Tensor, positions: Tensor) -> Tensor:
        inputs: dict[str, Any] = {
            "input_ids": input_ids,
            "position_ids": positions,
            "past_key_values": cache,
            "use_cache": True,
            "logits_to_keep": 1,
            "slots": cache,
        }
        with slot_attention_in(self._configs), self._parts.taken():
            self.packed.enter()
            try:
                return self._model(**inputs).logits
            finally:
                self.packed.leave()

    def _tensor(self, array: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(array).to(self.device)
