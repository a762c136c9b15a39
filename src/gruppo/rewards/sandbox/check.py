"""What the probe runs in a jail: it tries to get out in the plainest ways and prints the ways that were open."""

import os
import socket
from collections.abc import Callable

from gruppo.rewards.sandbox.pipe import Pipe


def walls(payload: bytes, pipe: Pipe | None) -> None:
    """Print one line for each thing that should have failed and did not."""
    tries: dict[str, Callable[[], object]] = {
        "reads the root folder": lambda: os.listdir("/"),
        "opens a file": lambda: os.open("/etc/passwd", os.O_RDONLY),
        "sees a file": lambda: os.stat("/etc/passwd"),
        "makes a file": lambda: os.open("/tmp/gruppo-probe", os.O_CREAT | os.O_WRONLY),
        "makes a socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
        "makes a pair of sockets": socket.socketpair,
        "sends a signal": lambda: os.kill(os.getpid(), 0),
        "starts a process": os.fork,
        "executes a program": lambda: os.execv("/bin/true", ["true"]),
        "changes its user": lambda: os.setuid(0),
    }
    for what, attempt in tries.items():
        try:
            attempt()
        except OSError:
            continue
        print(what)
