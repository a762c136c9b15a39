"""How a decode step is run: by calling the model, or by replaying what a call did before.

A decode step of a small model is hundreds of short kernels, and Python starts each of them. A graph starts them again
at the addresses they had when it was captured (`rollout.captures`: all at once on CUDA, one after the other without the
model's Python on a CPU). So a graph belongs to a number of rows and a width, and

1. what changes from step to step (tokens, lengths, positions) is copied into its own static inputs, from which places
   and masks are computed inside of it;
2. it is dropped where the cache's buffers or the weights are no longer where they were (`_Places`); new weights copied
   into the old ones' place change nothing;
3. on CUDA, where a capture is dear, the cache is kept for the next rollouts (`StepRunner.keeps`) until the engine
   sleeps, since graphs go with it;
4. there too, prompts stand in the slots of their rows, also the long ones: a step with prompts that are kept once
   (`rollout.shared_prompts`) has calls that depend on who is live, and would be another graph whenever a group ends. A
   step that comes with such prompts is called. On a CPU our own kernel reads from arrays who has which prompt, and
   those are refilled in their place.

A shape that comes once is not worth a capture, which costs some steps: it is captured when it comes again, be it after
the graphs were dropped. Where a capture fails (a model that waits for the device, memory), all steps are called from
then on, and a line says so.

The logic is tested on a CPU, also with a stand-in for CUDA that replays operations on the tensors they were recorded
with (`tests/graph_standin.py`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gruppo.rollout.slots import SlotCache

Step = Callable[[Tensor], Tensor]
"""[3, n] tokens, lengths and positions of the rows -> [n, V] logits."""
Addresses = tuple[tuple[int, tuple[int, ...]], ...]
"""Of tensors: where each is, and its shape."""


class StepRunner(Protocol):
    """Runs decode steps."""

    @property
    def keeps(self) -> bool:
        """Whether a cache is kept for the next rollouts, and prompts stand in their rows' slots."""
        ...

    captures: int
    """Graphs captured so far."""
    replays: int
    """Steps replayed so far."""

    def rows(self, live: int) -> int:
        """At how many rows so many live ones are computed; never fewer for more."""
        ...

    def run(self, step: Step, columns: NDArray[np.int64], width: int, cache: SlotCache, *, shares: bool) -> Tensor:
        """[n, V] logits of a step, which may be overwritten by the next one.

        Args:
            step: computes it from nothing that changes but its argument, `cache` and the weights.
            columns: [3, n], its argument.
            width: positions of the slots that it looks at.
            cache: whose buffers it reads and writes.
            shares: rows of it have prompts that are kept once.
        """
        ...

    def look_again(self) -> None:
        """The weights may have been put elsewhere."""
        ...

    def forget(self) -> None:
        """Give back what is held."""
        ...


class PlainSteps:
    """Every step is a call of the model.

    Args:
        rows_step: a step has a multiple of so many rows.
        device: of the model.
    """

    keeps = False
    captures = replays = 0

    def __init__(self, rows_step: int, device: torch.device) -> None:
        self._rows_step = rows_step
        self._device = device

    def rows(self, live: int) -> int:
        """A multiple of `rows_step`."""
        return round_rows(live, self._rows_step)

    def run(self, step: Step, columns: NDArray[np.int64], width: int, cache: SlotCache, *, shares: bool) -> Tensor:
        """Call it."""
        return step(torch.from_numpy(columns).to(self._device))

    def look_again(self) -> None:
        """Nothing was looked at."""

    def forget(self) -> None:
        """Nothing is held."""


Capture = Callable[[Callable[[], object]], Callable[[], None]]
"""Captures a call without arguments; gives what replays it on the same tensors. The call may be made more than once
meanwhile, what it returns is dropped, and anything may be raised."""


class TooLargeError(Exception):
    """A step is so large that Python's share of it is nothing, and a graph would hold too much memory."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What holds for a kind of capture; as it stands here, for CUDA's."""

    kind: str = "captured as CUDA graphs"
    """What steps are where it works, for the line that says that it does not."""
    keeps: bool = True
    """The cache is kept for the next rollouts, and prompts stand in their rows' slots."""
    shares: bool = False
    """Steps with prompts that are kept once are captured too."""
    buckets: bool = True
    """Rows are filled up to a `bucket`, so that there are fewer shapes."""
    most: int | None = None
    """Graphs that are held; the oldest goes. None: all."""
    compared: int = 0
    """Replays that are compared with a call, to the bit, of steps with and without prompts that are kept once."""


@dataclass(frozen=True, slots=True)
class _Graph:
    """A step that was captured."""

    inputs: Tensor
    """[3, n], read by it."""
    logits: Tensor
    """[n, V], written by it; graphs write to the same memory."""
    replay: Callable[[], None]


_Shape = tuple[int, int, bool]
"""Rows, width where it matters, and whether prompts are kept once."""


def _shape(columns: NDArray[np.int64], width: int, cache: SlotCache, *, shares: bool) -> _Shape:
    return columns.shape[1], width if cache.looks_at_width else 0, shares


@dataclass(slots=True)
class _Places:
    """Where the tensors are that graphs were captured with."""

    cache: Addresses = ()
    weights: Addresses = ()
    looked: bool = False
    """Whether the weights were found there since they were last said to have changed."""


