"""The worker pool: hangs, crashes and lies of reward functions are outcomes; nothing of them stays behind."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from gruppo.errors import RewardError
from gruppo.rewards import dispatch
from gruppo.rewards.binding import Call
from gruppo.rewards.outcomes import Failure, Outcome
from gruppo.rewards.result import RewardResult
from gruppo.rewards.rubric import Reward, Rubric
from gruppo.rewards.workers import WorkerPool, by_value, run_limited
from gruppo.types import Problem

SECONDS = 0.5
PROBLEM = Problem(id="f.jsonl:3", prompt="?", answer="2")


def hostile(completion: str):  # noqa: RET503
    """Does what the completion says."""
    match completion:
        case "loop":
            while True:
                pass
        case "power":
            return 9**9**9**9  # one call of C, which holds the interpreter's lock
        case "sleep":
            time.sleep(60)
        case "exit":
            os._exit(3)
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "raise":
            raise ValueError("no number")
        case "leave":
            sys.exit(1)
        case "memory":
            return len(bytearray(64 << 30))
        case "nan":
            return float("nan")
        case "inf":
            return float("inf")
        case "text":
            return "good"
        case "none":
            return None
        case "deep":
            return hostile(completion)
        case _:
            return RewardResult(len(completion), {"letters": len(completion)}, "counted")


EXPECTED = {
    "loop": ("timeout", "took longer than 0.5 s on"),
    "power": ("timeout", "took longer than 0.5 s on"),
    "sleep": ("timeout", "took longer than 0.5 s on"),
    "exit": ("crashed", "ended its process (exit code 3) on"),
    "crash": ("crashed", "ended its process (by SIGSEGV) on"),
    "raise": ("raised", "raised ValueError for"),
    "leave": ("raised", "raised SystemExit for"),
    "memory": ("raised", "raised MemoryError for"),
    "nan": ("returned", "returned nan (float) for"),
    "inf": ("returned", "returned inf (float) for"),
    "text": ("returned", "returned 'good' (str) for"),
    "deep": ("raised", "raised RecursionError for"),
}


def calls(texts: list[str]) -> list[Call]:
    return [Call((), {"completion": text}) for text in texts]


def told(outcome: Outcome) -> object:
    return (outcome.kind, outcome.what) if isinstance(outcome, Failure) else outcome


def processes_of(pid: int) -> list[int]:
    """The children of a process."""
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, timeout=10)
    return [int(each) for each in found.stdout.split()]


@pytest.fixture
def pool(tmp_path: Path):
    with WorkerPool(2, tmp_path / "rewards.log") as pool:
        yield pool


def test_each_outcome_is_that_of_its_own_call_in_any_number_of_processes(tmp_path: Path) -> None:
    texts = ["ab", *EXPECTED, "none", "abc"]
    expected = [2.0, *EXPECTED.values(), None, 3.0]
    for size in (1, 3):
        with WorkerPool(size) as pool:
            halves = [texts[:7], texts[7:]]
            futures = [pool.submit(by_value("r", hostile), False, calls(half), len(half), SECONDS) for half in halves]
            outcomes = [outcome for future in futures for outcome in future.result(60).outcomes]
            assert [told(outcome) for outcome in outcomes] == expected
            assert outcomes[0] is not None
            assert outcomes[-1].parts == {"letters": 3.0}  # pyright: ignore
            assert outcomes[-1].reason == "counted"  # pyright: ignore


def test_a_sleeper_is_stopped_in_time_and_a_busy_machine_is_no_reason(pool: WorkerPool) -> None:
    function = by_value("r", hostile)
    pool.submit(function, False, calls(["a"]), 1, SECONDS).result(60)
    began = time.monotonic()
    (outcome,) = pool.submit(function, False, calls(["sleep"]), 1, SECONDS).result(60).outcomes
    assert told(outcome) == EXPECTED["sleep"]
    assert 0.5 <= time.monotonic() - began < 2.5


def test_the_limit_is_for_each_completion(pool: WorkerPool) -> None:
    def third(completion: str) -> float:
        end = time.process_time() + 0.3
        while time.process_time() < end:
            pass
        return 1.0

    def all_at_once(completions: list[str]) -> list[float]:
        return [third(text) for text in completions]

    single = pool.submit(by_value("r", third), False, calls(["a"] * 4), 4, SECONDS)
    batch = pool.submit(by_value("b", all_at_once), True, [Call((), {"completions": ["a"] * 4})], 4, SECONDS)
    assert single.result(60).outcomes == [1.0] * 4
    assert batch.result(60).outcomes == [1.0] * 4


def test_async_functions_wait_side_by_side_and_the_late_one_alone_fails(pool: WorkerPool) -> None:
    async def asked(completion: str) -> float:
        await asyncio.sleep(60 if completion == "never" else 0.2)
        return 2.0

    function = by_value("asked", asked, waits=True)
    began = time.monotonic()
    outcomes = pool.submit(function, False, calls(["a", "never", *"bcdefgh"]), 9, 1.0).result(60).outcomes
    assert [told(outcome) for outcome in outcomes] == [2.0, ("timeout", "took longer than 1 s on"), *[2.0] * 7]
    assert time.monotonic() - began < 10


def test_what_a_function_prints_goes_to_the_log(pool: WorkerPool, tmp_path: Path, capfd) -> None:
    def chatty(completion: str) -> float:
        print("I saw", completion)
        os.system("echo and so did my shell")
        return 1.0

    pool.submit(by_value("r", chatty), False, calls(["it"]), 1, 10.0).result(60)
    pool.close()
    assert "I saw it\n" in (tmp_path / "rewards.log").read_text()
    assert capfd.readouterr() == ("", "")


def test_drawing_functions_draw_the_same_for_the_same_completion() -> None:
    def drawn(completion: str) -> float:
        return random.random()

    texts = list("abcdef")
    values = []
    for size in (1, 2):
        with WorkerPool(size) as pool:
            futures = [pool.submit(by_value("r", drawn), False, calls([text]), 1, 10.0) for text in texts]
            values.append([future.result(60).outcomes[0] for future in futures])
    assert values[0] == values[1]
    assert len(set(values[0])) == 6


def test_what_can_not_be_sent_says_so(pool: WorkerPool) -> None:
    lock = threading.Lock()

    def locked(completion: str) -> float:
        with lock:
            return 1.0

    with pytest.raises(RewardError, match=r"reward 'locked' can't be sent to a worker process .*isolation: inline"):
        by_value("locked", locked)


def test_a_worker_leaves_no_process_and_no_descriptor(tmp_path: Path) -> None:
    def family(completion: str) -> float:
        subprocess.Popen(["sleep", "600"])
        Path(completion).write_text(str(os.getpid()))
        time.sleep(60)
        return 1.0

    before = sorted(os.listdir("/proc/self/fd"))
    with WorkerPool(1) as pool:
        note = tmp_path / "pid"
        (outcome,) = pool.submit(by_value("r", family), False, calls([str(note)]), 1, SECONDS).result(60).outcomes
        assert isinstance(outcome, Failure)
        worker = int(note.read_text())
    assert not Path(f"/proc/{worker}").exists()
    wait_until(lambda: subprocess.run(["pgrep", "-g", str(worker)], capture_output=True, timeout=10).stdout == b"")
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_workers_end_with_a_trainer_that_is_killed(tmp_path: Path) -> None:
    code = (
        "from gruppo.rewards.binding import Call; from gruppo.rewards.workers import WorkerPool, by_value\n"
        "def slow(completion):\n    import time; print('up', flush=True); time.sleep(600)\n"
        f"pool = WorkerPool(1, __import__('pathlib').Path({str(tmp_path / 'log')!r}))\n"
        "future = pool.submit(by_value('r', slow), False, [Call((), {'completion': 'a'})], 1, 500.0)\n"
        "print('ready', flush=True); future.result()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as trainer:
        assert trainer.stdout is not None
        assert trainer.stdout.readline() == b"ready\n"
        wait_until(lambda: (tmp_path / "log").exists() and "up" in (tmp_path / "log").read_text())
        (worker,) = processes_of(trainer.pid)
        trainer.kill()
    wait_until(lambda: not Path(f"/proc/{worker}").exists())


def wait_until(holds) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_from_a_thread_and_inside_an_event_loop() -> None:
    def call() -> Outcome:
        return run_limited("gruppo.rewards.format:format_reward", 5.0, "x", pattern="x")

    found: list[Outcome] = []
    thread = threading.Thread(target=lambda: found.append(call()))
    thread.start()
    thread.join(60)

    async def inside() -> Outcome:
        return call()

    assert [*found, asyncio.run(inside())] == [1.0, 1.0]


# ---- the rubric over a pool


def scores(rubric: Rubric, texts: list[str]):
    return rubric.score(PROBLEM, texts, [False] * len(texts), [1] * len(texts))


@pytest.mark.parametrize(
    ("policy", "rewards"),
    [("zero", [2.0, 0.0, 4.0]), ("skip", [2.0, 3.0, 4.0])],
)
def test_a_failed_call_counts_nothing_or_the_mean_of_the_others(pool: WorkerPool, policy, rewards) -> None:
    rubric = Rubric([Reward("r", hostile, on_error=policy, time_limit=SECONDS)], pool=pool)
    found = scores(rubric, ["ab", "loop", "abcd"])
    assert [score.reward for score in found] == rewards
    assert [dict(score.errors) for score in found] == [{}, {"r": "took longer than 0.5 s on it"}, {}]
    assert found[1].parts == {"r": 0.0}
    assert not found[1].passed


def test_the_policy_stop_names_reward_place_and_problem(pool: WorkerPool) -> None:
    rubric = Rubric([Reward("r", hostile, on_error="stop", time_limit=SECONDS)], pool=pool)
    line = hostile.__code__.co_firstlineno
    with pytest.raises(RewardError) as caught:
        scores(rubric, ["ab", "raise"])
    assert (
        str(caught.value) == f"reward 'r' (test_rewards_workers.py:{line}) raised ValueError for f.jsonl:3: no number"
    )


def test_more_than_one_failure_in_twenty_stops(pool: WorkerPool) -> None:
    rubric = Rubric([Reward("r", hostile, on_error="zero", time_limit=SECONDS)], pool=pool)
    for _ in range(5):
        scores(rubric, ["raise", *["a"] * 19])
    scores(rubric, ["a"] * 20)
    scores(rubric, ["raise", *["a"] * 19])
    with pytest.raises(RewardError) as caught:
        scores(rubric, ["nan", "raise"])
    assert str(caught.value).startswith(
        f"reward 'r' (test_rewards_workers.py:{hostile.__code__.co_firstlineno}) failed on 8 of 142 completions "
        "(7 raised, 1 returned), more than 5%; the last one raised ValueError"
    )


def test_a_wrong_count_stops_whatever_the_policy(pool: WorkerPool) -> None:
    def two(completions: list[str]) -> list[float]:
        return [1.0, 2.0]

    rubric = Rubric([Reward("two", two, on_error="zero")], pool=pool)
    with pytest.raises(RewardError, match=r"reward 'two' .* returned 2 values for the 3 completions of f.jsonl:3; wan"):
        scores(rubric, ["a", "b", "c"])


def test_a_gate_lets_a_reward_count_where_another_passes() -> None:
    gated = [Reward("right", lambda completion: float("a" in completion)), Reward("long", len_of, 0.5, gate="right")]
    found = scores(Rubric(gated), ["abc", "xyz", "a"])
    assert [score.reward for score in found] == [2.5, 0.0, 1.5]
    assert [score.parts["long"] for score in found] == [3.0, 3.0, 1.0]
    with pytest.raises(RewardError, match="gate: 'rigth' of 'long' is no other reward"):
        Rubric([gated[0], Reward("long", len_of, gate="rigth")])


def len_of(completion: str) -> float:
    return len(completion)


def test_a_slow_reward_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert dispatch.SLOW_SECONDS == 1.0
    monkeypatch.setattr(dispatch, "SLOW_SECONDS", 0.05)
    rubric = Rubric([Reward("slow", lambda completion: time.sleep(0.06) or 1.0)])
    assert rubric.notes() == []
    scores(rubric, ["a"] * 8)
    (note,) = rubric.notes()
    assert note.startswith("reward 'slow' takes 0.1 s a completion")
    assert rubric.notes() == []
