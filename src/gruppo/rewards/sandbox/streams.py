"""The trainer's ends of a job's pipes, none of which ever blocks it."""

import os
from collections.abc import Callable

_CHUNK = 65_536


class Source:
    """Collects what a process writes: the first `most` bytes, or the last `tail`; `over` is called past `most`."""

    def __init__(self, file: int, most: int, over: Callable[[], None], tail: int | None = None) -> None:
        os.set_blocking(file, False)
        self.file = file
        self.data = bytearray()
        self.truncated = False
        self._most, self._tail, self._over = most, tail, over
        self._seen = 0

    def pump(self) -> bool:
        """Read once; False when there will be no more."""
        try:
            chunk = os.read(self.file, _CHUNK)
        except BlockingIOError:
            return True
        self._seen += len(chunk)
        if self._tail is not None:
            self.data = (self.data + chunk)[-self._tail :]
        else:
            self.data += chunk[: self._most - len(self.data)]
        if self._seen > self._most:
            self.truncated = True
            self._over()
        return bool(chunk)

    def drain(self) -> None:
        """Read what is left in the pipe of a process that has ended."""
        while not self.truncated:
            before = self._seen
            if not self.pump() or self._seen == before:
                return


class Sink:
    """Feeds a process what it is to read."""

    def __init__(self, file: int, data: bytes) -> None:
        os.set_blocking(file, False)
        self.file = file
        self._rest = memoryview(data)

    def pump(self) -> bool:
        """Write once; False when all is written or nobody reads."""
        try:
            self._rest = self._rest[os.write(self.file, self._rest[:_CHUNK]) :]
        except BlockingIOError:
            return True
        except BrokenPipeError:
            return False
        return bool(self._rest)
