"""The walls of the level `namespaces`: no files, no network, no other processes are there to be reached.

The zygote enters them once: a user namespace of its own (as root: with an unused user for the jailed; where user
namespaces are refused but the process is root with CAP_SYS_ADMIN, none), no network interface, an empty read-only root.
Each jailed process is then born as process 1 of a process namespace of its own.
"""

import ctypes
import os
import platform
from collections.abc import Callable
from pathlib import Path

_NEWNS, _NEWCGROUP, _NEWUTS, _NEWIPC = 0x00020000, 0x02000000, 0x04000000, 0x08000000
_NEWUSER, _NEWNET = 0x10000000, 0x40000000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT, _MS_REC, _MS_PRIVATE = 1, 2, 4, 8, 32, 16384, 1 << 18
_MNT_DETACH = 2
_PLACES = ("/tmp", "/run", "/mnt", "/var", "/usr", "/etc", "/proc")
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}


def enter(libc: ctypes.CDLL, unused: int | None) -> int | None:
    """Enter all but the process namespace; the user that the jailed are to become, where there is a choice.

    Raises:
        OSError: the machine refuses one of the steps.
    """
    user = _enter_user_namespace(libc, unused)
    flags = _NEWNS | _NEWNET | _NEWIPC | _NEWUTS
    _check(libc.unshare(flags), "new mount, network, IPC and host name namespaces")
    libc.unshare(_NEWCGROUP)  # there is no file system to see control groups in; this is for good measure
    _check(libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None), "private mounts")
    place = next((place for place in _PLACES if os.path.isdir(place)), "/")
    options = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
    _check(
        libc.mount(b"tmpfs", place.encode(), b"tmpfs", options, b"size=4096,nr_inodes=2,mode=0555"),
        "an empty file system",
    )
    os.chdir(place)
    number = _PIVOT_ROOT[platform.machine()]
    _check(libc.syscall(number, b".", b"."), "a new root")
    _check(libc.umount2(b".", _MNT_DETACH), "leaving the old root")
    os.chdir("/")
    _check(libc.mount(b"none", b"/", None, _MS_REMOUNT | _MS_RDONLY | options, None), "a read-only root")
    if os.listdir("/"):
        raise OSError("the new root is not empty")
    return user


def _enter_user_namespace(libc: ctypes.CDLL, unused: int | None) -> int | None:
    """As root map 0 and an unused user, else only oneself, to 0."""
    uid, gid = os.geteuid(), os.getegid()
    if uid != 0:
        _check(libc.unshare(_NEWUSER), "a new user namespace")
        _map_oneself(uid, gid)
        return None
    wait = _in_helper(lambda parent: _map_two(parent, unused))
    if libc.unshare(_NEWUSER) != 0:
        wait(False)
        return unused  # root without user namespaces: what follows needs CAP_SYS_ADMIN, and fails without
    if wait(True):
        return 1
    _map_oneself(uid, gid)
    return None


def _map_oneself(uid: int, gid: int) -> None:
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1")


def _map_two(process: int, unused: int | None) -> None:
    if unused is None:
        raise OSError("no other user to be had")
    for name in ("uid_map", "gid_map"):
        Path(f"/proc/{process}/{name}").write_text(f"0 0 1\n1 {unused} 1")


def _in_helper(work: Callable[[int], None]) -> Callable[[bool], bool]:
    """Have a helper process, which keeps the rights that this one is about to give up, do the work when told to."""
    parent = os.getpid()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(writer)
            if os.read(reader, 1):
                work(parent)
                code = 0
        finally:
            os._exit(code)
    os.close(reader)

    def wait(go: bool) -> bool:
        if go:
            os.write(writer, b"g")
        os.close(writer)
        return os.waitpid(pid, 0)[1] == 0

    return wait


def _check(result: int, what: str) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")
