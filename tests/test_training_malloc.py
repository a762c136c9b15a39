"""Memory that the C library keeps goes back to the system."""

import sys
from pathlib import Path

import pytest
import torch

from gruppo.training.malloc import _glibc, give_back


def resident() -> int:
    """MiB of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) >> 8


@pytest.mark.skipif(not sys.platform.startswith("linux") or _glibc() is None, reason="glibc 2.33 or newer is needed")
def test_what_lies_between_blocks_in_use_is_given_back() -> None:
    """8,192 blocks of 64 KiB, every other one freed: none at the end of the heap, so nothing goes back by itself."""
    blocks = [torch.ones(1 << 14) for _ in range(8192)]
    kept = blocks[1::2]
    full = resident()
    del blocks
    before = resident()
    assert give_back(kept=64 << 20)
    after = resident()
    assert not give_back(kept=1 << 40)
    assert full - before < 64  # or the C library did it by itself, and this module is of no use
    assert before - after > 128
    assert all(float(block.sum()) == 1 << 14 for block in kept)
