"""The process of the tests: runs them against stand-ins of the program's names, and alone writes the verdict.

The verdict is a line of JSON per event: {"tests": n}, then [index, passed, why] for each, and {"failed": why,
"compiled": bool} where the program did not get as far as the tests. {"broken": why} says that the tests themselves
can't be read. It is written at the end and before every longer wait, so that what was judged stands even where the
judge is ended at a limit.

What the program may ask of this process: to call a function that a test passed to it, to take the next item of an
iterator that a test passed to it, and to read and write public attributes of objects of classes that the tests define.
Nothing else: no other attribute, no frames, no globals, no other object.
"""

import ast
import builtins
import contextlib
import importlib
import io
import json
import marshal
import math
import reprlib
import sys
import time
import types
import unittest
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from gruppo.rewards.sandbox import subjects, wire
from gruppo.rewards.sandbox.alarm import Alarm
from gruppo.rewards.sandbox.peer import Ended, Overtime, Peer
from gruppo.rewards.sandbox.pipe import Pipe
from gruppo.rewards.sandbox.proxies import SPECIAL, direct, is_remote
from gruppo.rewards.sandbox.shared import SharedTable
from gruppo.rewards.sandbox.values import Values

MODULE = "tests"
_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, types.MethodType, type)
_SHOWN = 200
_MARGIN = 0.2
_SOON = 0.02
REL_TOL, ABS_TOL = 1e-6, 1e-9
"""How near a float of a call test has to be."""


class Discard(io.TextIOBase):
    """Standard output of the tests."""

    def writable(self) -> bool:
        """Yes."""
        return True

    def write(self, text: str) -> int:
        """Drop it."""
        return len(text)


class Namespace(dict[str, Any]):
    """The tests' globals: what they define, then the program's names, then Python's (see subjects.py, 2)."""

    def __init__(self, peer: Peer, reading: subjects.Reading) -> None:
        super().__init__(__name__=MODULE, __builtins__=builtins)
        self._peer = peer
        self._reading = reading
        self.program: frozenset[str] = frozenset()
        self._kept: dict[str, Any] = {}

    def wanted(self) -> frozenset[str]:
        """The names that the tests leave to the program."""
        return self._reading.free - self._reading.modules

    def load(self, names: tuple[str, ...], values: tuple[tuple[str, Any], ...]) -> None:
        """Take the program's names, and the stand-ins of those that were wanted."""
        self.program = frozenset(names)
        self._kept |= {name: value for name, value in values if name in self.wanted() and is_remote(value)}

    def __missing__(self, name: str) -> Any:
        if name not in self.program or (name in builtins.__dict__ and name not in self._reading.builtin):
            raise KeyError(name)
        if name in self._kept:
            return self._kept[name]
        value = importlib.import_module(name) if name in self._reading.modules else self._peer.ask("name", name)
        if is_remote(value) or isinstance(value, types.ModuleType):
            self._kept[name] = value
        return value


def serve_program(op: str, arguments: tuple[Any, ...]) -> Any:
    """What the program may ask of objects that the tests passed to it; PermissionError for all else."""
    target, *rest = arguments
    own = type(target).__module__ == MODULE
    if op == "call" and (isinstance(target, _FUNCTIONS) or (callable(target) and not is_remote(target))):
        return target(*rest[0], **rest[1])
    if op == "op" and rest[0] in SPECIAL and (own or (rest[0] in ("__next__", "__iter__") and _iterates(target))):
        return getattr(type(target), rest[0])(target, *rest[1], **rest[2])
    if op in ("get", "set", "del") and own and type(rest[0]) is str and not rest[0].startswith("_"):
        return {"get": getattr, "set": setattr, "del": delattr}[op](target, *rest)
    raise PermissionError(f"the tests do not give {op}")


def _iterates(target: Any) -> bool:
    return not is_remote(target) and "__next__" in dir(type(target))


