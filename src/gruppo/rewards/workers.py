"""The pool: reward functions in warm processes that can be killed, several at a time.

    rubric --submit--> queue of threads ---- one worker process each ---- reward function
              future <----- outcomes <------ JSON lines -------------------'

Each thread of the pool owns one process, asks it, and waits with a limit. A call is stopped

- when it has computed for its seconds: CPU time, so that a busy machine gives the same verdict;
- when it has waited for its seconds (asleep, or for an answer from elsewhere), the time for which it was ready to run
  and had no core not counted (Linux; elsewhere, wall clock of three times its seconds and five more);
- when its process dies.

The completion in hand then has a failure for an outcome, the process is killed with everything that it started, and the
rest of the group goes to a new one. The order of outcomes is that of the calls, whatever the number of processes.
"""

import contextlib
import json
import os
import pickle
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gruppo.errors import RewardError
from gruppo.rewards.binding import Call
from gruppo.rewards.outcomes import Failure, Outcome, crashed, late
from gruppo.rewards.requests import Hello, Load, Task, pack, unpack_outcome

MEMORY_BYTES = 4 << 30
"""Private memory of one worker."""
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


@dataclass(frozen=True, slots=True)
class Scored:
    """What a group's calls came to."""

    outcomes: list[Outcome]
    """In the order of the calls."""
    seconds: float
    """That they took, the wait for a free process left out."""


def by_value(
    label: str, function: Callable[..., Any], waits: bool = False, forks: bool = False, warm: str | None = None
) -> Portable:
    """A function of a notebook or a script, pickled with all that it refers to.

    One of a lone file beside the script goes by value too, so that a worker need not import what else stands there.

    Raises:
        RewardError: it holds something that can't leave this process.
    """
    import cloudpickle

    def portable() -> Portable:
        return Portable(label, pickled=cloudpickle.dumps(function), waits=waits, forks=forks, warm=warm)

    module = sys.modules.get(getattr(function, "__module__", None) or "")
    try:
        if module is not None and not module.__package__ and module.__name__ != "__main__":
            with contextlib.suppress(Exception):
                cloudpickle.register_pickle_by_value(module)
                try:
                    return portable()
                finally:
                    cloudpickle.unregister_pickle_by_value(module)
        return portable()
    except Exception as error:
        raise RewardError(
            f"reward '{label}' can't be sent to a worker process ({type(error).__name__}: {error}). Create what can't "
            "leave this process inside the function, or set `isolation: inline` on the reward."
        ) from error


class WorkerPool:
    """Warm worker processes, started as they are needed. Thread-safe.

    Raises RewardError from a future where a function can't be loaded in a worker, or breaks its contract for good.
    """

    def __init__(self, size: int | None = None, log: Path | None = None, memory_bytes: int = MEMORY_BYTES) -> None:
        """size: processes; None: as many as this process may use cores. log: a file for what functions print."""
        self.size = size or usable_cores()
        self._log = log
        self._memory_bytes = memory_bytes
        self._threads = ThreadPoolExecutor(self.size, thread_name_prefix="gruppo-rewards")
        self._local = threading.local()
        self._workers: set[_Process] = set()
        self._lock = threading.Lock()
        self._closed = False

    def submit(
        self, function: Portable, batch: bool, calls: Sequence[Call], count: int, seconds: float
    ) -> "Future[Scored]":
        """The outcomes of a group.

        Args:
            function: what to call.
            batch: whether one call is for all completions.
            calls: one for each completion, or one.
            count: completions.
            seconds: for one completion.
        """
        return self._threads.submit(self._group, function, batch, calls, count, seconds)

    def run(self, work: Callable[[], Any]) -> "Future[Any]":
        """Work that waits on processes of its own (the sandbox), in one of the pool's threads."""
        return self._threads.submit(work)

    def _group(self, function: Portable, batch: bool, calls: Sequence[Call], count: int, seconds: float) -> "Scored":
        found: dict[int, Outcome] = {}
        began = time.perf_counter()
        while left := [index for index in range(count) if index not in found]:
            chosen = calls if batch else [calls[index] for index in left]
            task = Task(function.key, batch, chosen, len(left), seconds, function.forks)
            worker = self._worker()
            failure = worker.ask(function, task, lambda n, outcome, left=left: found.update({left[n]: outcome}))
            if failure is None:
                continue
            if not worker.usable:
                self._drop(worker)
            missing = [index for index in left if index not in found]
            found.update(dict.fromkeys(missing if batch or function.waits else missing[:1], failure))
        return Scored([found[index] for index in range(count)], time.perf_counter() - began)

    def _worker(self) -> "_Process":
        """This thread's process, started anew where there is none."""
        worker = getattr(self._local, "worker", None)
        if worker is None or worker.over:
            worker = _Process(self._log, self._memory_bytes)
            with self._lock:
                if self._closed:
                    worker.kill()
                    raise RewardError("the reward workers are closed")
                self._workers.add(worker)
            self._local.worker = worker
            worker.greet()
        return worker

    def _drop(self, worker: "_Process") -> None:
        worker.kill()
        with self._lock:
            self._workers.discard(worker)

    def pids(self) -> list[int]:
        """The worker processes and their forks."""
        with self._lock:
            return [pid for worker in self._workers for pid in worker.pids()]

    def close(self) -> None:
        """End all processes; what is in hand is given up."""
        with self._lock:
            self._closed = True
            workers = list(self._workers)
            self._workers.clear()
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            worker.kill()

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Process:
    """One worker process and the pipes to it."""

    def __init__(self, log: Path | None, memory_bytes: int) -> None:
        requests, self._requests = os.pipe()
        self._replies, replies = os.pipe()
        self._loaded: set[str] = set()
        self._rest = b""
        self._runner: int | None = None
        self.usable = True
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
        if code == -signal.SIGPROF:
            return late(seconds)
        return crashed(f"by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}")

    def pids(self) -> list[int]:
        """Its own, and its fork's."""
        return [self._process.pid, *([self._runner] if self._runner is not None else [])]

    def kill(self) -> None:
        """End the process and all that it started; take back the pipes. May be called twice, from any thread."""
        if self.over:
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


def usable_cores() -> int:
    """The cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


_DEFAULT: WorkerPool | None = None
_DEFAULT_LOCK = threading.Lock()


def default_pool() -> WorkerPool:
    """The pool of calls outside a run, made at the first; it lives as long as the process."""
    global _DEFAULT
    with _DEFAULT_LOCK:
        if _DEFAULT is None:
            _DEFAULT = WorkerPool()
        return _DEFAULT


def run_limited(name: str, seconds: float, *arguments: Any, **options: Any) -> Outcome:
    """One call of a function of ours, `module:function`, in a worker of the default pool: its outcome, whatever
    it does. It must be one that a fork may call."""
    call = Call(arguments, options)
    return default_pool().submit(Portable(name, name=name, forks=True), False, [call], 1, seconds).result().outcomes[0]
