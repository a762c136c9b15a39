"""Decoding in waves: the plain path, for models that the slots of `rollout.slots` do not fit, and for debugging.

A wave of at most `max_live` rows prefills each distinct prompt once and shares its keys and values with the rows of
the group; rows that finish leave at once, and the batch is made smaller when enough of them have left. The next wave
begins when the last row of this one has finished.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import DynamicCache

from gruppo.rollout.draws import draw, restrict
from gruppo.rollout.rows import Row, holds_stop_string, not_finite, row_uniforms
from gruppo.types import Completion, FinishReason, TextDecoder

COMPACT_BELOW = 0.75
"""Finished rows are cut out of the cache once fewer than this share of its rows is live."""


@dataclass
class _Drawn:
    """The tokens drawn so far by one row."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: FinishReason | None = None


class Wave:
    """Rows that are decoded together, from their prefill until the last has finished."""

    def __init__(self, model: nn.Module, decoder: TextDecoder, rows: Sequence[Row], version: int) -> None:
        self._model = model
        self._decoder = decoder
        self._rows = rows
        self._version = version
        self._sampling = rows[0].request.sampling
        self._drawn = [_Drawn() for _ in rows]
        self.live = list(range(len(rows)))
        self._in_cache = list(range(len(rows)))
        self._position = 0
        self._device = next(model.parameters()).device
        self._uniforms = torch.from_numpy(self._uniform_numbers()).to(self._device)
        self._cache = DynamicCache(config=model.config.get_text_config())  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
        self._logits = self._prefill()

    def _uniform_numbers(self) -> NDArray[np.float32]:
        """[rows, max_completion_length]."""
        length = self._sampling.max_completion_length
        return np.stack([row_uniforms(row, length) for row in self._rows])

    @torch.inference_mode()
    def _prefill(self) -> Tensor:
        """Run each distinct prompt once, left-padded; share its cache over the group. Returns logits [rows, V]."""
        distinct = list({row.request.prompt_ids: None for row in self._rows})
        lengths = torch.tensor([len(prompt) for prompt in distinct], device=self._device)
        width = int(lengths.max())
        input_ids = torch.zeros(len(distinct), width, dtype=torch.long)
        for index, prompt in enumerate(distinct):
            input_ids[index, width - len(prompt) :] = torch.tensor(prompt)
        padding = width - lengths
        columns = torch.arange(width, device=self._device)
        mask = (columns[None, :] >= padding[:, None]).long()
        logits = self._forward(input_ids.to(self._device), mask, (columns[None, :] - padding[:, None]).clamp_min(0))
        where = {prompt: index for index, prompt in enumerate(distinct)}
        share = torch.tensor([where[row.request.prompt_ids] for row in self._rows], device=self._device)
        self._cache.batch_select_indices(share)
        self._mask = mask[share]
        self._lengths = lengths[share]
        return logits[share]

    def _forward(self, input_ids: Tensor, mask: Tensor, position_ids: Tensor) -> Tensor:
        """Logits of the last column: [rows, V]."""
        inputs: dict[str, Any] = {
            "input_ids": input_ids,
            "attention_mask": mask,
            "position_ids": position_ids,
            "past_key_values": self._cache,
            "use_cache": True,
            "logits_to_keep": 1,
        }
        return self._model(**inputs).logits[:, -1]

    @torch.inference_mode()
    def step(self) -> list[Completion]:
        """Draw one token for every live row; return the completions that ended with it."""
        tokens, logprobs = self._draw(self._logits)
        token_list, logprob_list = tokens.tolist(), logprobs.tolist()
        finished: list[Completion] = []
        still_live: list[int] = []
        live = set(self.live)
        for slot, row in enumerate(self._in_cache):
            if row not in live:
                continue
            self._append(row, token_list[slot], logprob_list[slot])
            if self._drawn[row].finish_reason is None:
                still_live.append(row)
            else:
                finished.append(self._completion(row))
        self.live = still_live
        self._position += 1
        if self.live:
            self._advance(tokens)
        return finished

    def _draw(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Token ids and log-probs, both [rows in cache], from logits [rows in cache, V]."""
        temperature = self._sampling.temperature
        logprobs = torch.log_softmax(logits.float() / (temperature or 1.0), dim=-1)
        if temperature == 0:
            tokens = logprobs.argmax(dim=-1)
        else:
            weights = restrict(logprobs.exp(), self._sampling.top_k, self._sampling.top_p)
            rows = torch.tensor(self._in_cache, device=self._device)
            tokens = draw(weights, self._uniforms[rows, self._position])
        return tokens, logprobs.gather(1, tokens[:, None]).squeeze(1)

    def _append(self, row: int, token: int, logprob: float) -> None:
        drawn = self._drawn[row]
        if not math.isfinite(logprob):
            raise not_finite(self._rows[row], len(drawn.tokens))
        drawn.tokens.append(token)
        drawn.logprobs.append(logprob)
        if token in self._sampling.stop_token_ids or holds_stop_string(
            self._decoder, self._sampling.stop, drawn.tokens
        ):
            drawn.finish_reason = "stop"
        elif len(drawn.tokens) >= self._sampling.max_completion_length:
            drawn.finish_reason = "length"

    def _advance(self, tokens: Tensor) -> None:
        """Run the drawn tokens through the model, without the rows that have left if those are many."""
        if len(self.live) < COMPACT_BELOW * len(self._in_cache):
            live = set(self.live)
            slots = [slot for slot, row in enumerate(self._in_cache) if row in live]
            keep = torch.tensor(slots, device=self._device)
            self._cache.batch_select_indices(keep)
            self._mask, self._lengths, tokens = self._mask[keep], self._lengths[keep], tokens[keep]
            self._in_cache = [self._in_cache[slot] for slot in slots]
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(self._in_cache), 1)], dim=1)
        positions = self._lengths + self._position - 1
        self._logits = self._forward(tokens[:, None], self._mask, positions[:, None])

    def _completion(self, row: int) -> Completion:
        drawn = self._drawn[row]
        assert drawn.finish_reason is not None
        return self._rows[row].completion(drawn.tokens, drawn.logprobs, drawn.finish_reason, self._version)
