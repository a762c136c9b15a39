"""A jailed process, from its fork to its end. Nothing of the job is in its memory until the jail is closed."""

import _signal  # pyright: ignore[reportMissingImports]  (without the enumerations, which take pages to make)
import atexit
import fcntl
import gc
import io
import os
import random
import stat
import struct
import sys
import traceback
from typing import NoReturn

from gruppo.rewards.sandbox import jail, threads
from gruppo.rewards.sandbox.pipe import Pipe

MEMORY = 86
"""Exit code of a program that ran out of memory."""
_FREE = 32
_real_fstat = os.fstat
_PAYLOAD, _STATUS, _READER, _WRITER, _VERDICT = range(3, 8)


def live(walls: jail.Walls, entry: str, ends: list[int], cpu_seconds: float, memory_mb: int) -> NoReturn:
    """Become the program.

    `ends`: stdin, stdout, stderr, payload, status; with a judge also reader and writer; for the judge also verdict.
    """
    code = 1
    try:
        _arrange(ends if walls.rules is None else [*ends, walls.rules])
        try:
            jail.lock(walls, None if walls.rules is None else len(ends), cpu_seconds, memory_mb)
        except Exception as error:
            os.write(_STATUS, f"E{type(error).__name__}: {error}".encode()[:4000])
            os._exit(1)
        if walls.rules is not None:
            os.close(len(ends))
        os.write(_STATUS, b"R")
        os.close(_STATUS)
        payload = _payload()
        reader = _READER if len(ends) > _READER else None
        pipe = None if reader is None else Pipe(_READER, _WRITER, _VERDICT if len(ends) > _VERDICT else None)
        _fresh()
        code = _run(entry, payload, pipe)
    finally:
        os._exit(code)


def _arrange(ends: list[int]) -> None:
    """Put the ends at 0, 1, 2... and close everything else."""
    moved = [fcntl.fcntl(end, fcntl.F_DUPFD, _FREE) for end in ends]
    os.closerange(0, _FREE)
    for number, end in enumerate(moved):
        os.dup2(end, number)
    os.closerange(len(ends), 65_536)


def _payload() -> bytes:
    """What the guard sends; where it sends no more, there is nothing to do."""
    with open(_PAYLOAD, "rb", buffering=0) as file:
        data = _exactly(file, 8)
        return _exactly(file, struct.unpack("<Q", data)[0])


def _exactly(file: io.FileIO, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        chunk = file.read(min(size - len(data), 1 << 20))
        if not chunk:
            os._exit(1)
        data += chunk
    return bytes(data)


def prepare() -> None:
    """The state of a fresh interpreter, as far as it can be made before the forks: streams, arguments, environment.

    Made later it would be made by each process anew, in pages of its own. The streams know a descriptor's number and
    that it is a pipe's, so they are made of pipes in those places.
    """
    before = [os.dup(number) for number in range(3)]
    reader, writer = os.pipe()
    for number, end in enumerate((reader, writer, writer)):
        os.dup2(end, number)
    sys.stdin = sys.__stdin__ = _text(0, "r", "surrogateescape")
    sys.stdout = sys.__stdout__ = _text(1, "w", "surrogateescape")
    sys.stderr = sys.__stderr__ = _text(2, "w", "backslashreplace", buffering=1)
    for number, end in enumerate(before):
        os.dup2(end, number)
    for end in (*before, reader, writer):
        os.close(end)
    sys.argv = [""]
    os.environ.clear()
    os.fstat = _fstat
    threads.run_at_start()
    atexit._clear()


def _fresh() -> None:
    """The rest of it: signals, random numbers, garbage collection."""
    _signal.set_wakeup_fd(-1)
    _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
    random.seed(0)
    gc.enable()


def _text(number: int, mode: str, errors: str, buffering: int = -1) -> io.TextIOWrapper:
    """A standard stream, UTF-8 whatever the locale."""
    stream = open(number, mode, buffering, encoding="utf-8", errors=errors, closefd=False)  # noqa: SIM115
    assert isinstance(stream, io.TextIOWrapper)
    return stream


def _fstat(fd: int) -> os.stat_result:
    """`os.fstat` of a standard stream: a pipe. The C library may make a call by path of it, and those are refused."""
    if fd in (0, 1, 2):
        return os.stat_result((stat.S_IFIFO | 0o600, 0, 0, 1, 0, 0, 0, 0, 0, 0))
    return _real_fstat(fd)


def _run(entry: str, payload: bytes, pipe: Pipe | None) -> int:
    """Call the entry; the exit code as the interpreter would give it."""
    module, name = entry.split(":")
    code = 0
    try:
        getattr(sys.modules[module], name)(payload, pipe)
    except SystemExit as stop:
        code = _exit_code(stop)
    except MemoryError:
        code = MEMORY
    except BaseException:
        code = 1
        traceback.print_exc()
    try:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        code = code or 120
    return code


def _exit_code(stop: SystemExit) -> int:
    """What `sys.exit(...)` asked for."""
    if stop.code is None:
        return 0
    if isinstance(stop.code, int):
        return stop.code & 0xFF
    print(stop.code, file=sys.stderr)
    return 1
