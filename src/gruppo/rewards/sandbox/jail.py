"""Walls."""

import ctypes
import os
import resource
import signal
import sys
import time
from dataclasses import dataclass

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Walls:
    """What the zygote has prepared for those that are jailed."""

    level: str
    devnull: int


def enter(level: str) -> Walls:
    """Prepare this process to fork jailed ones at this level."""
    return Walls(level, os.open(os.devnull, os.O_RDWR))


def die_with_parent(parent: int | None) -> None:
    """Have the kernel kill this process when its parent dies, or end now where it has already."""
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if parent is not None and os.getppid() != parent:
        os._exit(0)


def fork(walls: Walls) -> int:
    """Fork a process that is to be jailed."""
    return os.fork()


def lock(walls: Walls, cpu_seconds: float, memory_mb: int) -> None:
    """Jail this process for good."""
    die_with_parent(None)
    limit_resources(cpu_seconds, memory_mb)


def limit_resources(cpu_seconds: float, memory_mb: int) -> None:
    """Limits that the kernel holds; the CPU's is a backstop of whole seconds behind the guard's."""
    seconds = int(cpu_seconds) + 2
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))


def cpu_seconds(pid: int) -> float:
    """CPU seconds of a process of ours, ended or not, all its threads together."""
    return time.clock_gettime((~pid << 3) | 2)
