"""The standard library in memory: in a jail there are no files to import it from.

What programs commonly import is loaded before any fork, and so are the extension modules; the rest is kept as code,
compressed, and run when a program asks for it. Test suites and graphical toolkits are left out, and so is whatever is
installed beside the standard library.
"""

import builtins
import importlib.abc
import importlib.machinery
import importlib.util
import marshal
import os
import sys
import sysconfig
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import CodeType, ModuleType

from gruppo.rewards.sandbox import memory

_LOADED = """
    array ast atexit base64 binascii bisect bz2 calendar cmath codecs collections collections.abc contextlib copy
    copyreg csv ctypes dataclasses datetime decimal encodings.ascii encodings.latin_1 enum errno fractions functools gc
    hashlib heapq inspect io itertools json keyword linecache lzma marshal math mmap numbers operator os os.path pathlib
    pickle platform pprint queue random re reprlib resource select signal socket stat statistics string struct sys
    textwrap threading time timeit token tokenize traceback types typing unicodedata warnings weakref zlib
"""
_EXTENSIONS = """
    _bisect _codecs_cn _codecs_hk _codecs_iso2022 _codecs_jp _codecs_kr _codecs_tw _contextvars _csv _datetime _decimal
    _elementtree _heapq _interpreters _json _lsprof _multibytecodec _multiprocessing _pickle _posixshmem
    _posixsubprocess _queue _random _socket _statistics _struct _uuid _zoneinfo audioop fcntl grp pyexpat syslog termios
"""
_LEFT_OUT = {
    "site-packages", "dist-packages", "test", "tests", "idlelib", "tkinter", "turtledemo", "lib2to3", "ensurepip",
    "pydoc_data", "venv", "idle_test", "__pycache__", "msilib", "lib-dynload", "_pyrepl",
}  # fmt: skip
_PYC_HEADER = 16
_ROOT = Path(sysconfig.get_path("stdlib"))


class MemoryFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds and loads modules of the standard library without touching a file."""

    def __init__(self) -> None:
        self._code: dict[str, tuple[memoryview, bool, str]] = {}
        places: list[tuple[str, int, bool, str]] = []
        kept, start = memory.set_apart(_packed(places)), 0
        for name, size, is_package, path in places:
            self._code[name] = (kept[start : start + size], is_package, path)
            start += size

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """As every finder."""
        if fullname not in self._code:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=self._code[fullname][1])

    def exec_module(self, module: ModuleType) -> None:
        """As every loader."""
        packed, _, path = self._code[module.__name__]
        module.__file__ = path
        exec(_unpacked(zlib.decompress(packed), path), module.__dict__)


def load() -> None:
    """Load what is common, keep the rest, and have every further import come from memory."""
    import _sitebuiltins

    for name in (*_LOADED.split(), *_EXTENSIONS.split()):
        try:
            importlib.import_module(name)
        except ImportError:
            continue  # not every Python has every module
    builtins.exit = _sitebuiltins.Quitter("exit", "Ctrl-D (i.e. EOF)")
    builtins.quit = _sitebuiltins.Quitter("quit", "Ctrl-D (i.e. EOF)")
    builtins.help = _sitebuiltins._Helper()
    sys.meta_path[:] = [importlib.machinery.BuiltinImporter, importlib.machinery.FrozenImporter, MemoryFinder()]
    sys.path_hooks.clear()
    sys.path_importer_cache.clear()
    sys.path.clear()


def _packed(places: list[tuple[str, int, bool, str]]) -> Iterator[bytes]:
    """Every module's code, one at a time; name, length, whether it is a package and file go into the list."""
    for name, path, is_package in _files(_ROOT):
        code = _code(path)
        if code:
            piece = zlib.compress(code, 1)
            places.append((name, len(piece), is_package, str(path)))
            yield piece


def _files(root: Path) -> Iterator[tuple[str, Path, bool]]:
    """Module name, file, and whether it is a package."""
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in _LEFT_OUT and "-" not in name]
        parts = Path(folder).relative_to(root).parts
        for file in files:
            if file == "__init__.py":
                if parts:
                    yield ".".join(parts), Path(folder, file), True
            elif file.endswith(".py"):
                yield ".".join((*parts, file[:-3])), Path(folder, file), False


def _code(path: Path) -> bytes:
    """A module's cached code, where the cache is this file's and of this Python; else its source."""
    try:
        cached = Path(importlib.util.cache_from_source(str(path))).read_bytes()
        status = path.stat()
        fresh = (0).to_bytes(4, "little") + (int(status.st_mtime) & 0xFFFFFFFF).to_bytes(4, "little")
        fresh += (status.st_size & 0xFFFFFFFF).to_bytes(4, "little")
        if cached[:_PYC_HEADER] == importlib.util.MAGIC_NUMBER + fresh:
            return b"c" + cached[_PYC_HEADER:]
    except OSError:
        pass
    try:
        return b"s" + path.read_bytes()
    except OSError:
        return b""


def _unpacked(kept: bytes, path: str) -> CodeType:
    if kept[:1] == b"c":
        return marshal.loads(memoryview(kept)[1:])
    return compile(kept[1:], path, "exec", dont_inherit=True)
