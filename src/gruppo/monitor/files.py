"""Files that survive a kill: written aside and renamed, or appended line by line; and the lock of a folder."""

import errno
import json
import math
import os
import socket
import time
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gruppo.errors import RunFolderError

LOCK_NAME = "run.lock"
LETTING_GO = 5.0  # seconds to wait for a lock whose holder is dead: a child forked just before lets go when it runs


def strict(value: Any) -> Any:
    """`value` as strict JSON has it: NaN and infinities None, tuples lists, paths and other objects text."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, Mapping):
        return {str(key): strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [strict(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    try:
        scalar = value.item() if type(value).__module__ == "numpy" else value
        return scalar if isinstance(scalar, (bool, int)) else _finite(float(scalar))
    except (TypeError, ValueError):
        return str(value)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def write_atomic(path: Path, data: str | bytes) -> None:
    """Write a whole file aside, flush it to the disk, rename it: a reader sees the old one or the new one.

    Raises RunFolderError where the disk is full or the folder can't be written.
    """
    raw = data.encode("utf-8", "replace") if isinstance(data, str) else data
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with aside.open("wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise unwritable(path, error) from error


def write_json(path: Path, value: Any) -> None:
    """Write `value` as strict, indented JSON, atomically."""
    write_atomic(path, json.dumps(strict(value), indent=2, allow_nan=False) + "\n")


def append_line(path: Path, value: Mapping[str, Any]) -> None:
    """Append one strict JSON line in a single write, so that a reader sees at most one half-written line."""
    line = json.dumps(strict(value), allow_nan=False) + "\n"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            if os.write(descriptor, line.encode()) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(descriptor)
    except OSError as error:
        raise unwritable(path, error) from error


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON lines of a file; none where it is missing. A half-written last line is left out.

    Raises RunFolderError for a broken line that is not the last.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return []
    lines = raw.split(b"\n")[:-1]
    rows: list[dict[str, Any]] = []
    for index, line in enumerate(lines):
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError("not an object")
        except ValueError as error:
            message = f"{path}:{index + 1} is no JSON object ({error}); restore the line or take it out"
            raise RunFolderError(message) from error
        rows.append(row)
    return rows


def drop_half_line(path: Path) -> None:
    """Cut off what a kill left after the last newline, so that the next line starts on its own."""
    if not path.is_file():
        return
    raw = path.read_bytes()
    end = raw.rfind(b"\n") + 1
    if end < len(raw):
        os.truncate(path, end)


def rewrite_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Replace a file of JSON lines by these rows, atomically."""
    write_atomic(path, "".join(json.dumps(strict(row), allow_nan=False) + "\n" for row in rows))


def unwritable(path: Path, error: OSError) -> RunFolderError:
    """The one message for every way in which the disk refuses."""
    reason = error.strerror or str(error)
    return RunFolderError(
        f"output_dir: can't write {path}: {reason}. Wanted a folder that this user can write, on a disk with "
        "space left; choose another with --out"
    )


class FolderLock:
    """The lock of a run folder: `run.lock`, held by flock while the run is open, with the holder's pid in it.

    The kernel drops it when the process ends, however it ends. A forked child lets go of its copy at once, so
    that a worker that outlives a killed run does not keep the folder.
    """

    def __init__(self, folder: Path) -> None:
        """Take the lock. Raises RunFolderError where a living process has it or the disk refuses."""
        self.path = folder / LOCK_NAME
        self._descriptor: int | None = None
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise unwritable(self.path, error) from error
        try:
            _flock_of_the_dead(descriptor, folder)
        except BlockingIOError as error:
            os.close(descriptor)
            raise RunFolderError(_in_use(folder)) from error
        except OSError as error:
            os.close(descriptor)
            raise unwritable(self.path, error) from error
        self._descriptor = descriptor
        _HELD.add(self)
        self._write({"pid": os.getpid(), "host": socket.gethostname(), "started": _started(os.getpid())})

    def _write(self, holder: Mapping[str, Any] | None) -> None:
        assert self._descriptor is not None
        os.ftruncate(self._descriptor, 0)
        if holder is not None:
            os.pwrite(self._descriptor, (json.dumps(holder) + "\n").encode(), 0)

    def release(self) -> None:
        """Let go; harmless when done twice."""
        if self._descriptor is not None:
            self._write(None)
            self.forget()

    def forget(self) -> None:
        """Close this process's copy of the lock without unlocking it for the process it was forked from."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
            _HELD.discard(self)


_HELD: "weakref.WeakSet[FolderLock]" = weakref.WeakSet()


def _forget_all() -> None:
    for lock in list(_HELD):
        lock.forget()


if os.name == "posix":
    os.register_at_fork(after_in_child=_forget_all)


def _flock(descriptor: int) -> None:
    """Lock without waiting; where there is no flock (Windows) the pid in the file has to do."""
    if os.name == "posix":
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _flock_of_the_dead(descriptor: int, folder: Path) -> None:
    """Lock; wait only while the lock is held and no living process is named, up to LETTING_GO seconds."""
    deadline = time.monotonic() + LETTING_GO
    while True:
        try:
            return _flock(descriptor)
        except BlockingIOError:
            if holder(folder) is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _started(pid: int) -> str:
    """When a process began, in the kernel's ticks (Linux), to tell a pid that is used again."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except (OSError, IndexError):
        return ""


def _in_use(folder: Path) -> str:
    pid = holder(folder)
    who = f"process {pid}" if pid is not None else "another process"
    if pid == os.getpid():
        return f"output_dir: {folder} is in use by this very process. Close it, or choose another with --out"
    return f"output_dir: {folder} is in use by {who}. Wait for it, stop it, or choose another with --out"


def holder(folder: Path) -> int | None:
    """The pid of the living process that has the run folder open, or None. Reads only; never locks."""
    try:
        entry = json.loads((folder / LOCK_NAME).read_bytes())
        pid, host, started = int(entry["pid"]), entry["host"], entry["started"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if host != socket.gethostname():
        return pid
    return pid if _alive(pid) and _started(pid) == started else None


def _alive(pid: int) -> bool:
    if os.name != "posix":
        return True  # there, kill with signal 0 is no question but a Ctrl-C
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where the file is missing or holds no object."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
