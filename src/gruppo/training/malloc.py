"""What the C library keeps of freed memory, given back before it adds to the peak.

glibc returns a block below 32 MiB to the system late or never, and what is left between blocks in use rarely fits the
next micro-batch, whose rows have other lengths: the resident memory of a CPU's update grows with the steps by what no
tensor uses. Giving it back takes some 0.1 ms a MiB, and as much again when the pages are needed, so it is done only
where much is kept. Measured in benchmarks/update.md.
"""

import ctypes
from functools import cache
from typing import Any

KEPT = 384 << 20
"""Bytes that the C library may keep."""


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


def give_back(kept: int = KEPT) -> bool:
    """Have the C library return what it keeps, where that is more than `kept` bytes; whether it was asked to."""
    library = _glibc()
    if library is None or library.mallinfo2().fordblks <= kept:
        return False
    library.malloc_trim(0)
    return True
