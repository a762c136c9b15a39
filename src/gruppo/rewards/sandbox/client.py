"""The trainer's end of a zygote: start it, hand it jobs, read outcomes, end it."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import weakref
from pathlib import Path

from gruppo.errors import SandboxError
from gruppo.rewards.sandbox import frames
from gruppo.rewards.sandbox.exchange import Exchange, over
from gruppo.rewards.sandbox.job import Job, Level, Outcome

_START_SECONDS = 120.0
_FLAGS = ("-P", "-s", "-S", "-B", "-X", "utf8")


class Zygote:
    """The warm process, and the socket on which jobs go to it."""

    def __init__(self, level: Level) -> None:
        self.owner = os.getpid()
        self._send_lock = threading.Lock()
        self._control, theirs = socket.socketpair()
        with theirs:
            self._process = _spawn(theirs.fileno(), level)
        self.idle: list[socket.socket] = []
        """To the guards that wait for a job."""
        self.stop = weakref.finalize(self, _stop, self._control, self.idle, self._process, self.owner)
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

    def guard(self) -> socket.socket:
        """A socket to a guard that waits for a job: an idle one, else a new one."""
        while self.idle:
            with contextlib.suppress(IndexError):
                link = self.idle.pop()
                if not over(link):
                    return link
                link.close()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
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


def _stop(control: socket.socket, idle: list[socket.socket], process: subprocess.Popen[bytes], owner: int) -> None:
    """Let the zygote see the end of its socket; kill it where it does not go."""
    for link in (control, *idle):
        link.close()
    if owner != os.getpid():
        return
    try:
        process.wait(2.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def exchange(zygote: Zygote, job: Job) -> Outcome:
    """Do a job at one of the zygote's guards.

    Raises:
        frames.Lost: the guard or the zygote is gone.
        SandboxError: the jail could not be closed; nothing was run.
    """
    link = zygote.guard()
    try:
        work = Exchange(link, job)
        outcome = work.run()
    except BaseException:
        link.close()
        raise
    if work.last:
        link.close()
    else:
        zygote.idle.append(link)
    return outcome
