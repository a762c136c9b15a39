"""The process of the untrusted program: runs it, and answers the judge's questions about it.

Nothing of the tests is here: no source, no expected value, no verdict. Whatever the program does to this process, to
this module's objects or to the line itself, it can change only what it answers. The tests see its top-level names.

1. The program runs as a module named `program`, not as `__main__`: a block under `if __name__ == "__main__":` is for
   programs that are run (script.py), not for tests that call its functions.
2. What it prints goes along with each answer, and is printed where the tests run.
"""

import copy
import io
import sys
import types
from collections.abc import Callable
from typing import Any

from gruppo.rewards.sandbox import wire
from gruppo.rewards.sandbox.alarm import Alarm
from gruppo.rewards.sandbox.peer import Peer
from gruppo.rewards.sandbox.pipe import Pipe
from gruppo.rewards.sandbox.proxies import plain_base

FILENAME = "<program>"
MODULE = "program"
_MOST_PRINTED = 1 << 18


class _Printed(io.TextIOBase):
    """Standard output until the next answer; beyond a bound the rest is dropped."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._room = _MOST_PRINTED

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self._parts.append(text[: self._room])
        self._room -= min(len(text), self._room)
        return len(text)

    def take(self) -> str:
        """What was printed since the last time."""
        text = "".join(self._parts) if self._parts else ""
        self._parts, self._room = [], _MOST_PRINTED
        return text


class _Program:
    """The program's module and the operations on it."""

    def __init__(self, source: str, seconds: float) -> None:
        self.printed = _Printed()
        self._source = source
        self.alarm = Alarm(seconds, FILENAME)
        self._module = types.ModuleType(MODULE)
        self._ops: dict[str, Callable[..., Any]] = {
            "call": lambda target, args, kwargs: target(*args, **kwargs),
            "op": lambda target, name, args, kwargs: getattr(type(target), name)(target, *args, **kwargs),
            "get": getattr,
            "set": setattr,
            "del": delattr,
            "dir": dir,
            "iter": iter,
            "item": lambda target, key: target[key],
            "copy": lambda target, deep: copy.deepcopy(target) if deep else copy.copy(target),
            "plain": plain_base,
            "get_of": lambda kind, name, items: getattr(tuple.__new__(kind, items), name),
            "name": lambda name: self._module.__dict__[name],
            "load": self.load,
        }

    def serve(self, op: str, arguments: tuple[Any, ...]) -> Any:
        """The answer to one question."""
        return self._ops[op](*arguments)

    def load(self, wanted: tuple[str, ...]) -> tuple[Any, ...]:
        """Compile the program and run its top level: True, its names, and those of the wanted ones that can be called.

        Where it does not compile, False and the exception.
        """
        try:
            code = compile(self._source, FILENAME, "exec", dont_inherit=True)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            return False, error.with_traceback(None)
        sys.modules[MODULE] = self._module
        sys.stdout = self.printed
        self.alarm.begin()
        space = self._module.__dict__
        exec(code, space)
        names = tuple(name for name in space if type(name) is str and not name.startswith("__"))
        return True, names, tuple((name, space[name]) for name in wanted if callable(space.get(name)))


def serve(payload: bytes, pipe: Pipe | None) -> None:
    """The entry: the payload is the program and the CPU seconds of a test."""
    assert pipe is not None
    source, seconds = wire.decode(payload)
    program = _Program(source, seconds)
    peer = Peer(wire.Channel(pipe.read, pipe.write), program.serve, first=1, strict=False)
    peer.printed = program.printed.take
    peer.on_first = program.alarm.begin
    peer.serve_forever()
