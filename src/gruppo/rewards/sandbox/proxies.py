"""Local stand-ins for objects that stay in the other process.

Each class there has a local class here, with the same name, its bases among such classes or the library's exceptions,
and those special methods that it has there; an instance holds a number and asks the other side. So `isinstance`,
`except`, `len`, iteration, `with` and operators work as if the object were here.

**Where the judge holds the stand-in, the program decides nothing about plain values.** `proxy == 3`, `proxy < 3`,
`proxy - 3.14` or `3 in proxy` would show the program what is expected and let its operators answer "right". So with a
plain value on the other side:

1. a comparison is made here: against the value that an instance of a subclass of a built-in type has in itself
   (`class Money(int)`), and for any other class `==` is False and an order is a TypeError;
2. arithmetic is done here with that value, and is a TypeError for any other class;
3. `in` goes through the object's items one by one, here.

Between two objects of the program, its own operators decide. `Direct` lifts the rule where the tests' own text shows
that the operator of a class is what they test (see subjects.py).
"""

import operator
import types
from collections.abc import Callable
from typing import Any

COMPARE = ("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__")
_PLAIN = ("add", "sub", "mul", "truediv", "floordiv", "mod", "divmod", "pow", "matmul", "lshift", "rshift", "and", "or")
ARITHMETIC = tuple(
    f"__{side}{name}__" for name in (*_PLAIN, "xor") for side in ("", "r", "i") if (side, name) != ("i", "divmod")
)
BINARY = frozenset({*COMPARE, *ARITHMETIC})
FORWARDED = tuple(
    f"__{name}__"
    for name in (
        *("len", "length_hint", "iter", "next", "reversed", "getitem", "setitem", "delitem", "call", "enter", "exit"),
        *("hash", "neg", "pos", "abs", "invert", "int", "float", "complex", "index", "round", "trunc", "floor", "ceil"),
        *("bool", "str", "repr", "format", "bytes"),
    )
)
SPECIAL = frozenset({*FORWARDED, *BINARY, "__contains__"})
"""Special methods that a class may have; no other name with two underscores is ever called for the other side."""
READABLE = frozenset(
    f"__{name}__"
    for name in (
        *("name", "qualname", "module", "doc", "dict", "annotations", "members", "defaults", "next", "iter", "len"),
        *("call", "getitem", "enter", "exit", "init", "str", "repr", "eq", "hash", "add"),
    )
)
"""Names with two underscores that may be read as attributes."""
_BUILTIN_BASES = (int, float, complex, str, bytes, bytearray, list, tuple, dict, set, frozenset)


def plain_base(value: Any) -> Any:
    """What an instance of a subclass of a built-in type holds, as that type. Raises TypeError for any other."""
    for base in _BUILTIN_BASES:
        if isinstance(value, base):
            rebuild: Any = base
            take = _AS_BASE.get(base)
            return take(value) if take else rebuild(rebuild.__iter__(value))
    raise TypeError("no plain value in it")


_AS_BASE: dict[type, Callable[[Any], Any]] = {
    int: lambda value: int.__add__(value, 0),
    float: lambda value: float.__add__(value, 0.0),
    complex: lambda value: complex.__add__(value, 0),
    str: lambda value: str.__getitem__(value, slice(None)),
    dict: lambda value: dict(zip(dict.keys(value), dict.values(value), strict=True)),
}


