"""Python's garbage collector, kept away from what a run begins with.

A collection of the oldest generation looks through every object there is. Beside torch and transformers that are some
hundred thousand which live to the end: 0.3 s, several times what a step of a small model takes, and as often as new
objects have come that are a quarter of them.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def present_objects_spared() -> Iterator[None]:
    """Inside, what is there now is not looked through again; what is garbage already goes first."""
    if gc.get_freeze_count():  # somebody's own, which is not ours to end
        yield
        return
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
