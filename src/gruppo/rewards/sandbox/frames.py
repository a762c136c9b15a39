"""Messages between the trainer and a guard: a datagram each, of one fixed form. None of them holds anything of a job.

request  limits and entries; with it go the jailed processes' ends of their pipes    trainer to guard
b"R"     both jails are closed, the payloads may come; or b"E" and why not           guard to trainer
b"c"     the candidate, b"j" the judge has written more than it may                  trainer to guard
report   all is ended and reaped: how each ended, and whether the guard goes too     guard to trainer
"""

import socket
import struct
from typing import NamedTuple, get_args

from gruppo.rewards.sandbox.job import Exit, How, Job

CLOSED, PROBLEM = b"R", b"E"
_REQUEST = struct.Struct("<ddq")
_REPORT = struct.Struct("<d?")
_EXIT = struct.Struct("<bhhd")
_HOWS = get_args(How)
_NONE = -1
_MOST = 8192
_MOST_ENDS = 7


class Lost(Exception):
    """The other end is gone."""


class Request(NamedTuple):
    """What a guard is told."""

    cpu_seconds: float
    wall_seconds: float
    memory_mb: int
    candidate: str
    judge: str
    """Entries; the judge's is empty where there is none."""


class Report(NamedTuple):
    """What a guard tells."""

    wall_seconds: float
    last: bool
    """Whether the guard ends now, and takes no further job."""
    exits: tuple[Exit, ...]
    """The candidate's and, where there is one, the judge's."""


def send(link: socket.socket, message: bytes) -> None:
    """Send one message."""
    try:
        link.send(message)
    except OSError as error:
        raise Lost from error


def receive(link: socket.socket) -> bytes:
    """One message."""
    try:
        message = link.recv(_MOST)
    except ConnectionError as error:
        raise Lost from error
    if not message:
        raise Lost
    return message


def send_request(link: socket.socket, job: Job, ends: list[int]) -> None:
    """Hand in a job without its payloads."""
    limits, judge = job.limits, "" if job.judge is None else job.judge.entry
    message = _REQUEST.pack(limits.cpu_seconds, limits.wall_seconds, limits.memory_mb)
    try:
        socket.send_fds(link, [message + f"{job.candidate.entry} {judge}".encode()], ends)
    except OSError as error:
        raise Lost from error


def receive_request(link: socket.socket) -> tuple[Request, list[int]]:
    """The next job, and the jailed processes' ends. A word on the last job that came too late is passed over."""
    message, ends = b"c", []
    while len(message) == 1:
        message, ends, _, _ = socket.recv_fds(link, _MOST, _MOST_ENDS)
    if not message:
        raise Lost
    candidate, judge = message[_REQUEST.size :].decode().split(" ")
    cpu, wall, memory = _REQUEST.unpack_from(message)
    return Request(cpu, wall, memory, candidate, judge), ends


def send_report(link: socket.socket, report: Report) -> None:
    """Tell how all ended."""
    message = _REPORT.pack(report.wall_seconds, report.last)
    for exit in report.exits:
        code = _NONE if exit.code is None else exit.code
        message += _EXIT.pack(_HOWS.index(exit.how), code, exit.signal or 0, exit.cpu_seconds)
    send(link, message)


def read_report(message: bytes) -> Report:
    """The report in a message."""
    exits = []
    for how, code, number, cpu_seconds in _EXIT.iter_unpack(message[_REPORT.size :]):
        exits.append(Exit(_HOWS[how], None if code == _NONE else code, number or None, cpu_seconds))
    wall, last = _REPORT.unpack_from(message)
    return Report(wall, last, tuple(exits))
