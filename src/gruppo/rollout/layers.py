"""Linear layers and norms of a decode step on a CPU, by kernels of our own where the machine has a C compiler.

A step of a small model is a hundred operators, each of which costs more on the way to its work than a few rows are
worth. `layers.c` holds two kinds of layers of which a model has most: a linear layer on a packed weight, for processors
with AVX-512 (in bfloat16 with AVX512_BF16), and the root mean square norm, which is seven operators in torch, and which
the update takes too. Compiled and checked as `rollout.decode_attention`.
"""

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from gruppo.monitor import native
from gruppo.monitor.native import LANES
from gruppo.rollout.decode_attention import SOURCE, TOLERANCE
from gruppo.rollout.pages import zeros

COLUMNS = 2 * LANES
"""Outputs of a block of a packed weight."""
SIDE = {torch.bfloat16: 2}
"""Inputs are a multiple of it."""
PART = 64
"""Rows whose share of a weight's gradient the kernel sums in one."""
POINTER, SIZE = ctypes.c_void_p, ctypes.c_int64

Layer = Callable[[Tensor], Tensor]


ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "rms_norm": (*[POINTER] * 4, *[SIZE] * 2, ctypes.c_float, ctypes.c_int),
    "rms_norm_backward": (*[POINTER] * 6, *[SIZE] * 2, ctypes.c_int),
    "linear": (*[POINTER] * 4, *[SIZE] * 3, ctypes.c_int),
    "pack": (*[POINTER] * 2, *[SIZE] * 2, ctypes.c_int),
}
"""Of the kernels."""


@functools.cache
def _kernel(dtype: torch.dtype, name: str) -> Callable[..., None] | None:
    return native.function(SOURCE.with_name("layers.c"), dtype, name, ARGUMENTS[name], None)


@functools.cache
def _wide(dtype: torch.dtype) -> bool:
    """Whether the processor is made for the kernel of linear layers, which is not compiled for others."""
    wide = native.function(SOURCE.with_name("layers.c"), dtype, "wide", ())
    return wide is not None and bool(wide())


def takes_linear(weight: Tensor, bias: Tensor | None) -> bool:
    """Whether the kernel is there and made for a linear layer of such a weight [outputs, inputs]."""
    own = [each for each in (weight, bias) if each is not None]
    fits = all(each.device.type == "cpu" and each.dtype == weight.dtype and each.is_contiguous() for each in own)
    fits = fits and weight.shape[0] % LANES == 0 and weight.shape[1] % SIDE.get(weight.dtype, 1) == 0
    return fits and linear_available(weight.dtype)


