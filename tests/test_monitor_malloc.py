"""Memory that the C library keeps goes back to the system."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gruppo.monitor.malloc import _glibc, give_back, keep


def resident() -> int:
    """MiB of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) >> 8


pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or _glibc() is None, reason="glibc 2.33 or newer is needed"
)

FAULTS = """
import resource, sys, torch
from gruppo.monitor.malloc import keep
if sys.argv[1] == "keep":
    assert keep()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    del [torch.ones(1 << 20) for _ in range(20)][:]
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str, **environment: str) -> int:
    """Pages fetched by ten rounds of 20 blocks of 4 MiB, which are 20,480 pages a round."""
    command = [sys.executable, "-c", FAULTS, how]
    found = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **environment})
    return int(found.stdout)


def test_a_round_finds_the_pages_of_the_one_before() -> None:
    kept = faults("keep")
    assert 20_480 <= kept < 1.6 * 20_480
    assert faults("leave") > 1.3 * kept


def test_what_the_user_has_set_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    assert not keep.__wrapped__()


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
