"""Rotary embedding and gated activation on a CPU, by kernels of our own where the machine has a C compiler.

Legend: B rows, T tokens, H heads, K key heads, D their size, I width of the MLP.

Both are arithmetic number by number, for which torch writes an array per operator: rotary embedding is ten of them and
fills its gradients with zeros first, a gated MLP keeps silu(gate) beside gate and up. `pointwise.c` reads and writes
once. Compiled and checked as `rollout.decode_attention`; `rollout.parts` puts them into models.
"""

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gruppo.monitor import native
from gruppo.rollout.decode_attention import TOLERANCE

SOURCE = Path(__file__).with_suffix(".c")
POINTER, SIZE, COUNT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int


ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "rotary": (*[POINTER] * 6, *[SIZE] * 5, COUNT, COUNT),
    "gated": (*[POINTER] * 3, SIZE, COUNT),
    "gated_backward": (*[POINTER] * 5, SIZE, COUNT),
}
"""Of the kernels."""


@functools.cache
def _kernel(dtype: torch.dtype, name: str) -> Callable[..., None] | None:
    return native.function(SOURCE, dtype, name, ARGUMENTS[name], None)


def takes_rotary(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> bool:
    """Whether the kernel is there and made for such queries, keys, cosines and sines: as `rotary` says, D even."""
    if q.dim() != 4 or cos.dim() != 3 or type(q) is not Tensor or cos.requires_grad or sin.requires_grad:
        return False
    rows, _, tokens, size = q.shape
    shape = cos.shape
    fits = k.shape == (rows, k.shape[1], tokens, size) and shape == sin.shape and size % 2 == 0
    fits = fits and (shape == (rows, tokens, size) or shape == (1, tokens, size))
    alike = q.dtype == k.dtype == cos.dtype == sin.dtype and q.is_cpu and k.is_cpu and cos.is_cpu and sin.is_cpu
    return fits and alike and available(q.dtype)


def rotary(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """x cos + (-b, a) sin for x = (a, b), the halves of each head: of q and of k, which lie in memory as [B, T, H, D].

    Args:
        q: [B, H, T, D].
        k: [B, K, T, D].
        cos: [B, T, D], or [1, T, D] for all rows.
        sin: of the same shape.
    """
    if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad):
        return _Rotary.apply(q, k, cos, sin)  # pyright: ignore[reportReturnType]
    return _turned(q, k, cos, sin, back=False)


def _turned(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *, back: bool) -> tuple[Tensor, Tensor]:
    turn = _kernel(q.dtype, "rotary")
    assert turn is not None
    q, k, cos, sin = _by_token(q), _by_token(k), cos.contiguous(), sin.contiguous()
    out_q, out_k = torch.empty_like(q), torch.empty_like(k)
    rows, heads, tokens, size = q.shape
    places = [each.data_ptr() for each in (q, k, cos, sin, out_q, out_k)]
    period, threads = cos.shape[0] * tokens, torch.get_num_threads()
    turn(*places, rows * tokens, period, heads, k.shape[1], size, back, threads)
    return out_q, out_k


def _by_token(x: Tensor) -> Tensor:
    """x [B, H, T, D] as it is where it lies in memory as [B, T, H, D]; else a copy that does."""
    turned = x.transpose(1, 2)
    return x if turned.is_contiguous() else turned.contiguous().transpose(1, 2)


class _Rotary(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> Any:  # pyright: ignore
        ctx.save_for_backward(cos, sin)
        return _turned(q, k, cos, sin, back=False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return *_turned(*grads, *ctx.saved_tensors, back=True), None, None


def takes_gated(gate: Tensor, up: Tensor) -> bool:
    """Whether the kernel is there and made for such numbers."""
    alike = gate.dtype == up.dtype and gate.shape == up.shape and gate.is_cpu and up.is_cpu
    return alike and type(gate) is type(up) is Tensor and available(gate.dtype)


def gated(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up = gate / (1 + e^-gate) * up; of the backward pass only these two are kept.

    Args:
        gate: [..., I].
        up: of the same shape and kind.
    """
    if torch.is_grad_enabled() and (gate.requires_grad or up.requires_grad):
        return _Gated.apply(gate, up)  # pyright: ignore[reportReturnType]
    return _product(gate.contiguous(), up.contiguous())


def _product(gate: Tensor, up: Tensor) -> Tensor:
    multiply, out = _kernel(gate.dtype, "gated"), torch.empty_like(gate)
    assert multiply is not None
    multiply(gate.data_ptr(), up.data_ptr(), out.data_ptr(), gate.numel(), torch.get_num_threads())
    return out


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:  # pyright: ignore
        gate, up = gate.contiguous(), up.contiguous()
        ctx.save_for_backward(gate, up)
        return _product(gate, up)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        gate, up = ctx.saved_tensors
        backward = _kernel(gate.dtype, "gated_backward")
        assert backward is not None
        grad, of_gate, of_up = grad.contiguous(), torch.empty_like(gate), torch.empty_like(up)
        places = [each.data_ptr() for each in (gate, up, grad, of_gate, of_up)]
        backward(*places, gate.numel(), torch.get_num_threads())
        return of_gate, of_up


@functools.cache
@torch.inference_mode(mode=False)
def available(dtype: torch.dtype) -> bool:
    """Whether the kernels are there for this kind of number, and give torch's results and gradients."""
    if _kernel(dtype, "gated") is None:
        return False
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    for count in (1, 37):
        if not same(gated, lambda gate, up: F.silu(gate) * up, (4 * normal(3, count), normal(3, count))):
            return False
    for size in (6, 32, 80):
        q, k, cos, sin = normal(2, 3, 5, size), normal(2, 3, 2, size), normal(2, 3, size), normal(2, 3, size)
        kernel, plain = (functools.partial(each, cos=cos, sin=sin) for each in (rotary, _by_torch))
        if not same(kernel, plain, (q.transpose(1, 2), k.transpose(1, 2))):
            return False
    return True


def _by_torch(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> list[Tensor]:
    halves = [torch.cat((-x[..., x.shape[-1] // 2 :], x[..., : x.shape[-1] // 2]), dim=-1) for x in (q, k)]
    return [x * cos[:, None] + half * sin[:, None] for x, half in zip((q, k), halves, strict=True)]


@torch.inference_mode(mode=False)
@torch.enable_grad()
def same(kernel: Callable[..., Any], plain: Callable[..., Any], inputs: tuple[Tensor, ...]) -> bool:
    """Whether two functions give the same, one tensor or several, and the same gradients."""
    found: list[list[Tensor]] = []
    for function in (kernel, plain):
        wanted = [each.detach().clone().requires_grad_() for each in inputs]
        out = function(*wanted)
        outs = [out] if isinstance(out, Tensor) else list(out)
        grads = [torch.linspace(-1, 1, each.numel()).view(each.shape).to(each.dtype) for each in outs]
        found.append([*(each.detach() for each in outs), *torch.autograd.grad(outs, wanted, grads)])
    return len(found[0]) == len(found[1]) and all(map(_close, *found))


def _close(a: Tensor, b: Tensor) -> bool:
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    close = TOLERANCE[a.dtype]
    return torch.allclose(a, b, atol=close * max(1.0, float(b.abs().max())), rtol=close)
