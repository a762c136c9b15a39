"""Walls around a process, put up by itself, for good: namespaces or Landlock, and at each level all of the rest.

The order counts. Once, in the zygote (`enter`): namespaces or Landlock rules. In each jailed process (`lock`): limits
on resources, no new privileges, Landlock, another user, no capabilities, death with its guard, the seccomp filter last. A step
that fails is an error, and the process runs nothing; at the level `unsafe` it is passed over.
"""

import contextlib
import ctypes
import os
import pwd
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gruppo.rewards.sandbox import landlock, namespaces, seccomp

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 1, 4, 24, 38, 47
_CAP_VERSION_3 = 0x20080522
_MIB = 1 << 20
_STACK = 100 * _MIB
_FILES = 16
_FIRST_UNUSED_USER = 64_001


@dataclass(frozen=True)
class Walls:
    """What the zygote has prepared for those that are jailed."""

    level: str
    devnull: int
    """A descriptor of /dev/null, for a judge's standard input and output."""
    user: int | None
    """The user and group that the jailed become; None where there is no choice."""
    rules: int | None
    """Landlock's rules."""
    base_bytes: int
    """The zygote's own address space."""


def enter(level: str) -> Walls:
    """Prepare this process to fork jailed ones at this level.

    Raises:
        OSError: the machine does not grant it.
    """
    devnull = os.open(os.devnull, os.O_RDWR)
    base_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    with contextlib.suppress(OSError):  # when memory is short, let it be these processes and not the trainer
        Path("/proc/self/oom_score_adj").write_text("1000")
    user, rules = _unused_user() if os.geteuid() == 0 else None, None
    if level == "namespaces":
        user = namespaces.enter(_LIBC, user or 0)
    elif level == "landlock":
        rules = landlock.rules(_LIBC)
    _prctl(_PR_SET_DUMPABLE, 0)
    return Walls(level, devnull, user, rules, base_bytes)


def fork(walls: Walls) -> int:
    """Fork a process that is to be jailed."""
    return namespaces.fork() if walls.level == "namespaces" else os.fork()


def lock(walls: Walls, rules: int | None, cpu_seconds: float, memory_mb: int) -> None:
    """Jail this process for good; `rules` is where it has the descriptor of Landlock's.

    Raises:
        OSError: a wall could not be put up.
    """
    steps: list[Callable[[], None]] = [
        lambda: _limit_resources(cpu_seconds, walls.base_bytes + memory_mb * _MIB),
        lambda: _prctl(_PR_SET_NO_NEW_PRIVS, 1),
        lambda: None if rules is None else landlock.restrict(_LIBC, rules),
        lambda: None if walls.user is None else _become(walls.user),
        _drop_capabilities,
        lambda: _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL),
        lambda: _prctl(_PR_SET_DUMPABLE, 0),
        lambda: seccomp.install(_LIBC),
    ]
    for step in steps:
        with contextlib.suppress(OSError if walls.level == "unsafe" else ()):
            step()


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent dies, or end now where it has already."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def cpu_seconds(pid: int) -> float:
    """CPU seconds of a process of ours, ended or not, all its threads together."""
    return time.clock_gettime((~pid << 3) | 2)


def _limit_resources(cpu_seconds: float, address_space: int) -> None:
    """Limits that the kernel holds; the one on CPU counts whole seconds and is a backstop behind the guard's."""
    seconds = int(cpu_seconds) + 2
    for name, most in (
        ("CPU", seconds), ("AS", address_space), ("FSIZE", 0), ("NOFILE", _FILES), ("CORE", 0), ("STACK", _STACK),
        ("NPROC", 0), ("MEMLOCK", 0), ("MSGQUEUE", 0), ("NICE", 0), ("RTPRIO", 0),
    ):  # fmt: skip
        kind = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(kind)[1]
        limit = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (limit, limit + 1 if name == "CPU" and limit == most else limit))


def _become(user: int) -> None:
    """Change user and group for good, and leave all other groups."""
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def _drop_capabilities() -> None:
    """Have no capability in any set, and see that it is so."""
    _LIBC.prctl(_PR_CAP_AMBIENT, 4, 0, 0, 0)
    for capability in range(64):
        _LIBC.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(_CAP_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)()
    if _LIBC.capset(header, data) != 0:
        raise OSError(ctypes.get_errno(), "capabilities could not be dropped")
    if _LIBC.capget(header, data) != 0 or any(data):
        raise OSError(ctypes.get_errno(), "capabilities are left")


def _unused_user() -> int | None:
    """A user id that no account has."""
    taken = {account.pw_uid for account in pwd.getpwall()}
    return next(user for user in range(_FIRST_UNUSED_USER, 65_000) if user not in taken)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux" and _LIBC.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}")
