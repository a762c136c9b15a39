"""The zygote's memory, arranged so that forks of it are cheap: most of what a fork costs is counted in pages."""

import contextlib
import ctypes
import fcntl
import mmap
import os
from collections.abc import Iterable
from pathlib import Path

_HUGE = 2 << 20
_MADV_HUGEPAGE, _MADV_COLLAPSE = 14, 25
_ALL_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def settle() -> None:
    """Give back what is free, and have the kernel put the rest into huge pages, of which a fork has fewer to copy.

    Where it does not, forks take a little longer.
    """
    libc = ctypes.CDLL(None)
    with contextlib.suppress(AttributeError):  # not every C library has it
        libc.malloc_trim(ctypes.c_size_t(0))
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/maps").read_text().splitlines():
            places, rights, _, _, file, *_ = line.split()
            if rights == "rw-p" and file == "0" and "[stack" not in line:
                first, end = (int(place, 16) for place in places.split("-"))
                start, size = -(-first // _HUGE) * _HUGE, end // _HUGE * _HUGE - -(-first // _HUGE) * _HUGE
                if size > 0:
                    for advice in (_MADV_HUGEPAGE, _MADV_COLLAPSE):
                        libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), advice)


def set_apart(pieces: Iterable[bytes]) -> memoryview:
    """These bytes, in a row, in a read-only mapping of their own: forks share it and have no page of it to copy."""
    file = sealed(pieces)
    try:
        return memoryview(mmap.mmap(file, 0, mmap.MAP_PRIVATE, mmap.PROT_READ))
    finally:
        os.close(file)


def sealed(pieces: Iterable[bytes]) -> int:
    """A descriptor of a file in memory, at its beginning, that holds these bytes and that nobody can write to."""
    file = os.memfd_create("gruppo", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    for data in pieces:
        view = memoryview(data)
        while view:
            view = view[os.write(file, view) :]
    os.lseek(file, 0, os.SEEK_SET)
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, _ALL_SEALS)
    return file
