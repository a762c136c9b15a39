"""The trainer's side: hands jobs to the zygote, starts it anew where it died, and waits for outcomes.

Any number of threads may call `run`; at most `2 * cores` (and at least 4) jobs run at once, others wait. After a fork
of the trainer the child starts a zygote of its own.
"""

import os
import socket
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from types import TracebackType

from gruppo.errors import SandboxError
from gruppo.rewards.sandbox import frames
from gruppo.rewards.sandbox.job import Exit, Job, Level, Outcome
from gruppo.rewards.sandbox.probe import probe

_START_SECONDS = 120.0
_PATIENCE = 60.0
"""Seconds beyond a job's wall limit after which its guard is taken for dead."""
_ATTEMPTS = 5
_FLAGS = ("-P", "-s", "-S", "-B", "-X", "utf8")


class Sandbox:
    """Runs jobs in jailed processes.

    >>> with Sandbox() as sandbox:  # doctest: +SKIP
    ...     outcome = sandbox.run(Job(Program("gruppo.rewards.sandbox.bare:run_source", b"print(1)"), Limits(1, 5)))
    """

    level: Level
    """The walls in force."""

    def __init__(self, unsafe: bool = False, level: Level | None = None) -> None:
        """Start the zygote at the best level that this machine grants, or at `level`.

        Raises:
            SandboxError: there is no isolation to be had and `unsafe` is False, or not the one asked for.
        """
        self.level = _choose(unsafe, level)
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(max(4, 2 * (os.cpu_count() or 1)))
        self._closed = False
        self._zygote = Zygote(self.level)

    def run(self, job: Job) -> Outcome:
        """Run one job to its end.

        Raises:
            SandboxError: the sandbox is closed, or its processes are killed again and again.
        """
        with self._slots:
            for _ in range(_ATTEMPTS):
                zygote = self._current()
                try:
                    return _exchange(zygote, job)
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

    def _current(self) -> "Zygote":
        """The zygote, started anew where this process is a fork of the one that started it."""
        with self._lock:
            if self._closed:
                raise SandboxError("This sandbox has been closed. Make a new one.")
            if self._zygote.owner != os.getpid():
                self._zygote = Zygote(self.level)
            return self._zygote

    def _replace(self, lost: "Zygote") -> None:
        """Start a new zygote, unless only the job's guard was lost or another thread has done so."""
        with self._lock:
            if self._zygote is lost and not self._closed and not lost.alive():
                lost.stop()
                self._zygote = Zygote(self.level)


class Zygote:
    """The warm process, and the socket on which jobs go to it."""

    def __init__(self, level: Level) -> None:
        self.owner = os.getpid()
        self._send_lock = threading.Lock()
        self._control, theirs = socket.socketpair()
        boot = Path(__file__).with_name("boot.py")
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, *_FLAGS, str(boot), str(theirs.fileno()), level],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env={"PYTHONHASHSEED": "0"},
                cwd="/",
                start_new_session=True,
            )
        self.stop = weakref.finalize(self, _stop, self._control, self._process, self.owner)
        self._await()

    def _await(self) -> None:
        """Wait until it is warm."""
        self._control.settimeout(_START_SECONDS)
        try:
            word = self._control.recv(4096)
        except (TimeoutError, ConnectionError) as error:
            word = f"E{error}".encode()
        self._control.settimeout(None)
        if word != b"R":
            self.stop()
            reason = word[1:].decode(errors="replace").strip() or "it ended at once"
            raise SandboxError(f"The sandbox's process could not start: {reason}")

    def submit(self) -> socket.socket:
        """A socket to the guard of a new job."""
        ours, theirs = socket.socketpair()
        with theirs, self._send_lock:
            try:
                socket.send_fds(self._control, [b"J"], [theirs.fileno()])
            except OSError as error:
                ours.close()
                raise frames.Lost from error
        return ours

    def alive(self) -> bool:
        """Whether it runs, giving one that is just dying the time to."""
        try:
            self._process.wait(0.05)
        except subprocess.TimeoutExpired:
            return True
        return False


def _stop(control: socket.socket, process: subprocess.Popen[bytes], owner: int) -> None:
    """Let the zygote see the end of its socket; kill it where it does not go."""
    control.close()
    if owner != os.getpid():
        return
    try:
        process.wait(2.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _choose(unsafe: bool, level: Level | None) -> Level:
    """The level to run at."""
    if level == "unsafe" and not unsafe:
        raise SandboxError("The level `unsafe` is only for those who say so: Sandbox(unsafe=True).")
    if level is not None:
        return level
    return "unsafe"


def _exchange(zygote: Zygote, job: Job) -> Outcome:
    """Send a job to a new guard and wait for what came of it."""
    limits = job.limits
    with zygote.submit() as link:
        link.settimeout(limits.wall_seconds + _PATIENCE)
        try:
            header = {
                "candidate": job.candidate.entry,
                "judge": None if job.judge is None else job.judge.entry,
                "cpu": limits.cpu_seconds,
                "wall": limits.wall_seconds,
                "memory": limits.memory_mb,
                "output": limits.output_bytes,
            }
            frames.send_header(link, header)
            frames.send(link, job.candidate.payload, job.stdin, b"" if job.judge is None else job.judge.payload)
            return _outcome(link)
        except TimeoutError as error:
            raise frames.Lost from error


def _outcome(link: socket.socket) -> Outcome:
    """Read the guard's answer."""
    header = frames.receive_header(link)
    if "problem" in header:
        raise SandboxError(f"A program could not be jailed, so it was not run: {header['problem']}")
    verdict, stdout, stderr, judge_stderr = (frames.receive(link) for _ in range(4))
    return Outcome(
        verdict=verdict or None,
        stdout=stdout,
        stdout_truncated=header["truncated"],
        stderr=stderr,
        candidate=Exit(**header["candidate"]),
        judge=None if header["judge"] is None else Exit(**header["judge"]),
        judge_stderr=judge_stderr,
        wall_seconds=header["wall"],
    )
