"""The list of system calls that a jailed process may make; the kernel refuses all others.

1. What works on paths answers "no such file": a jailed program sees an empty file system, at every level alike.
2. What remains of what can be abused is narrowed by its arguments: `fcntl` can't have signals sent, `clock_gettime`
   can't read another process's CPU time, `prlimit64` can't set anything, `futex` only waits and wakes.
3. Another architecture's numbers (32-bit, x32) end the process.
4. Refused calls give an errno, for a program that merely tries (a traceback shows what it tried) can go on.
5. With `reads`, for functions of ours that look at hostile text and load modules as they go, files may be read.
"""

import ctypes
import errno
import os
import struct
import sys
from collections.abc import Sequence

_LD, _AND, _RET = 0x20, 0x54, 0x06
_JEQ, _JGE = 0x15, 0x35
_ALLOW, _ERRNO, _KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000
_NR, _ARCH, _ARGS = 0, 4, 16
_X32 = 0x40000000
_PR_SET_SECCOMP, _MODE_FILTER = 22, 2
_AT_ONCE = 4
Instruction = tuple[int, int, int, int]

# name: (x86-64, aarch64); None where the architecture has no such call
_FREE: dict[str, tuple[int | None, int | None]] = {
    "read": (0, 63), "write": (1, 64), "poll": (7, None), "ppoll": (271, 73), "mmap": (9, 222), "munmap": (11, 215),
    "brk": (12, 214), "mprotect": (10, 226), "mremap": (25, 216), "madvise": (28, 233), "close": (3, 57),
    "lseek": (8, 62), "fstat": (5, 80), "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67),
    "select": (23, None), "pselect6": (270, 72), "dup": (32, 23), "dup2": (33, None), "dup3": (292, 24),
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "sigaltstack": (131, 132),
    "alarm": (37, None), "setitimer": (38, 103), "getitimer": (36, 102), "getrandom": (318, 278), "getcwd": (79, 17),
    "gettimeofday": (96, 169), "time": (201, None), "clock_getres": (229, 114), "nanosleep": (35, 101),
    "clock_nanosleep": (230, 115), "restart_syscall": (219, 128), "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123), "getrusage": (98, 165), "times": (100, 153), "getrlimit": (97, 163),
    "getpid": (39, 172), "gettid": (186, 178), "getppid": (110, 173), "getuid": (102, 174), "geteuid": (107, 175),
    "getgid": (104, 176), "getegid": (108, 177), "uname": (63, 160), "exit": (60, 93), "exit_group": (231, 94),
}  # fmt: skip

# name: numbers, and for each argument that matters (position, bits to look at, values allowed)
_NARROWED: dict[str, tuple[tuple[int, int], list[tuple[int, int, tuple[int, ...]]]]] = {
    "fcntl": ((72, 25), [(1, 0xFFFFFFFF, (0, 1, 2, 3, 4, 1030))]),  # duplicates and flags; no owner, no locks, no sizes
    "close_range": ((436, 436), [(2, 0xFFFFFFFF, (0,))]),
    "clock_gettime": ((228, 113), [(0, 0xFFFFFFFF, tuple(range(12)))]),
    "futex": ((202, 98), [(1, 0xFFFFFFFF & ~(128 | 256), (0, 1, 9, 10))]),
    "prlimit64": ((302, 261), [(0, 0xFFFFFFFF, (0,)), (2, 0xFFFFFFFF, (0,)), (2, 0xFFFFFFFF << 32, (0,))]),
}

_BY_PATH: dict[str, tuple[int | None, int | None]] = {
    "open": (2, None), "openat": (257, 56), "openat2": (437, 437), "stat": (4, None), "lstat": (6, None),
    "newfstatat": (262, 79), "statx": (332, 291), "access": (21, None), "faccessat": (269, 48),
    "faccessat2": (439, 439), "readlink": (89, None), "readlinkat": (267, 78), "chdir": (80, 49),
    "getdents": (78, None), "getdents64": (217, 61),
}  # fmt: skip
_IOCTL = (16, 29)
_OPENS = {"open": 1, "openat": 2}
"""Which argument holds the flags."""
_WRITES = 0o1 | 0o2 | 0o100 | 0o1000
"""Flags that write, create or truncate."""
_NEVER = ("openat2", "chdir")
"""By path, and refused even where files may be read: the flags of the first are out of a filter's sight."""

