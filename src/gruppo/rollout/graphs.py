"""How a decode step is run: plainly, or as a CUDA graph that was captured once and is replayed.

A decode step of a small model is hundreds of short kernels, and Python starts each of them. A graph starts them all at
once, at the addresses they had when it was captured. So a graph belongs to a bucket of rows and a width, and

1. what changes from step to step (tokens, lengths, positions) is copied into its own static inputs, from which places
   and masks are computed inside of it;
2. it is dropped where the cache's buffers or the weights are no longer where they were (`_Places`); new weights copied
   into the old ones' place change nothing;
3. the cache is kept for the next rollouts (`StepRunner.keeps`) until the engine sleeps, since graphs go with it;
4. prompts stand in the slots of their rows, also the long ones: a step with prompts that are kept once
   (`rollout.shared_prompts`) has calls that depend on who is live, and would be another graph whenever a group ends. A
   step that comes with such prompts is run plainly.

A shape that comes once is not worth a capture, which costs some steps: it is captured when it comes again, be it after
the graphs were dropped. Where a capture fails (a model that waits for the device, memory), all steps are run plainly
from then on, and a line says so.

The logic is tested on a CPU with a recorder that replays operations on the tensors they were recorded with
(`tests/graph_standin.py`). `CudaCapture` itself was never run: no GPU was at hand.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

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


@dataclass(frozen=True, slots=True)
class _Graph:
    """A step that was captured."""

    inputs: Tensor
    """[3, n], read by it."""
    logits: Tensor
    """[n, V], written by it; graphs write to the same memory."""
    replay: Callable[[], None]


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
    """

    def __init__(
        self, capture: Capture, model: nn.Module, rows_step: int, note: Callable[[str], None] = lambda _: None
    ) -> None:
        self._capture = capture
        self._model = model
        self._rows_step = rows_step
        self._note = note
        self._device = next(model.parameters()).device
        self._plain = PlainSteps(rows_step, self._device)
        self._seen: set[tuple[int, int]] = set()
        self._graphs: dict[tuple[int, int], _Graph] = {}
        self._logits: Tensor | None = None
        """[rows, V], those of the last step; as many rows as the largest that was captured."""
        self._places = _Places()
        self.captures = self.replays = 0
        self.failed = False

    @property
    def keeps(self) -> bool:
        """Until a capture fails."""
        return not self.failed

    def rows(self, live: int) -> int:
        """A bucket."""
        return round_rows(bucket(live), self._rows_step)

    def run(self, step: Step, columns: NDArray[np.int64], width: int, cache: SlotCache, *, shares: bool) -> Tensor:
        """Replay it, or call it where it has not been captured."""
        plainly = partial(self._plain.run, step, columns, width, cache, shares=shares)
        if self.failed or shares or not cache.addresses:
            return plainly()
        self._drop_what_moved(cache)
        shape = (columns.shape[1], width)
        if shape not in self._graphs and not (self._comes_again(shape) and self._captured(shape, step, columns)):
            self._seen.add(shape)
            logits = plainly()
            self._make_room(logits)
            return logits
        graph = self._graphs[shape]
        graph.inputs.copy_(torch.from_numpy(columns))
        graph.replay()
        self.replays += 1
        return graph.logits

    def _comes_again(self, shape: tuple[int, int]) -> bool:
        """Whether it is to be captured: it came before, and there is room for its logits."""
        return shape in self._seen and self._logits is not None and len(self._logits) >= shape[0]

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

    def _captured(self, shape: tuple[int, int], step: Step, columns: NDArray[np.int64]) -> bool:
        """Capture a step; whether that went well. To make it more than once is to write the same keys again."""
        assert self._logits is not None
        inputs, logits = torch.from_numpy(columns).to(self._device, copy=True), self._logits[: shape[0]]
        try:
            self._graphs[shape] = _Graph(inputs, logits, self._capture(lambda: logits.copy_(step(inputs))))
        except Exception as error:  # whatever a model, the driver or the memory make of it
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            self.forget()
            self.failed = True
            self._note(f"decode steps are not captured as CUDA graphs, which is slower ({first})")
            return False
        self.captures += 1
        return True

    def look_again(self) -> None:
        """Look before the next step whether the weights are where they were."""
        self._places.looked = False

    def forget(self) -> None:
        """Drop all graphs."""
        self._graphs.clear()
        self._places, self._logits = _Places(), None


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


WAITING = frozenset(
    {
        "aten::_local_scalar_dense",
        "aten::_unique",
        "aten::_unique2",
        "aten::allclose",
        "aten::argwhere",
        "aten::bincount",
        "aten::equal",
        "aten::is_nonzero",
        "aten::item",
        "aten::masked_select",
        "aten::nonzero",
        "aten::nonzero_numpy",
        "aten::unique_consecutive",
        "aten::unique_dim",
    }
)
"""Operations whose result the host waits for."""


class NoWaiting(TorchDispatchMode):
    """Inside, what would wait for the device raises, on this thread alone, before anything is captured.

    A capture that breaks off leaves torch's random generator as if it went on. `torch.cuda.set_sync_debug_mode` finds
    the same and more, but in all threads, and rewards may be scored in another. What is not found here breaks the
    capture itself.

    Raises:
        RuntimeError: with the operation's name.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # pyright: ignore
        name = func._schema.name
        given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        masks = name.startswith("aten::index") and any(each.dtype == torch.bool for each in _indices(args))
        counted = name == "aten::repeat_interleave" and (kwargs or {}).get("output_size") is None and len(given) > 0
        if name in WAITING or masks or (counted and not isinstance(args[1] if len(args) > 1 else None, int)):
            raise RuntimeError(f"the model waits for the device in {name}")
        out = func(*args, **(kwargs or {}))
        given += [each for each in tree_leaves(out) if isinstance(each, Tensor)]
        # A number of the host may stand in an operation on the device, but not be copied there.
        if len({each.device for each in given if each.dim() > 0 or "copy" in name}) > 1:
            raise RuntimeError(f"the model copies between devices in {name}")
        return out


def _indices(args: tuple[Any, ...]) -> list[Tensor]:
    """The tensors by which an indexing operation picks."""
    picked = args[1] if len(args) > 1 else ()
    return [each for each in picked if isinstance(each, Tensor)] if isinstance(picked, (list, tuple)) else []


class CudaCapture:
    """Captures calls as CUDA graphs, which share one pool of memory.

    The call is made once before, on the capturing stream: kernels are chosen and workspaces made there. Other threads
    (rewards, writers) may use the device meanwhile. Never run yet: no GPU was at hand.

    Args:
        device: of CUDA.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, call: Callable[[], object]) -> Callable[[], None]:
        """Capture a call."""
        caller = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(caller)
        with torch.cuda.stream(self._stream), NoWaiting():
            call()
        caller.wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
            call()
        return graph.replay


def steps_for(model: nn.Module, rows_step: int, capture: Capture | None, note: Callable[[str], None]) -> StepRunner:
    """How a model's steps are run: captured where it is on CUDA, or where `capture` is given."""
    device = next(model.parameters()).device
    if capture is None and device.type == "cuda":
        capture = CudaCapture(device)
    return PlainSteps(rows_step, device) if capture is None else CapturedSteps(capture, model, rows_step, note)
