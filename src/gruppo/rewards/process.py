"""One worker process as the pool sees it: started, asked, watched, killed."""

import contextlib
import json
import os
import pickle
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gruppo.errors import RewardError
from gruppo.rewards.outcomes import Failure, Outcome, crashed, late
from gruppo.rewards.requests import Hello, Load, Task, pack, unpack_outcome

_START_SECONDS = 120.0
"""For a worker to come up, and for a user's file to load: it may import torch on a busy machine."""
_LOOK_EVERY = 0.05
_LONGEST_LINE = 1 << 24
_STDERR = 2000


@dataclass(frozen=True, slots=True)
class Portable:
    """A function on its way to a worker: by name, or by value."""

    label: str
    """The reward's name, for messages."""
    name: str | None = None
    """`file.py:function` or `module:function`."""
    pickled: bytes = b""
    waits: bool = False
    """Whether it is async: all completions of a group are then in hand at once."""
    forks: bool = False
    """Whether a fork of the worker may call it: one of ours, that runs no threads."""
    warm: str | None = None
    """A module to import before the first call, whose limit is for the call alone."""

    @property
    def key(self) -> str:
        """What a worker keeps it under."""
        return self.name or f"{self.label}:{hash(self.pickled)}"


class WorkerProcess:
    """One worker process and the pipes to it."""

    def __init__(self, log: Path | None, memory_bytes: int) -> None:
        requests, self._requests = os.pipe()
        self._replies, replies = os.pipe()
        self._loaded: set[str] = set()
        self._rest = b""
        self._runner: int | None = None
        self.usable = True
        self.killed = False
        self._owner = os.getpid()
        self._log = log
        self._memory_bytes = memory_bytes
        command = [sys.executable, "-m", "gruppo.rewards.worker", str(requests), str(replies)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=(requests, replies),
            start_new_session=True,
            env={**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        os.close(requests)
        os.close(replies)
        self._poll = select.poll()
        self._poll.register(self._replies, select.POLLIN)
        self.over = False

    def greet(self) -> None:
        """Wait until the process is up. Raises RewardError with what it said where it is not."""
        log = None if self._log is None else str(self._log)
        self._send(pack(Hello(tuple(sys.path), self._memory_bytes, log, os.getpid())))
        reply = self._reply(_START_SECONDS)
        if isinstance(reply, Failure) or not reply.get("ready"):
            assert self._process.stderr is not None
            self.kill()
            said = self._process.stderr.read()[-_STDERR:].decode(errors="replace").strip()
            raise RewardError(f"a worker process for rewards did not start: {said or reply}")

    def ask(self, function: Portable, task: Task, found: Callable[[int, Outcome], Any]) -> Failure | None:
        """Have a task done; tells each outcome as it comes. Gives why it was not done to its end, if so.

        Raises:
            RewardError: the function can't be loaded, or raised an error of gruppo's.
        """
        failure = self._load(function) or self._send(pack(task, _pickled))
        while failure is None:
            pid = self._runner if task.forks else None
            reply = self._reply(task.seconds * (task.count if task.batch else 1), function.waits, pid)
            if isinstance(reply, Failure):
                self.usable = False
                return reply
            match reply:
                case {"runner": int(pid)}:
                    self._runner = pid
                case {"died": int(status)}:
                    self._runner = None
                    return self._end_of(status, task.seconds)
                case {"outcome": [int(index), outcome]} if 0 <= index < task.count:
                    try:
                        found(index, unpack_outcome(outcome))
                    except ValueError:
                        self.usable = False
                        return crashed("no outcome")
                case {"stop": str(why)}:
                    raise RewardError(why)
                case {"done": True}:
                    return None
                case _:
                    self.usable = False
                    return crashed("no outcome")
        return failure

    def _load(self, function: Portable) -> Failure | None:
        if function.key in self._loaded:
            return None
        self._send(pack(Load(function.key, function.name, function.pickled, function.warm)))
        reply = self._reply(_START_SECONDS)
        why = f"it {reply.what.removesuffix(' on')}" if isinstance(reply, Failure) else reply.get("failed")
        if why is not None:
            self.kill()
            raise RewardError(f"reward '{function.label}' can't be loaded in a worker process: {why}")
        self._loaded.add(function.key)
        return None

    def _send(self, data: bytes) -> Failure | None:
        """Write a request. A worker that is gone says so at the next reply."""
        view = memoryview(data)
        with contextlib.suppress(BrokenPipeError):
            while view:
                view = view[os.write(self._requests, view) :]
        return None

    def _reply(self, seconds: float, lenient: bool = False, pid: int | None = None) -> dict[str, Any] | Failure:
        """The next line, or why there is none.

        Args:
            seconds: that the process may wait.
            lenient: the worker itself stops what waits too long, and has a second more for that.
            pid: of its fork, where that is at work.
        """
        clock = _Clock(pid or self._process.pid, seconds + lenient)
        while b"\n" not in self._rest:
            if not self._poll.poll(1000 * min(_LOOK_EVERY, seconds)):
                if clock.over():
                    return late(seconds)
                continue
            data = os.read(self._replies, 1 << 16)
            if not data:
                return self._ended(seconds)
            self._rest += data
            if len(self._rest) > _LONGEST_LINE:
                return crashed("flooded its pipe")
        line, _, self._rest = self._rest.partition(b"\n")
        try:
            message = json.loads(line)
        except ValueError:
            return crashed("wrote no JSON")
        return message if isinstance(message, dict) else crashed("wrote no message")

    def _ended(self, seconds: float) -> Failure:
        try:
            code = self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            return crashed("closed its pipe")
        return self._end_of(code, seconds)

    def _end_of(self, code: int, seconds: float) -> Failure:
        """What an exit status says; the signal is that of the timer of CPU time."""
        self.killed = code in (-signal.SIGKILL, -signal.SIGTERM)
        if code == -signal.SIGPROF:
            return late(seconds)
        return crashed(f"by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}")

    def pids(self) -> list[int]:
        """Its own, and its fork's."""
        return [self._process.pid, *([self._runner] if self._runner is not None else [])]

    def kill(self) -> None:
        """End the process and all that it started. May be called twice, from any thread; a fork lets it live."""
        if self.over or self._owner != os.getpid():
            return
        self.over = True
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def __del__(self) -> None:
        with contextlib.suppress(OSError, AttributeError):
            self.kill()
            os.close(self._requests)
            os.close(self._replies)


class _Clock:
    """Whether a process has waited longer than it may, ready time left out."""

    def __init__(self, pid: int, seconds: float) -> None:
        self._pid = pid
        self._seconds = seconds
        self._began = time.monotonic()
        self._busy = self._busy_seconds()

    def over(self) -> bool:
        """Whether the limit is reached. Computing is limited within the process, and here, with room, once more."""
        wall = time.monotonic() - self._began
        if wall < self._seconds:
            return False
        busy = self._busy_seconds()
        if busy is None or self._busy is None:
            return wall > 3 * self._seconds + 5
        return wall - (busy - self._busy) > self._seconds

    def _busy_seconds(self) -> float | None:
        """Seconds on a core or waiting for one; None where the system does not tell."""
        try:
            on_core, ready = Path(f"/proc/{self._pid}/schedstat").read_text().split()[:2]
        except (OSError, ValueError):
            return None
        return (int(on_core) + int(ready)) / 1e9


def _pickled(task: Any) -> bytes:
    """Arguments are data; whatever plain pickle can't take goes by value."""
    try:
        return pickle.dumps(task)
    except Exception:
        import cloudpickle

        return cloudpickle.dumps(task)
