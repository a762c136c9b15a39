"""One end of the line between a program and its judge: questions, answers, handles.

    question  ("?", changes, forgotten, released, (op, *arguments)), "1" for the first one of a test
    answer    ("=", changes, forgotten, released, value, printed)   or "!" with an exception for the value

The two ends take turns. Whoever has asked answers the other's questions until its own answer comes, so a function
that is passed to the program can be called back, at any depth. `changes` and `forgotten` are the shared containers'
(shared.py); `released` are handles that are held no more.

1. The same code serves both ends; what a peer may ask of this end is decided by `serve`, which each end gives.
2. A line that breaks, or on which nonsense comes, is `Ended` from then on.
"""

import types
from collections import namedtuple
from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

from gruppo.rewards.sandbox.proxies import (
    KINDS,
    SPECIAL,
    Remote,
    RemoteError,
    RemoteNamed,
    is_remote,
    local_class,
)
from gruppo.rewards.sandbox.shared import SharedTable
from gruppo.rewards.sandbox.values import Values, is_library, is_named, library_error
from gruppo.rewards.sandbox.wire import Channel, WireError

Serve = Callable[[str, tuple[Any, ...]], Any]
_FUNCTIONS = (
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.MethodWrapperType,
    partial,
)
_BUILTINS = (int, float, complex, str, bytes, bytearray, list, tuple, dict, set, frozenset)
_ASKED = ("?", "1")
_LIBRARY_ITERATORS = ("builtins", "itertools")


class Ended(BaseException):
    """The other side is gone, or broke the protocol; the message says how."""


class Overtime(BaseException):
    """A test took more than its CPU time."""


