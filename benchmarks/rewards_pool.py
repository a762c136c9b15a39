"""The worker pool measured: calls a second against the same calls inline, and seconds from a kill to the next outcome.

Part of benchmarks/rewards.py (`--only pool`).
"""

import importlib.util
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from gruppo.rewards.binding import Call
from gruppo.rewards.calling import outcomes
from gruppo.rewards.process import Portable
from gruppo.rewards.workers import Scored, WorkerPool, by_value

GROUP = 16
KILLS = 10
ROUNDS = 5


def trivial(completion: str) -> float:
    """A reward that costs next to nothing."""
    return float(len(completion))


def computes(completion: str) -> float:
    """5 ms of a core."""
    import time

    end = time.thread_time() + 0.005
    while time.thread_time() < end:
        pass
    return float(len(completion))


def inline(function: Callable[..., Any], groups: int) -> float:
    """Calls a second in this process."""
    calls = [Call((), {"completion": f"text {index}"}) for index in range(GROUP)]
    began = time.perf_counter()
    for _ in range(groups):
        assert len(dict(outcomes(function, False, calls, GROUP))) == GROUP
    return groups * GROUP / (time.perf_counter() - began)


def pooled(pool: WorkerPool, portable: Portable, groups: int) -> float:
    """Calls a second through the pool, all groups handed in at once as for a step."""
    calls = [Call((), {"completion": f"text {index}"}) for index in range(GROUP)]
    began = time.perf_counter()
    waiting: list[Future[Scored]] = [pool.submit(portable, False, calls, GROUP, 5.0) for _ in range(groups)]
    for future in waiting:
        assert future.result(timeout=120).outcomes[0] == 6.0
    return groups * GROUP / (time.perf_counter() - began)


def speed_row(name: str, function: Callable[..., Any], groups: int) -> dict[str, Any]:
    """Inline, one process, two processes, in turns; medians."""
    portable = by_value("measured", function)
    found: dict[str, list[float]] = {"inline": [], "1 process": [], "2 processes": []}
    with WorkerPool(1) as one, WorkerPool(2) as two:
        for pool in (one, two):
            pooled(pool, portable, 4 * pool.size)
        for _ in range(ROUNDS):
            found["inline"].append(inline(function, groups))
            found["1 process"].append(pooled(one, portable, groups))
            found["2 processes"].append(pooled(two, portable, groups))
    row = {f"{way}, calls a second": round(statistics.median(rates)) for way, rates in found.items()}
    return {"function": name, "groups of 16": groups, **row}


def killing(mark: str) -> Callable[[str], float]:
    """A function that notes the time and ends its process, or answers."""

    def dies(completion: str) -> float:
        if completion == "die":
            with open(mark, "w") as file:
                file.write(repr(time.perf_counter()))
            os.kill(os.getpid(), signal.SIGKILL)
        return 1.0

    return dies


def kill_row(name: str, forks: bool, warm: str | None) -> dict[str, Any]:
    """Seconds from the kill to the outcome of the next completion of the group."""
    taken: list[float] = []
    with tempfile.TemporaryDirectory() as folder, WorkerPool(1) as pool:
        mark = Path(folder, "killed-at")
        portable = by_value("dies", killing(str(mark)), forks=forks, warm=warm)
        live, die = (Call((), {"completion": text}) for text in ("live", "die"))
        pool.submit(portable, False, [live], 1, 30.0).result(timeout=120)
        for _ in range(KILLS):
            scored = pool.submit(portable, False, [die, live], 2, 30.0).result(timeout=120)
            ended = time.perf_counter()  # the clock that the worker read: one for all processes on Linux
            assert scored.outcomes[1] == 1.0
            taken.append(ended - float(mark.read_text()))
    row = {"median ms": round(1000 * statistics.median(taken), 1), "slowest ms": round(1000 * max(taken), 1)}
    return {"after a kill": name, "kills": KILLS, **row}


def pool_tables() -> list[dict[str, Any]]:
    """Both tables."""
    speeds = [speed_row("returns at once", trivial, 100), speed_row("computes 5 ms", computes, 10)]
    kills = [kill_row("a function of the user's: process anew", False, None)]
    if importlib.util.find_spec("sympy") is not None:
        kills.append(kill_row("the same, that imports sympy", False, "sympy"))
        kills.append(kill_row("a built-in with sympy: fork of its keeper", True, "sympy"))
    else:
        kills.append(kill_row("a built-in: fork of its keeper", True, None))
    note = f"By the clock, in turns, medians of {ROUNDS} rounds; warm processes, all groups handed in at once."
    after = "From the signal to the outcome of the group's next completion, in a pool of one process."
    return [{"rows": speeds, "note": note}, {"rows": kills, "note": after}]
