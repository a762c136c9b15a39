"""The simplest entry: the payload is a Python program, run as `__main__` with nothing around it."""

import sys
from types import ModuleType

from gruppo.rewards.sandbox.pipe import Pipe


def run_source(payload: bytes, pipe: Pipe | None) -> None:
    """Run the program; the names `pipe` and `__name__` are there for it."""
    main = ModuleType("__main__")
    main.__dict__["pipe"] = pipe
    sys.modules["__main__"] = main
    exec(compile(payload, "<program>", "exec", dont_inherit=True), main.__dict__)