class Peer:
    """One end."""

    def __init__(self, channel: Channel, serve: Serve, first: int, strict: bool) -> None:
        self.strict = strict
        self.ended: str | None = None
        self.printed: Callable[[], str] = str
        self.show: Callable[[str], Any] = len
        self.check: Callable[[], Any] = int
        self.on_first: Callable[[], Any] = int
        self.first_of_test = False
        self._channel = channel
        self._serve = serve
        self._shared = SharedTable(first)
        self._values = Values(self._shared, self.export, self.adopt)
        self._mine: dict[int, Any] = {}
        self._numbers: dict[int, int] = {}
        self._described: set[int] = set()
        self._next = 1
        self._classes: dict[int, type] = {}
        self._proxies: WeakValueDictionary[int, Any] = WeakValueDictionary()
        self._released: set[int] = set()
        self._forgotten: tuple[int, ...] = ()

    # -- asking and answering

    def ask(self, op: str, *arguments: Any) -> Any:
        """The other side's answer; raises what it raised there.

        Raises:
            Ended: there is no other side any more.
        """
        self.check()
        mark, self.first_of_test = "1" if self.first_of_test else "?", False
        self._send(mark, (op, *arguments))
        while True:
            frame = self._receive()
            if frame[0] == "?":
                self._answer(frame)
                continue
            printed, value = frame[5], frame[4]
            if type(printed) is str and printed:
                self.show(printed)
            if frame[0] == "=":
                return value
            raise self._raised(op, value)

    def serve_forever(self) -> None:
        """Answer until the line ends."""
        while self.ended is None:
            try:
                frame = self._receive()
            except Ended:
                return
            if frame[0] == "?":
                self._answer(frame)

    def _raised(self, op: str, error: Any) -> BaseException:
        if not isinstance(error, BaseException):
            return self._end("an exception that is none")
        # A StopIteration out of a plain call would end a loop of the tests early, as if all of them had passed.
        if isinstance(error, StopIteration) and op == "call" and self.strict:
            return RuntimeError("the program raised StopIteration")
        return error

    def _answer(self, frame: Any) -> None:
        try:
            op, *arguments = frame[4]
            mark, value = "=", self._serve(op, tuple(arguments))
        except Ended:
            raise
        except BaseException as error:
            mark, value = "!", error.with_traceback(None)
        try:
            self._send(mark, value)
        except Ended:
            raise
        except (Exception, Overtime) as error:  # the value can't cross; that it can't is the answer
            self._send("!", ValueError(f"{type(value).__name__} can't cross: {str(error)[:200]}"))

    def _send(self, mark: str, value: Any) -> None:
        if self.ended is not None:
            raise Ended(self.ended)
        released, self._released = tuple(self._released), set()
        self._shared.begin()
        try:
            changes = self._values.pack_changes()
            if self.strict:  # after the changes: what a test appended to `stack.items` has no other reference left
                self._forgotten += self._shared.prune()
            tail = self._tail(mark, value)
            self._channel.send((mark, changes, self._forgotten, released, *tail))
            self._forgotten = ()
        except OSError:
            raise self._end("it has ended") from None
        except BaseException:
            self._shared.undo()
            self._released |= set(released)
            raise

    def _tail(self, mark: str, value: Any) -> tuple[Any, ...]:
        if mark in _ASKED:
            return (tuple([self._values.pack(item) for item in value]),)
        if mark == "!" and isinstance(value, Overtime):
            return (("overtime",), self.printed())
        return (self._values.pack(value), self.printed())

    def _receive(self) -> tuple[Any, ...]:
        """The next frame, with its trees unpacked."""
        if self.ended is not None:
            raise Ended(self.ended)
        try:
            frame = self._channel.receive()
            return self._opened(frame)
        except (EOFError, OSError):
            raise self._end("it has ended") from None
        except (Ended, Overtime):
            raise
        except Exception as error:
            raise self._end(f"it broke the protocol ({type(error).__name__})") from None

    def _opened(self, frame: Any) -> tuple[Any, ...]:
        mark, changes, forgotten, released, *tail = frame
        asked = mark in _ASKED
        if (not asked and mark not in ("=", "!")) or len(tail) != (1 if asked else 2):
            raise WireError("no message")
        self._shared.begin()
        self._values.unpack_changes(changes)
        self._shared.forget(forgotten)
        for number in released:
            self._numbers.pop(id(self._mine.pop(number, None)), None)
        if mark == "1":
            self.on_first()
        if asked:
            return ("?", None, None, None, tuple([self._values.unpack(item) for item in tail[0]]))
        value = Overtime() if tail[0] == ("overtime",) else self._values.unpack(tail[0])
        return (mark, None, None, None, value, tail[1])

    def _end(self, how: str) -> Ended:
        self.ended = how
        return Ended(how)

    # -- handles

    def release(self, number: int) -> None:
        """A stand-in is gone; the other side need not keep the object for it."""
        self._released.add(number)

    def export(self, value: Any) -> tuple[Any, ...]:
        """The handle of an object that stays here, or of one of the other side's that goes back to it."""
        kind = type(value)
        if is_remote(value) and value is not Remote:
            return ("p", value._gruppo_handle if not isinstance(value, type) else value._gruppo_number)
        if isinstance(value, type) and issubclass(kind, type):
            return self._describe(value)
        number = self._number(value)
        if kind in _FUNCTIONS:
            return ("h", number, "function", None)
        if kind is types.GeneratorType:
            return ("h", number, "generator", None)
        if kind.__module__ in _LIBRARY_ITERATORS and "__next__" in vars(kind):
            return ("h", number, "iterator", None)
        args = self._values.pack(value.args) if isinstance(value, BaseException) else None
        return ("h", number, self._describe(kind), args)

    def _number(self, value: Any) -> int:
        number = self._numbers.get(id(value))
        if number is None:
            number, self._next = self._next, self._next + 1
            self._mine[number] = value
            self._numbers[id(value)] = number
        return number

    def _describe(self, kind: type) -> tuple[Any, ...]:
        number = self._number(kind)
        if number in self._described:
            return ("k", number)
        self._described.add(number)
        bases = []
        for base in kind.__bases__:
            if issubclass(base, BaseException) and is_library(base.__module__):
                bases.append(("e", base.__module__, base.__qualname__))
            elif not is_library(base.__module__):
                bases.append(self._describe(base))
        fields = kind._fields if issubclass(kind, tuple) and is_named(kind) else None  # type: ignore[attr-defined]
        specials = () if fields is not None else tuple(_specials(kind))  # a named tuple crosses by value
        return ("k", number, kind.__name__, tuple(bases), specials, fields)

    def adopt(self, tree: tuple[Any, ...]) -> Any:
        """The object of a handle: this side's own, or a stand-in."""
        if tree[0] == "p":
            return self._mine[tree[1]]
        if tree[0] == "k":
            return self._adopt_class(tree)
        _, number, kind, args = tree
        if type(number) is not int:
            raise WireError("a handle that is no number")
        self._released.discard(number)
        known = self._proxies.get(number)
        if known is None:
            known = self._stand_in(number, kind, args)
            self._proxies[number] = known
        return known

    def _stand_in(self, number: int, kind: Any, args: Any) -> Any:
        local = self._standard(kind) if type(kind) is str else self._adopt_class(kind)
        if issubclass(local, BaseException):
            error = local.__new__(local)
            error.args = self._values.unpack(args)
            error._gruppo_handle = number  # type: ignore[attr-defined]
            return error
        proxy = object.__new__(local)
        object.__setattr__(proxy, "_gruppo_handle", number)
        return proxy

    def _standard(self, kind: str) -> type:
        key = -1 - ("function", "iterator", "generator").index(kind)
        if key not in self._classes:
            self._classes[key] = local_class(self, kind, KINDS[kind], frozenset())
        return self._classes[key]

    def _adopt_class(self, tree: tuple[Any, ...]) -> type:
        if len(tree) == 2:
            return self._classes[tree[1]]
        _, number, name, base_trees, specials, fields = tree
        if type(number) is not int or number < 0 or not str(name).isidentifier():
            raise WireError("a class without number or name")
        bases = [self._base(base) for base in base_trees]
        if number not in self._classes:
            specials = () if fields is not None else specials
            local = local_class(self, name, self._bases(name, bases, fields), frozenset(specials))
            type.__setattr__(local, "_gruppo_number", number)
            self._classes[number] = local
        return self._classes[number]

    def _base(self, tree: Any) -> type:
        if tree[0] == "e":
            return library_error(tree[1], tree[2]) or Exception
        return self._adopt_class(tree)

    def _bases(self, name: str, bases: list[type], fields: Any) -> tuple[type, ...]:
        """The local bases, with one of the stand-ins' own kinds among them."""
        if fields is not None and not any(issubclass(base, RemoteNamed) for base in bases):
            return (RemoteNamed, namedtuple(name, fields))
        if any(issubclass(base, BaseException) for base in bases):
            errors = tuple(base for base in bases if issubclass(base, BaseException))
            return errors if any(issubclass(base, RemoteError) for base in errors) else (RemoteError, *errors)
        return tuple(bases) or (Remote,)


def _specials(kind: type) -> list[str]:
    """The special methods that a class or its bases define, and "plain" for a subclass of a built-in type."""
    library = (object, BaseException)
    defined: set[str] = set()
    for base in reversed(kind.__mro__):
        if base in library or (issubclass(base, BaseException) and is_library(base.__module__)):
            continue
        for name in SPECIAL & vars(base).keys():
            defined.discard(name) if vars(base)[name] is None else defined.add(name)
    if issubclass(kind, _BUILTINS):
        defined.add("plain")
    return sorted(defined)
