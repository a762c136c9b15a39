"""`python -m gruppo.rewards.worker REQUESTS REPLIES`: a process that calls reward functions for the pool.

    pool                                   worker
    pickle: hello (sys.path, limits)  -->
                                      <--  {"ready": true}
    pickle: load (key, function)      -->  runs the user's file, or unpickles
                                      <--  {"loaded": key} or {"failed": why}
    pickle: call (key, calls)         -->
                                      <--  {"outcome": [n, ...]} for each completion, then {"done": true}

What comes back is JSON, never a pickle: a reward function looks at hostile text, and what it was talked into must not
run in the trainer. Requests come from the trainer and are trusted.

1. CPU time is limited by a timer of the process (ITIMER_PROF) whose signal ends it, whatever it is doing: C code that
   holds the interpreter's lock too. The pool limits the time that it waits.
2. What a function prints goes to the log that the pool named, up to a limit; the trainer's output stays clean.
3. The worker ends with the pool: by the end of its requests, and on Linux by a signal if the pool's thread is killed.
"""

import ctypes
import io
import json
import os
import pickle
import resource
import signal
import sys
from collections.abc import Callable
from typing import Any, BinaryIO

from gruppo.errors import GruppoError
from gruppo.rewards.calling import outcomes
from gruppo.rewards.loading import load_function
from gruppo.rewards.outcomes import Failure, Outcome
from gruppo.rewards.requests import LENGTH, Hello, Load, Task

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
        self._file = open(path, "a", encoding="utf-8", errors="replace", buffering=1) if path else None  # noqa: SIM115
        self._left = _MOST_OUTPUT

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if self._file is not None and self._left > 0:
            self._file.write(text[: self._left])
            self._left -= len(text)
            if self._left <= 0:
                self._file.write("\n[this worker has printed enough; the rest is left out]\n")
        return len(text)

    def flush(self) -> None:
        if self._file is not None:
            self._file.flush()


class _Worker:
    def __init__(self, requests: BinaryIO, replies: BinaryIO) -> None:
        self._requests = requests
        self._replies = replies
        self._functions: dict[str, Callable[..., Any]] = {}

    def run(self) -> None:
        """Serve until the requests end."""
        while (request := self._read()) is not None:
            match request:
                case Hello():
                    _settle(request)
                    self._say({"ready": True})
                case Load():
                    self._say(self._load(request))
                case Task():
                    self._call(request)

    def _read(self) -> Hello | Load | Task | None:
        head = self._requests.read(LENGTH.size)
        if len(head) < LENGTH.size:
            return None
        return pickle.loads(self._requests.read(LENGTH.unpack(head)[0]))

    def _say(self, message: dict[str, Any]) -> None:
        self._replies.write(json.dumps(message).encode() + b"\n")
        self._replies.flush()

    def _load(self, load: Load) -> dict[str, Any]:
        try:
            self._functions[load.key] = load_function(load.name) if load.name else pickle.loads(load.pickled)
        except (Exception, SystemExit) as error:
            text = str(error) if isinstance(error, GruppoError) else f"{type(error).__name__}: {error}"
            return {"failed": text}
        return {"loaded": load.key}

    def _call(self, task: Task) -> None:
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


def _settle(hello: Hello) -> None:
    """Take up the trainer's paths, limits and log."""
    sys.path[:] = hello.path
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != hello.parent:
            os._exit(1)
    if hello.memory_bytes:
        # Private memory, not address space: importing torch alone maps tens of gigabytes that it never touches.
        resource.setrlimit(resource.RLIMIT_DATA, (hello.memory_bytes, hello.memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    nowhere = os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stderr = _Log(hello.log)
    for descriptor in (1, 2):
        os.dup2(nowhere, descriptor)


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
