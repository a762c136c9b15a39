"""The trainer's side: hands jobs to the zygote, starts it anew where it died, and waits for outcomes.

Any number of threads may call `run`; at most `2 * cores` (and at least 4, and a 16th of
the descriptors that this process may have) jobs run at once, others wait. After a fork
of the trainer the child starts a zygote of its own.
"""

import os
import resource
import threading
from types import TracebackType

from gruppo.errors import SandboxError
from gruppo.rewards.sandbox import frames
from gruppo.rewards.sandbox.client import Zygote, exchange
from gruppo.rewards.sandbox.job import Job, Level, Outcome
from gruppo.rewards.sandbox.probe import BEST_FIRST, start

_ATTEMPTS = 3
_DESCRIPTORS = 16
"""More than a job ever has open in this process."""


class Sandbox:
    """Runs jobs in jailed processes.

    >>> with Sandbox() as sandbox:  # doctest: +SKIP
    ...     outcome = sandbox.run(Job(Program("gruppo.rewards.sandbox.bare:run_source", b"print(1)"), Limits(1, 5)))
    """

    level: Level
    """The walls in force."""

    def __init__(self, unsafe: bool = False, level: Level | None = None) -> None:
        """Start the zygote at the best level that this machine grants, or at `level`; each is tried out first.

        Raises:
            SandboxError: there is no isolation to be had and `unsafe` is False, or not the one asked for.
        """
        self.level, self._zygote = _choose(unsafe, level)
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(_slots())
        self._closed = False

    def run(self, job: Job) -> Outcome:
        """Run one job to its end.

        Raises:
            SandboxError: the sandbox is closed, or its processes are killed again and again.
        """
        with self._slots:
            for _ in range(_ATTEMPTS):
                zygote = self._current()
                try:
                    return exchange(zygote, job)
                except frames.Lost:
                    self._replace(zygote)
        raise SandboxError(
            f"The sandbox's processes ended {_ATTEMPTS} times while running one program. Something on this machine"
            " kills them (is memory short?); see the system's log."
        )

    def close(self) -> None:
        """End the zygote and all that runs in it."""
        with self._lock:
            self._closed = True
            self._zygote.stop()

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _current(self) -> Zygote:
        """The zygote, started anew where this process is a fork of the one that started it."""
        with self._lock:
            if self._closed:
                raise SandboxError("This sandbox has been closed. Make a new one.")
            if self._zygote.owner != os.getpid():
                self._zygote = Zygote(self.level)
            return self._zygote

    def _replace(self, lost: Zygote) -> None:
        """Start a new zygote, unless only the job's guard was lost or another thread has done so."""
        with self._lock:
            if self._zygote is lost and not self._closed and not lost.alive():
                lost.stop()
                self._zygote = Zygote(self.level)


def _slots() -> int:
    """How many jobs run at once; as many as this process may have descriptors for, with plenty left for others."""
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    most = 2 * (os.cpu_count() or 1)
    return max(4, most if descriptors == resource.RLIM_INFINITY else min(most, descriptors // _DESCRIPTORS))


def _choose(unsafe: bool, level: Level | None) -> tuple[Level, Zygote]:
    """The level asked for, else the best, and its zygote."""
    if level == "unsafe" and not unsafe:
        raise SandboxError("The level 'unsafe' is no isolation: say Sandbox(unsafe=True) if you want it all the same.")
    reasons = []
    for candidate in BEST_FIRST if level is None else (level,):
        try:
            return candidate, start(candidate)
        except SandboxError as error:
            reasons.append(f"{candidate}: {error}")
    if level is None and unsafe:
        return "unsafe", start("unsafe")
    raise SandboxError(
        f"Programs written by a model can't be run in isolation on this machine ({'; '.join(reasons)}). Cure: allow"
        " unprivileged user namespaces, or use a kernel with Landlock (Linux 5.13 or later, not filtered away by the"
        " container runtime); or set `unsafe`, if nothing on this machine is worth protecting."
    )