class RemoteType(type):
    """The type of the local classes; the class itself is an object of the other side too."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        """Make an instance there."""
        return cls._gruppo_peer.ask("call", cls, args, kwargs)

    def __getattr__(cls, name: str) -> Any:
        if not readable(name) or name.startswith("_gruppo"):
            raise AttributeError(name)
        return cls._gruppo_peer.ask("get", cls, name)

    def __setattr__(cls, name: str, value: Any) -> None:
        if name.startswith(("_gruppo", "__")):
            type.__setattr__(cls, name, value)
        else:
            cls._gruppo_peer.ask("set", cls, name, value)

    def __iter__(cls) -> Any:
        return cls._gruppo_peer.ask("iter", cls)

    def __getitem__(cls, key: Any) -> Any:
        return cls._gruppo_peer.ask("item", cls, key)

    def __len__(cls) -> int:
        return len(list(iter(cls)))

    def __bool__(cls) -> bool:
        return True


def readable(name: str) -> bool:
    """Whether an attribute of this name is asked for at all."""
    return not (name.startswith("__") and name.endswith("__")) or name in READABLE


class Remote(metaclass=RemoteType):
    """An object of the other side."""

    __slots__ = ("__weakref__", "_gruppo_handle")
    _gruppo_peer: Any = None
    _gruppo_handle: int
    _gruppo_specials: frozenset[str] = frozenset()

    def __getattr__(self, name: str) -> Any:
        if not readable(name) or name.startswith("_gruppo"):
            raise AttributeError(name)
        return self._gruppo_peer.ask("get", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._gruppo_peer.ask("set", self, name, value)

    def __delattr__(self, name: str) -> None:
        self._gruppo_peer.ask("del", self, name)

    def __dir__(self) -> Any:
        return self._gruppo_peer.ask("dir", self)

    def __repr__(self) -> str:
        return self._gruppo_peer.ask("op", self, "__repr__", (), {})

    def __str__(self) -> str:
        return self._gruppo_peer.ask("op", self, "__str__", (), {})

    def __copy__(self) -> Any:
        return self._gruppo_peer.ask("copy", self, False)

    def __deepcopy__(self, memo: Any) -> Any:
        return self._gruppo_peer.ask("copy", self, True)

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("an object of the other process can't be pickled")

    def __del__(self) -> None:
        self._gruppo_peer.release(self._gruppo_handle)


class RemoteFunction(Remote):
    """A function of the other side."""

    __slots__ = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call it there."""
        return self._gruppo_peer.ask("call", self, args, kwargs)

    def __get__(self, owner: Any, kind: Any = None) -> Any:
        return self if owner is None else types.MethodType(self, owner)

    @property
    def __class__(self) -> type:  # type: ignore[override]  # so that isinstance(f, types.FunctionType) holds
        return types.FunctionType


class RemoteIterator(Remote):
    """An iterator of the other side, one item at a time."""

    __slots__ = ()

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        return self._gruppo_peer.ask("op", self, "__next__", (), {})


class RemoteGenerator(RemoteIterator):
    """A generator of the other side."""

    __slots__ = ()

    def send(self, value: Any) -> Any:
        """As a generator's."""
        return self._gruppo_peer.ask("call", self._gruppo_peer.ask("get", self, "send"), (value,), {})

    def throw(self, *args: Any) -> Any:
        """As a generator's."""
        return self._gruppo_peer.ask("call", self._gruppo_peer.ask("get", self, "throw"), args, {})

    def close(self) -> None:
        """As a generator's."""
        self._gruppo_peer.ask("call", self._gruppo_peer.ask("get", self, "close"), (), {})

    @property
    def __class__(self) -> type:  # type: ignore[override]  # so that isinstance(g, types.GeneratorType) holds
        return types.GeneratorType


class RemoteError:
    """Mixed into the local classes of the other side's exceptions."""

    _gruppo_peer: Any = None
    _gruppo_handle: int

    def __getattr__(self, name: str) -> Any:
        if not readable(name) or name.startswith("_gruppo") or name == "__notes__":
            raise AttributeError(name)
        return self._gruppo_peer.ask("get", self, name)

    def __str__(self) -> str:
        return str(self._gruppo_peer.ask("op", self, "__str__", (), {}))


class RemoteNamed:
    """Mixed into the local classes of the other side's named tuples, which cross by value."""

    __slots__ = ()
    _gruppo_peer: Any = None

    def __getattr__(self, name: str) -> Any:
        if not readable(name) or name.startswith("_"):
            raise AttributeError(name)
        return self._gruppo_peer.ask("get_of", type(self), name, tuple(self))  # type: ignore[arg-type]


def is_remote(value: Any) -> bool:
    """Whether a value is an object of the other side (its class included), whatever it says of itself."""
    kind = type(value)
    return type(kind) is RemoteType or kind is RemoteType


