"""Plain typed values as bytes: all that ever crosses between the untrusted program and its judge.

    value = None | bool | int | float | complex | str | bytes | tuple of values

A frame is 4 bytes of length and one value. Nothing here names a class or a function of the reader, so no bytes can
make the reader run anything: they decode to plain values, or raise WireError.

1. Floats cross exactly (8 bytes, nan and the sign of zero included), integers up to MAX_INT_BYTES.
2. Nesting stops at MAX_DEPTH, a frame at MAX_FRAME, its values at MAX_VALUES. A count in a frame is believed only as
   far as there are bytes left for it, so a short frame can't ask for much memory.
3. Strings are UTF-8 with lone surrogates allowed, as Python's own strings.
"""

import struct
from collections.abc import Callable
from typing import Any

MAX_FRAME = 1 << 24
"""Bytes in one frame."""
MAX_DEPTH = 200
"""Tuples within tuples."""
MAX_VALUES = 1 << 21
"""Values in one frame."""
MAX_INT_BYTES = 1 << 16
"""Bytes of one integer (about 157,000 digits)."""

_LENGTH = struct.Struct(">I")
_INT = struct.Struct(">q")
_FLOAT = struct.Struct(">d")
_COMPLEX = struct.Struct(">dd")
_SMALL = range(-(1 << 63), 1 << 63)


class WireError(Exception):
    """Bytes that are no value, or a value that may not cross; the message says which limit."""


def encode(value: Any) -> bytes:
    """The bytes of a value. Raises WireError for anything that is no plain value, or too large or too deep."""
    out = bytearray()
    _put(value, out, MAX_DEPTH)
    if len(out) > MAX_FRAME:
        raise WireError(f"a value of {len(out)} bytes; {MAX_FRAME} may cross")
    return bytes(out)


def _put(value: Any, out: bytearray, depth: int) -> None:
    """Appends one value. The types are compared exactly: a subclass is no plain value."""
    kind = type(value)
    if kind is tuple:
        _put_tuple(value, out, depth)
    elif kind is str:
        _put_bytes(b"s", value.encode("utf-8", "surrogatepass"), out)
    elif kind is int:
        _put_int(value, out)
    elif value is None:
        out += b"N"
    elif kind is bool:
        out += b"T" if value else b"F"
    elif kind is float:
        out += b"f" + _FLOAT.pack(value)
    elif kind is bytes:
        _put_bytes(b"b", value, out)
    elif kind is complex:
        out += b"c" + _COMPLEX.pack(value.real, value.imag)
    else:
        raise WireError(f"a {kind.__name__} is no plain value")


def _put_bytes(tag: bytes, data: bytes, out: bytearray) -> None:
    if len(data) > MAX_FRAME:
        raise WireError(f"a text of {len(data)} bytes; {MAX_FRAME} may cross")
    out += tag + _LENGTH.pack(len(data)) + data


def _put_int(value: int, out: bytearray) -> None:
    if value in _SMALL:
        out += b"i" + _INT.pack(value)
        return
    size = value.bit_length() // 8 + 1
    if size > MAX_INT_BYTES:
        raise WireError(f"an integer of {size} bytes; {MAX_INT_BYTES} may cross")
    _put_bytes(b"I", value.to_bytes(size, "big", signed=True), out)


def _put_tuple(items: tuple[Any, ...], out: bytearray, depth: int) -> None:
    """Appends a tuple; one of only small integers or only floats goes as one packed array."""
    if depth == 0:
        raise WireError(f"values nested more than {MAX_DEPTH} deep")
    count = _LENGTH.pack(len(items)) if len(items) <= MAX_VALUES else b""
    if not count:
        raise WireError(f"{len(items)} values in one; {MAX_VALUES} may cross")
    kinds = set(map(type, items)) if len(items) > 3 else ()
    if kinds == {int} and min(items) in _SMALL and max(items) in _SMALL:
        out += b"q" + count + struct.pack(f">{len(items)}q", *items)
    elif kinds == {float}:
        out += b"d" + count + struct.pack(f">{len(items)}d", *items)
    else:
        out += b"(" + count
        for item in items:
            _put(item, out, depth - 1)


