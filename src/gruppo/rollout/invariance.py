"""At how many rows a decode step gives each row the same bits whatever stands beside it: found by trying.

What `rollout.slots` and `rollout.slot_model` do for it (a multiple of ROWS_STEP rows, widths from `round_up`) was found
on x86 processors with AVX-512. Other processors and libraries go other ways at other numbers of rows, so the first use
of an engine decodes the same rows in several companies and compares: many together, in reverse, a few, each alone;
beside longer ones; with packed weights and without. In the same way it finds whether prompts may be prefilled together.

Legend: R rows of the trial, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gruppo.monitor.malloc import give_back
from gruppo.rollout.sampling import sample_tokens
from gruppo.rollout.shared_prompts import PromptKey
from gruppo.rollout.slot_model import Prompt, SlotModel
from gruppo.rollout.slots import round_up

STEPS = (4, 8, 16, 32)
"""Numbers of rows that are tried, the smallest first."""
ROWS = 33
LENGTHS = (1, 5, 17, 40, 63, 64, 100, 150)
"""Tokens that the rows have already, in turn."""
WIDEST = 640
"""Positions looked at where the row is thought to stand beside a much longer one."""
PROMPTS = (31, 1, 90, 5, 64, 17, 33, 11)
"""Tokens of prompts that are prefilled alone and in PACKS: 252 in all."""
PACKS = ((0, 1, 2, 3, 4, 5, 6, 7), (7, 6, 5, 4, 3, 2, 1, 0), (3, 0, 1), (1, 2, 5))
PACKED_BELOW = 2**26
"""Parameters of a model up to which packs are tried: a call costs a millisecond beside its products, which in larger
models are most of it also for one prompt, and of which the trial is made."""


def find_rows_step(model: nn.Module) -> int | None:
    """The smallest of STEPS at which rows do not depend on each other; None where none of them is enough.

    Args:
        model: known to fit the slots (`rollout.gate`).
    """
    try:
        return next((step for step in STEPS if _holds(SlotModel(model, step), model)), None)
    finally:
        give_back(kept=0)  # 1.5 GB for the rest of the run, of a model of 494M parameters in float32


def _holds(decoder: SlotModel, model: nn.Module) -> bool:
    trial = _Trial(decoder, model)
    try:
        if not trial.equal():
            return False
        decoder.pack()
        return not decoder.packed.held or trial.equal()
    finally:
        decoder.release()


def find_packs(model: nn.Module, step: int) -> bool:
    """Whether a prompt's keys and values have the same bits alone and beside others, where that is of use.

    Args:
        model: known to fit the slots.
        step: from `find_rows_step`.
    """
    if sum(weight.numel() for weight in model.parameters()) > PACKED_BELOW:
        return False
    decoder = SlotModel(model, step)
    try:
        if not _packs_hold(decoder, model):
            return False
        decoder.pack()
        return not decoder.packed.held or _packs_hold(decoder, model)
    finally:
        decoder.release()


def _packs_hold(decoder: SlotModel, model: nn.Module) -> bool:
    config: Any = model.config
    config = config.get_text_config()
    most = (getattr(config, "max_position_embeddings", None) or WIDEST) - 1
    lengths = [min(length, most) for length in PROMPTS]
    generator = np.random.default_rng(1)
    prompts = [generator.integers(0, config.vocab_size, length).tolist() for length in lengths]
    cache = decoder.new_cache()
    cache.reserve(2 * len(prompts), round_up(max(lengths)))
    for row, prompt in enumerate(prompts):
        decoder.prefill(cache, [Prompt(prompt, slots=(row,))])
    for company in PACKS:
        decoder.prefill(cache, [Prompt(prompts[row], slots=(len(prompts) + row,)) for row in company])
        for row in company:
            pairs = zip(*(cache.of_row(at, lengths[row]) for at in (row, len(prompts) + row)), strict=True)
            if not all(torch.equal(alone, beside) for alone, beside in pairs):
                return False
    return True


class _Trial:
    """R rows that share their beginning, so that one prefill serves them all."""

    def __init__(self, decoder: SlotModel, model: nn.Module) -> None:
        config: Any = model.config
        config = config.get_text_config()
        context = getattr(config, "max_position_embeddings", None) or WIDEST
        most = min(max(LENGTHS), (context - 1) // 2)
        generator = np.random.default_rng(0)
        self._decoder = decoder
        self._lengths = np.array([min(LENGTHS[row % len(LENGTHS)], most) for row in range(ROWS)])
        self._tokens = generator.integers(0, config.vocab_size, ROWS)
        self._uniforms = torch.from_numpy(generator.random(ROWS, dtype=np.float32)).to(decoder.device)
        self._widest = min(WIDEST, round_up(context))
        self._source = decoder.steps.rows(ROWS)
        self._cache = decoder.new_cache()
        self._cache.reserve(self._source + 1, self._widest)
        beginning = generator.integers(0, config.vocab_size, most).tolist()
        decoder.prefill(self._cache, [Prompt(beginning, slots=(self._source,))])
        self._prompts: list[PromptKey | None] = [None]
        if decoder.can_share:
            self._prompts.append((0, (*beginning, 0)))
            decoder.prefill(self._cache, [Prompt(beginning, shared=self._prompts[-1])])

    def equal(self) -> bool:
        """Whether every row has the same bits in every company, with nothing before its slot and with a prompt."""
        for prompt in self._prompts:
            whole = self._bits(range(ROWS), self._widest, prompt)
            for rows, width in self._companies():
                if not torch.equal(self._bits(rows, width, prompt), whole[list(rows)]):
                    return False
        return True

    def _companies(self) -> Iterator[tuple[Sequence[int], int]]:
        """Rows that are decoded together, and the positions looked at."""
        narrow = round_up(int(self._lengths.max()) + 1)
        yield range(ROWS)[::-1], narrow
        yield range(2, ROWS, 3), min(round_up(narrow + 1), self._widest)
        yield (3, 0, 6), narrow
        for row in (0, 4, 7):
            yield (row,), round_up(int(self._lengths[row]) + 1)

    def _bits(self, rows: Sequence[int], width: int, prompt: PromptKey | None) -> Tensor:
        """[rows, V + 2] the bits of each row's logits, of the token drawn and of its log-prob."""
        places = list(rows)
        self._cache.copy_rows([self._source], range(len(places)), int(self._lengths.max()))
        prompts = [prompt] * len(places)
        logits = self._decoder.decode(self._cache, self._tokens[places], self._lengths[places], width, prompts).float()
        tokens, logprobs = sample_tokens(logits, 1.0, self._uniforms[places])
        return torch.cat([logits, tokens[:, None].float(), logprobs[:, None]], dim=1).view(torch.int32)
