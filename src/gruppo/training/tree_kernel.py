"""Attention by trees on a CPU, by a kernel of our own where the machine has a C compiler.

Legend: L tokens of a row, H heads, D their size, K key heads.

`tree_kernel.c` says why torch's own is slow here. The kernel is compiled at its first use (`monitor.native`) and
checked against torch once per process and kind of number; where it is absent or differs, torch's attention does it.
"""

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gruppo.errors import TrainingError
from gruppo.monitor import native
from gruppo.monitor.native import LANES
from gruppo.training.tree_layout import Layout, Span

SOURCE = Path(__file__).with_suffix(".c")
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.03}


def takes(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether the kernel is there and made for queries [L, H, D], keys and values [L, K, D]."""
    fits = q.device.type == "cpu" and q.dtype == k.dtype == v.dtype and k.shape == v.shape
    return fits and q.shape[-1] % LANES == 0 and available(q.dtype)


class _Given(ctypes.Structure):
    """Where numbers of heads lie, as in the kernel's source."""

    _fields_ = (("at", ctypes.c_void_p), ("token", ctypes.c_int64), ("head", ctypes.c_int64))

    @classmethod
    def of(cls, values: Tensor) -> "_Given":
        assert values.stride(2) == 1
        return cls(values.data_ptr(), values.stride(0), values.stride(1))


class _Call(ctypes.Structure):
    """As in the kernel's source."""

    _fields_ = (
        *((name, _Given) for name in ("queries", "keys", "values", "grad")),
        *((name, ctypes.c_void_p) for name in ("segments", "ends")),
        *((name, ctypes.c_int64) for name in ("trees", "heads", "group", "size", "longest_prompt", "longest")),
        ("window", ctypes.c_int64),
        ("scaling", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in ("out", "lse", "grad_queries", "grad_keys", "grad_values")),
    )


def tree_attention(q: Tensor, k: Tensor, v: Tensor, layout: Layout, scale: float, window: int | None = None) -> Tensor:
    """Attention [L, H, D], with gradients.

    Args:
        q: [L, H, D].
        k: [L, K, D].
        v: as k.
        layout: the trees of the row; they cover it.
        scale: of the products.
        window: a token sees so many, itself counted; None: all.

    Raises:
        TrainingError: no memory is left for the scores of a block and the gradients of the prompts.
    """
    return _TreeAttention.apply(q, k, v, layout, scale, window)  # pyright: ignore[reportReturnType]


class _TreeAttention(torch.autograd.Function):
    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, layout: Layout, scale: float, window: int | None
    ) -> Tensor:
        q, k, v = (_side_by_side(each) for each in (q, k, v))
        out = q.new_empty(q.shape)
        lse = q.new_empty(q.shape[:2], dtype=torch.float32)
        _run(_call(q, k, v, layout, scale, window, out, lse), q.dtype, backward=False)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.layout, ctx.scale, ctx.window = layout, scale, window
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        q, k, v, out, lse = ctx.saved_tensors
        grad = _side_by_side(grad)
        call = _call(q, k, v, ctx.layout, ctx.scale, ctx.window, out, lse)
        found = [each.new_empty(each.shape) for each in (q, k, v)]
        call.grad = _Given.of(grad)
        call.grad_queries, call.grad_keys, call.grad_values = (each.data_ptr() for each in found)
        _run(call, q.dtype, backward=True)
        return *found, None, None, None


def _side_by_side(values: Tensor) -> Tensor:
    """A head's numbers one behind the other."""
    return values if values.stride(2) == 1 else values.contiguous()


def _call(
    q: Tensor, k: Tensor, v: Tensor, layout: Layout, scale: float, window: int | None, out: Tensor, lse: Tensor
) -> _Call:
    segments, ends = layout.segments
    heads = k.shape[1]
    longest_prompt, longest = segments[:, 1].max(), segments[:, 3].max()
    return _Call(
        *(_Given.of(each) for each in (q, k, v, q)),
        *(segments.ctypes.data, ends.ctypes.data),
        *(len(ends), heads, q.shape[1] // heads, q.shape[2], int(longest_prompt), int(longest)),
        *(window or 0, scale, out.data_ptr(), lse.data_ptr(), None, None, None),
    )


def _run(call: _Call, dtype: torch.dtype, *, backward: bool) -> None:
    kernel = _kernel(dtype)
    assert kernel is not None
    threads = torch.get_num_threads()
    # A task is a key head of a tree; with fewer tasks than threads each is cut into parts.
    parts = 1 if threads == 1 else -(-2 * threads // (call.trees * call.heads))
    if kernel(ctypes.byref(call), backward, parts, threads):
        raise TrainingError("no memory for the attention of an update; lower micro_batch_tokens")


@functools.cache
def _kernel(dtype: torch.dtype) -> Callable[..., int] | None:
    arguments = (ctypes.POINTER(_Call), ctypes.c_int, ctypes.c_int64, ctypes.c_int)
    return native.function(SOURCE, dtype, "tree_attention", arguments)


@functools.cache
def available(dtype: torch.dtype) -> bool:
    """Whether the kernel is there for this kind of number, and gives what torch gives."""
    if _kernel(dtype) is None:
        return False
    generator = torch.Generator().manual_seed(0)
    with torch.enable_grad():
        return all(_agrees(dtype, group, size, generator) for group, size in ((1, 16), (2, 48), (3, 64)))


def _agrees(dtype: torch.dtype, group: int, size: int, generator: torch.Generator) -> bool:
    """Output and gradients on a tree with a prompt of 21 tokens, and on one of a single token."""
    layout = Layout((Span(0, 21, (37, 1, 0, 18)), Span(77, 1, ())))
    shapes = ((78, 2 * group, size), (78, 2, size), (78, 2, size), (78, 2 * group, size))
    q, k, v, grad = (torch.randn(*shape, generator=generator).to(dtype) for shape in shapes)
    inputs = [each.requires_grad_() for each in (q, k, v)]
    out = tree_attention(q, k, v, layout, size**-0.5)
    found = [out, *torch.autograd.grad(out, inputs, grad)]
    exact = [each.detach().float().requires_grad_() for each in inputs]
    wide = [exact[0], *(each.repeat_interleave(group, dim=1) for each in exact[1:])]
    scores = torch.einsum("lhd,mhd->hlm", *wide[:2]) * size**-0.5
    mask = torch.block_diag(*(layout.mask(number, None, q.device) for number in range(2)))
    wanted = torch.einsum("hlm,mhd->lhd", scores.masked_fill(~mask, float("-inf")).softmax(-1), wide[2])
    every = [wanted, *torch.autograd.grad(wanted, exact, grad.float())]
    return all(
        bool((one.float() - other).norm() <= TOLERANCE[dtype] * other.norm())
        for one, other in zip(found, every, strict=True)
    )