_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}


class Filter:
    """The filter in the form that the kernel takes, made once and put on each process."""

    def __init__(self, machine: str, reads: bool = False) -> None:
        code = filter_program(machine, reads)
        self._code = ctypes.create_string_buffer(code, len(code))
        self._program = _Program(len(code) // 8, ctypes.addressof(self._code))
        self._pointer = ctypes.byref(self._program)

    def install(self, libc: ctypes.CDLL) -> None:
        """Put it on this process for good, and see that it bites. `no_new_privs` must be set.

        Raises:
            OSError: the kernel refuses filters.
        """
        if libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, self._pointer, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "the kernel takes no seccomp filter")
        try:
            os.getpgid(0)
        except PermissionError:
            return
        raise OSError(errno.ENOSYS, "a seccomp filter was taken but does not bite")


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def filter_program(machine: str, reads: bool = False) -> bytes:
    """The filter as the kernel wants it: an array of 8-byte instructions.

    Args:
        machine: the processor, as `platform.machine` names it.
        reads: whether files may be looked at and opened for reading.

    Raises:
        OSError: there is no table for this processor.
    """
    if machine not in _ARCHITECTURES or sys.byteorder != "little":
        raise OSError(errno.ENOSYS, f"there is no table of system calls for {machine}")
    column, architecture = _ARCHITECTURES[machine]
    code = [(_LD, 0, 0, _ARCH), (_JEQ, 1, 0, architecture), (_RET, 0, 0, _KILL_PROCESS), (_LD, 0, 0, _NR)]
    if machine == "x86_64":
        code += [(_JGE, 0, 1, _X32), (_RET, 0, 0, _KILL_PROCESS)]
    code += _search(sorted(_cases(column, reads)))
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in code)


def _cases(column: int, reads: bool) -> list[tuple[int, list[Instruction]]]:
    """Each call's number, and what is done about it."""
    allow, no_file = [(_RET, 0, 0, _ALLOW)], [(_RET, 0, 0, _ERRNO | errno.ENOENT)]
    cases = [(numbers[column], allow) for numbers in _FREE.values()]
    for name, numbers in _BY_PATH.items():
        checks = _require(_OPENS[name], _WRITES, (0,)) if name in _OPENS else []
        cases.append((numbers[column], [*checks, *allow] if reads and name not in _NEVER else no_file))
    cases += [(_IOCTL[column], [(_RET, 0, 0, _ERRNO | errno.ENOTTY)])]
    for numbers, checks in _NARROWED.values():
        cases.append((numbers[column], [*(step for check in checks for step in _require(*check)), *allow]))
    return [(number, body) for number, body in cases if number is not None]


def _search(cases: list[tuple[int, list[Instruction]]]) -> list[Instruction]:
    """Halve until few are left: the kernel runs a filter once for every call there is when it is put on a process."""
    if len(cases) > _AT_ONCE:
        half = len(cases) // 2
        low, high = _search(cases[:half]), _search(cases[half:])
        return [(_JGE, len(low), 0, cases[half][0]), *low, *high]
    code = [step for number, body in cases for step in ((_JEQ, 0, len(body), number), *body)]
    return [*code, (_RET, 0, 0, _ERRNO | errno.EPERM)]


def _require(argument: int, bits: int, values: Sequence[int]) -> list[Instruction]:
    """Go on if these bits of the argument have one of the values, else refuse. `bits` lie in one half of the 64."""
    high = bits > 0xFFFFFFFF
    offset = _ARGS + 8 * argument + (4 if high else 0)
    code = [(_LD, 0, 0, offset), (_AND, 0, 0, bits >> 32 if high else bits)]
    last = len(values) - 1
    code += [(_JEQ, last - index + 1, 0, value) for index, value in enumerate(values)]
    return [*code, (_RET, 0, 0, _ERRNO | errno.EPERM)]