def _forward(name: str) -> Callable[..., Any]:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return self._gruppo_peer.ask("op", self, name, args, kwargs)

    return method


def _binary(name: str) -> Callable[..., Any]:
    """An operator: of the other side between two of its objects, here against a plain value."""
    local = getattr(operator, name, None) or getattr(operator, name.replace("__r", "__").replace("__i", "__"), None)
    reflected = name.startswith("__r") and name != "__rshift__"

    def method(self: Any, other: Any, *more: Any) -> Any:
        peer = self._gruppo_peer
        if not peer.strict or is_remote(other):
            return peer.ask("op", self, name, (other, *more), {})
        if "plain" not in self._gruppo_specials or local is None or more:
            return NotImplemented
        base = peer.ask("plain", self)
        if type(base) not in _BUILTIN_BASES:
            return NotImplemented
        return local(other, base) if reflected else local(base, other)

    return method


def _contains(self: Any, item: Any) -> Any:
    """Membership: of the other side for its own objects, else by going through the items here."""
    peer = self._gruppo_peer
    if not peer.strict or is_remote(item):
        return peer.ask("op", self, "__contains__", (item,), {})
    if self._gruppo_specials & {"__iter__", "__getitem__"}:
        return any(item is other or item == other for other in iter(self))
    raise TypeError("the program's own `in` is not asked about a plain value")


def _exit(self: Any, kind: Any, error: Any, trace: Any) -> bool:
    """Leave a `with`; the program may not swallow a failed assert, nor the end of the test."""
    shown = error if isinstance(error, Exception) else None
    told = self._gruppo_peer.ask("op", self, "__exit__", (None if shown is None else type(shown), shown, None), {})
    return bool(told) and shown is not None and not isinstance(error, AssertionError)


_METHODS: dict[str, Callable[..., Any]] = {
    **{name: _forward(name) for name in FORWARDED},
    **{name: _binary(name) for name in BINARY},
    "__contains__": _contains,
    "__exit__": _exit,
}
KINDS: dict[str, tuple[type, ...]] = {
    "object": (Remote,),
    "function": (RemoteFunction,),
    "iterator": (RemoteIterator,),
    "generator": (RemoteGenerator,),
}


def local_class(peer: Any, name: str, bases: tuple[type, ...], specials: frozenset[str]) -> type:
    """A class here for one of the other side. Where the bases do not go together, the first kind alone stands."""
    body: dict[str, Any] = {special: _METHODS[special] for special in specials & SPECIAL}
    if "__eq__" in body and "__hash__" not in body:
        body["__hash__"] = None
    body |= {"_gruppo_peer": peer, "_gruppo_specials": specials, "__module__": "program"}
    if not any(issubclass(base, (tuple, BaseException)) for base in bases):
        body["__slots__"] = ()
    try:
        return RemoteType(name, bases, body)
    except TypeError:
        return RemoteType(name, bases[-1:], body)


class Direct:
    """An object of the other side whose own operators are asked, whatever is on the other side of them."""

    __slots__ = ("_proxy",)

    def __init__(self, proxy: Any) -> None:
        self._proxy = proxy

    def __contains__(self, item: Any) -> bool:
        return bool(self._proxy._gruppo_peer.ask("op", self._proxy, "__contains__", (item,), {}))


def _direct(name: str) -> Callable[..., Any]:
    def method(self: Direct, other: Any, *more: Any) -> Any:
        proxy = self._proxy
        if isinstance(other, Direct):
            other = other._proxy
        if name not in proxy._gruppo_specials:
            return (proxy is other) is (name == "__eq__") if name in ("__eq__", "__ne__") else NotImplemented
        return proxy._gruppo_peer.ask("op", proxy, name, (other, *more), {})

    return method


for _name in BINARY:
    setattr(Direct, _name, _direct(_name))
Direct.__hash__ = None  # type: ignore[assignment]


def direct(value: Any) -> Any:
    """A stand-in for which the operators' rule is lifted; any other value as it is."""
    return Direct(value) if issubclass(type(value), Remote) else value
