"""What the scoring server and its client share: limits, JSON without NaN, and a time limit on a whole exchange.

1. A time limit on each read alone would let a peer that sends a byte now and then hold a connection for ever. Here a
   timer shuts the whole connection, and whatever reads or writes on it comes back at once.
"""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

TOKEN_VARIABLE = "GRUPPO_REWARD_TOKEN"
"""The environment variable of the token, on both sides: a token in a config would end in every run's folder."""
BODY_LIMIT = 16 * 2**20
"""Bytes of a request or an answer."""
ITEM_LIMIT = 1024
"""Completions in one request."""


class Deadline:
    """Shuts a connection when its time is up, unless `met` was called before."""

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        """The clock runs from here."""
        self.passed = False
        self._connection = connection
        self._timer = threading.Timer(seconds, self._shut)
        self._timer.daemon = True
        self._timer.start()

    def met(self) -> None:
        """The exchange is through; the connection stays as it is."""
        self._timer.cancel()

    def _shut(self) -> None:
        self.passed = True
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def deadline(connection: socket.socket, seconds: float) -> Iterator[Deadline]:
    """A `Deadline` for a block; leaving it meets it."""
    limit = Deadline(connection, seconds)
    try:
        yield limit
    finally:
        limit.met()


def parse_json(data: bytes) -> Any:
    """A JSON document; raises ValueError for anything that is none, NaN and Infinity among them."""
    try:
        return json.loads(data.decode("utf-8"), parse_constant=_refuse)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")
