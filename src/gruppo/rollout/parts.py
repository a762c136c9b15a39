"""What of a model is computed by kernels of our own on a CPU: its norms, its gated MLPs, its rotary embedding.

Each is found by name and taken only if a trial gives what the model's own code gives, gradients included: other
architectures call other things by the same names. Outside `KernelParts.taken` the model is as it came.

Norms and MLPs are parts of one model, and their `forward` is put in their place. Rotary embedding is a function of a
module of transformers, which all models of a family call, in any thread. So:
1. It is exchanged once for all, and back when the last model leaves: models may enter and leave in any order.
2. What stands there meanwhile takes the kernel only in a thread that has entered, so that what others compute does not
   depend on who works beside them, and only for what the kernel is made for; else it calls the model's own function.
3. Whoever has exchanged the function too is left alone.
"""

import copy
import functools
import inspect
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from gruppo.rollout.layers import Layer, Norms
from gruppo.rollout.packed_weights import DTYPES
from gruppo.rollout.pointwise import available, gated, rotary, same, takes_gated, takes_rotary

ROTARY = "apply_rotary_pos_emb"
"""The function's name in transformers' modules."""
PROJECTIONS = ("gate_proj", "up_proj", "down_proj")
"""The maps of a gated MLP, whose activation is `act_fn`."""

Turn = Callable[..., tuple[Tensor, Tensor]]


class KernelParts:
    """A model's parts as far as the kernels compute what they compute."""

    def __init__(self, model: nn.Module) -> None:
        self._norms = Norms(model)
        self._gates = [(part, forward) for part in model.modules() if (forward := _gate(part))]
        modules = {name: sys.modules.get(name) for name in {type(part).__module__ for part in model.modules()}}
        self._turns = [turn for module in modules.values() if module is not None and (turn := _turn_of(module))]

    def enter(self) -> None:
        """They are computed by the kernels, in this thread, until `leave`."""
        self._norms.enter()
        for part, forward in self._gates:
            part.__dict__["forward"] = forward
        for turn in self._turns:
            turn.enter()

    def leave(self) -> None:
        """They are the model's own again."""
        for turn in self._turns:
            turn.leave()
        for part, _ in self._gates:
            part.__dict__.pop("forward", None)
        self._norms.leave()

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Inside, they are computed by the kernels."""
        self.enter()
        try:
            yield
        finally:
            self.leave()


def _gate(part: nn.Module) -> Layer | None:
    """The forward of a gated MLP, down(silu(gate) * up), which the kernel takes; None for anything else."""
    own = [*part.parameters(recurse=False), *part.buffers(recurse=False)]
    if own or {name for name, _ in part.named_children()} != {*PROJECTIONS, "act_fn"} or "forward" in vars(part):
        return None
    if list(inspect.signature(type(part).forward).parameters) != ["self", "x"]:
        return None
    weights = [weight for weight in part.parameters() if weight.is_floating_point()]
    kinds = {weight.dtype for weight in weights} or {torch.float32}  # of a quantized MLP: any
    if not all(weight.device.type == "cpu" for weight in weights) or not all(map(available, kinds)):
        return None
    try:
        alike = all(_alike(part, dtype) for dtype in kinds)
    except Exception:  # any architecture may come here, and ask for more than a row
        return None
    return _by_kernel(part) if alike else None


def _by_kernel(part: nn.Module) -> Layer:
    children: dict[str, Any] = vars(part)["_modules"]  # looked up at each call, since adapters come and go

    def forward(x: Tensor) -> Tensor:
        gate, up = children["gate_proj"](x), children["up_proj"](x)
        return children["down_proj"](gated(gate, up) if takes_gated(gate, up) else children["act_fn"](gate) * up)

    return forward


class _Map(nn.Module):
    """A small linear layer, made without torch's random state."""

    def __init__(self, outputs: int, inputs: int, dtype: torch.dtype) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(outputs)
        self._weight = torch.randn(outputs, inputs, generator=generator).to(dtype) / inputs**0.5

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self._weight)


@torch.inference_mode(mode=False)
def _alike(part: nn.Module, dtype: torch.dtype) -> bool:
    """Whether the MLP's own forward is that by the kernel, tried with small maps in place of its own."""
    twin = copy.copy(part)
    maps = [_Map(19, 8, dtype), _Map(19, 8, dtype), _Map(8, 19, dtype)]
    maps[1]._weight = maps[1]._weight.flip(0)
    vars(twin)["_modules"] = dict(zip(PROJECTIONS, maps, strict=True)) | {"act_fn": part.get_submodule("act_fn")}
    x = 4 * torch.randn(3, 1, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    return same(_by_kernel(twin), functools.partial(type(part).forward, twin), (x,))


class _Depth(threading.local):
    """How often this thread has entered."""

    count = 0


class _Turn:
    """Rotary embedding of a module of transformers, exchanged for the kernel while anybody is inside."""

    def __init__(self, module: ModuleType, own: Turn) -> None:
        self._module = vars(module)
        self.own = own
        self._inside = 0
        self._here = _Depth()
        here = self._here

        @functools.wraps(own)
        def quick(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *more: Any, **named: Any) -> tuple[Tensor, Tensor]:
            if here.count and not more and not named and takes_rotary(q, k, cos, sin):
                return rotary(q, k, cos, sin)
            return own(q, k, cos, sin, *more, **named)

        self.quick: Turn = quick

    def enter(self) -> None:
        """The kernel, in this thread."""
        self._here.count += 1
        with _LOCK:
            self._inside += 1
            if self._module[ROTARY] is self.own:
                self._module[ROTARY] = self.quick

    def leave(self) -> None:
        """The module's own function, once all have left."""
        self._here.count -= 1
        with _LOCK:
            self._inside -= 1
            if not self._inside and self._module[ROTARY] is self.quick:
                self._module[ROTARY] = self.own


_LOCK = threading.Lock()
_TURNS: dict[str, _Turn] = {}
"""By module: what has been exchanged once, by this model or another."""


def _turn_of(module: ModuleType) -> _Turn | None:
    """That of a module whose function the kernel takes; None for one that has none, or another."""
    kinds = [dtype for dtype in DTYPES if available(dtype)]
    with _LOCK:
        own, known = vars(module).get(ROTARY), _TURNS.get(module.__name__)
        if not callable(own) or not kinds:
            return None
        if known is None or (own is not known.own and own is not known.quick):
            if not all(_turns_alike(own, dtype) for dtype in kinds):
                return None
            known = _TURNS[module.__name__] = _Turn(module, own)  # pyright: ignore[reportArgumentType]
        return known


@torch.inference_mode(mode=False)
def _turns_alike(own: Callable[..., Any], dtype: torch.dtype) -> bool:
    """Whether a module's function is the kernel's: as prompts come, as rows decode, and with one row's angles."""
    generator = torch.Generator().manual_seed(0)
    for rows, tokens, angles in ((2, 5, 2), (3, 1, 3), (2, 5, 1)):
        shapes = (rows, tokens, 4, 16), (rows, tokens, 2, 16), (angles, tokens, 16), (angles, tokens, 16)
        q, k, cos, sin = (torch.randn(*shape, generator=generator).to(dtype) for shape in shapes)
        kernel, plain = (functools.partial(each, cos=cos, sin=sin) for each in (rotary, own))
        try:
            if not same(kernel, plain, (q.transpose(1, 2), k.transpose(1, 2))):
                return False
        except Exception:  # any function may have this name
            return False
    return True
