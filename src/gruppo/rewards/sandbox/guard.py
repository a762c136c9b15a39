"""The guard of jobs, one after another: forks their processes, ends them at their limits, tells how they ended.

For each: take entries, limits and the processes' ends of their pipes; fork candidate and judge; wait until each says
that its jail is closed, and say so; watch until the judge has ended (without a judge: the candidate); end and reap the
other; report. Every wait has a limit. When the trainer's end of the socket closes, all ends at once.

What programs read and write goes between them and the trainer alone. So a guard, which is what the next job's
processes are forked from, holds nothing of a job but entries, limits and how it ended.
"""

import os
import select
import signal
import socket
import time
from dataclasses import dataclass

from gruppo.rewards.sandbox import child, frames, jail
from gruppo.rewards.sandbox.job import Exit, How

_JOBS = 64
"""Jobs that a guard does before it makes room for a fresh one, which takes as long as a third of a job."""
_JAIL_SECONDS = 20.0
_GRACE = 0.25
"""Seconds that a judge gets to say what it has seen so far, once the time of the job is over."""
_LONGEST_NAP = 0.5


@dataclass
class Process:
    """One jailed process of the job."""

    pid: int
    status: int
    cpu_limit: float
    ended_for: How | None = None
    wait_status: int | None = None
    cpu_used: float = 0.0

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

    def report(self) -> Exit:
        """How it ended."""
        assert self.wait_status is not None
        code = os.waitstatus_to_exitcode(self.wait_status)
        how: How = "ok" if code == 0 else "signal" if code < 0 else "memory" if code == child.MEMORY else "error"
        if self.ended_for is not None and code == -signal.SIGKILL:
            how = self.ended_for
        elif code == -signal.SIGXCPU or (code < 0 and self.cpu_used >= self.cpu_limit):
            how = "cpu"
        elif code == -signal.SIGKILL:
            how = "memory"  # by the kernel, which has no other reason to
        return Exit(how, code if code >= 0 else None, -code if code < 0 else None, self.cpu_used)


def serve(link: socket.socket, walls: jail.Walls) -> None:
    """Do the jobs that come."""
    wake = _watch_children()
    try:
        for left in reversed(range(_JOBS)):
            if not _do(link, wake, walls, last=left == 0):
                return
    except frames.Lost:
        return


def _do(link: socket.socket, wake: int, walls: jail.Walls, last: bool) -> bool:
    """One job; False when this guard is of no more use."""
    request, ends = frames.receive_request(link)
    candidate, judge = _fork_both(walls, request, ends)
    processes = [candidate] if judge is None else [candidate, judge]
    problem = _await_jails(processes)
    if problem:
        frames.send(link, frames.PROBLEM + problem.encode())
        return False
    started = time.monotonic()
    frames.send(link, frames.CLOSED)
    if not Watch(link, wake, started + request.wall_seconds, processes).run():
        return False
    exits = tuple(process.report() for process in processes)
    frames.send_report(link, frames.Report(time.monotonic() - started, last, exits))
    return True


def _watch_children() -> int:
    """A descriptor that can be read when a child has ended."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    return reader


def _fork_both(walls: jail.Walls, request: frames.Request, ends: list[int]) -> tuple[Process, Process | None]:
    """Candidate and judge, joined by a pair of pipes that nobody else has.

    The judge comes first: its ends are closed here by the time that the candidate is forked, which so never has them.
    """
    judge, line = None, []
    if request.judge:
        candidate_reads, judge_writes = os.pipe()
        judge_reads, candidate_writes = os.pipe()
        stderr, payload, verdict = ends[4:]
        streams = [walls.devnull, walls.devnull, stderr, payload]
        judge = _fork(walls, request, request.judge, streams, [judge_reads, judge_writes, verdict])
        line = [candidate_reads, candidate_writes]
    return _fork(walls, request, request.candidate, ends[:4], line), judge


def _fork(walls: jail.Walls, request: frames.Request, entry: str, ends: list[int], line: list[int]) -> Process:
    """One jailed process with these ends (standard streams and payload), which this process then closes."""
    status = os.pipe()
    pid = jail.fork(walls)
    if pid == 0:
        child.live(walls, entry, [*ends, status[1], *line], request.cpu_seconds, request.memory_mb)
    for end in (*ends, status[1], *line):
        if end != walls.devnull:
            os.close(end)
    return Process(pid, status[0], request.cpu_seconds)


def _await_jails(processes: list[Process]) -> str:
    """Wait until each has closed its jail; what went wrong, or nothing."""
    deadline = time.monotonic() + _JAIL_SECONDS
    for process in processes:
        while not select.select([process.status], [], [], max(0.0, deadline - time.monotonic()))[0]:
            if time.monotonic() >= deadline:
                return f"a process was not jailed within {_JAIL_SECONDS:g} s"
        word = os.read(process.status, 4096)
        os.close(process.status)
        if word != frames.CLOSED:
            return word[1:].decode(errors="replace") or "a process ended before it was jailed"
    return ""


class Watch:
    """The running job, and until when."""

    def __init__(self, link: socket.socket, wake: int, deadline: float, processes: list[Process]) -> None:
        self._link, self._wake, self._deadline, self._processes = link, wake, deadline, processes

    def run(self) -> bool:
        """Watch until the job is over and all is reaped; False when nobody waits for the outcome any more."""
        candidate, decisive = self._processes[0], self._processes[-1]
        while not decisive.reap():
            candidate.reap()
            ready = select.select([self._wake, self._link], [], [], self._nap())[0]
            if self._wake in ready:
                os.read(self._wake, 4096)
            if self._link in ready:
                try:
                    self._over(frames.receive(self._link))
                except frames.Lost:
                    return False
            self._enforce()
        for process in self._processes:
            process.end("killed")
            process.reap(0)
        return True

    def _over(self, word: bytes) -> None:
        """End a process that has written too much."""
        self._processes[0 if word == b"c" else -1].end("output")

    def _nap(self) -> float:
        """Until something can happen: a process uses at most a second of CPU in a second."""
        left = [process.cpu_limit - process.cpu() for process in self._processes if process.wait_status is None]
        return max(0.001, min(*left, _LONGEST_NAP, self._deadline - time.monotonic()))

    def _enforce(self) -> None:
        """End what has had its time. The judge's turn comes a little after the candidate's."""
        late = time.monotonic() - self._deadline
        for number, process in enumerate(self._processes):
            if process.cpu() >= process.cpu_limit:
                process.end("cpu")
            elif late >= (_GRACE if number else 0.0):
                process.end("wall")
