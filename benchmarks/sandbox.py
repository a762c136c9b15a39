"""Judged runs a second of one core, warm: a candidate and a judge in two jailed processes that exchange a few bytes.

Run: python benchmarks/sandbox.py [RUNS] [MBPP.jsonl]
With a file of MBPP's rows also reference solutions through the code reward, three asserts each. One core is used for
all of it (CPU affinity). CPU time is that of this process, the zygote, the guards, candidates and judges; other work on
the machine costs it little, but shows in the time that a run takes. sandbox.md has the results.
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from gruppo.rewards.code import code_reward
from gruppo.rewards.sandbox import Job, Limits, Outcome, Program, Sandbox, probe

ENTRY = "gruppo.rewards.sandbox.bare:run_source"
CANDIDATE = b"pipe.write(str(sum(range(int(pipe.read_exactly(3))))).encode())"
JUDGE = b"pipe.write(b'100')\npipe.give_verdict(b'right' if pipe.read_exactly(4) == b'4950' else b'wrong')"
JOB = Job(Program(ENTRY, CANDIDATE), Limits(cpu_seconds=5, wall_seconds=30), judge=Program(ENTRY, JUDGE))
ROLES = ("trainer", "zygote", "guard", "candidate", "judge")


class Meter:
    """CPU seconds of each process of a sandbox's runs."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.used = dict.fromkeys(ROLES, 0.0)
        self._zygote = sandbox._zygote._process.pid
        self._seen: dict[str, float] = {}
        self._run = sandbox.run
        sandbox.run = self._noting  # type: ignore[method-assign]

    def _noting(self, job: Job) -> Outcome:
        outcome = self._run(job)
        self.used["candidate"] += outcome.candidate.cpu_seconds
        self.used["judge"] += outcome.judge.cpu_seconds if outcome.judge else 0.0
        return outcome

    def measure(self, work: Callable[[int], object], runs: int) -> list[float]:
        """Do the work so often; how long each took."""
        self._look()
        self.used = dict.fromkeys(ROLES, 0.0)
        taken = []
        for index in range(runs):
            cpu, start = time.process_time(), time.perf_counter()
            work(index)
            taken.append(time.perf_counter() - start)
            self.used["trainer"] += time.process_time() - cpu
            self._look()  # guards come and go
        return taken

    def _look(self) -> None:
        guards = Path(f"/proc/{self._zygote}/task/{self._zygote}/children").read_text().split()
        for pid in (str(self._zygote), *guards):
            try:
                used = int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
            except OSError:
                continue
            self.used["zygote" if pid == str(self._zygote) else "guard"] += used - self._seen.get(pid, 0.0)
            self._seen[pid] = used


def works(sandbox: Sandbox) -> dict[str, Callable[[int], object]]:
    def bare(_: int) -> None:
        assert sandbox.run(JOB).verdict == b"right"

    found: dict[str, Callable[[int], object]] = {"a few bytes": bare}
    if len(sys.argv) > 2:
        rows = [json.loads(line) for line in Path(sys.argv[2]).read_text().splitlines()[:100]]

        def judged(index: int) -> None:
            row = rows[index % len(rows)]
            code_reward(row["code"], row["test_list"], sandbox=sandbox)

        found["MBPP"] = judged
    return found


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    found = probe()
    print(f"levels here: {found}; load {os.getloadavg()[0]:.1f}, one core, {runs} runs; ms")
    print(f"{'level':<12}{'runs':<13}{'start':>7}{'CPU a run':>11}{'runs/CPU s':>12}", end="")
    print("".join(f"{role:>11}" for role in ROLES), f"{'median':>9}{'slowest':>9}")
    for level in ("namespaces", "landlock"):
        if getattr(found, level):
            print(f"{level:<12}{getattr(found, level)}")
            continue
        start = time.perf_counter()
        with Sandbox(level=level) as sandbox:
            started = 1000 * (time.perf_counter() - start)
            meter = Meter(sandbox)
            for name, work in works(sandbox).items():
                meter.measure(work, 20)
                taken = meter.measure(work, runs)
                used = {role: 1000 * seconds / runs for role, seconds in meter.used.items()}
                total = sum(used.values())
                print(f"{level:<12}{name:<13}{started:>7.0f}{total:>11.2f}{1000 / total:>12.0f}", end="")
                print("".join(f"{used[role]:>11.2f}" for role in ROLES), end="")
                print(f"{1000 * statistics.median(taken):>10.1f}{1000 * max(taken):>9.1f}")


if __name__ == "__main__":
    main()
