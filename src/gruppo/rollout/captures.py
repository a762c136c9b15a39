"""What captures a decode step, so that `rollout.graphs` can replay it: CUDA's graphs, and a tape on a CPU.

CUDA itself records what is started on its stream. `CudaCapture` was never run: no GPU was at hand.

On a CPU a tape does the same by hand: every operator of torch that is dispatched meanwhile, and every call of a kernel
of our own, is noted down with the memory that it reads and writes, and is made again by a replay, without the model's
Python. Views are where they were, so a replay has none. Python is half of a small model's step: see
`docs/speed.md`.
"""

import functools
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from gruppo.errors import EngineError
from gruppo.monitor.native import noting
from gruppo.rollout.graphs import Capture, CapturedSteps, PlainSteps, Rules, StepRunner, TooLargeError, same_bits

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
READING = frozenset({Tensor.tolist, Tensor.numpy, Tensor.__array__})
"""Methods that give the host a result and are no operations."""


class NoWaiting(TorchDispatchMode):
    """Inside, what would wait for the device raises, on this thread alone, before anything is captured.

    A capture that breaks off leaves torch's random generator as if it went on. `torch.cuda.set_sync_debug_mode` finds
    the same and more, but in all threads, and rewards may be scored in another. What is not found here breaks the
    capture itself.

    Raises:
        RuntimeError: with the operation's name.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # pyright: ignore
        kwargs = kwargs or {}
        _refuse_waiting(func, args, kwargs)
        out = func(*args, **kwargs)
        found = [each for each in tree_leaves((args, kwargs, out)) if isinstance(each, Tensor)]
        # A number of the host may stand in an operation on the device, but not be copied there.
        if len({each.device for each in found if each.dim() > 0 or "copy" in func._schema.name}) > 1:
            raise RuntimeError(f"the model copies between devices in {func._schema.name}")
        return out


def _refuse_waiting(func: Any, args: Any, kwargs: Any) -> None:
    """Raise where the host waits for the result of an operation: what is replayed waits for nothing."""
    name = func._schema.name
    masks = name.startswith("aten::index") and any(each.dtype == torch.bool for each in _indices(args))
    counted = name == "aten::repeat_interleave" and kwargs.get("output_size") is None
    counted = counted and any(isinstance(each, Tensor) for each in tree_leaves((args, kwargs)))
    if name in WAITING or masks or (counted and not isinstance(args[1] if len(args) > 1 else None, int)):
        raise RuntimeError(f"the model waits for the device in {name}")


def _indices(args: tuple[Any, ...]) -> list[Tensor]:
    """The tensors by which an indexing operation picks."""
    picked = args[1] if len(args) > 1 else ()
    return [each for each in picked if isinstance(each, Tensor)] if isinstance(picked, (list, tuple)) else []


class NoReading(TorchFunctionMode):
    """Inside, what Python reads of a tensor without an operator of torch raises, on this thread alone.

    Raises:
        RuntimeError: with the method's name.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in READING:
            raise RuntimeError(f"the model waits for the device in {func.__name__}")
        return func(*args, **(kwargs or {}))


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


TAPE_BYTES = 2**24
"""Memory that a tape may hold: nothing of a step is given back before the tape is."""
TAPES = Rules("replayed", keeps=False, shares=True, buckets=False, most=4, compared=3)
"""On a CPU a capture takes some 4 ms more than a call, so that no cache is kept for its sake."""