def linear_product(weight: Tensor, bias: Tensor | None) -> Layer:
    """x -> x @ weight.T + bias, on a packed copy of the weight."""
    pack, multiply, dtype = _kernel(weight.dtype, "pack"), _kernel(weight.dtype, "linear"), weight.dtype
    assert pack is not None
    assert multiply is not None
    weight = weight.detach()
    outputs, inputs = weight.shape
    packed = zeros((-(-outputs // COLUMNS), inputs, COLUMNS), weight)
    pack(weight.data_ptr(), packed.data_ptr(), inputs, outputs, torch.get_num_threads())
    threads = torch.get_num_threads

    def product(rows: Tensor) -> Tensor:
        if rows.dtype != dtype or rows.shape[-1] != inputs:
            raise TypeError(f"a linear layer of {inputs} inputs of {dtype} got {rows.shape[-1]} of {rows.dtype}")
        rows = rows.contiguous()
        out = rows.new_empty((*rows.shape[:-1], outputs))
        more = None if bias is None else bias.data_ptr()
        count = rows.numel() // inputs
        multiply(rows.data_ptr(), packed.data_ptr(), more, out.data_ptr(), count, inputs, outputs, threads())
        return out

    return product


@functools.cache
def linear_available(dtype: torch.dtype) -> bool:
    """Whether the kernel for linear layers is there, the processor wide enough, and the result torch's."""
    if not _wide(dtype):
        return False
    generator, close = torch.Generator().manual_seed(0), 10 * TOLERANCE[dtype]
    with torch.inference_mode():
        for outputs, inputs, rows in ((16, 6, 1), (48, 64, 21), (96, 34, 12)):
            shapes = (outputs, inputs), (outputs,), (rows, inputs)
            weight, bias, x = (torch.randn(*shape, generator=generator).to(dtype) for shape in shapes)
            for more in (bias, None):
                found, wanted = linear_product(weight, more)(x), linear(x, weight, more)
                if not torch.allclose(found, wanted, atol=close, rtol=close / 10):
                    return False
    return True


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """weight * x / root of (the mean of x^2 over the last dimension + epsilon), rounded to x's kind before the weight.

    Args:
        x: [..., D].
        weight: [D], of x's kind.
        epsilon: of the norm.
    """
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        return _RmsNorm.apply(x, weight, epsilon)  # pyright: ignore[reportReturnType]
    return _normed(x.contiguous(), weight, epsilon, None)


def _normed(x: Tensor, weight: Tensor, epsilon: float, shares: Tensor | None) -> Tensor:
    norm, size = _kernel(x.dtype, "rms_norm"), weight.shape[0]
    assert norm is not None
    assert x.shape[-1] == size
    assert x.dtype == weight.dtype
    out = torch.empty_like(x)
    kept = None if shares is None else shares.data_ptr()
    places = (x.data_ptr(), weight.data_ptr(), out.data_ptr(), kept)
    norm(*places, x.numel() // size, size, epsilon, torch.get_num_threads())
    return out


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:  # pyright: ignore
        x = x.contiguous()
        shares = torch.empty(x.numel() // weight.shape[0])
        ctx.save_for_backward(x, weight, shares)
        return _normed(x, weight, epsilon, shares)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, shares = ctx.saved_tensors
        backward, size = _kernel(x.dtype, "rms_norm_backward"), weight.shape[0]
        assert backward is not None
        grad, found = grad.contiguous(), torch.empty_like(x)
        of_weight = torch.empty(-(-len(shares) // PART), size) if ctx.needs_input_grad[1] else None
        places = [each.data_ptr() for each in (x, weight, grad, shares, found)]
        places.append(0 if of_weight is None else of_weight.data_ptr())
        backward(*places, len(shares), size, torch.get_num_threads())
        return found, None if of_weight is None else of_weight.sum(0).to(weight.dtype), None


class Norms:
    """A model's root mean square norms, as far as the kernel computes what they compute.

    Found by name, and by trying each: some multiply by 1 + weight, or round elsewhere.
    """

    def __init__(self, model: nn.Module) -> None:
        self._parts = [(part, _by_kernel(part, epsilon)) for part in model.modules() if (epsilon := _epsilon(part))]

    def enter(self) -> None:
        """The norms are computed by the kernel until `leave`."""
        for part, forward in self._parts:
            part.__dict__["forward"] = forward

    def leave(self) -> None:
        """The norms are their own again."""
        for part, _ in self._parts:
            part.__dict__.pop("forward", None)


def _by_kernel(part: nn.Module, epsilon: float) -> Layer:
    def forward(hidden_states: Tensor) -> Tensor:
        weight = part.weight
        assert isinstance(weight, Tensor)
        if hidden_states.dtype != weight.dtype:
            return type(part).forward(part, hidden_states)
        return rms_norm(hidden_states, weight, epsilon)

    return forward


def _epsilon(part: nn.Module) -> float | None:
    """That of a norm which the kernel takes; None for anything else."""
    weight, epsilon = getattr(part, "weight", None), getattr(part, "variance_epsilon", getattr(part, "eps", None))
    named = type(part).__name__.endswith("RMSNorm") and [name for name, _ in part.named_parameters()] == ["weight"]
    if not named or not isinstance(weight, Tensor) or not isinstance(epsilon, float) or "forward" in vars(part):
        return None
    fits = weight.dim() == 1 and weight.shape[0] % LANES == 0 and weight.is_contiguous()
    if not fits or weight.device.type != "cpu" or _kernel(weight.dtype, "rms_norm") is None:
        return None
    x = torch.randn(5, 1, weight.shape[0], generator=torch.Generator().manual_seed(0)).to(weight.dtype)
    x[0] *= epsilon**0.5  # where epsilon counts
    try:
        alike = _alike(part, lambda x: rms_norm(x, weight, epsilon), x)
    except Exception:  # any architecture may come here, and ask for more than a row
        return None
    return epsilon if alike else None


@torch.enable_grad()
def _alike(part: nn.Module, kernel: Layer, x: Tensor) -> bool:
    """Whether the results are the same and the gradients of x, and of the weight where it is trained."""
    wanted = [x.requires_grad_(), *(weight for weight in part.parameters() if weight.requires_grad)]
    own, found = part(x), kernel(x)
    if own.dtype != found.dtype or own.shape != found.shape:
        return False
    grad = torch.linspace(-1, 1, x.numel()).view_as(x).to(x.dtype)
    pairs = zip(*([out.detach(), *torch.autograd.grad(out, wanted, grad)] for out in (own, found)), strict=True)
    close = TOLERANCE[x.dtype]
    return all(torch.allclose(a, b, atol=close * max(1.0, float(a.abs().max())), rtol=close) for a, b in pairs)
