"""Large buffers of zeros: as torch's, in huge pages, and gone when they are gone."""

import mmap
import sys
from pathlib import Path

import pytest
import torch

from gruppo.rollout.pages import HUGE, SMALLEST, zeros

linux = pytest.mark.skipif(sys.platform != "linux", reason="huge pages are Linux's")
ROWS = SMALLEST // 1024


def kilobytes(name: str, file: str = "/proc/self/status") -> int:
    return sum(int(line.split()[1]) for line in Path(file).read_text().splitlines() if line.startswith(f"{name}:"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_zeros_of_the_kind_that_can_be_written(dtype: torch.dtype):
    for rows in (ROWS - 1, ROWS, 3 * ROWS + 5):
        found = zeros((rows, 2, 256), torch.empty(0, dtype=dtype))
        assert (found.shape, found.dtype, found.is_contiguous()) == ((rows, 2, 256), dtype, True)
        assert not found.any()
        found[-1, 1, 255] = 3
        assert found.sum() == 3


@linux
def test_a_large_one_is_in_huge_pages_and_a_small_one_is_torchs():
    large, small = (zeros((rows, 256), torch.empty(0)) for rows in (8 * ROWS, ROWS - 1))
    assert large.data_ptr() % HUGE == 0
    assert small.untyped_storage().resizable()
    assert not large.untyped_storage().resizable()
    if "[never]" in Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text():
        pytest.skip("this system gives no huge pages")
    before = kilobytes("AnonHugePages", "/proc/self/smaps_rollup")
    large.fill_(1)
    assert kilobytes("AnonHugePages", "/proc/self/smaps_rollup") - before >= (8 * SMALLEST >> 10) - 4096


@linux
def test_memory_goes_back_with_the_tensor():
    before = kilobytes("VmRSS")
    found = zeros((64 * ROWS, 256), torch.empty(0)).fill_(1)[1:]
    assert kilobytes("VmRSS") - before > 250_000
    del found
    assert kilobytes("VmRSS") - before < 20_000


@linux
def test_without_huge_pages_they_are_torchs(monkeypatch: pytest.MonkeyPatch):
    class Refusing(mmap.mmap):
        def madvise(self, *more: int) -> None:
            raise OSError(22, "Invalid argument")

    monkeypatch.setattr("gruppo.rollout.pages.mmap.mmap", Refusing)
    found = zeros((ROWS, 256), torch.empty(0))
    assert found.untyped_storage().resizable()
    assert not found.any()
