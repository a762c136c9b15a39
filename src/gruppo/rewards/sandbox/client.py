"""The trainer's end of a zygote: start it, hand it jobs, read outcomes, end it."""

import os
import socket
import subprocess
import sys
import threading
import weakref
from pathlib import Path

from gruppo.errors import SandboxError
from gruppo.rewards.sandbox import frames
from gruppo.rewards.sandbox.job import Exit, Job, Level, Outcome

_START_SECONDS = 120.0
_PATIENCE = 60.0
"""Seconds beyond a job's wall limit after which its guard is taken for dead."""
_FLAGS = ("-P", "-s", "-S", "-B", "-X", "utf8")


class Zygote:
    """The warm process, and the socket on which jobs go to it."""

    def __init__(self, level: Level) -> None:
        self.owner = os.getpid()
        self._send_lock = threading.Lock()
        self._control, theirs = socket.socketpair()
        with theirs:
            self._process = _spawn(theirs.fileno(), level)
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


def _spawn(control: int, level: Level) -> subprocess.Popen[bytes]:
    """Start a fresh Python that has nothing of this process but the socket.

    Raises:
        SandboxError: this Python can't be executed.
    """
    boot = Path(__file__).with_name("boot.py")
    try:
        return subprocess.Popen(
            [sys.executable, *_FLAGS, str(boot), str(control), level],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(control,),
            env={"PYTHONHASHSEED": "0"},
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        raise SandboxError(f"The sandbox's process could not start: {error}") from error


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


def exchange(zygote: Zygote, job: Job) -> Outcome:
    """Send a job to a new guard and wait for what came of it.

    Raises:
        frames.Lost: the guard or the zygote is gone.
        SandboxError: the jail could not be closed; nothing was run.
    """
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
