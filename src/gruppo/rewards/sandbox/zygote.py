"""The warm process that jobs are forked from. It never sees a job: it only passes on a socket.

```
trainer ── Sandbox ─┬─ control socket ── zygote                fresh Python, empty environment, modules loaded
                    │                       ├─ guard           one job after another: limits, how it ended
                    └─ a socket per guard ──┤     ├─ candidate   jailed; its streams go to the trainer
                                            │     └─ judge       jailed; its verdict goes to the trainer
                                            └─ guard ...
```
Who dies with whom: the zygote when the trainer's end of the socket closes or the trainer is gone; a guard with the
zygote, and jailed processes with their guard, by the kernel's parent-death signal. A guard never has anything of a job
but entries and limits, so what the jailed are forked from holds no payload and no output, of this job or of another.
"""

import gc
import importlib
import os
import select
import signal
import socket
import sys
import time
import traceback
from importlib.util import find_spec

from gruppo.rewards.sandbox import child, guard, jail, memory, stdlib

ENTRY_MODULES = tuple(f"gruppo.rewards.sandbox.{name}" for name in ("bare", "check", "candidate", "judge", "script"))
"""Modules whose functions may be a program's entry."""
_LOOK_EVERY = 1.0
_BREATH = 0.2


def main(descriptor: int, level: str) -> None:
    """Get ready, say so on the control socket, then fork guards until the trainer is gone."""
    control = socket.socket(fileno=descriptor)
    trainer = os.getppid()
    try:
        _preload()
        walls = jail.enter(level)
    except Exception as error:
        control.sendall(b"E" + _in_a_line(error)[:4000])
        return
    control.sendall(b"R")
    _serve(control, trainer, walls)


def _fork() -> int:
    """Fork; where the machine is out of processes or memory just now, -1: the trainer hands the job in again."""
    try:
        return os.fork()
    except OSError:
        time.sleep(_BREATH)
        return -1


def _in_a_line(error: Exception) -> bytes:
    """The error for people where it is the machine's, with its place where it is ours."""
    place = "" if isinstance(error, OSError) else f" ({traceback.format_exc(limit=-1)})"
    return f"{error}{place}".encode()


def _preload() -> None:
    """Load what jobs need; then nothing is to be loaded from files any more."""
    for name in ENTRY_MODULES:
        if find_spec(name) is not None:
            importlib.import_module(name)
    stdlib.load()
    child.prepare()
    gc.disable()
    gc.collect()
    gc.freeze()
    memory.settle()


def _serve(control: socket.socket, trainer: int, walls: jail.Walls) -> None:
    """A guard for each socket that arrives."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    me = os.getpid()
    while os.getppid() == trainer:
        if not select.select([control], [], [], _LOOK_EVERY)[0]:
            continue
        data, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if not data:
            return
        link = socket.socket(fileno=descriptors[0])
        pid = _fork()
        if pid == 0:
            try:
                control.close()
                jail.die_with_parent(me)
                guard.serve(link, walls)
            except BaseException:
                traceback.print_exc(file=sys.stderr)
            finally:
                os._exit(0)
        link.close()
