"""Python objects as trees of plain values (see wire.py), and back.

An atom (None, bool, int, float, complex, str, bytes) is itself; everything else is a tuple that starts with its kind:

    tuple "t", frozenset "z", shared containers "L" (kind, number, items), "F" (default dict) and "r" (number),
    range "R", slice "S", Decimal, Fraction, dates and times "D" (kind, parts), names of built-in types "y", named
    tuples "n", dict views "v", exceptions of the library "e" and their classes "x", and handles: "h" (mine: number
    and class), "p" (yours: number), "k" (a class of mine).

1. Only exact types cross by value. An instance of a subclass, as of any other class, crosses as a handle: it stays
   where it is, and the other side asks it (see proxies.py).
2. What unpacking may build is this list and no more: no name in a message is ever imported or looked up elsewhere.
"""

import datetime
import sys
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any
from uuid import UUID

from gruppo.rewards.sandbox.shared import KINDS, SharedTable, items_of, refill
from gruppo.rewards.sandbox.wire import WireError

ATOMS = frozenset({type(None), bool, int, float, complex, str, bytes})
_CONTAINERS = {"l": list, "d": dict, "s": set, "b": bytearray, "q": deque, "O": OrderedDict, "C": Counter}
_LETTERS = {kind: letter for letter, kind in _CONTAINERS.items()}
_TYPES: dict[str, Any] = {
    kind.__name__: kind
    for kind in (bool, int, float, complex, str, bytes, bytearray, list, tuple, dict, set, frozenset, range, object)
} | {"NoneType": type(None)}
_SINGLES: dict[str, Any] = {"...": Ellipsis, "NotImplemented": NotImplemented}
_VIEWS = {type({}.keys()): "keys", type({}.values()): "values", type({}.items()): "items"}


def _delta(days: int, seconds: int, microseconds: int) -> datetime.timedelta:
    return datetime.timedelta(days, seconds, microseconds)


_BUILD: dict[str, Callable[..., Any]] = {
    "Decimal": Decimal,
    "Fraction": Fraction,
    "UUID": UUID,
    "date": datetime.date,
    "time": datetime.time,
    "datetime": datetime.datetime,
    "timedelta": _delta,
    "timezone": lambda offset: datetime.timezone(offset),
}


def _clock(value: Any) -> tuple[Any, ...]:
    return (value.hour, value.minute, value.second, value.microsecond, value.tzinfo)


_PARTS: dict[type, Callable[[Any], tuple[Any, ...]]] = {
    Decimal: lambda value: (str(value),),
    Fraction: lambda value: (value.numerator, value.denominator),
    UUID: lambda value: (str(value),),
    datetime.date: lambda value: (value.year, value.month, value.day),
    datetime.time: _clock,
    datetime.datetime: lambda value: (value.year, value.month, value.day, *_clock(value)),
    datetime.timedelta: lambda value: (value.days, value.seconds, value.microseconds),
    datetime.timezone: lambda value: (value.utcoffset(None),),
}


