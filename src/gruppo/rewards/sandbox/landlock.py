"""The walls of the level `landlock`: whatever Landlock can forbid is forbidden, with no exception.

By the version that the kernel offers: 1 all work with files; 2 and 3 linking and truncating; 4 TCP; 5 devices' ioctl;
6 abstract sockets and signals to processes outside. Processes inside can't trace those outside at any version. What the
kernel's version lacks is refused by the seccomp filter all the same.
"""

import ctypes
import os
import struct

_CREATE, _RESTRICT = 444, 446
_VERSION_FLAG = 1
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}
_FILE_RIGHTS_NOW = 16
_TCP, _SCOPES = 0b11, 0b11


def version(libc: ctypes.CDLL) -> int:
    """The version of Landlock that the kernel offers; 0 for none."""
    return max(0, libc.syscall(_CREATE, None, 0, _VERSION_FLAG))


def rules(libc: ctypes.CDLL) -> int:
    """A descriptor of the rules, to be put in force with `restrict`.

    Raises:
        OSError: the kernel has no Landlock, or it is switched off.
    """
    abi = version(libc)
    if abi == 0:
        raise OSError(ctypes.get_errno(), "this kernel has no Landlock, or it is switched off or filtered away")
    attributes = struct.pack("<Q", (1 << _FILE_RIGHTS.get(abi, _FILE_RIGHTS_NOW)) - 1)
    if abi >= 4:
        attributes += struct.pack("<Q", _TCP)
    if abi >= 6:
        attributes += struct.pack("<Q", _SCOPES)
    descriptor = libc.syscall(_CREATE, attributes, len(attributes), 0)
    if descriptor < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"Landlock version {abi} takes no rules: {os.strerror(error)}")
    return descriptor


def restrict(libc: ctypes.CDLL, descriptor: int) -> None:
    """Put the rules in force on this process for good. `no_new_privs` must be set.

    Raises:
        OSError: the kernel refuses.
    """
    if libc.syscall(_RESTRICT, descriptor, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"Landlock: {os.strerror(error)}")
