"""Log-probs and entropies from logits on a CPU, by a kernel of our own where the machine has a C compiler.

Legend: N tokens, V vocabulary.

`logprob_kernel.c` says what it spares. It is compiled at its first use (`monitor.native`) and checked against torch
once per process and kind of number; where it is absent or differs, torch's operators do it.
"""

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gruppo.monitor import native

SOURCE = Path(__file__).with_suffix(".c")


def takes(logits: Tensor) -> bool:
    """Whether the kernel is there and made for such logits."""
    return logits.device.type == "cpu" and logits.is_contiguous() and available(logits.dtype)


class _Call(ctypes.Structure):
    """As in the kernel's source."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("logits", "targets")),
        *((name, ctypes.c_int64) for name in ("tokens", "vocabulary")),
        ("temperature", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in ("logprobs", "entropies", "normalisers", "grad")),
    )


def logprobs_and_entropies(logits: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probs [N] of the targets, with gradient, and entropies [N] in nats, without; both in float32.

    Args:
        logits: [N, V]; the backward pass overwrites them with their gradient.
        targets: [N].
        temperature: logits are divided by it.
    """
    return _Logprobs.apply(logits, targets, temperature)  # pyright: ignore[reportReturnType]


class _Logprobs(torch.autograd.Function):
    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, logits: Tensor, targets: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        logits, targets = logits.detach(), targets.contiguous()
        logprobs, entropies, normalisers = torch.empty(3, len(targets))
        ctx.call = _Call(
            *(each.data_ptr() for each in (logits, targets)),
            *(*logits.shape, temperature),
            *(each.data_ptr() for each in (logprobs, entropies, normalisers)),
            None,
        )
        ctx.held = logits, targets, normalisers
        _run(ctx.call, logits.dtype, backward=False)
        ctx.mark_non_differentiable(entropies)
        return logprobs, entropies

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        logits, grad = ctx.held[0], grad.contiguous()
        ctx.call.grad = grad.data_ptr()
        _run(ctx.call, logits.dtype, backward=True)
        logits[:0].zero_()  # what autograd still has of the logits is no longer theirs, and it is told so
        return logits, None, None


def _run(call: _Call, dtype: torch.dtype, *, backward: bool) -> None:
    kernel = _kernel(dtype)
    assert kernel is not None
    kernel(ctypes.byref(call), backward, torch.get_num_threads())


@functools.cache
def _kernel(dtype: torch.dtype) -> Callable[..., None] | None:
    return native.function(SOURCE, dtype, "token_logprobs", (ctypes.POINTER(_Call), ctypes.c_int, ctypes.c_int), None)


@functools.cache
def available(dtype: torch.dtype) -> bool:
    """Whether the kernel is there for this kind of number, and gives what torch gives."""
    if _kernel(dtype) is None:
        return False
    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(5, 1100, generator=generator)).to(dtype)
    targets = torch.tensor([0, 17, 1023, 1024, 1099])
    weights = torch.tensor([1.0, -0.5, 2.0, 0.0, 3.0])
    with torch.enable_grad():
        exact = logits.float().requires_grad_()
        every = torch.log_softmax(exact / 0.7, dim=-1)
        wanted = every[torch.arange(5), targets]
        (gradient,) = torch.autograd.grad(wanted @ weights, exact)
        entropy = -(every.exp() * every).sum(-1)
        ours = logits.clone().requires_grad_()
        found, entropies = logprobs_and_entropies(ours, targets, 0.7)
        (given,) = torch.autograd.grad(found @ weights, ours)
    near = 1e-5 if dtype == torch.float32 else 0.01
    pairs = ((found, wanted, 1e-5), (entropies, entropy, 1e-5), (given.float(), gradient, near))
    return all(bool((one - other).norm() <= far * other.norm()) for one, other, far in pairs)