def close(got: Any, wanted: Any) -> bool:
    """Whether a call's result is the expected value: equal, floats near, lists for tuples, keys as JSON has them."""
    if is_remote(got):
        return bool(got == wanted)
    if isinstance(got, float) or isinstance(wanted, float):
        numbers = all(isinstance(item, (int, float)) for item in (got, wanted))
        return numbers and (got == wanted or math.isclose(got, wanted, rel_tol=REL_TOL, abs_tol=ABS_TOL))
    if isinstance(got, (list, tuple)) and isinstance(wanted, (list, tuple)):
        return len(got) == len(wanted) and all(map(close, got, wanted))
    if isinstance(got, Mapping) and isinstance(wanted, Mapping):
        if got.keys() != wanted.keys() and all(isinstance(key, str) for key in wanted):
            got = {str(key): value for key, value in got.items()}
        return got.keys() == wanted.keys() and all(close(got[key], wanted[key]) for key in wanted)
    return type(got == wanted) is bool and got == wanted


class Judge:
    """One program's tests."""

    def __init__(self, pipe: Pipe, tests: tuple[Any, ...]) -> None:
        self._kind, self._tests, self._entry, self._prelude, self._classes, seconds, wall = tests
        self._pipe = pipe
        self._deadline = time.monotonic() + wall - _MARGIN
        self._alarm = Alarm(seconds, subjects.FILENAME)
        self._peer = Peer(wire.Channel(self._read, pipe.write), serve_program, first=2, strict=True)
        self._peer.show = lambda text: sys.stdout.write(text)
        self._peer.check = self._alarm.check
        self._ask = self._peer.ask
        self._got: list[Any] = []
        self._said = bytearray()
        self._peer.ask = self._noting  # type: ignore[method-assign]

    def _noting(self, op: str, *arguments: Any) -> Any:
        """Ask, and keep the last result to show it where a test fails."""
        value = self._ask(op, *arguments)
        if op == "call":
            self._got[:] = [value]
        return value

    def _read(self, size: int) -> bytes:
        if not self._pipe.wait(_SOON):
            self._flush()  # what was judged so far stands, whatever comes of this wait
            if not self._pipe.wait(max(0.0, self._deadline - time.monotonic())):
                raise self._peer._end("it did not answer in time")
        return self._pipe.read(size)

    def _say(self, event: Any) -> None:
        self._said += json.dumps(event).encode() + b"\n"

    def _flush(self) -> None:
        if self._said:
            self._pipe.give_verdict(bytes(self._said))
            self._said.clear()

    def run(self) -> None:
        """Judge."""
        try:
            self._run()
        finally:
            self._alarm.stop()
            self._flush()

    def _run(self) -> None:
        steps = self._steps()
        if steps is None:
            return
        self._say({"tests": sum(test for test, _, _ in steps)})
        sys.stdout = Discard()
        compiled = True
        try:
            compiled, *rest = self._ask("load", tuple(self._namespace.wanted()))
            if not compiled:
                raise rest[0]
            self._namespace.load(*rest)
        except BaseException as error:
            self._say({"failed": self._why(error), "compiled": bool(compiled)})
            return
        self._each(steps)

    def _steps(self) -> list[tuple[bool, str, Callable[[], Any]]] | None:
        """Whether it is a test, its text, what to run; None where the tests can't be read."""
        try:
            if self._kind == "calls":
                names = frozenset(test[0] for test in self._calls())
                self._namespace = Namespace(self._peer, subjects.Reading([], names, frozenset(), names | {"Solution"}))
                return [(True, self._call_label(test), self._call(*test)) for test in self._calls()]
            reading, steps = self._read_steps()
            self._namespace = Namespace(self._peer, reading)
            self._namespace |= {subjects.DIRECT: direct, subjects.CASE: _case}
            if self._prelude:
                self._run_prelude()
            return [(test, label, partial(exec, code, self._namespace)) for test, label, code in steps]
        except Exception as error:
            self._say({"broken": self._why(error)})
            return None

    def _run_prelude(self) -> None:
        """The prompt's imports, functions and constants; its classes are the program's, whose functions know them."""
        for node in ast.parse(self._prelude).body:
            if not isinstance(node, ast.ClassDef):
                with contextlib.suppress(Exception):
                    exec(compile(ast.Module([node], []), subjects.FILENAME, "exec"), self._namespace)
        self._namespace.pop(self._entry, None)

    def _read_steps(self) -> tuple[subjects.Reading, list[tuple[bool, str, types.CodeType]]]:
        """What the tests' text says, and whether each step is a test, its text, its code."""
        if self._kind == "read":
            *names, steps = self._tests
            reading = subjects.Reading([], *map(frozenset, names))
            return reading, [(test, label, marshal.loads(code)) for test, label, code in steps]
        reading = subjects.read(self._tests, self._entry, self._classes)
        return reading, [(step.test, step.label, subjects.compiled(step)) for step in reading.steps]

    def _each(self, steps: list[tuple[bool, str, Callable[[], Any]]]) -> None:
        broken = ""
        index = 0
        for test, label, work in steps:
            why = broken or self._outcome(work)
            if test:
                told = f"{label}: {why}" if why else ""
                self._say([index, not why, told[:600]])
                index += 1
            elif why and not broken:
                broken = f"{why} (in the set-up: {label})"

    def _outcome(self, work: Callable[[], Any]) -> str:
        """Why a step fails; empty where it does not."""
        self._got.clear()
        if self._peer.ended is not None:
            return f"the program had ended: {self._peer.ended}"
        try:
            self._peer.first_of_test = True
            self._alarm.begin()
            work()
        except BaseException as error:
            return self._why(error)
        return "" if self._peer.ended is None else f"the program ended: {self._peer.ended}"

    def _why(self, error: BaseException) -> str:
        if isinstance(error, Overtime):
            return "it took more than its CPU time"
        if isinstance(error, Ended):
            return f"the program ended: {error}"
        got = f"got {_short(self._got[0])}" if self._got and isinstance(error, AssertionError) else ""
        try:
            said = str(error)[:_SHOWN]
        except BaseException:
            said = ""
        if isinstance(error, AssertionError):
            return "; ".join(part for part in (got, said) if part) or "the assertion is false"
        name = type(error).__name__
        return f"{name}: {said}" if said else name

    # -- call tests

    def _calls(self) -> list[tuple[str, Any, Any, Any]]:
        values = Values(SharedTable(0), _no_handles, _no_handles)
        return [tuple(values.unpack(part) for part in test) for test in self._tests]  # type: ignore[misc]

    def _call_label(self, test: tuple[str, Any, Any, Any]) -> str:
        shown = [_short(item) for item in test[1]] + [f"{key}={_short(item)}" for key, item in test[2].items()]
        return f"{test[0]}({', '.join(shown)})"[:120]

    def _call(self, name: str, args: Any, kwargs: Any, wanted: Any) -> Callable[[], Any]:
        def work() -> None:
            namespace = self._namespace
            if name not in namespace.program and "Solution" in namespace.program:
                function = getattr(namespace["Solution"](), name)
            else:
                function = namespace[name] if name in namespace.program else _undefined(name)
            got = function(*args, **kwargs)
            self._got[:] = [got]
            assert any(close(got, value) for value in wanted), f"expected {_short(wanted[0])}"

        return work


def _undefined(name: str) -> Any:
    raise NameError(f"name '{name}' is not defined")


def _no_handles(value: Any) -> Any:
    raise wire.WireError(f"a {type(value).__name__} is no plain value")


def _case(kind: type[unittest.TestCase], name: str) -> None:
    """Run one method of a test case; a skipped one has failed."""
    case = kind(name)
    kind.setUpClass()
    case.setUp()
    try:
        getattr(case, name)()
    finally:
        case.tearDown()


def _short(value: Any) -> str:
    """A plain value as bounded text; the program's own objects by their class alone."""
    if is_remote(value):
        return f"a {type(value).__name__} of the program"
    try:
        text = reprlib.repr(value)
    except BaseException:
        return f"a {type(value).__name__}"
    return text[:_SHOWN]


def judge(payload: bytes, pipe: Pipe | None) -> None:
    """The entry: the payload is the tests (see Judge)."""
    assert pipe is not None
    Judge(pipe, wire.decode(payload)).run()
