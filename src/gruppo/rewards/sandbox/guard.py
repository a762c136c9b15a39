"""The guard of one job: forks its processes, feeds and reads their pipes, ends them at their limits, tells the outcome.

Its life: read entries and limits; fork candidate and judge; wait until each says that its jail is closed; only then
read the payloads and pass them on; watch until the judge has ended (without a judge: the candidate); end and reap the
other; answer. Every wait has a limit. When the trainer's end of the job's socket closes, all ends at once.
"""

import os
import select
import selectors
import signal
import socket
import time
from dataclasses import dataclass, field
from typing import Any

from gruppo.rewards.sandbox import child, frames, jail
from gruppo.rewards.sandbox.job import How
from gruppo.rewards.sandbox.streams import Sink, Source

_JAIL_SECONDS = 20.0
_GRACE = 0.25
"""Seconds that a judge gets to say what it has seen so far, once the time of the job is over."""
_TAIL = 4096
_STDERR_FACTOR = 8
_LONGEST_NAP = 0.5


@dataclass
class Process:
    """One jailed process of the job."""

    pid: int
    status: int
    payload: int
    stderr: int
    cpu_limit: float
    ended_for: How | None = None
    wait_status: int | None = None
    cpu_used: float = 0.0
    other: list[int] = field(default_factory=list)
    """The candidate's stdin and stdout, the judge's verdict."""

    def cpu(self) -> float:
        """CPU seconds of all its threads so far."""
        if self.wait_status is None:
            self.cpu_used = max(self.cpu_used, jail.cpu_seconds(self.pid))
        return self.cpu_used

    def end(self, how: How) -> None:
        """Kill it, and remember why; the first reason counts."""
        if self.wait_status is None and self.ended_for is None:
            self.ended_for = how
            os.kill(self.pid, signal.SIGKILL)

    def reap(self, flags: int = os.WNOHANG) -> bool:
        """Whether it has ended."""
        if self.wait_status is None:
            pid, status, usage = os.wait4(self.pid, flags)
            if pid:
                self.wait_status, self.cpu_used = status, usage.ru_utime + usage.ru_stime
        return self.wait_status is not None

    def report(self) -> dict[str, Any]:
        """Its `Exit` as plain values."""
        assert self.wait_status is not None
        code = os.waitstatus_to_exitcode(self.wait_status)
        how: How = "ok" if code == 0 else "signal" if code < 0 else "memory" if code == child.MEMORY else "error"
        if self.ended_for is not None and code == -signal.SIGKILL:
            how = self.ended_for
        elif code == -signal.SIGXCPU or (code < 0 and self.cpu_used >= self.cpu_limit):
            how = "cpu"
        elif code == -signal.SIGKILL:
            how = "memory"  # by the kernel, which has no other reason to
        return {
            "how": how,
            "code": code if code >= 0 else None,
            "signal": -code if code < 0 else None,
            "cpu_seconds": self.cpu_used,
        }


def serve(link: socket.socket, walls: jail.Walls) -> None:
    """Do one job."""
    try:
        header = frames.receive_header(link)
        wake = _watch_children()
        candidate, judge = _fork_both(walls, header)
        processes = [process for process in (candidate, judge) if process is not None]
        problem = _await_jails(processes)
        if problem:
            frames.send_header(link, {"problem": problem})
            return
        payload, stdin, judge_payload = (frames.receive(link) for _ in range(3))
        watch = Watch(link, wake, header, candidate, judge)
        watch.feed(payload, stdin, judge_payload)
        if watch.run():
            watch.answer()
    except frames.Lost:
        return


