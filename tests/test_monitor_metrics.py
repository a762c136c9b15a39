"""The table of metrics, its page, and what a step's groups say by themselves."""

import math
from pathlib import Path

import numpy as np
import pytest

from gruppo.monitor.metrics import GRPO_METRICS, find, render_page
from gruppo.monitor.recorder import Recorder, group_metrics
from gruppo.monitor.run_folder import RunFolder
from gruppo.types import Completion, Group, Problem, Rollout, Score


def rollout(
    sample: int, length: int, reward: float, passed: bool, cut: bool = False, format_: float | None = 1.0
) -> Rollout:
    completion = Completion(
        request_id=0,
        problem_id="p",
        sample=sample,
        token_ids=np.arange(length, dtype=np.int64),
        sampler_logprobs=np.full(length, -0.5, dtype=np.float32),
        mask=np.ones(length, dtype=np.bool_),
        finish_reason="length" if cut else "stop",
        version=3,
    )
    score = Score(reward=reward, parts={"math": float(passed), "format": format_}, passed=passed)
    return Rollout(completion=completion, text="x" * length, score=score)


def two_groups() -> list[Group]:
    problem = Problem(id="p", prompt="1+1", answer="2")
    mixed = (rollout(0, 2, 1.5, True), rollout(1, 4, 0.5, False, format_=None))
    equal = (rollout(0, 6, 0.0, False, cut=True, format_=0.0), rollout(1, 8, 0.0, False, format_=0.0))
    return [Group(problem, mixed), Group(problem, equal)]


def test_group_metrics_are_the_numbers_worked_out_by_hand() -> None:
    assert group_metrics(two_groups()) == {
        "reward_mean": 0.5,
        "reward_std": pytest.approx(math.sqrt(0.375)),
        "reward/math": 0.25,
        "reward/format": pytest.approx(1 / 3),
        "reward_errors": 0.0,
        "no_signal_share": 0.5,
        "pass_at_1": 0.25,
        "completion_length_mean": 5.0,
        "completion_length_max": 8.0,
        "truncated_share": 0.25,
        "generated_tokens": 20.0,
    }


def test_group_metrics_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one rollout"):
        group_metrics([])


def test_the_page_is_made_from_the_table() -> None:
    page = (Path(__file__).resolve().parents[1] / "docs" / "metrics.md").read_text()
    assert render_page(page) == page, "run: python -m gruppo.monitor.metrics docs/metrics.md"


def test_a_page_without_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="<!-- grpo table -->"):
        render_page("nothing here")


def test_healthy_ranges_have_their_ends_inside() -> None:
    share = find("truncated_share")
    assert share is not None
    assert share.healthy(0.5)
    assert not share.healthy(0.51)
    assert share.healthy(None)
    assert not share.healthy(math.nan)
    assert share.healthy_range == "at most 0.5"
    ratio = find("policy_ratio_mean")
    assert ratio is not None
    assert ratio.healthy_range == "0.9 to 1.1"
    assert not ratio.healthy(0.89)
    loss = find("loss")
    assert loss is not None
    assert not loss.healthy(math.inf)


class Listener:
    """An observer and a mirror that remember, the mirror breaking at a step."""

    name = "listener"

    def __init__(self, breaks_at: int = 0) -> None:
        self.breaks_at = breaks_at
        self.steps: list[tuple[str, int, dict[str, float | None]]] = []
        self.notes: list[str] = []
        self.logged: list[int] = []

    def start(self, stage: str, total: int, done: int = 0) -> None: ...

    def step(self, stage: str, done: int, values) -> None:
        self.steps.append((stage, done, dict(values)))

    def note(self, text: str) -> None:
        self.notes.append(text)

    def finish(self, stage: str) -> None: ...

    def log(self, step: int, values) -> None:
        if step == self.breaks_at:
            raise ConnectionError("server away")
        self.logged.append(step)

    def close(self) -> None: ...


def test_recorder_writes_a_whole_line_and_shows_what_matters(tmp_path: Path) -> None:
    observer = Listener()
    recorder = Recorder(RunFolder(tmp_path), observer)
    metrics = recorder.record(7, {"loss": math.nan, "seconds_step": 4.0}, two_groups())
    assert math.isnan(metrics["loss"] or 0)
    (row,) = RunFolder(tmp_path).read_metrics()
    names = [m.name for m in GRPO_METRICS if m.name != "reward/<name>"] + ["reward/math", "reward/format"]
    assert set(row) == set(names)
    assert list(row)[:3] == ["step", "reward_mean", "reward_std"]
    assert (row["step"], row["loss"], row["tokens_per_second"], row["entropy"]) == (7, None, 5.0, None)
    ((stage, done, shown),) = observer.steps
    assert (stage, done, shown["pass_at_1"], shown["tokens_per_second"]) == ("grpo", 7, 0.25, 5.0)


def test_recorder_refuses_a_metric_that_has_no_row(tmp_path: Path) -> None:
    recorder = Recorder(RunFolder(tmp_path), Listener())
    with pytest.raises(ValueError, match="no such metric: rewardmean"):
        recorder.record(1, {"rewardmean": 1.0})


def test_a_broken_mirror_is_left_out_and_the_run_goes_on(tmp_path: Path) -> None:
    observer, mirror = Listener(), Listener(breaks_at=2)
    recorder = Recorder(RunFolder(tmp_path), observer, [mirror], stage="sft")
    for step in (1, 2, 3):
        recorder.record(step, {"loss": 1.0})
    assert mirror.logged == [1]
    assert observer.notes == ["report_to: listener failed at step 2 and is left out from here: server away"]
    assert [row["step"] for row in RunFolder(tmp_path).read_metrics()] == [1, 2, 3]


def test_a_finding_is_not_found_again_after_a_resume(tmp_path: Path) -> None:
    stuck = {"truncated_share": 0.9}
    observer = Listener()
    recorder = Recorder(RunFolder(tmp_path), observer)
    found = []
    for step in (1, 2, 3, 4):
        findings = recorder.diagnose(recorder.record(step, stuck))
        recorder.report(findings)
        found += findings
    assert [(finding.rule, finding.step) for finding in found] == [("truncated", 3)]
    assert observer.notes[0].startswith("step 3: Most completions are cut off before they end (truncated_share 0.9,")
    (event,) = RunFolder(tmp_path).read_events()
    assert (event["kind"], event["rule"], event["step"]) == ("finding", "truncated", 3)
    again = Recorder(RunFolder(tmp_path), observer)
    assert again.diagnose(again.record(5, stuck)) == []
