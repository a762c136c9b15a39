"""Judged runs a second of one core, warm: a candidate and a judge in two jailed processes that exchange a few bytes.

Run: python benchmarks/sandbox.py [RUNS]
One core is used for all of it (CPU affinity), so other work on the machine shows; the load is printed. sandbox.md has
the results.
"""

import os
import statistics
import sys
import time

from gruppo.rewards.sandbox import Job, Limits, Program, Sandbox, probe

ENTRY = "gruppo.rewards.sandbox.bare:run_source"
CANDIDATE = b"pipe.write(str(sum(range(int(pipe.read_exactly(3))))).encode())"
JUDGE = b"pipe.write(b'100')\npipe.give_verdict(b'right' if pipe.read_exactly(4) == b'4950' else b'wrong')"
JOB = Job(Program(ENTRY, CANDIDATE), Limits(cpu_seconds=5, wall_seconds=30), judge=Program(ENTRY, JUDGE))


def times(sandbox: Sandbox, runs: int) -> list[float]:
    found = []
    for _ in range(runs):
        start = time.perf_counter()
        assert sandbox.run(JOB).verdict == b"right"
        found.append(time.perf_counter() - start)
    return found


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    found = probe()
    print(f"levels here: {found}; load {os.getloadavg()[0]:.1f}, one core")
    print(f"{'level':<12}{'start s':>9}{'runs/s':>9}{'median ms':>11}{'slowest ms':>12}")
    for level in ("namespaces", "landlock"):
        if getattr(found, level):
            print(f"{level:<12}{getattr(found, level)}")
            continue
        start = time.perf_counter()
        with Sandbox(level=level) as sandbox:
            started = time.perf_counter() - start
            times(sandbox, 20)
            taken = times(sandbox, runs)
        print(
            f"{level:<12}{started:>9.2f}{runs / sum(taken):>9.0f}{statistics.median(taken) * 1000:>11.1f}"
            f"{max(taken) * 1000:>12.1f}"
        )


if __name__ == "__main__":
    main()
