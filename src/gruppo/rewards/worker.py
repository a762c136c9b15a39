"""`python -m gruppo.rewards.worker REQUESTS REPLIES`: a process that calls reward functions for the pool.

    pool                                   worker
    pickle: hello (sys.path, limits)  -->
                                      <--  {"ready": true}
    pickle: load (key, function)      -->  runs the user's file, or unpickles
                                      <--  {"loaded": key} or {"failed": why}
    pickle: call (key, calls)         -->
                                      <--  {"runner": pid} where a fork of the worker does it
                                      <--  {"outcome": [n, ...]} for each completion, then {"done": true}
                                      <--  {"died": status} where the fork ended in the middle

What comes back is JSON, never a pickle: a reward function looks at hostile text, and what it was talked into must not
run in the trainer. Requests come from the trainer and are trusted.

1. CPU time is limited by a timer of the process (ITIMER_PROF) whose signal ends it, whatever it is doing: C code that
   holds the interpreter's lock too. The pool limits the time that it waits.
2. What a function prints goes to the log that the pool named, up to a limit; the trainer's output stays clean.
3. A task that says so is done by a fork of the worker, which has all modules loaded: killed, it is replaced in
   milliseconds, where sympy alone takes seconds to import. Only functions of ours say so: a fork of a process with
   threads, or with a GPU in hand, may hang. On Linux the fork may only compute and read files: an answer that talked
   a parser into running it could write no file, start or signal no process, reach no network.
4. The worker ends with the pool: by the end of its requests, and on Linux by a signal if the pool's thread is killed.
"""

import contextlib
import ctypes
import gc
import io
import json
import os
import pickle
import resource
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, BinaryIO, cast

from gruppo.errors import GruppoError
from gruppo.rewards.calling import outcomes
from gruppo.rewards.loading import load_function
from gruppo.rewards.outcomes import Failure, Outcome
from gruppo.rewards.requests import Hello, Load, Task, pack, read_request
from gruppo.rewards.sandbox import jail

_MOST_OUTPUT = 1 << 20
"""Characters that the functions of one worker may print into the log."""
_PR_SET_PDEATHSIG = 1


def _plain(outcome: Outcome) -> Any:
    match outcome:
        case None:
            return None
        case Failure(kind, what, detail, fatal):
            return {"kind": kind, "what": what, "detail": detail, "fatal": fatal}
        case _:
            return {"value": outcome.value, "parts": dict(outcome.parts), "reason": outcome.reason}


class _Log(io.TextIOBase):
    """Printed text, up to a limit, into a file that several workers append to."""

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._left = _MOST_OUTPUT

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if self._path is not None and self._left > 0:
            with open(self._path, "a", encoding="utf-8", errors="replace") as log:
                log.write(text[: self._left])
                self._left -= len(text)
                if self._left <= 0:
                    log.write("\n[this worker has printed enough; the rest is left out]\n")
        return len(text)


