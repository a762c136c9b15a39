"""What the machine could do at best: its measured rates, and the work that a step cannot do without.

Legend: N matrix parameters of the layers, h hidden size, V vocabulary, H heads of size d, P prompts, L tokens of a
prompt, T tokens of a completion.

Work is counted as a step needs it: each prompt once per group, no padding, the head on completion tokens alone. What is
not a matrix product (norms, softmax, sampling, the optimizer) counts nothing, so a share of 1 is out of reach.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from shapes import Shape
from torch.nn.functional import linear

from gruppo.training.products import quick_products


@dataclass(frozen=True)
class Machine:
    """Measured rates."""

    gflops: float
    """The best of the shape's own matrix products, 10^9 operations a second."""
    gbytes: float
    """Reading memory, 10^9 bytes a second."""


def measure(shape: Shape, precision: str, device: str = "cpu") -> Machine:
    """The machine's rates now, with the threads of this process."""
    dtype, rows = getattr(torch, precision), 2048 if device == "cpu" else 8192
    hidden, feed_forward = shape.model["hidden_size"], shape.model["intermediate_size"]
    sizes = {(hidden, feed_forward), (feed_forward, hidden), (hidden, shape.vocabulary)}
    with quick_products(torch.device(device)):
        rates = [_product(rows, *size, dtype, device) for size in sizes]
    return Machine(max(rates) / 1e9, _bandwidth(device) / 1e9)


def _product(rows: int, wide: int, out: int, dtype: torch.dtype, device: str) -> float:
    left, weight = torch.randn(rows, wide, device=device).to(dtype), torch.randn(out, wide, device=device).to(dtype)
    return 2 * rows * wide * out / _best(lambda: linear(left, weight), device)


def _bandwidth(device: str, size: int = 2**28) -> float:
    data = torch.ones(size // 4, device=device)
    return size / _best(data.sum, device)


def _best(call: Callable[[], Any], device: str, seconds: float = 1.0) -> float:
    """The shortest of the calls that fit into the seconds, and of three at least."""
    found: list[float] = []
    while len(found) < 4 or sum(found) < seconds:
        start = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        found.append(time.perf_counter() - start)
    return min(found[1:])


@dataclass(frozen=True)
class Work:
    """A shape in numbers."""

    shape: Shape

    @property
    def _model(self) -> dict[str, int]:
        return self.shape.model

    @property
    def _head_size(self) -> int:
        return self._model["hidden_size"] // self._model["num_attention_heads"]

    @property
    def layer_parameters(self) -> int:
        """N."""
        hidden, feed_forward = self._model["hidden_size"], self._model["intermediate_size"]
        keys = 2 * self._model["num_key_value_heads"] * self._head_size
        return self._model["num_hidden_layers"] * (2 * hidden * hidden + hidden * keys + 3 * hidden * feed_forward)

    @property
    def head_parameters(self) -> int:
        """h V."""
        return self._model["hidden_size"] * self.shape.vocabulary

    def attention(self, contexts: float) -> float:
        """Operations of all layers for queries that look at so many positions together."""
        return 4 * self._model["num_hidden_layers"] * self._model["hidden_size"] * contexts

    def update(self, lengths: Sequence[int]) -> float:
        """Operations of forward and backward of a step."""
        prompts, prompt = self.shape.prompts, self.shape.prompt_length
        tokens = sum(lengths)
        contexts = prompts * prompt**2 / 2 + sum(length * prompt + length**2 / 2 for length in lengths)
        forward = 2 * self.layer_parameters * (prompts * prompt + tokens)
        forward += 2 * self.head_parameters * tokens + self.attention(contexts)
        backward = 1 if self.shape.lora_rank else 2  # frozen weights have no gradients of their own
        return (1 + backward) * forward

    def prefill(self) -> float:
        """Operations of every prompt, once."""
        prompts, prompt = self.shape.prompts, self.shape.prompt_length
        layers = 2 * self.layer_parameters * prompts * prompt + self.attention(prompts * prompt**2 / 2)
        return layers + 2 * self.head_parameters * prompts

    def decode(self, lengths: Sequence[int], item_bytes: int) -> list[tuple[float, float]]:
        """Operations and bytes read of each step of decoding, all rows side by side; a group's prompt is read once."""
        weights = self.layer_parameters + self.head_parameters
        cached = 2 * self._model["num_hidden_layers"] * self._model["num_key_value_heads"] * self._head_size
        prompts, prompt = self.shape.prompts, self.shape.prompt_length
        steps: list[tuple[float, float]] = []
        for position in range(1, max(lengths)):
            live = sum(length > position for length in lengths)
            operations = live * 2 * weights + self.attention(live * (prompt + position))
            read = item_bytes * (weights + cached * (min(prompts, live) * prompt + live * position))
            steps.append((operations, read))
        return steps


def shares(shape: Shape, precision: str, machine: Machine, steps: Sequence[Any]) -> dict[str, float]:
    """The limit's seconds over those measured, of all `contestants.Step`s together.

    `rollout` and `update`: a step of decoding takes as long as its operations or as its bytes, whichever is longer.
    `bandwidth`: bytes that decoding reads at least, over what could be read in the seconds of the rollout.
    """
    work, item_bytes = Work(shape), torch.finfo(getattr(torch, precision)).bits // 8
    operations, read = machine.gflops * 1e9, machine.gbytes * 1e9
    update = rollout = reading = 0.0
    for step in steps:
        decode = work.decode(step.lengths, item_bytes)
        update += work.update(step.lengths) / operations
        rollout += work.prefill() / operations + sum(max(a / operations, b / read) for a, b in decode)
        reading += sum(b for _, b in decode) / read
    seconds_rollout = sum(step.rollout for step in steps)
    return {
        "rollout": rollout / seconds_rollout,
        "update": update / sum(step.update for step in steps),
        "step": (rollout + update) / sum(step.seconds for step in steps),
        "bandwidth": reading / seconds_rollout,
        **asdict(machine),
    }
