"""A stand-in for CUDA graphs on a CPU: it records a call's operations, and replays them on the tensors they had.

What makes graphs go wrong goes wrong here too. An operation is replayed with the very memory it was recorded with:
a number that Python knew when the call was recorded, a tensor that was made outside for one step, a buffer that has
been replaced since, all stay as they were. What comes out is written over what came out before. An operation that
would wait for the device raises.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from gruppo.rollout.captures import NoWaiting


class Recorder(TorchDispatchMode):
    """Inside, operations are noted down."""

    def __init__(self) -> None:
        super().__init__()
        self._operations: list[tuple[Any, Any, Any, list[Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        held = tree_map(_pinned, (args, kwargs))
        out = func(*args, **kwargs)
        memory = {each.untyped_storage().data_ptr() for each in tree_leaves(held) if isinstance(each, Tensor)}
        results = [_pinned(each) for each in tree_leaves(out) if isinstance(each, Tensor)]
        fresh = [each for each in results if each.untyped_storage().data_ptr() not in memory]
        if fresh or func._schema.is_mutable:  # the rest are views, which are where they were
            self._operations.append((func, *held, fresh))
        return out

    @torch.inference_mode()
    def replay(self) -> None:
        """Run them again."""
        for func, args, kwargs, places in self._operations:
            found = [each for each in tree_leaves(func(*args, **kwargs)) if isinstance(each, Tensor)]
            for place, each in zip(places, found if places else [], strict=True):
                place.copy_(each)


def _pinned(value: Any) -> Any:
    """The same memory by another tensor, which stays there when the first is told to go elsewhere."""
    return value.detach() if isinstance(value, Tensor) else value


class StandIn:
    """Captures as `CudaCapture` does: a call beforehand that must not wait, and one that is recorded.

    Args:
        fails_at: which capture runs out of memory.
    """

    def __init__(self, fails_at: int | None = None) -> None:
        self.captures = 0
        self._fails_at = fails_at

    def __call__(self, call: Callable[[], object]) -> Callable[[], None]:
        self.captures += 1
        with NoWaiting():
            call()
        if self.captures == self._fails_at:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB\nand more lines")
        with Recorder() as recorder:
            call()
        return recorder.replay