def _watch_children() -> int:
    """A descriptor that can be read when a child has ended."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    return reader


def _fork_both(walls: jail.Walls, header: dict[str, Any]) -> tuple[Process, Process | None]:
    """Candidate and judge, joined by a pair of pipes that nobody else has."""
    candidate_reads, judge_writes = os.pipe()
    judge_reads, candidate_writes = os.pipe()
    stdin, stdout = os.pipe(), os.pipe()
    has_judge = header["judge"] is not None
    line = [candidate_reads, candidate_writes] if has_judge else []
    candidate = _fork(walls, header, "candidate", stdin[0], stdout[1], line)
    candidate.other = [stdin[1], stdout[0]]
    os.close(stdin[0])
    os.close(stdout[1])
    os.close(candidate_reads)
    os.close(candidate_writes)
    judge = None
    if has_judge:
        verdict = os.pipe()
        judge = _fork(walls, header, "judge", walls.devnull, walls.devnull, [judge_reads, judge_writes, verdict[1]])
        judge.other = [verdict[0]]
        os.close(verdict[1])
    os.close(judge_reads)
    os.close(judge_writes)
    return candidate, judge


def _fork(walls: jail.Walls, header: dict[str, Any], role: str, stdin: int, stdout: int, line: list[int]) -> Process:
    """One jailed process with these streams."""
    stderr, payload, status = os.pipe(), os.pipe(), os.pipe()
    pid = jail.fork(walls)
    if pid == 0:
        ends = [stdin, stdout, stderr[1], payload[0], status[1], *line]
        child.live(walls, header[role], ends, header["cpu"], header["memory"])
    for end in (stderr[1], payload[0], status[1]):
        os.close(end)
    return Process(pid, status[0], payload[1], stderr[0], header["cpu"])


def _await_jails(processes: list[Process]) -> str:
    """Wait until each has closed its jail; what went wrong, or nothing."""
    deadline = time.monotonic() + _JAIL_SECONDS
    for process in processes:
        while not select.select([process.status], [], [], max(0.0, deadline - time.monotonic()))[0]:
            if time.monotonic() >= deadline:
                return f"a process was not jailed within {_JAIL_SECONDS:g} s"
        word = os.read(process.status, 4096)
        if word != b"R":
            return word[1:].decode(errors="replace") or "a process ended before it was jailed"
    return ""


class Watch:
    """The running job: who reads and writes what, and until when."""

    def __init__(
        self, link: socket.socket, wake: int, header: dict[str, Any], candidate: Process, judge: Process | None
    ) -> None:
        self._link, self._wake, self._judge, self._candidate = link, wake, judge, candidate
        self._processes = [candidate] if judge is None else [candidate, judge]
        self._started = time.monotonic()
        self._deadline = self._started + header["wall"]
        most = header["output"]
        self._selector = selectors.DefaultSelector()
        self._stdout = self._source(candidate, candidate.other[1], most)
        self._stderr = self._source(candidate, candidate.stderr, _STDERR_FACTOR * most, _TAIL)
        self._sources = [self._stdout, self._stderr]
        if judge is not None:
            self._verdict = self._source(judge, judge.other[0], most)
            self._judge_stderr = self._source(judge, judge.stderr, _STDERR_FACTOR * most, _TAIL)
            self._sources += [self._verdict, self._judge_stderr]
        self._selector.register(wake, selectors.EVENT_READ)
        self._selector.register(link, selectors.EVENT_READ)

    def _source(self, process: Process, file: int, most: int, tail: int | None = None) -> Source:
        source = Source(file, most, lambda: process.end("output"), tail)
        self._selector.register(file, selectors.EVENT_READ, source)
        return source

    def feed(self, payload: bytes, stdin: bytes, judge_payload: bytes) -> None:
        """Give each process what it is to read."""
        self._sink(self._candidate.payload, frames.with_length(payload))
        self._sink(self._candidate.other[0], stdin)
        if self._judge is not None:
            self._sink(self._judge.payload, frames.with_length(judge_payload))

    def _sink(self, file: int, data: bytes) -> None:
        sink = Sink(file, data)
        if data:
            self._selector.register(file, selectors.EVENT_WRITE, sink)
        else:
            os.close(file)

    def run(self) -> bool:
        """Watch until the job is over and all is reaped; False when nobody waits for the outcome any more."""
        wanted = True
        decisive = self._judge or self._candidate
        while wanted and not decisive.reap():
            self._candidate.reap()
            for key, _ in self._selector.select(self._nap()):
                if key.fd == self._wake:
                    os.read(self._wake, 4096)
                elif key.data is None:
                    wanted = False
                elif not key.data.pump():
                    self._selector.unregister(key.fileobj)
                    os.close(key.fd)
            self._enforce()
        for process in self._processes:
            process.end("killed")
            process.reap(0)
        return wanted

    def _nap(self) -> float:
        """Until something can happen: a process uses at most a second of CPU in a second."""
        left = [process.cpu_limit - process.cpu() for process in self._processes if process.wait_status is None]
        return max(0.001, min(*left, _LONGEST_NAP, self._deadline - time.monotonic()))

    def _enforce(self) -> None:
        """End what has had its time. The judge's turn comes a little after the candidate's."""
        late = time.monotonic() - self._deadline
        for process in self._processes:
            if process.cpu() >= process.cpu_limit:
                process.end("cpu")
            elif late >= (_GRACE if process is self._judge else 0.0):
                process.end("wall")

    def answer(self) -> None:
        """Send the outcome."""
        wall = time.monotonic() - self._started
        for source in self._sources:
            if source.file in self._selector.get_map():
                source.drain()
        verdict = bytes(self._verdict.data) if self._judge is not None else b""
        header = {
            "candidate": self._candidate.report(),
            "judge": None if self._judge is None else self._judge.report(),
            "truncated": self._stdout.truncated,
            "wall": wall,
        }
        frames.send_header(self._link, header)
        judge_stderr = bytes(self._judge_stderr.data) if self._judge is not None else b""
        frames.send(self._link, verdict, bytes(self._stdout.data), bytes(self._stderr.data), judge_stderr)
