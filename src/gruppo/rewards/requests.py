"""What the pool asks of a worker process, and how an answer is read: requests are pickles, answers JSON."""

import pickle
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from gruppo.rewards.binding import Call
from gruppo.rewards.outcomes import KINDS, Failure, FailureKind, Outcome
from gruppo.rewards.result import RewardResult

LENGTH = struct.Struct("<Q")
"""Stands before each request: its bytes."""


@dataclass(frozen=True, slots=True)
class Hello:
    """The first request."""

    path: tuple[str, ...]
    """The trainer's sys.path."""
    memory_bytes: int
    """Of private memory; 0: not limited."""
    log: str | None
    """Where printed text goes; None: nowhere."""
    parent: int
    """The pool's process id."""


@dataclass(frozen=True, slots=True)
class Load:
    """A function to have ready: by name (`file.py:function`, `module:function`), or pickled by value."""

    key: str
    name: str | None
    pickled: bytes = b""
    warm: str | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """Completions to score."""

    key: str
    batch: bool
    calls: Sequence[Call]
    count: int
    seconds: float
    """CPU seconds for one completion."""
    forks: bool = False
    """Whether a fork of the worker may do it, to be replaced in milliseconds: nothing of it runs threads."""


def pack(request: Hello | Load | Task, pickler: Callable[[Any], bytes] = pickle.dumps) -> bytes:
    """A request as the worker reads it."""
    data = pickler(request)
    return LENGTH.pack(len(data)) + data


def read_request(pipe: BinaryIO) -> Hello | Load | Task | None:
    """The next request; None at their end."""
    head = pipe.read(LENGTH.size)
    return pickle.loads(pipe.read(LENGTH.unpack(head)[0])) if len(head) == LENGTH.size else None


def unpack_outcome(data: Any) -> Outcome:
    """An outcome from what a worker wrote. Raises ValueError for anything else: workers are not trusted."""
    match data:
        case None:
            return None
        case {"value": float(value), "parts": dict(parts), "reason": str(reason)}:
            return RewardResult(value, {str(name): float(part) for name, part in parts.items()}, reason)
        case {"kind": str(kind), "what": str(what), "detail": str(detail), "fatal": bool(fatal)} if kind in KINDS:
            return Failure(cast(FailureKind, kind), what, detail, fatal)
        case _:
            raise ValueError("no outcome")
