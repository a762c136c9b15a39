"""What the C library keeps of freed memory: enough for the next step, and given back before it adds to the peak.

By itself glibc returns the end of its heap to the system after nearly every micro-batch, for the next one to fetch page
by page: at 0.15M parameters 16,000 page faults a step. So it is told to keep as much as is kept anyway (`keep`).

What is left between blocks in use it returns late or never, and that rarely fits what comes next: a micro-batch whose
rows have other lengths, or a step after the engine's trial. Resident memory grows by what no tensor uses. Giving it
back (`give_back`) takes some 0.1 ms a MiB, and as much again when the pages are needed: in an update it is done only
where much is kept. Measured in benchmarks/update.md and docs/log.md.
"""

import ctypes
import os
from functools import cache
from typing import Any

KEPT = 384 << 20
"""Bytes that the C library may keep."""
LARGEST = 32 << 20
"""Bytes from which a block is the system's alone, which is glibc's most."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of glibc's malloc.h."""
TUNED_BY_USER = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
"""Variables of the environment by which somebody has decided otherwise."""


class _Mallinfo(ctypes.Structure):
    """glibc's `struct mallinfo2`; `fordblks` is what is free in all arenas, resident or not."""

    _names = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    _fields_ = [(name, ctypes.c_size_t) for name in _names]


@cache
def _glibc() -> Any:
    """The C library, where it is glibc 2.33 or newer; else None."""
    try:
        library = ctypes.CDLL(None)
        library.mallinfo2.restype = _Mallinfo
        library.malloc_trim.argtypes = [ctypes.c_size_t]
    except (AttributeError, OSError, TypeError):  # another library, or another system
        return None
    return library


@cache
def keep() -> bool:
    """Have the C library keep up to `KEPT` bytes at the end of its heap, as long as the process lives; if it will."""
    library = _glibc()
    if library is None or any(name in os.environ for name in TUNED_BY_USER):
        return False
    # To set either threshold stops glibc from moving both.
    return bool(library.mallopt(M_MMAP_THRESHOLD, LARGEST) and library.mallopt(M_TRIM_THRESHOLD, KEPT))


def give_back(kept: int = KEPT) -> bool:
    """Have the C library return what it keeps, where that is more than `kept` bytes; whether it was asked to."""
    library = _glibc()
    if library is None or library.mallinfo2().fordblks <= kept:
        return False
    library.malloc_trim(0)
    return True
