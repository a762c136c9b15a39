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
        self._alarm = Alarm(seconds, FILENAME)
        self._module = types.ModuleType(MODULE)
        self._code: types.CodeType | None = None
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
            "begin": self._alarm.begin,
            "compile": self.compile,
            "load": self.load,
        }

    def serve(self, op: str, arguments: tuple[Any, ...]) -> Any:
        """The answer to one question."""
        return self._ops[op](*arguments)

    def compile(self) -> None:
        """Compile the program. Raises SyntaxError and whatever else the compiler raises."""
        self._code = compile(self._source, FILENAME, "exec", dont_inherit=True)

    def load(self) -> tuple[str, ...]:
        """Run the program's top level; its names."""
        assert self._code is not None
        sys.modules[MODULE] = self._module
        sys.stdout = self.printed
        self._alarm.begin()
        exec(self._code, self._module.__dict__)
        return tuple(name for name in self._module.__dict__ if type(name) is str and not name.startswith("__"))


def serve(payload: bytes, pipe: Pipe | None) -> None:
    """The entry: the payload is the program and the CPU seconds of a test."""
    assert pipe is not None
    source, seconds = wire.decode(payload)
    program = _Program(source, seconds)
    peer = Peer(wire.Channel(pipe.read, pipe.write), program.serve, first=1, strict=False)
    peer.printed = program.printed.take
    peer.serve_forever()