class Tape(TorchDispatchMode):
    """Inside, operators and kernels are noted down.

    Raises:
        TooLargeError: what they make takes more than `TAPE_BYTES`.
        RuntimeError: Python asks for a result: it would be that of the capture ever after.
    """

    def __init__(self) -> None:
        super().__init__()
        self._calls: list[Callable[[], object]] = []
        self._held: list[Tensor] = []
        """What was made: kernels know it by its address alone."""
        self._room = TAPE_BYTES

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # pyright: ignore
        kwargs = kwargs or {}
        _refuse_waiting(func, args, kwargs)
        held = tree_map(_pinned, (args, kwargs))  # before the call, which may tell a tensor to go elsewhere
        out = func(*args, **kwargs)
        given = {_memory(each) for each in tree_leaves(held) if isinstance(each, Tensor)}
        results = [_pinned(each) for each in tree_leaves(out) if isinstance(each, Tensor)]
        fresh = [each for each in results if _memory(each) not in given]
        if func._schema.is_mutable:
            self._calls.append(partial(func, *held[0], **held[1]))
        elif fresh and not func._schema.name.startswith(("aten::empty", "aten::new_empty")):
            self._calls.append(_again(func, *held, fresh))  # pyright: ignore[reportCallIssue]
        self._hold(fresh)
        return out

    def _hold(self, fresh: list[Tensor]) -> None:
        self._held += fresh
        self._room -= sum(each.nbytes for each in fresh)
        if self._room < 0:
            raise TooLargeError

    def note(self, function: Callable[..., Any], given: tuple[Any, ...]) -> None:
        """A kernel of our own is called."""
        self._calls.append(partial(_kernel, function, given))

    @torch.inference_mode()
    def replay(self) -> None:
        """Make the calls again."""
        for call in self._calls:
            call()


def _kernel(function: Callable[..., Any], given: tuple[Any, ...]) -> None:
    if function(*given):
        raise EngineError("no memory for a decode step; lower max_live_completions")


def _pinned(value: Any) -> Any:
    """The same memory by another tensor, which stays there when the first is told to go elsewhere."""
    return value.detach() if isinstance(value, Tensor) and value.layout == torch.strided else value


def _memory(tensor: Tensor) -> int:
    """Where it is; a layout that only an operator knows, as that of packed weights, is its own."""
    return tensor.untyped_storage().data_ptr() if tensor.layout == torch.strided else id(tensor)


def _again(func: Any, args: Any, kwargs: Any, places: list[Tensor]) -> Callable[[], object]:
    """Makes a call again, over what came out of it: in one where the operator has such a form."""
    form = _writing(func) if len(places) == 1 else None
    if form is not None:
        result, into = places[0].clone(), partial(form[0], *args, **kwargs, **{form[1]: places[0]})
        into()
        if same_bits(result, places[0]):
            return into
        places[0].copy_(result)

    def again() -> None:
        found = [each for each in tree_leaves(func(*args, **kwargs)) if isinstance(each, Tensor)]
        for place, each in zip(places, found, strict=True):
            place.copy_(each)

    return again


@functools.cache
def _writing(func: Any) -> tuple[Any, str] | None:
    """The form of an operator that writes into a tensor that is given, and the name of that argument.

    A linear layer's goes another way to its numbers than the layer.
    """
    if func._schema.name == "aten::linear":
        return None
    wanted = [(each.name, str(each.type)) for each in func._schema.arguments]
    for name in func.overloadpacket.overloads():
        form = getattr(func.overloadpacket, name)
        outs = [each.name for each in form._schema.arguments if each.is_out]
        given = [(each.name, str(each.type)) for each in form._schema.arguments if not each.is_out]
        if len(outs) == 1 and given == wanted:
            return form, outs[0]
    return None


def tape(call: Callable[[], object]) -> Callable[[], None]:
    """Capture a call on a CPU."""
    with NoReading(), Tape() as found, noting(found.note):
        call()
    return found.replay


def steps_for(model: nn.Module, rows_step: int, capture: Capture | None, note: Callable[[str], None]) -> StepRunner:
    """How a model's steps are run: by CUDA's graphs, by tapes on a CPU, or as `capture` does it where it is given."""
    device = next(model.parameters()).device
    if capture is None and device.type == "cpu":
        return CapturedSteps(tape, model, rows_step, note, TAPES)
    if capture is None and device.type == "cuda":
        capture = CudaCapture(device)
    return PlainSteps(rows_step, device) if capture is None else CapturedSteps(capture, model, rows_step, note)