class CapturedSteps:
    """A step that comes again is captured, and replayed from then on.

    Args:
        capture: captures a call.
        model: whose weights the steps read.
        rows_step: a step has a multiple of so many rows.
        note: is told, once, why steps are not captured.
        rules: of this kind of capture.
    """

    def __init__(
        self,
        capture: Capture,
        model: nn.Module,
        rows_step: int,
        note: Callable[[str], None] = lambda _: None,
        rules: Rules = Rules(),
    ) -> None:
        self._capture = capture
        self._model = model
        self._rows_step = rows_step
        self._note = note
        self._rules = rules
        self._device = next(model.parameters()).device
        self._plain = PlainSteps(rows_step, self._device)
        self._seen: set[_Shape] = set()
        self._too_large: set[_Shape] = set()
        self._to_compare = dict.fromkeys((False, True), rules.compared)
        self._graphs: dict[_Shape, _Graph] = {}
        self._logits: Tensor | None = None
        """[rows, V], those of the last step; as many rows as the largest that was captured."""
        self._places = _Places()
        self.captures = self.replays = 0
        self.failed = False

    @property
    def keeps(self) -> bool:
        """By the rules, until a capture fails."""
        return self._rules.keeps and not self.failed

    def rows(self, live: int) -> int:
        """By the rules a bucket."""
        return round_rows(bucket(live) if self._rules.buckets else live, self._rows_step)

    def run(self, step: Step, columns: NDArray[np.int64], width: int, cache: SlotCache, *, shares: bool) -> Tensor:
        """Replay it, or call it where it has not been captured."""
        plainly = partial(self._plain.run, step, columns, width, cache, shares=shares)
        if self.failed or (shares and not self._rules.shares) or not cache.addresses:
            return plainly()
        self._drop_what_moved(cache)
        shape = _shape(columns, width, cache, shares=shares)
        if shape not in self._graphs and not (self._comes_again(shape, cache) and self._captured(shape, step, columns)):
            logits = plainly()
            self._seen.add(_shape(columns, width, cache, shares=shares))
            self._make_room(logits)
            return logits
        graph = self._graphs[shape]
        graph.inputs.copy_(torch.from_numpy(columns))
        graph.replay()
        self.replays += 1
        if not self._to_compare[shares]:
            return graph.logits
        self._to_compare[shares] -= 1
        called = plainly()
        if not same_bits(graph.logits, called):
            self._fail("a replay gave other logits than a call")
        return called

    def _comes_again(self, shape: _Shape, cache: SlotCache) -> bool:
        """Whether it is to be captured: it came before, there is room for its logits, and its calls depend on no one.

        Those of prompts that torch attends to depend on who is live.
        """
        fits = shape in self._seen and shape not in self._too_large and not (shape[2] and cache.prompts.merges)
        return fits and self._logits is not None and len(self._logits) >= shape[0]

    def _make_room(self, logits: Tensor) -> None:
        """For those of a step that may be captured later. Each graph with its own would hold them all at once."""
        if not self.failed and (self._logits is None or len(self._logits) < len(logits)):
            self._logits = torch.empty_like(logits, device=self._device)

    def _drop_what_moved(self, cache: SlotCache) -> None:
        """Graphs read and write by address: one whose tensors are elsewhere would work on memory of others."""
        places = self._places
        if places.looked and places.cache == cache.addresses:
            return
        found = _Places(cache.addresses, self._weights(), looked=True)
        if (found.cache, found.weights) != (places.cache, places.weights):
            self._graphs.clear()
        self._places = found

    def _weights(self) -> Addresses:
        return addresses_of([*self._model.parameters(), *self._model.buffers()])

    def _captured(self, shape: _Shape, step: Step, columns: NDArray[np.int64]) -> bool:
        """Capture a step; whether that went well. To make it more than once is to write the same keys again."""
        assert self._logits is not None
        inputs, logits = torch.from_numpy(columns).to(self._device, copy=True), self._logits[: shape[0]]
        if self._rules.most is not None and len(self._graphs) >= self._rules.most:
            del self._graphs[next(iter(self._graphs))]
        try:
            self._graphs[shape] = _Graph(inputs, logits, self._capture(lambda: logits.copy_(step(inputs))))
        except TooLargeError:
            self._too_large.add(shape)
            return False
        except Exception as error:  # whatever a model, the driver or the memory make of it
            self._fail((str(error).strip() or type(error).__name__).splitlines()[0])
            return False
        self.captures += 1
        return True

    def _fail(self, why: str) -> None:
        self.forget()
        self.failed = True
        self._note(f"decode steps are not {self._rules.kind}, which is slower ({why})")

    def look_again(self) -> None:
        """Look before the next step whether the weights are where they were."""
        self._places.looked = False

    def forget(self) -> None:
        """Drop all graphs."""
        self._graphs.clear()
        self._places, self._logits = _Places(), None


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one shape and kind are equal, NaN for NaN."""
    return torch.equal(*(each.reshape(-1).view(torch.uint8) for each in (a, b)))


def round_rows(rows: int, step: int) -> int:
    """Slots for so many rows and the idle ones beside them."""
    return -(-rows // step) * step


def bucket(rows: int) -> int:
    """The rows at which so many are computed: 1, 2, 4, 8, multiples of 8 up to 64, multiples of 16.

    Idle rows cost attention over the width of the slots, and products of so few rows are bound by reading the weights.
    At 256 rows these are 23 buckets, and above 8 less than half of a step's rows is idle; in the mean under a tenth.
    """
    if rows <= 8:
        return 1 << (rows - 1).bit_length()
    return round_rows(rows, 8 if rows <= 64 else 16)


def addresses_of(tensors: list[Tensor]) -> Addresses:
    """Where tensors are. What is at the same address with the same shape is, for a graph, the same tensor."""
    return tuple((tensor.data_ptr(), tuple(tensor.shape)) for tensor in tensors)
