"""float32 products of an update on AMD's processors: by oneDNN, which torch has too, in place of MKL.

torch multiplies float32 matrices by MKL, which on a processor that is not Intel's leaves half of each AVX-512 vector
unused. oneDNN's kernels do not. torch takes them where `set_float32_matmul_precision("medium")` allows products to be
computed in bfloat16; but for bfloat16 oneDNN has no kernels without Intel's AMX, so here what comes out is float32, as
exact as MKL's. That is tried once per process: where it does not hold, or where the user has set a precision, nothing
is changed. Nothing is timed, so a run gives the same bits every time.

Measured: benchmarks/update.md.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

EXACT = 1e-6
"""Relative error of a float32 product; bfloat16's is some thousand times as large."""


@contextmanager
def quick_products(device: torch.device) -> Iterator[None]:
    """Inside, float32 products on the CPU take the quicker library, where that is another than torch's own choice.

    Args:
        device: where the products are; elsewhere than on a CPU nothing is changed, since the switch is a GPU's too.
    """
    before = _precision()
    if device.type != "cpu" or before != "highest" or not available():
        yield
        return
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def usual_products() -> Iterator[None]:
    """Inside, torch's own choice again, within `quick_products` too: for products of a few numbers, which oneDNN takes
    longer to begin than MKL to compute."""
    before = _precision()
    if before != "medium" or not available():
        yield
        return
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _precision() -> str:
    """What is set; torch raises where its newer switches contradict each other."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return ""


@functools.cache
def available() -> bool:
    """Whether this is a processor where oneDNN is the quicker one, and still gives float32."""
    if not _amd() or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(*shape, generator=generator) for shape in ((300, 200), (200, 100)))
    before = _precision()
    torch.set_float32_matmul_precision("medium")
    try:
        return all(_exact(*pair) for pair in ((left, right), (right.t(), left.t()), (left.t(), left)))
    finally:
        torch.set_float32_matmul_precision(before)


def _exact(left: Tensor, right: Tensor) -> bool:
    wanted = left.double() @ right.double()
    return float((_multiplied(left, right) - wanted).norm() / wanted.norm()) < EXACT


def _multiplied(left: Tensor, right: Tensor) -> Tensor:
    return left @ right


def _amd() -> bool:
    try:
        return "AuthenticAMD" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
