"""The arithmetic of the speed benchmarks, and the GPU script at the size of a toy."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """Imports a module of benchmarks/ by its name, as the scripts there do."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(FOLDER)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(FOLDER)):
            del sys.modules[name]


def small(shapes: ModuleType) -> object:
    """120 parameters in a layer, 40 in the head."""
    return shapes.Shape(shapes.qwen2(10, 4, 6, 1, 2, 1), prompts=1, group_size=2, prompt_length=3, new_tokens=4)


def test_work_of_a_step(load) -> None:
    """Counted by hand: 2 operations a parameter and token, 4 h a pair that attends, three times for a backward pass."""
    work = load("limits").Work(small(load("shapes")))
    assert (work.layer_parameters, work.head_parameters) == (120, 40)
    assert work.prefill() == 2 * 120 * 3 + 16 * 4.5 + 2 * 40
    assert work.update([2, 4]) == 3 * (2 * 120 * 9 + 2 * 40 * 6 + 16 * (4.5 + 8 + 20))
    assert work.decode([2, 4], item_bytes=4) == [(768, 720), (400, 720), (416, 736)]


def test_parameters_are_those_of_the_model(load) -> None:
    """Matrices of the layers and the head, which is the embedding; norms and biases are what is left."""
    shapes, limits = load("shapes"), load("limits")
    shape = shapes.SHAPES["a"]
    matrices = sum(p.numel() for p in shape.build().parameters() if p.dim() == 2)
    work = limits.Work(shape)
    assert work.layer_parameters + work.head_parameters == matrices


def test_shares_of_the_limit(load) -> None:
    """At 1,000 operations and 500 bytes a second decoding waits for its bytes."""
    limits, contestants, shapes = load("limits"), load("contestants"), load("shapes")
    step = contestants.Step(20.0, 20.0, 8.0, 0.0, 12.0, [2, 4], 0.0, 0.0)
    found = limits.shares(small(shapes), "float32", limits.Machine(gflops=1e-6, gbytes=5e-7), [step])
    decode = (720 + 720 + 736) / 500
    assert found["rollout"] == pytest.approx((0.872 + decode) / 8)
    assert found["update"] == pytest.approx(9.48 / 12)
    assert found["bandwidth"] == pytest.approx(decode / 8)


def test_ratio_is_the_median_of_the_pairs(load) -> None:
    """Tokens a second of each pair, then the median; together: all tokens over all seconds."""
    duel, contestants = load("duel"), load("contestants")
    ours = [contestants.Step(seconds, seconds, 1.0, 0.0, 1.0, [60, 40], 10.0, 1.0) for seconds in (1.0, 2.0, 4.0)]
    theirs = [contestants.Step(10.0, 5.0, 1.0, 0.0, 1.0, [50], 30.0, 1.0)] * 3
    found = duel.ratio(ours, theirs)
    assert found == {"median": 10.0, "least": 5.0, "most": 20.0, "together": (300 / 7) / 5, "cpu": (300 / 7) / 10}


@pytest.mark.slow
def test_gpu_script_as_a_toy(load) -> None:
    """Both contestants make their steps; on the CPU, since there is where the script can be tried."""
    pytest.importorskip("trl")
    (row,) = load("gpu").main(["--toy", "--pairs", "1"])
    assert row["gruppo"]["tokens"] == row["trl"]["tokens"] == 2 * 2 * 8
    assert row["ratio"]["median"] == pytest.approx(row["gruppo"]["rate"] / row["trl"]["rate"])
    assert 0 < row["limit"]["update"] < 1


def test_sweep_point_ends_within_its_limit(load, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 10 seconds a job with steps of 3 has three, one of 6 its first alone, one of 11 none; their order is kept."""
    sweep, contestants = load("sweep"), load("contestants")
    clock = [0.0]

    class Fake:
        """A step takes as many seconds as the name says."""

        def __init__(self, name: str, *_: object) -> None:
            self.name = name

        def step(self, limit: float) -> Any:
            seconds = float(self.name)
            clock[0] += min(seconds, limit)
            if seconds > limit:
                raise TimeoutError
            return contestants.Step(seconds, seconds, 1.0, 0.0, 1.0, [5], 1.0, 1.0)

        def close(self) -> None:
            """Nothing."""

    monkeypatch.setattr(sweep, "Contestant", Fake)
    monkeypatch.setattr(sweep.time, "perf_counter", lambda: clock[0])
    found = sweep.in_turns_within([("3", None), ("6", None), ("11", None)], Path(), 5, 10.0)
    assert [[step.seconds for step in steps] for steps in found] == [[3.0] * 3, [6.0], []]


def test_replay_of_drafts_counts_what_is_right(load) -> None:
    """Of a completion known from before, three tokens a verification with drafts of two, and two at its end."""
    replay = load("speculation_replay")
    row = (1, 2, 3, 4, 5, 6, 7, 8)
    batch = replay.Batch([[row, row[:3]]], [replay.indexed([row])], {})
    found = replay.Replay(batch, "earlier", 2, 1).run()
    # Both rows draw three tokens one by one, since two live; the longer one's other five take two verifications.
    assert found.calls == {(2, 1, 2): 3, (1, 3, 3): 2}
    assert (found.checked, found.gained) == (2, 5)
    other = replay.Batch([[(1, 2, 3, 9, 9, 9)]], [replay.indexed([row])], {})
    # The first draft is right (1 2, then 3); of the second (4 5) nothing is, and behind 9 nothing is known.
    assert replay.Replay(other, "earlier", 2, 1).run().calls == {(1, 3, 3): 2, (1, 1, 1): 2}
