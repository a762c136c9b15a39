"""The local engine: batched sampling in torch with a KV cache, in the trainer's own process.

Completions are decoded in waves of at most `max_live` rows. A wave prefills each distinct prompt once and shares
its keys and values with the rows of the group; rows that finish leave at once, and the batch is made smaller
when enough of them have left.

Log-probs are those of the whole vocabulary at logits / temperature, also where top-k or top-p restrict the draw.
"""

import math
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import DynamicCache

from gruppo.errors import EngineError
from gruppo.rollout.draws import draw, restrict, uniforms
from gruppo.rollout.engine import RolloutEngine
from gruppo.types import Completion, FinishReason, GroupRequest, TensorStream, TextDecoder

COMPACT_BELOW = 0.75
"""Finished rows are cut out of the cache once fewer than this share of its rows is live."""


class _Row(NamedTuple):
    """One sample of one request."""

    request: GroupRequest
    sample: int


class LocalEngine(RolloutEngine):
    """Samples from a transformers causal model.

    Args:
        model: anything whose forward takes `past_key_values`; may be the trainer's own model.
        decoder: turns tokens into text, for stop strings.
        max_live: rows decoded at a time; bounds the memory, never changes what is drawn.
        context_length: positions that the model has; None: not limited.
    """

    def __init__(
        self, model: nn.Module, decoder: TextDecoder, max_live: int = 256, context_length: int | None = None
    ) -> None:
        self._model = model
        self._decoder = decoder
        self._max_live = max_live
        self._context_length = context_length
        self._queue: deque[_Row] = deque()
        self._version = 0

    def submit(self, request: GroupRequest) -> None:
        """Queue a group.

        Raises:
            EngineError: an empty prompt, or prompt and completion do not fit into the model's context.
        """
        if not request.prompt_ids:
            raise EngineError(f"problem {request.problem_id}: the prompt has no tokens")
        needed = len(request.prompt_ids) + request.sampling.max_completion_length
        if self._context_length is not None and needed > self._context_length:
            raise EngineError(
                f"problem {request.problem_id}: prompt ({len(request.prompt_ids)} tokens) and completion (up to "
                f"{request.sampling.max_completion_length}) exceed the model's context of {self._context_length}; "
                "lower max_prompt_length or max_completion_length"
            )
        self._queue.extend(_Row(request, sample) for sample in range(request.group_size))

    def completed(self) -> Generator[Completion, None, None]:
        """Yield completions as they finish; waves follow each other until the queue is empty.

        Leaving early (an error in the caller's loop, `close` on the iterator) forgets what was submitted.

        Raises:
            EngineError: the model's logits are not finite.
        """
        try:
            while self._queue:
                wave = _Wave(self._model, self._decoder, self._next_rows(), self._version)
                while wave.live:
                    yield from wave.step()
        finally:
            self._queue.clear()

    def load_weights(self, tensors: TensorStream, version: int) -> None:
        """Copy weights into the model; tensors that already are the model's own are left as they are."""
        own = dict(self._model.named_parameters())
        with torch.no_grad():
            for name, tensor in tensors:
                if name not in own:
                    raise EngineError(f"weight {name}: the engine's model has no such parameter")
                if own[name].data_ptr() != tensor.data_ptr():
                    own[name].copy_(tensor)
        self._version = version

    def close(self) -> None:
        """Forget the queue."""
        self._queue.clear()

    def _next_rows(self) -> list[_Row]:
        """The next rows of one kind of sampling, at most max_live of them."""
        sampling = self._queue[0].request.sampling
        rows: list[_Row] = []
        while self._queue and len(rows) < self._max_live and self._queue[0].request.sampling == sampling:
            rows.append(self._queue.popleft())
        return rows


@dataclass
class _Drawn:
    """The tokens drawn so far by one row."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: FinishReason | None = None


class _Wave:
    """Rows that are decoded together, from their prefill until the last has finished."""

    def __init__(self, model: nn.Module, decoder: TextDecoder, rows: Sequence[_Row], version: int) -> None:
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
        return np.stack([uniforms(row.request.seed, row.request.problem_id, row.sample, length) for row in self._rows])

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
            raise EngineError(
                f"problem {self._rows[row].request.problem_id}: the model's logits are not finite at completion token "
                f"{len(drawn.tokens)}; the weights are broken, or too large for this precision (try precision: float32)"
            )
        drawn.tokens.append(token)
        drawn.logprobs.append(logprob)
        if token in self._sampling.stop_token_ids or self._ends_with_stop_string(drawn.tokens):
            drawn.finish_reason = "stop"
        elif len(drawn.tokens) >= self._sampling.max_completion_length:
            drawn.finish_reason = "length"

    def _ends_with_stop_string(self, tokens: Sequence[int]) -> bool:
        """Whether the end of the text holds a stop string; a token is at least one byte of it, or special."""
        if not self._sampling.stop:
            return False
        reach = max(len(stop.encode()) for stop in self._sampling.stop) + 8
        text = self._decoder.decode(tokens[-reach:])
        return any(stop in text for stop in self._sampling.stop)

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
        drawn, (request, sample) = self._drawn[row], self._rows[row]
        assert drawn.finish_reason is not None
        return Completion(
            request_id=request.id,
            problem_id=request.problem_id,
            sample=sample,
            token_ids=np.asarray(drawn.tokens, dtype=np.int64),
            sampler_logprobs=np.asarray(drawn.logprobs, dtype=np.float32),
            mask=np.ones(len(drawn.tokens), dtype=np.bool_),
            finish_reason=drawn.finish_reason,
            version=self._version,
        )