def decode(data: bytes) -> Any:
    """The value of some bytes. Raises WireError, and nothing else, for bytes that encode never made."""
    reader = _Reader(data)
    try:
        value = reader.value(MAX_DEPTH)
    except (struct.error, IndexError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"no value: {type(error).__name__}") from None
    if reader.at != len(data):
        raise WireError("bytes after the value")
    return value


class _Reader:
    """One pass over the bytes of a value."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0
        self.values = 0

    def take(self, size: int) -> bytes:
        """The next bytes, all of them there."""
        end = self.at + size
        if end > len(self.data):
            raise WireError("a value is cut off")
        self.at, start = end, self.at
        return self.data[start:end]

    def length(self, limit: int) -> int:
        """A length, at most the limit."""
        size = _LENGTH.unpack(self.take(4))[0]
        if size > limit:
            raise WireError(f"a length of {size}; {limit} may cross")
        return size

    def value(self, depth: int) -> Any:
        """The next value."""
        tag = self.take(1)
        self.values += 1
        if self.values > MAX_VALUES:
            raise WireError(f"more than {MAX_VALUES} values")
        read = _READ.get(tag)
        if read is None:
            raise WireError(f"no kind of value is marked {tag!r}")
        return read(self, depth)

    def tuple(self, depth: int) -> tuple[Any, ...]:
        """The items of a tuple; each takes a byte at least."""
        if depth == 0:
            raise WireError(f"values nested more than {MAX_DEPTH} deep")
        count = self.length(len(self.data) - self.at)
        return tuple([self.value(depth - 1) for _ in range(count)])

    def array(self, code: str) -> Any:
        """The items of a packed array of 8 bytes each."""
        count = self.length((len(self.data) - self.at) // 8)
        self.values += count
        return struct.unpack(f">{count}{code}", self.take(8 * count))


_READ: dict[bytes, Callable[[_Reader, int], Any]] = {
    b"N": lambda reader, depth: None,
    b"T": lambda reader, depth: True,
    b"F": lambda reader, depth: False,
    b"i": lambda reader, depth: _INT.unpack(reader.take(8))[0],
    b"I": lambda reader, depth: int.from_bytes(reader.take(reader.length(MAX_INT_BYTES)), "big", signed=True),
    b"f": lambda reader, depth: _FLOAT.unpack(reader.take(8))[0],
    b"c": lambda reader, depth: complex(*_COMPLEX.unpack(reader.take(16))),
    b"s": lambda reader, depth: reader.take(reader.length(MAX_FRAME)).decode("utf-8", "surrogatepass"),
    b"b": lambda reader, depth: reader.take(reader.length(MAX_FRAME)),
    b"(": lambda reader, depth: reader.tuple(depth),
    b"q": lambda reader, depth: reader.array("q"),
    b"d": lambda reader, depth: reader.array("d"),
}


class Channel:
    """Frames over a byte pipe.

    `read(n)` gives at most n bytes, none at the end; `write(data)` writes all of them.
    """

    def __init__(self, read: Callable[[int], bytes], write: Callable[[bytes], None]) -> None:
        self._read = read
        self._write = write
        self._rest = bytearray()

    def send(self, value: Any) -> None:
        """Writes one frame. Raises WireError before a byte is out, or OSError where nobody reads."""
        data = encode(value)
        self._write(_LENGTH.pack(len(data)) + data)

    def receive(self) -> Any:
        """The next frame's value. Raises EOFError at the end, WireError for bytes that are no frame."""
        size = _LENGTH.unpack(self._exactly(4))[0]
        if size > MAX_FRAME:
            raise WireError(f"a frame of {size} bytes; {MAX_FRAME} may cross")
        return decode(self._exactly(size))

    def _exactly(self, size: int) -> bytes:
        """So many bytes; what arrived with them stays for the next frame, for a system call costs more than a copy."""
        rest = self._rest
        while len(rest) < size:
            part = self._read(1 << 16)
            if not part:
                raise EOFError
            rest += part
        out = bytes(rest[:size])
        del rest[:size]
        return out
