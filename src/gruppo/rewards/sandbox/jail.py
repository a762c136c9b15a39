"""Walls around a process, put up by itself, for good: namespaces or Landlock, and at each level all of the rest.

The order counts. Once, in the zygote (`enter`): namespaces or Landlock rules. In each jailed process (`lock`): limits
on resources, no new privileges, Landlock, another user, no capabilities, death with its guard, the seccomp filter last.
A step that fails is an error, and the process runs nothing; at the level `unsafe` it is passed over.
"""

import contextlib
import ctypes
import os
import platform
import pwd
import resource
import signal
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gruppo.rewards.sandbox import landlock, namespaces, seccomp

_LIBC = ctypes.CDLL(None, use_errno=True)
_PYTHON = ctypes.PyDLL(None, use_errno=True)
"""The same, called with the interpreter's lock held."""
_CLONE = {"x86_64": 56, "aarch64": 220}
_NEWPID = 0x20000000
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 1, 4, 24, 38, 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_CAPABILITIES_OF_THIS = struct.pack("<Ii", 0x20080522, 0)
_MIB = 1 << 20
_NO_CAPABILITIES = bytes(24)
_capabilities = ctypes.create_string_buffer(b"?" * 24, 24)
_FIXED_LIMITS = (
    (resource.RLIMIT_STACK, 100 * _MIB),
    (resource.RLIMIT_NOFILE, 16),
    *((kind, 0) for kind in (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE, resource.RLIMIT_NPROC)),
    *((kind, 0) for kind in (resource.RLIMIT_MEMLOCK, resource.RLIMIT_MSGQUEUE)),
)
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
    filter: seccomp.Filter | None
    """None only at the level `unsafe`, on a processor without a table of system calls."""


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
        user = namespaces.enter(_LIBC, user)
    elif level == "landlock":
        rules = landlock.rules(_LIBC)
    for capability in range(64):  # nothing is ever executed from here on, so failing to is no loss
        _LIBC.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    _prctl(_PR_SET_DUMPABLE, 0)
    return Walls(level, devnull, user, rules, base_bytes, _filter(level))


def fork(walls: Walls) -> int:
    """Fork a process that is to be jailed; with namespaces, process 1 of a new one.

    The plain call, without what modules have registered to be done at a fork: that is for processes with threads, and
    touches a hundred pages. It may be left out because this process has a single thread.

    Raises:
        OSError: the machine refuses.
    """
    number = _CLONE.get(platform.machine())
    if number is None:
        return os.fork()
    flags = int(signal.SIGCHLD) | (_NEWPID if walls.level == "namespaces" else 0)
    pid = _PYTHON.syscall(number, flags, None, None, None, None)
    if pid < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"a new process: {os.strerror(error)}")
    return pid


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
        lambda: None if walls.filter is None else walls.filter.install(_LIBC),
    ]
    for step in steps:
        try:
            step()
        except OSError:
            if walls.level != "unsafe":
                raise


def only_read() -> None:
    """Leave this process nothing but to compute, to read files and to use what it has open, for good.

    For functions of ours that look at hostile text: no jail, but no way to write a file, start or signal a process, or
    make a socket.

    Raises:
        OSError: the machine does not grant it.
    """
    seccomp_filter = seccomp.Filter(platform.machine(), reads=True)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    seccomp_filter.install(_LIBC)


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent dies, or end now where it has already."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def cpu_seconds(pid: int) -> float:
    """CPU seconds of a process of ours; 0 where the kernel won't say, and then its own limit of whole seconds holds."""
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0


def _limit_resources(cpu_seconds: float, address_space: int) -> None:
    """Limits that the kernel holds; the one on CPU counts whole seconds and is a backstop behind the guard's."""
    for kind, most in (
        *_FIXED_LIMITS,
        (resource.RLIMIT_CPU, int(cpu_seconds) + 2),
        (resource.RLIMIT_AS, address_space),
    ):
        hard = resource.getrlimit(kind)[1]
        limit = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (limit, limit))


def _filter(level: str) -> seccomp.Filter | None:
    """The filter of this processor."""
    try:
        return seccomp.Filter(platform.machine())
    except OSError:
        if level == "unsafe":
            return None
        raise


def _become(user: int) -> None:
    """Change user and group for good, and leave all other groups."""
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def _drop_capabilities() -> None:
    """Have no capability in any set, and see that it is so."""
    _LIBC.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    if _LIBC.capset(_CAPABILITIES_OF_THIS, _NO_CAPABILITIES) != 0:
        raise OSError(ctypes.get_errno(), "capabilities could not be dropped")
    if _LIBC.capget(_CAPABILITIES_OF_THIS, _capabilities) != 0 or _capabilities.raw != _NO_CAPABILITIES:
        raise OSError(ctypes.get_errno(), "capabilities are left")


def _unused_user() -> int | None:
    """A user id that no account has and that this process can change to, tried out in a process of its own; or None."""
    taken = {account.pw_uid for account in pwd.getpwall()}
    user = next(user for user in range(_FIRST_UNUSED_USER, 65_000) if user not in taken)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            _become(user)
            code = 0
        finally:
            os._exit(code)
    return user if os.waitpid(pid, 0)[1] == 0 else None


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux" and _LIBC.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}")
