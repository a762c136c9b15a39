"""The local engine: batched sampling in torch with a KV cache, in the trainer's own process.

Two ways to decode, which draw the same: continuous batching in slots (`rollout.continuous`), for models that a check
finds to fit, and waves (`rollout.waves`) for the others.

Log-probs are those of the whole vocabulary at logits / temperature, also where top-k or top-p restrict the draw.
"""

from collections import deque
from collections.abc import Callable, Generator

import torch
from torch import nn

from gruppo.errors import EngineError
from gruppo.monitor.native import KINDS, NONE_FOUND
from gruppo.rollout.captures import steps_for
from gruppo.rollout.continuous import ContinuousBatch, DecodeStats
from gruppo.rollout.decode_attention import available
from gruppo.rollout.engine import RolloutEngine
from gruppo.rollout.gate import misfit
from gruppo.rollout.graphs import Capture
from gruppo.rollout.invariance import find_packs, find_rows_step
from gruppo.rollout.rows import Row
from gruppo.rollout.slot_model import SlotModel
from gruppo.rollout.waves import Wave
from gruppo.types import Completion, GroupRequest, TensorStream, TextDecoder


class LocalEngine(RolloutEngine):
    """Samples from a transformers causal model.

    Args:
        model: anything whose forward takes `past_key_values`; may be the trainer's own model.
        decoder: turns tokens into text, for stop strings.
        max_live: rows decoded at a time; bounds the memory, never changes what is drawn.
        context_length: positions that the model has; None: not limited.
        note: is told, once each, why a model decodes in waves, or its steps are not replayed.
        plain: decode in waves whatever the model.
        batch_invariant: compute each row so that, in slots, its numbers do not depend on the others in the batch, where
            this machine can.
        separate: the model is a copy of the trainer's, whose weights come with adapters merged in, to be rounded to the
            copy's precision.
        capture: captures decode steps, to replay them; None: CUDA graphs on CUDA, tapes on a CPU (`rollout.captures`).
    """

    def __init__(
        self,
        model: nn.Module,
        decoder: TextDecoder,
        max_live: int = 256,
        context_length: int | None = None,
        *,
        note: Callable[[str], None] | None = None,
        plain: bool = False,
        batch_invariant: bool = True,
        separate: bool = False,
        capture: Capture | None = None,
    ) -> None:
        self.separate = separate
        self._model = model
        self._decoder = decoder
        self._max_live = max_live
        self._context_length = context_length
        self._note = note
        self._capture = capture
        self._slots: SlotModel | None = None
        self._undecided = not plain
        self._batch_invariant = batch_invariant
        self._queue: deque[Row] = deque()
        self._version = 0
        self.stats = DecodeStats()

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
        self._queue.extend(Row(request, sample) for sample in range(request.group_size))

    def completed(self) -> Generator[Completion, None, None]:
        """Yield completions as they finish, until the queue is empty.

        Leaving early (an error in the caller's loop, `close` on the iterator) forgets what was submitted.

        Raises:
            EngineError: the model's logits are not finite.
        """
        try:
            self._decide()
            while self._queue:
                yield from self._by_waves() if self._slots is None else self._by_slots(self._slots)
        finally:
            self._queue.clear()

    def _decide(self) -> None:
        """Find out, the first time, whether the model fits the slots, and at which numbers of rows."""
        if not self._undecided or not self._queue:
            return
        self._undecided = False
        reason = misfit(self._model)
        if reason is not None:
            self._say(f"sampling in waves, which is slower: the model does not fit continuous batching ({reason})")
            return
        step = find_rows_step(self._model) if self._batch_invariant else None
        if self._batch_invariant and step is None:
            self._say(
                "batch_invariant: not kept on this machine, whose kernels give a row other last bits beside other "
                "rows; what is drawn may depend, within rounding, on what is in the batch"
            )
        packs = step is not None and find_packs(self._model, step)
        steps = steps_for(self._model, step or 1, self._capture, self._say)
        self._slots = SlotModel(self._model, step, steps, packs=packs)
        first = next(self._model.parameters())
        if first.device.type == "cpu" and str(first.dtype) in KINDS and not available(first.dtype):
            self._say(f"sampling without the decode kernel, which is slower: {NONE_FOUND}")

    def _say(self, text: str) -> None:
        if self._note is not None:
            self._note(text)

    def _by_slots(self, model: SlotModel) -> Generator[Completion, None, None]:
        version = lambda: self._version  # noqa: E731  weights may be loaded meanwhile
        batch = ContinuousBatch(model, self._decoder, self._queue, self._max_live, version, self.stats)
        yield from batch.run()

    def _by_waves(self) -> Generator[Completion, None, None]:
        wave = Wave(self._model, self._decoder, self._next_rows(), self._version)
        while wave.live:
            yield from wave.step()

    def load_weights(self, tensors: TensorStream, version: int) -> None:
        """Copy weights into the model; tensors that already are the model's own are left as they are."""
        own = dict(self._model.named_parameters(remove_duplicate=False))
        with torch.no_grad():
            for name, tensor in tensors:
                if name not in own:
                    raise EngineError(f"weight {name}: the engine's model has no such parameter")
                if own[name].data_ptr() != tensor.data_ptr():
                    own[name].copy_(tensor)
        self._version = version
        if self._slots is not None:
            self._slots.weights_changed()

    def sleep(self) -> None:
        """Give back what is kept between rollouts."""
        if self._slots is not None:
            self._slots.forget()

    def close(self) -> None:
        """Forget the queue, and give back what is kept."""
        self._queue.clear()
        self.sleep()

    def _next_rows(self) -> list[Row]:
        """The next rows of one kind of sampling, at most max_live of them."""
        sampling = self._queue[0].request.sampling
        rows: list[Row] = []
        while self._queue and len(rows) < self._max_live and self._queue[0].request.sampling == sampling:
            rows.append(self._queue.popleft())
        return rows
