"""Supervised fine-tuning on demonstrations: the loss of completion tokens, the same forward as GRPO's.

The loss of a step is the sum over its completion tokens, divided by a constant: the batch size times the mean
completion length of the data. Dividing by each batch's own tokens would let demonstrations in a batch of short ones
weigh more than those in a batch of long ones.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from gruppo.monitor.garbage import present_objects_spared
from gruppo.monitor.malloc import keep
from gruppo.monitor.recorder import Recorder
from gruppo.training.checkpoint import Checkpoints
from gruppo.training.controls import Controls
from gruppo.training.optimizers import OptimizerSet
from gruppo.training.packing import Row
from gruppo.training.passes import Passes


def demonstration_row(prompt_ids: Sequence[int], completion_ids: Sequence[int]) -> Row:
    """A demonstration as a row of the update: every completion token carries a loss."""
    tokens = np.asarray(completion_ids, dtype=np.int64)
    return Row(
        prompt_ids=tuple(prompt_ids),
        token_ids=tokens,
        mask=np.ones(len(tokens), dtype=np.bool_),
        sampler_logprobs=np.zeros(len(tokens), dtype=np.float32),
        advantage=1.0,
    )


class DemonstrationStream:
    """Batches of row numbers, epoch after epoch, from (seed, epoch, position) alone."""

    def __init__(self, size: int, batch_size: int, seed: int, shuffle: bool) -> None:
        self._size = size
        self._batch_size = batch_size
        self._seed = seed
        self._shuffle = shuffle
        self._position = 0

    @property
    def epoch(self) -> float:
        """Passes over the data so far."""
        return self._position / self._size

    def take(self) -> list[int]:
        """The next batch."""
        places = range(self._position, self._position + self._batch_size)
        orders: dict[int, NDArray[np.int64]] = {}
        batch: list[int] = []
        for place in places:
            epoch, index = divmod(place, self._size)
            if epoch not in orders:
                orders[epoch] = self._order(epoch)
            batch.append(int(orders[epoch][index]))
        self._position += self._batch_size
        return batch

    def _order(self, epoch: int) -> NDArray[np.int64]:
        if not self._shuffle:
            return np.arange(self._size)
        return np.random.default_rng([self._seed, epoch]).permutation(self._size)

    def state_dict(self) -> dict[str, Any]:
        """Where the stream is."""
        return {"position": self._position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self._position = state["position"]


class Demonstrations:
    """Demonstrations for the SFT term of a GRPO step, epoch after epoch. Stateful."""

    def __init__(self, rows: Sequence[Row], per_step: int, seed: int) -> None:
        self._rows = rows
        self._stream = DemonstrationStream(len(rows), per_step, seed, shuffle=True)

    def take(self) -> tuple[Row, ...]:
        """The next step's."""
        return tuple(self._rows[index] for index in self._stream.take())

    def state_dict(self) -> dict[str, Any]:
        """Where the stream is."""
        return self._stream.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self._stream.load_state_dict(state)


@dataclass
class SFTTrainer:
    """The parts of an SFT stage, put together."""

    model: nn.Module
    optimizers: OptimizerSet
    rows: Sequence[Row]
    stream: DemonstrationStream
    batch_size: int
    recorder: Recorder
    controls: Controls
    learning_rate: float
    lr_factor: Callable[[int], float]
    passes: Passes
    checkpoints: Checkpoints | None = None

    @property
    def normaliser(self) -> float:
        """Batch size times the mean completion length of the data, in tokens."""
        return self.batch_size * float(np.mean([row.mask.sum() for row in self.rows]))

    def run(self) -> None:
        """Make all steps that are left."""
        normaliser = self.normaliser
        keep()
        with self.controls.stopping_on_signals(), self.recorder.writer, present_objects_spared():
            while not self.controls.done:
                start, step = time.perf_counter(), self.controls.step
                rows = [self.rows[index] for index in self.stream.take()]
                loss = self._backward(rows, normaliser)
                completion_tokens = sum(int(row.mask.sum()) for row in rows)
                tokens = sum(map(len, rows))
                factor = self.lr_factor(step)
                norm, stepped = self.optimizers.step(factor, loss=loss)
                self.controls.advance(poisoned=not stepped)
                self.recorder.record(
                    step + 1,
                    {
                        "loss": loss / completion_tokens,
                        "grad_norm": norm,
                        "optimizer_step": int(stepped),
                        "learning_rate": self.learning_rate * factor,
                        "tokens": tokens,
                        "tokens_per_second": tokens / (time.perf_counter() - start),
                        "epoch": self.stream.epoch,
                    },
                )
                self.controls.give_up_if_poisoned()
                if self.checkpoints is not None:
                    self.checkpoints.save_if_due(self.controls.step, last=self.controls.done)

    def _backward(self, rows: Sequence[Row], normaliser: float) -> float:
        """Gradients of a batch; returns its summed loss in nats."""
        total = torch.zeros((), device=next(self.model.parameters()).device)
        with self.passes.ready():
            for micro in self.passes.cut(rows):
                total += self.passes.backward(micro, 1.0, lambda result, *_: -result.logprobs.sum() / normaliser)
        return float(total) * normaliser


def steps_of(rows: int, batch_size: int, epochs: float) -> int:
    """Optimizer steps of so many epochs, at least one."""
    return max(1, round(rows * epochs / batch_size))
