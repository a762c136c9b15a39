"""The pool: reward functions in warm processes that can be killed, several at a time.

    rubric --submit--> queue of threads ---- one worker process each ---- reward function
              future <----- outcomes <------ JSON lines -------------------'

Each thread of the pool owns one process, asks it, and waits with a limit. A call is stopped

- when it has computed for its seconds: CPU time, so that a busy machine gives the same verdict;
- when it has waited for its seconds (asleep, or for an answer from elsewhere), the time for which it was ready to run
  and had no core not counted (Linux; elsewhere, wall clock of three times its seconds and five more);
- when its process dies.

A call whose process was killed by somebody else (SIGKILL, SIGTERM) is tried once more. Otherwise the completion in hand
has a failure for an outcome, the process is killed with everything that it started, and the rest of the group goes to a
new one. The order of outcomes is that of the calls, whatever the number of processes.
"""

import contextlib
import os
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
from gruppo.rewards.outcomes import Outcome
from gruppo.rewards.process import Portable, WorkerProcess
from gruppo.rewards.requests import Task

MEMORY_BYTES = 4 << 30
"""Private memory of one worker."""


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
        self._workers: set[WorkerProcess] = set()
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
        once: set[int] = set()
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
            if worker.killed and missing[0] not in once:
                once.add(missing[0])
                continue
            found.update(dict.fromkeys(missing if batch or function.waits else missing[:1], failure))
        return Scored([found[index] for index in range(count)], time.perf_counter() - began)

    def _worker(self) -> "WorkerProcess":
        """This thread's process, started anew where there is none."""
        worker = getattr(self._local, "worker", None)
        if worker is None or worker.over:
            if self._closed:
                raise RewardError("the reward workers are closed")
            worker = WorkerProcess(self._log, self._memory_bytes)
            with self._lock:
                if self._closed:
                    worker.kill()
                    raise RewardError("the reward workers are closed")
                self._workers.add(worker)
            self._local.worker = worker
            worker.greet()
        return worker

    def _drop(self, worker: "WorkerProcess") -> None:
        worker.kill()
        with self._lock:
            self._workers.discard(worker)

    def pids(self) -> list[int]:
        """The worker processes and their forks."""
        with self._lock:
            return [pid for worker in self._workers for pid in worker.pids()]

    @property
    def closed(self) -> bool:
        """Whether it was closed: it takes no more calls."""
        return self._closed

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


def usable_cores() -> int:
    """The cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


class _Default:
    """The pool of calls outside a run. A fork of this process has none of its threads, and starts one of its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pool: WorkerPool | None = None

    def get(self) -> WorkerPool:
        """The pool, made at the first call."""
        with self._lock:
            if self._pool is None or self._pool.closed:
                self._pool = WorkerPool()
            return self._pool


_default = _Default()
os.register_at_fork(after_in_child=_default.__init__)


def default_pool() -> WorkerPool:
    """The pool of calls outside a run, made at the first; it lives as long as the process."""
    return _default.get()


def run_limited(name: str, seconds: float, *arguments: Any, **options: Any) -> Outcome:
    """One call of a function of ours, `module:function`, in a worker of the default pool: its outcome, whatever
    it does. It must be one that a fork may call."""
    call = Call(arguments, options)
    return default_pool().submit(Portable(name, name=name, forks=True), False, [call], 1, seconds).result().outcomes[0]