class _Worker:
    """What serves the pool, in the order of its requests."""

    def __init__(self, requests: BinaryIO, replies: BinaryIO) -> None:
        self._requests = requests
        self._replies = replies
        self._functions: dict[str, Callable[..., Any]] = {}
        self._runner: _Runner | None = None

    def run(self) -> None:
        """Serve until the requests end."""
        while (request := read_request(self._requests)) is not None:
            match request:
                case Hello():
                    _settle(request)
                    self._say({"ready": True})
                case Load():
                    self._say(self._load(request))
                case Task():
                    self._call(request)

    def _say(self, message: dict[str, Any]) -> None:
        self._replies.write(json.dumps(message).encode() + b"\n")
        self._replies.flush()

    def _load(self, load: Load) -> dict[str, Any]:
        try:
            if load.warm is not None:
                with contextlib.suppress(ImportError):  # the function says better what is missing
                    import_module(load.warm)
            self._functions[load.key] = load_function(load.name) if load.name else pickle.loads(load.pickled)
        except (Exception, SystemExit) as error:
            text = str(error) if isinstance(error, GruppoError) else f"{type(error).__name__}: {error}"
            return {"failed": text}
        return {"loaded": load.key}

    def _call(self, task: Task) -> None:
        """Do a task here, or have the fork do it."""
        if not task.forks:
            self._work(task)
            return
        if self._runner is None or task.key not in self._runner.knows:
            self._fork()
        assert self._runner is not None
        status = self._runner.do(task)
        if status is not None:
            self._runner = None
            self._say({"died": status})

    def _fork(self) -> None:
        """A fork that knows every function that is loaded now."""
        if self._runner is not None:
            self._runner.end()
        gc.freeze()
        self._runner = _Runner.started(self._work, frozenset(self._functions))
        self._say({"runner": self._runner.pid})

    def _work(self, task: Task) -> None:
        """Call one by one; each call has the task's seconds for itself."""
        seconds = task.seconds * (task.count if task.batch else 1)
        try:
            signal.setitimer(signal.ITIMER_PROF, seconds)
            for index, outcome in outcomes(self._functions[task.key], task.batch, task.calls, task.count, seconds):
                signal.setitimer(signal.ITIMER_PROF, 0)
                self._say({"outcome": [index, _plain(outcome)]})
                signal.setitimer(signal.ITIMER_PROF, seconds)
        except GruppoError as error:
            self._say({"stop": str(error)})
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        self._say({"done": True})


@dataclass(frozen=True, slots=True)
class _Runner:
    """A fork of the worker, with a pipe for tasks and one to say that a task is done."""

    pid: int
    knows: frozenset[str]
    _tasks: BinaryIO
    _done: BinaryIO

    @classmethod
    def started(cls, work: Callable[[Task], None], knows: frozenset[str]) -> "_Runner":
        """Fork; in the fork this never returns."""
        (tasks_out, tasks_in), (done_out, done_in) = os.pipe(), os.pipe()
        keeper = os.getpid()
        pid = os.fork()
        if pid == 0:
            os.close(tasks_in)
            os.close(done_out)
            _die_with(keeper)
            _confine()
            with os.fdopen(tasks_out, "rb") as tasks:
                while (task := read_request(tasks)) is not None:
                    work(cast(Task, task))
                    os.write(done_in, b".")
            os._exit(0)
        os.close(tasks_out)
        os.close(done_in)
        return cls(pid, knows, os.fdopen(tasks_in, "wb"), os.fdopen(done_out, "rb", buffering=0))

    def do(self, task: Task) -> int | None:
        """Wait until a task is done. Gives the exit status of a fork that died over it: -signal, or its code."""
        with contextlib.suppress(BrokenPipeError):
            self._tasks.write(pack(task))
            self._tasks.flush()
        if self._done.read(1):
            return None
        return self.end()

    def end(self) -> int:
        """Kill the fork if it lives; its exit status."""
        with contextlib.suppress(BrokenPipeError):
            self._tasks.close()
        self._done.close()
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def _settle(hello: Hello) -> None:
    """Take up the trainer's paths, limits and log."""
    sys.path[:] = hello.path
    _die_with(hello.parent)
    if hello.memory_bytes:
        # Private memory, not address space: importing torch alone maps tens of gigabytes that it never touches.
        resource.setrlimit(resource.RLIMIT_DATA, (hello.memory_bytes, hello.memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    nowhere = os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stderr = _Log(hello.log)
    for descriptor in (1, 2):
        os.dup2(nowhere, descriptor)


def _die_with(parent: int) -> None:
    """End with the parent, however it ends (on Linux; elsewhere at the end of its pipe)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def _confine() -> None:
    """Give up all but computing and reading, where the system grants it; so nothing more is printed into the log."""
    sys.stdout = sys.stderr = _Log(None)
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            jail.only_read()


def main() -> None:
    """Serve the pool on the two descriptors of the command line."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests, replies = (int(argument) for argument in sys.argv[1:3])
    for descriptor in (requests, replies):
        os.set_inheritable(descriptor, False)
    with os.fdopen(requests, "rb") as reader, os.fdopen(replies, "wb") as writer:
        _Worker(reader, writer).run()


if __name__ == "__main__":
    main()
