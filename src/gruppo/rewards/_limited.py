"""A function called in a warm process of its own, which is killed when it takes too long.

    caller --request--> runner (forked, killable) --result--> caller
                          |  parent: keeper, has imported the function's module, forks the next runner in milliseconds

1. One runner per process; callers of several threads wait for one another. A forked copy of the process starts its own.
2. CPU time of the runner decides, so that a busy machine gives the same verdict; ten times the limit by the clock ends
   it as well, and the kernel ends it should the caller be gone. 2 GB of address space.
3. Both processes end by themselves when the caller does.
"""

import atexit
import contextlib
import os
import pickle
import select
import struct
import subprocess
import sys
import threading
import time
from typing import Any

_MEMORY = 2 * 2**30
_BACKSTOP = 10.0
_START_SECONDS = 60.0


class WorkerTimeout(Exception):
    """The function took longer than its limit."""


class WorkerCrash(Exception):
    """The function ended its process, or raised."""


def run_limited(function_reference: str, args: tuple[Any, ...], seconds: float) -> Any:
    """The value of `module:function` at these arguments. Raises WorkerTimeout, WorkerCrash."""
    with _worker.lock:
        return _worker.call(function_reference, args, seconds)


class _Worker:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.keeper: subprocess.Popen[bytes] | None = None
        self.runner = 0
        self.write = self.read = -1

    def call(self, reference: str, args: tuple[Any, ...], seconds: float) -> Any:
        """The value; a process that ended without a word may have been killed from outside, so it is asked twice."""
        message = pickle.dumps((reference, args, seconds))
        for _ in range(2):
            with contextlib.suppress(EOFError, OSError):
                if self.keeper is None or self.keeper.poll() is not None:
                    self._start(reference)
                _send(self.write, message)
                kind, value = self._answer(seconds)
                if kind == "value":
                    return value
                raise WorkerCrash(value)
        raise WorkerCrash("the worker process ended, twice")

    def _start(self, reference: str) -> None:
        self.close()
        theirs_in, self.write = os.pipe()
        self.read, theirs_out = os.pipe()
        command = [sys.executable, "-m", "gruppo.rewards._limited", str(theirs_in), str(theirs_out), reference]
        paths = [path for path in sys.path if path]
        environment = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": os.pathsep.join(paths)}
        self.keeper = subprocess.Popen(
            command, pass_fds=(theirs_in, theirs_out), env=environment, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs_in)
        os.close(theirs_out)
        self._next_runner()

    def _next_runner(self) -> None:
        """Wait until the keeper has a runner ready, which says its process id."""
        try:
            if not select.select([self.read], [], [], _START_SECONDS)[0]:
                raise EOFError
            self.runner = int(_receive(self.read)[1])
        except (EOFError, OSError):
            self.close()
            raise

    def _answer(self, seconds: float) -> tuple[str, Any]:
        cpu, clock = _cpu_seconds(self.runner), time.monotonic()
        while True:
            used = _cpu_seconds(self.runner) - cpu
            if used >= seconds or time.monotonic() - clock >= _BACKSTOP * seconds:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.runner, 9)
                with contextlib.suppress(EOFError, OSError):
                    self._next_runner()
                raise WorkerTimeout(f"took longer than {seconds:g} s")
            if select.select([self.read], [], [], max(0.01, min(0.5, seconds - used)))[0]:
                return self._received()

    def _received(self) -> tuple[str, Any]:
        try:
            kind, value = _receive(self.read)
            if kind == "runner":  # the one asked is dead, and may have read a part of the request: start from nothing
                raise EOFError
        except (EOFError, OSError):
            self.close()
            raise
        return kind, value

    def close(self) -> None:
        for descriptor in (self.write, self.read):
            if descriptor >= 0:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
        self.write = self.read = -1
        if self.keeper is not None:
            for pid in (self.keeper.pid, self.runner):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    if pid:
                        os.kill(pid, 9)
            self.keeper.wait()
        self.keeper, self.runner = None, 0

    def forget(self) -> None:
        """In a forked copy: the processes are the original's."""
        for descriptor in (self.write, self.read):
            if descriptor >= 0:
                os.close(descriptor)
        self.__init__()


_worker = _Worker()
atexit.register(_worker.close)
os.register_at_fork(after_in_child=_worker.forget)


def _cpu_seconds(pid: int) -> float:
    """Of a process, by its clock: Linux numbers it (~pid << 3) | 2."""
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0


def _send(descriptor: int, message: bytes) -> None:
    data = memoryview(struct.pack("!Q", len(message)) + message)
    while data:
        data = data[os.write(descriptor, data) :]


def _receive(descriptor: int) -> tuple[Any, ...]:
    (length,) = struct.unpack("!Q", _exactly(descriptor, 8))
    return pickle.loads(_exactly(descriptor, length))


def _exactly(descriptor: int, length: int) -> bytes:
    parts = []
    while length:
        part = os.read(descriptor, min(length, 2**20))
        if not part:
            raise EOFError
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


def _keep(requests: int, results: int, reference: str) -> None:
    """Fork a runner, wait for its end, fork the next; until one ends in peace."""
    _function(reference)
    while True:
        pid = os.fork()
        if pid == 0:
            _run(requests, results)
        _, status = os.waitpid(pid, 0)
        if status == 0:
            return


def _run(requests: int, results: int) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    _send(results, pickle.dumps(("runner", os.getpid())))
    try:
        while True:
            reference, args, seconds = _receive(requests)
            used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
            resource.setrlimit(resource.RLIMIT_CPU, (int(used + seconds) + 3, resource.RLIM_INFINITY))
            try:
                answer = ("value", _function(reference)(*args))
            except BaseException as error:  # carried over to the caller
                answer = ("error", f"{type(error).__name__}")
            _send(results, pickle.dumps(answer))
    except (EOFError, OSError):
        os._exit(0)


def _function(reference: str) -> Any:
    import importlib

    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)


if __name__ == "__main__":
    _keep(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
