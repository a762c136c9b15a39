"""Hostile answers: each is scored, in time, from any thread or event loop, and leaves nothing behind."""

import asyncio
import importlib.util
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import ModuleType

import pytest

from gruppo.rewards import math as math_module
from gruppo.rewards.math import math_reward

ROOT = Path(__file__).resolve().parents[1]
SHORT = 0.1
"""Seconds of CPU time allowed in most of these tests, for the sake of theirs; 2 in use."""
SAMPLE = ["nested powers", "large factorial", "deep brackets", "huge set", "10 MB of digits", "NUL", "lone surrogates"]


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_rewards", ROOT / "benchmarks" / "rewards.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


bench = load()


def contention() -> float:
    """How many times longer than on an idle machine a second of work takes now."""
    wall, cpu = time.perf_counter(), time.process_time()
    while time.process_time() - cpu < 0.05:
        pass
    return (time.perf_counter() - wall) / 0.05


@pytest.fixture(scope="module", autouse=True)
def warm() -> None:
    """The worker process is there; its start is not measured."""
    assert math_reward("\\boxed{x+1}", "1+x") == 1.0


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(math_module, "SECONDS", SHORT)


def judged(name: str) -> tuple[float, float]:
    """The score and the seconds that it took."""
    start = time.perf_counter()
    result = math_reward(*bench.HOSTILE[name])
    seconds = time.perf_counter() - start
    assert result.reason
    assert set(result.parts) == {"strict", "lenient"}
    return result.value, seconds


def test_there_are_enough_of_them() -> None:
    assert len(bench.HOSTILE) == 97


@pytest.mark.parametrize("name", list(bench.HOSTILE))
@pytest.mark.usefixtures("short")
def test_every_one_is_scored_in_time(name: str) -> None:
    value, seconds = judged(name)
    assert value == (1.0 if name == "a huge decimal" and value else 0.0)  # 0.333... of 15,000 digits is a third
    assert seconds < 2.5 * max(1.0, contention())


@pytest.mark.usefixtures("short")
def test_in_another_thread() -> None:
    results: list[tuple[float, float]] = []
    thread = threading.Thread(target=lambda: results.extend(judged(name) for name in SAMPLE))
    thread.start()
    thread.join(60)
    assert [value for value, _ in results] == [0.0] * len(SAMPLE)


@pytest.mark.usefixtures("short")
def test_in_several_threads_at_once() -> None:
    values: dict[int, float] = {}

    def work(index: int) -> None:
        values[index] = math_reward(f"\\boxed{{x+{index}}}", f"{index}+x").value
        values[index] += judged("nested powers")[0]

    threads = [threading.Thread(target=work, args=(index,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert values == dict.fromkeys(range(6), 1.0)


@pytest.mark.usefixtures("short")
def test_inside_a_running_event_loop() -> None:
    async def main() -> list[float]:
        return [judged(name)[0] for name in SAMPLE]

    assert asyncio.run(main()) == [0.0] * len(SAMPLE)


@pytest.mark.usefixtures("short")
def test_in_a_forked_process() -> None:
    """The copy has a worker of its own: the answers of two processes do not get mixed up."""
    pid = os.fork()
    if pid == 0:
        right = math_reward("\\boxed{x^2-1}", "(x-1)(x+1)") == 1.0 and judged("nested powers")[0] == 0.0
        os._exit(0 if right else 1)
    assert math_reward("\\boxed{x^2-1}", "(x-2)(x+2)") == 0.0
    assert os.waitpid(pid, 0)[1] == 0


def test_the_limit_in_use_and_the_next_answer_after_it() -> None:
    start = time.perf_counter()
    result = math_reward("\\boxed{9^{9^{9^9}}}", "3")
    seconds = time.perf_counter() - start
    assert result.value == 0.0
    assert 1.9 < seconds < 2.5 * max(1.0, 2 * contention())
    assert result.reason == "boxed: 9^{9^{9^9}} took longer than 2 s to compare"
    assert math_reward("\\boxed{5!}", "120") == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("name", list(bench.HOSTILE))
def test_every_one_with_the_limit_in_use(name: str) -> None:
    busy = contention()
    _, seconds = judged(name)
    assert seconds < 2.5 * max(1.0, 2 * busy, 2 * contention())


@pytest.mark.usefixtures("short")
def test_a_row_of_them_leaves_nothing_behind() -> None:
    found = bench.hostile_run(16)
    assert found["descriptors"] == 0
    assert found["processes"] == 0
    assert found["MiB"] < 50
    assert found["scored 1"] == 0


def test_the_processes_end_with_their_caller() -> None:
    code = """
import os
from gruppo.rewards.math import math_reward
from gruppo.rewards.workers import default_pool
assert math_reward("\\\\boxed{x+1}", "1+x") == 1.0
print(*default_pool().pids(), flush=True)
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 2, done.stderr
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_worker_killed_from_outside_costs_time_only() -> None:
    from gruppo.rewards.workers import default_pool

    assert math_reward("\\boxed{5!}", "120") == 1.0
    for pid in default_pool().pids():
        os.kill(pid, 9)
    assert [math_reward(f"\\boxed{{6!+{n}}}", str(720 + n)).value for n in range(3)] == [1.0] * 3