class Values:
    """Packs and unpacks for one side; `export` and `adopt` are the handles' (see peer.py)."""

    def __init__(
        self, shared: SharedTable, export: Callable[[Any], tuple[Any, ...]], adopt: Callable[[tuple[Any, ...]], Any]
    ) -> None:
        self.shared = shared
        self._export = export
        self._adopt = adopt
        self._named: dict[tuple[Any, ...], type] = {}

    def pack(self, value: Any) -> Any:
        """The tree of an object."""
        kind = type(value)
        if kind in ATOMS:
            return value
        if kind is tuple:
            return ("t", self._pack_all(value))
        if kind in KINDS:
            return self._pack_container(value, kind)
        if kind is frozenset:
            return ("z", self._pack_all(value))
        return self._pack_rare(value, kind)

    def _pack_all(self, items: Any) -> tuple[Any, ...]:
        items = tuple(items)
        if ATOMS.issuperset(map(type, items)):
            return items
        return tuple([self.pack(item) for item in items])

    def _pack_container(self, value: Any, kind: type) -> Any:
        number = self.shared.number(value)
        if number is not None:
            return ("r", number)
        number = self.shared.add(value)
        items = items_of(value)
        self.shared.crossed(number, items)
        if kind is defaultdict:
            return ("F", number, self.pack(value.default_factory), self._pack_all(items))
        extra = value.maxlen if kind is deque else None
        return ("L", _LETTERS[kind], number, extra, self._pack_all(items))

    def _pack_rare(self, value: Any, kind: type) -> Any:
        if kind is range:
            return ("R", value.start, value.stop, value.step)
        if kind is slice:
            return ("S", self.pack(value.start), self.pack(value.stop), self.pack(value.step))
        parts = _PARTS.get(kind)
        if parts is not None and not (kind is datetime.datetime and value.fold):
            return ("D", kind.__name__, self._pack_all(parts(value)))
        if value is Ellipsis or value is NotImplemented:
            return ("1", "..." if value is Ellipsis else "NotImplemented")
        if kind is type and _TYPES.get(value.__name__) is value:
            return ("y", value.__name__)
        if kind is type and issubclass(value, BaseException):
            if library_error(value.__module__, value.__qualname__) is value:
                return ("x", value.__module__, value.__qualname__)
            return self._export(value)
        if kind in _VIEWS:
            return ("v", _VIEWS[kind], self._pack_all(value))
        if isinstance(value, tuple) and is_named(kind):
            return ("n", self._export(kind), kind.__name__, kind._fields, self._pack_all(value))  # type: ignore[attr-defined]
        if isinstance(value, BaseException):
            return self._pack_exception(value, kind)
        return self._export(value)

    def _pack_exception(self, error: BaseException, kind: type) -> Any:
        known = getattr(sys.modules.get(kind.__module__), kind.__qualname__, None) is kind
        if known and is_library(kind.__module__):
            return ("e", kind.__module__, kind.__qualname__, self._pack_all(error.args))
        return self._export(error)

    def pack_changes(self) -> tuple[Any, ...]:
        """The shared containers that have changed, with what they hold now."""
        out = []
        for number, items in self.shared.changed():
            self.shared.crossed(number, items)
            out.append((number, self._pack_all(items)))
        return tuple(out)

    def unpack_changes(self, changes: Any) -> None:
        """Take over what the other side changed."""
        for number, tree in changes:
            container = self.shared.container(number)
            items = self._unpack_all(tree)
            refill(container, items)
            self.shared.crossed(number, items_of(container))

    def unpack(self, tree: Any) -> Any:
        """The object of a tree. Raises WireError, or what the tree's parts raise, for a tree that pack never made."""
        if type(tree) is not tuple:
            return tree
        read = _UNPACK.get(tree[0]) if tree and type(tree[0]) is str else None
        if read is None:
            raise WireError("a tuple of no known kind")
        return read(self, tree)

    def _unpack_all(self, tree: Any) -> tuple[Any, ...]:
        if type(tree) is not tuple:
            raise WireError("items that are no tuple")
        return tuple([self.unpack(item) if type(item) is tuple else item for item in tree])

    def _unpack_container(self, tree: tuple[Any, ...]) -> Any:
        _, letter, number, extra, items = tree
        container = deque(maxlen=extra) if letter == "q" else _CONTAINERS[letter]()
        return self._fill(container, number, items)

    def _unpack_defaultdict(self, tree: tuple[Any, ...]) -> Any:
        _, number, factory, items = tree
        return self._fill(defaultdict(self.unpack(factory)), number, items)

    def _fill(self, container: Any, number: int, items: Any) -> Any:
        if type(number) is not int:
            raise WireError("a container without a number")
        self.shared.add(container, number)
        refill(container, self._unpack_all(items))
        self.shared.crossed(number, items_of(container))
        return container

    def _unpack_view(self, tree: tuple[Any, ...]) -> Any:
        _, name, items = tree
        values = self._unpack_all(items)
        if name == "items":
            return dict(values).items()
        return dict.fromkeys(values).keys() if name == "keys" else dict(enumerate(values)).values()

    def _unpack_named(self, tree: tuple[Any, ...]) -> Any:
        _, owner, name, fields, items = tree
        kind = self._adopt(owner)
        if not (isinstance(kind, type) and issubclass(kind, tuple)):
            key = (id(kind), name, fields)
            if key not in self._named:
                self._named[key] = namedtuple(name, fields)
            kind = self._named[key]
        return tuple.__new__(kind, self._unpack_all(items))

    def _unpack_exception(self, tree: tuple[Any, ...]) -> BaseException:
        _, module, name, args = tree
        kind = library_error(module, name)
        values = self._unpack_all(args)
        if kind is None:
            return Exception(*values)
        try:
            return kind(*values)
        except Exception:
            error = kind.__new__(kind)
            error.args = values
            return error


def library_error(module: Any, name: Any) -> type[BaseException] | None:
    """An exception of the standard library by name, where its module is loaded already."""
    kind = getattr(sys.modules.get(module), name, None) if is_library(module) and type(name) is str else None
    return kind if isinstance(kind, type) and issubclass(kind, BaseException) else None


def is_library(module: Any) -> bool:
    """Whether a module is of the standard library (never one of ours)."""
    return type(module) is str and module.partition(".")[0] in sys.stdlib_module_names and module != "__main__"


def is_named(kind: type) -> bool:
    """Whether a tuple class has named fields."""
    fields = getattr(kind, "_fields", None)
    return type(fields) is tuple and all(type(field) is str for field in fields)


_UNPACK: dict[str, Callable[[Values, Any], Any]] = {
    "t": lambda values, tree: values._unpack_all(tree[1]),
    "L": Values._unpack_container,
    "F": Values._unpack_defaultdict,
    "r": lambda values, tree: values.shared.container(tree[1]),
    "z": lambda values, tree: frozenset(values._unpack_all(tree[1])),
    "R": lambda values, tree: range(tree[1], tree[2], tree[3]),
    "S": lambda values, tree: slice(*values._unpack_all(tree[1:])),
    "D": lambda values, tree: _BUILD[tree[1]](*values._unpack_all(tree[2])),
    "1": lambda values, tree: _SINGLES[tree[1]],
    "y": lambda values, tree: _TYPES[tree[1]],
    "x": lambda values, tree: library_error(tree[1], tree[2]) or Exception,
    "v": Values._unpack_view,
    "n": Values._unpack_named,
    "e": Values._unpack_exception,
    "h": lambda values, tree: values._adopt(tree),
    "p": lambda values, tree: values._adopt(tree),
    "k": lambda values, tree: values._adopt(tree),
}
