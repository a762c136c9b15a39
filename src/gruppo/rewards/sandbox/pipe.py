"""What a jailed process holds beside its standard streams: the line to its counterpart, and the judge's verdict."""

import os
import select


class Pipe:
    """Bytes to and from the other process of the job; for the judge also the way to give its verdict.

    Whatever arrives was written by an untrusted program: of any length and form, at any time.
    """

    def __init__(self, reader: int, writer: int, verdict: int | None = None) -> None:
        self._reader = reader
        self._writer = writer
        self._verdict = verdict

    def wait(self, seconds: float | None) -> bool:
        """Whether something can be read (the end is something too) within this time."""
        return bool(select.select([self._reader], [], [], seconds)[0])

    def read(self, size: int = 65_536) -> bytes:
        """What is there, up to `size` bytes, waiting for the first; empty when the other side has closed."""
        return os.read(self._reader, size)

    def read_exactly(self, size: int) -> bytes:
        """So many bytes.

        Raises:
            EOFError: the other side closed before.
        """
        chunks = bytearray()
        while len(chunks) < size:
            chunk = os.read(self._reader, min(size - len(chunks), 65_536))
            if not chunk:
                raise EOFError(f"the pipe closed after {len(chunks)} of {size} bytes")
            chunks += chunk
        return bytes(chunks)

    def write(self, data: bytes) -> None:
        """All of the data.

        Raises:
            BrokenPipeError: the other side has closed.
        """
        write_all(self._writer, data)

    def give_verdict(self, data: bytes) -> None:
        """Append to the verdict. What was written stays, even where the judge is ended at a limit later on.

        Raises:
            PermissionError: this process is not the judge.
        """
        if self._verdict is None:
            raise PermissionError("only the judge gives a verdict")
        write_all(self._verdict, data)

    def close(self) -> None:
        """Close the line to the other side; it reads the end."""
        for end in {self._reader, self._writer}:
            os.close(end)


def write_all(file: int, data: bytes) -> None:
    """Write all of the data to a descriptor that blocks."""
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
