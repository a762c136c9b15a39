"""Frames between the client and a job's guard: 8 bytes of length, then as many bytes; headers are JSON."""

import json
import socket
import struct
from typing import Any

_LENGTH = struct.Struct("<Q")


class Lost(Exception):
    """The other end is gone."""


def send(link: socket.socket, *parts: bytes) -> None:
    """Send each part as one frame."""
    try:
        for part in parts:
            link.sendall(_LENGTH.pack(len(part)))
            link.sendall(part)
    except (BrokenPipeError, ConnectionResetError) as error:
        raise Lost from error


def receive(link: socket.socket) -> bytes:
    """One frame, and not a byte beyond it."""
    (length,) = _LENGTH.unpack(_exactly(link, _LENGTH.size))
    return bytes(_exactly(link, length))


def send_header(link: socket.socket, header: dict[str, Any]) -> None:
    """Send one JSON frame."""
    send(link, json.dumps(header).encode())


def receive_header(link: socket.socket) -> dict[str, Any]:
    """One JSON frame."""
    return json.loads(receive(link))


def with_length(data: bytes) -> bytes:
    """A frame as bytes."""
    return _LENGTH.pack(len(data)) + data


def _exactly(link: socket.socket, size: int) -> bytearray:
    """So many bytes."""
    data = bytearray(size)
    view, filled = memoryview(data), 0
    while filled < size:
        try:
            count = link.recv_into(view[filled:])
        except ConnectionResetError as error:
            raise Lost from error
        if count == 0:
            raise Lost
        filled += count
    return data
