"""Stands between the trainer and a server that it started, so that neither outlives the other.

    python guard.py FOLDER COMMAND ...

    trainer --(stdin: a pipe)--> guard --(child)--> server --> its own processes

It ends, with everything below it, when the server's first process ends, when a byte comes through the pipe, or when
the trainer is gone: the pipe closes, or the parent is another than at the start (a fork may still hold the pipe). Then
it removes FOLDER too, where the trainer's weights for the server lie. Orphans come to it
(PR_SET_CHILD_SUBREAPER), so nothing can hide by starting a session of its own. Its exit status is the server's, 128
more than the signal where one ended it. Standard library alone: this file is run by its path, and starts in a moment.
"""

import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import time

SET_PDEATHSIG, SET_CHILD_SUBREAPER = 1, 36
LOOK_EVERY = 0.2
SETTLE_SECONDS = 0.1
GRACE_SECONDS = 3.0
"""For the server to end by itself before it is killed."""


def prctl(option: int, value: int) -> None:
    """A setting of this process, where the system is Linux."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def children() -> list[int]:
    """This process's children, orphans that came to it included."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            return [int(text) for text in file.read().split()]
    except OSError:
        return []


def reap() -> dict[int, int]:
    """The status of every child that has ended."""
    found: dict[int, int] = {}
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            found[pid] = status
    return found


def end_all(first: int) -> None:
    """Ask the server to end, then kill whatever is left, until there is nothing."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(first, signal.SIGTERM)
    end = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < end and first in children():
        reap()
        time.sleep(0.02)
    end = time.monotonic() + GRACE_SECONDS
    while (left := children()) and time.monotonic() < end:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        reap()
        time.sleep(0.02)


def status_of(server: "subprocess.Popen[bytes]") -> int | None:
    """The server's exit status, 128 more than its signal; None while it runs."""
    ended = reap()
    if server.pid not in ended:
        return None
    code = os.waitstatus_to_exitcode(ended[server.pid])
    return code if code >= 0 else 128 - code


def watch(server: "subprocess.Popen[bytes]", parent: int, folder: str) -> int:
    """Wait for the server to end, or for the trainer to end or say so; the exit status."""
    while (status := status_of(server)) is None:
        told = os.read(0, 1) if select.select([0], [], [], LOOK_EVERY)[0] else None
        if told == b"" or os.getppid() != parent:
            shutil.rmtree(folder, ignore_errors=True)
            return 0
        if told:  # perhaps since a connection broke, which is a moment before its process counts as ended
            time.sleep(SETTLE_SECONDS)
            return status_of(server) or 0
    return status


def main() -> int:
    """Run the command and watch over it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the trainer's end is told by the pipe
    parent = os.getppid()
    prctl(SET_CHILD_SUBREAPER, 1)

    def in_server() -> None:
        prctl(SET_PDEATHSIG, signal.SIGKILL)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)

    server = subprocess.Popen(sys.argv[2:], stdin=subprocess.DEVNULL, preexec_fn=in_server)
    try:
        return watch(server, parent, sys.argv[1])
    finally:
        end_all(server.pid)


if __name__ == "__main__":
    sys.exit(main())
