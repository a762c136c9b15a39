"""One job, as the trainer sees it: hand it in, send the payloads once the jails are closed, read what is written."""

import contextlib
import os
import select
import socket
import struct
import time

from gruppo.errors import SandboxError
from gruppo.rewards.sandbox import frames
from gruppo.rewards.sandbox.job import Job, Outcome
from gruppo.rewards.sandbox.memory import sealed
from gruppo.rewards.sandbox.streams import Sink, Source

_PATIENCE = 60.0
"""Seconds beyond a job's wall limit after which its guard is taken for dead."""
_QUIET = 0.02
"""Seconds for which only the guard is listened to: most jobs are over by then, and wrote no more than pipes hold."""
_TAIL = 4096
_STDERR_FACTOR = 8


class Exchange:
    """A job at a guard."""

    def __init__(self, link: socket.socket, job: Job) -> None:
        self._link, self._job = link, job
        self._deadline = time.monotonic() + job.limits.wall_seconds + _PATIENCE
        self._poll = select.poll()
        self._poll.register(link, select.POLLIN)
        self._mine: set[int] = set()
        self._sources: list[Source] = []
        self._sinks: list[Sink] = []
        self.last = True
        """Whether the guard takes no further job."""

    def run(self) -> Outcome:
        """Do it.

        Raises:
            frames.Lost: the guard or the zygote is gone.
            SandboxError: the jail could not be closed; nothing was run.
        """
        try:
            self._hand_in()
            word = self._message()
            if word != frames.CLOSED:
                problem = word[1:].decode(errors="replace")
                raise SandboxError(f"A program could not be jailed, so it was not run: {problem}")
            return self._outcome(frames.read_report(self._exchange()))
        finally:
            for file in self._mine:
                os.close(file)

    def _hand_in(self) -> None:
        """Make the pipes, and send the jailed processes' ends of them away."""
        job, most = self._job, self._job.limits.output_bytes
        theirs: list[int] = []
        try:
            # A pipe's end comes when its last writer has gone, and a process that the trainer forks meanwhile is one.
            theirs.append(sealed([job.stdin]))
            theirs += [self._source(b"c", most), self._source(b"c", _STDERR_FACTOR * most, _TAIL)]
            theirs.append(self._sink(job.candidate.payload))
            if job.judge is not None:
                theirs += [self._source(b"j", _STDERR_FACTOR * most, _TAIL), self._sink(job.judge.payload)]
                theirs.append(self._source(b"j", most))
            frames.send_request(self._link, job, theirs)
        finally:
            for file in theirs:
                os.close(file)

    def _source(self, who: bytes, most: int, tail: int | None = None) -> int:
        """A pipe to read from; the other end."""
        reader, writer = os.pipe()
        self._mine.add(reader)
        self._sources.append(Source(reader, most, lambda: self._tell(who), tail))
        return writer

    def _sink(self, payload: bytes) -> int:
        """A pipe for a payload; the other end."""
        reader, writer = os.pipe()
        self._mine.add(writer)
        self._sinks.append(Sink(writer, struct.pack("<Q", len(payload)) + payload))
        return reader

    def _tell(self, who: bytes) -> None:
        with contextlib.suppress(frames.Lost):
            frames.send(self._link, who)

    def _message(self) -> bytes:
        """The guard's next message."""
        if not self._poll.poll(1000 * max(0.0, self._deadline - time.monotonic())):
            raise frames.Lost
        return frames.receive(self._link)

    def _exchange(self) -> bytes:
        """Feed and read until the guard's report."""
        waiting: dict[int, Source | Sink] = {}
        for sink in self._sinks:
            if sink.pump():
                self._poll.register(sink.file, select.POLLOUT)
                waiting[sink.file] = sink
            else:
                self._close(sink.file)
        if not waiting and self._poll.poll(1000 * _QUIET):
            return frames.receive(self._link)
        for source in self._sources:
            self._poll.register(source.file, select.POLLIN)
            waiting[source.file] = source
        while time.monotonic() < self._deadline:
            for file, _ in self._poll.poll(1000 * max(0.0, self._deadline - time.monotonic())):
                if file == self._link.fileno():
                    return frames.receive(self._link)
                if not waiting[file].pump():
                    self._poll.unregister(file)
                    if isinstance(waiting.pop(file), Sink):
                        self._close(file)
        raise frames.Lost

    def _close(self, file: int) -> None:
        self._mine.discard(file)
        os.close(file)

    def _outcome(self, report: frames.Report) -> Outcome:
        for source in self._sources:
            source.drain()
        self.last = report.last
        stdout, stderr, *judged = self._sources
        judge_stderr, verdict = (bytes(source.data) for source in judged) if judged else (b"", b"")
        return Outcome(
            verdict=verdict or None,
            stdout=bytes(stdout.data),
            stdout_truncated=stdout.truncated,
            stderr=bytes(stderr.data),
            candidate=report.exits[0],
            judge=report.exits[1] if judged else None,
            judge_stderr=judge_stderr,
            wall_seconds=report.wall_seconds,
        )


def over(link: socket.socket) -> bool:
    """Whether the guard at the other end of an idle link is gone."""
    poll = select.poll()
    poll.register(link, select.POLLIN)
    return bool(poll.poll(0))
