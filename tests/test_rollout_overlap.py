"""Rewards of finished groups are computed while the other groups are generated, in the worker processes of a run."""

import time
from collections.abc import Generator
from pathlib import Path

from gruppo.rewards.rubric import Reward, Rubric
from gruppo.rewards.workers import WorkerPool
from gruppo.rollout.collect import Collector
from gruppo.rollout.engine import ScriptedEngine
from gruppo.types import Completion, Problem, SamplingParams
from models import Letters

SECONDS = 30.0


def seen(file: Path) -> bool:
    """Whether a file comes in time."""
    end = time.monotonic() + SECONDS
    while not file.exists() and time.monotonic() < end:
        time.sleep(0.005)
    return file.exists()


class Waiting(ScriptedEngine):
    """Goes on after the first group only once a reward is at work on it, and tells when all is generated."""

    def __init__(self, scoring: Path, generated: Path) -> None:
        super().__init__(lambda request, sample: [request.id, sample])
        self._scoring, self._generated = scoring, generated
        self.waited = False

    def completed(self) -> Generator[Completion, None, None]:
        for completion in super().completed():
            if completion.request_id == 1 and completion.sample == 0:
                self.waited = seen(self._scoring)
            yield completion
        self._generated.touch()


def test_each_waits_for_the_other_and_both_come_to_their_end(tmp_path: Path):
    scoring, generated = tmp_path / "scoring", tmp_path / "generated"

    def slow(completion: str, answer: str) -> float:
        if answer != "first":
            return 0.5
        scoring.touch()
        end = time.monotonic() + 30
        while not generated.exists() and time.monotonic() < end:
            time.sleep(0.005)
        return float(generated.exists())

    engine = Waiting(scoring, generated)
    problems = [Problem(id=name, prompt="?", answer=name, prompt_ids=(1,)) for name in ("first", "second", "third")]
    with WorkerPool(1) as pool:
        rubric = Rubric([Reward("slow", slow, time_limit=2 * SECONDS)], pool=pool)
        collector = Collector(engine, rubric, Letters(), SamplingParams(max_completion_length=2), group_size=2)
        groups = collector.collect(problems, seed=0).groups
    assert engine.waited
    assert [group.rewards.tolist() for group in groups] == [[1.0, 1.0], [0.5, 0.5], [0.5, 0.5]]
