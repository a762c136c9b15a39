"""C sources of the package, compiled at their first use by the machine's own compiler.

The package holds no binaries: a source of a hundred lines takes half a second to compile, for exactly this processor.
What is compiled is kept in the user's cache folder under a name made of everything that it depends on, the header
included. Where there is no compiler, or it fails, callers go on without: nothing here raises.

GRUPPO_NATIVE=0 in the environment switches it off, for comparisons and debugging.
"""

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

COMPILERS = ("gcc", "cc", "clang")
NONE_FOUND = f"no C compiler that works was found ({', '.join(COMPILERS)} or $CC)"
"""What callers say where they go on without."""
KINDS = {"torch.float32": "", "torch.bfloat16": "BFLOAT16"}
"""Numbers that kernels are compiled for, by torch's name, and the macro that says it to a source."""
LANES = 16
"""Sizes of heads and layers are a multiple of it for a kernel: the longest vector of `vectors.h`."""
HEADER = Path(__file__).with_name("vectors.h")
"""What the sources include."""
FLAGS = ("-std=gnu11", "-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-shared", "-fPIC")
SECONDS = 60
"""Of a compiler's life."""

Note = Callable[[Callable[..., Any], tuple[Any, ...]], None]
"""Is told of a call: the function, and what it was given."""
_note: ContextVar[Note | None] = ContextVar("note", default=None)


def compiler() -> list[str] | None:
    """The command of the compiler that is used, if it works; None where there is none, or it is switched off."""
    if os.environ.get("GRUPPO_NATIVE") == "0":
        return None
    return shlex.split(os.environ.get("CC", "")) or next(([name] for name in COMPILERS if shutil.which(name)), None)


@functools.cache
def load(source: Path, define: str = "") -> ctypes.CDLL | None:
    """The library of a C source with a macro defined; None where it can't be had.

    Args:
        source: the file.
        define: the macro's name, or nothing.
    """
    found = compiler()
    if found is None:
        return None
    defines = [f"-D{define}"] if define else []
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        version = _run([*found, "--version"]).stdout
        # Only gcc's OpenMP is the one that torch has loaded already on Linux; two of them fight for the cores.
        openmp = ["-fopenmp"] if b"Free Software Foundation" in version else []
        options = [*found, *FLAGS, *openmp, *defines, f"-I{HEADER.parent}"]
        command = [*options, str(source), "-lm"]
        parts = [source.read_bytes(), HEADER.read_bytes(), repr(options).encode(), version, _processor()]
        name = hashlib.sha256(b"\0".join(parts))
        return _built(command, f"{source.stem}-{name.hexdigest()[:20]}.so")
    return None


def function(
    source: Path, kind: object, name: str, arguments: Sequence[Any], result: Any = ctypes.c_int
) -> Callable[..., Any] | None:
    """A function of a source that is compiled for a kind of number; None where it can't be had.

    Args:
        source: the file.
        kind: torch's dtype; for one that is not in `KINDS` there is none.
        name: of the function.
        arguments: their types, as ctypes has them.
        result: its type.
    """
    library = load(source, KINDS[str(kind)]) if str(kind) in KINDS else None
    if library is None:
        return None
    found = getattr(library, name)
    found.argtypes, found.restype = list(arguments), result

    def call(*given: Any) -> Any:
        note = _note.get()
        if note is not None:
            note(found, given)
        return found(*given)

    return call


@contextlib.contextmanager
def noting(note: Note) -> Iterator[None]:
    """Inside, calls of functions of this module are told of before they are made, in this thread alone.

    To call the same again is to work on the same memory: whoever does it keeps that memory.
    """
    before = _note.set(note)
    try:
        yield
    finally:
        _note.reset(before)


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command, capture_output=True, timeout=SECONDS, check=True, stdin=subprocess.DEVNULL)


def _processor() -> bytes:
    """What the processor can do: a home folder may be shared by several kinds."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_bytes().splitlines()
        return b"\n".join(sorted({line for line in lines if line.startswith((b"flags", b"Features"))}))
    return f"{platform.machine()} {platform.processor()} {platform.node()}".encode()


def _built(command: Sequence[str], name: str) -> ctypes.CDLL:
    """The library from the cache folder; from a folder of this process alone where there is none to trust."""
    folder = _cache_folder()
    if folder is not None and (folder / name).exists():
        return ctypes.CDLL(str(folder / name))
    with tempfile.TemporaryDirectory(dir=folder) as own:
        made = Path(own) / name
        _run([*command, "-o", str(made)])
        if folder is not None:
            made = made.replace(folder / name)
        return ctypes.CDLL(str(made))


def _cache_folder() -> Path | None:
    """A folder that nobody else can write to: what lies in it is run."""
    with contextlib.suppress(OSError, RuntimeError):
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gruppo" / "native"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
        if found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return folder
    return None
