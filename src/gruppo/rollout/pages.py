"""Zeros for large buffers, in huge pages where Linux has them.

A buffer of 100 MB in pages of 4 KiB is 25,000 faults when it is first written, of 2 to 4 microseconds each on a virtual
machine, and its readers miss the processor's table of pages all the time. In pages of 2 MiB it is 50 faults. torch's
own zeros are in huge pages only where the system gives them to every process unasked, or with THP_MEM_ALLOC_ENABLE in
the environment before torch starts; and the C library may keep what they held when they are gone.
"""

import mmap
import sys
from math import prod

import torch
from torch import Tensor

HUGE = 2 << 20
"""Bytes of a huge page."""
SMALLEST = 2 * HUGE
"""Bytes of a buffer that gains."""


def zeros(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Zeros of the shape, of the kind and on the device of `like`."""
    size = prod(shape) * like.element_size()
    if like.device.type != "cpu" or sys.platform != "linux" or size < SMALLEST:
        return like.new_zeros(shape)
    try:
        pages = mmap.mmap(-1, size + HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        pages.madvise(mmap.MADV_HUGEPAGE)
    except OSError:  # no memory, or a system without huge pages
        return like.new_zeros(shape)
    # The tensor holds the pages, which go back to the system with it.
    start = -torch.frombuffer(pages, dtype=torch.uint8).data_ptr() % HUGE
    return torch.frombuffer(pages, dtype=like.dtype, offset=start, count=prod(shape)).view(shape)
