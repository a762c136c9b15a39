"""The stages of a file as one call: what it leaves, its bits, and how it goes on after any kind of end."""

import asyncio
import gc
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import gruppo
from gruppo.config.schema import Config, EvalConfig, RewardConfig, SFTConfig
from gruppo.errors import RewardError, RunFolderError
from gruppo.monitor.progress import SilentProgress
from gruppo.monitor.run_folder import RunFolder

TIMES = {"seconds_rollout", "seconds_reward", "seconds_update", "seconds_step", "tokens_per_second"}
SFT_STEPS, STEPS = 8, 6

VARIANTS: dict[str, dict[str, Any]] = {
    "full": {},
    "lora with a reference": {"lora_rank": 2, "beta": 0.1, "learning_rate": 0.01},
    "bfloat16": {"precision": "bfloat16", "updates_per_batch": 2},
    "rollouts in bfloat16": {"rollout_precision": "bfloat16", "lora_rank": 2, "learning_rate": 0.01},
}


def digits(completion: str) -> float:
    """The share of digits."""
    return sum(letter.isdigit() for letter in completion) / max(1, len(completion))


def config(model: Path, problems: Path, out: Path, **changes: Any) -> Config:
    sft = SFTConfig(
        data=str(problems), steps=SFT_STEPS, batch_size=4, learning_rate=0.01, optimizer="muon", weight_decay=0.1
    )
    values: dict[str, Any] = {
        "model": str(model),
        "data": str(problems),
        "output_dir": str(out),
        "seed": 3,
        "threads": 1,
        "steps": STEPS,
        "prompts_per_step": 5,
        "group_size": 4,
        "max_completion_length": 8,
        "learning_rate": 0.002,
        "checkpoint_every": 2,
        "rewards": [RewardConfig(name="digits", on_error="stop", isolation="inline")],
        "sft": sft,
        "eval": EvalConfig(data=str(problems), samples=4, max_problems=4),
    }
    return Config.model_validate({**values, **changes})


def train(settings: Config, reward: Callable[..., float] = digits, **more: Any) -> gruppo.RunResult:
    reward.__name__ = "digits"
    return gruppo.train(settings, rewards=[reward], observer=more.pop("observer", SilentProgress()), **more)


def figures(run: Path) -> list[dict[str, Any]]:
    """The metrics of SFT and GRPO, without what a clock says."""
    rows = [json.loads(line) for name in ("sft/metrics.jsonl", "metrics.jsonl") for line in (run / name).open()]
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


def outcome(run: Path) -> dict[str, Any]:
    """Everything that must be the same to the bit."""
    evaluations = {path.name: path.read_text() for path in sorted((run / "eval").glob("*.json"))}
    return {
        "sft model": (run / "sft/model/model.safetensors").read_bytes(),
        "model": (run / "model/model.safetensors").read_bytes(),
        "metrics": figures(run),
        **evaluations,
    }


@pytest.fixture(scope="module")
def whole(
    tiny_model: Path, problems_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], gruppo.RunResult]:
    """The uninterrupted run of a variant, made once."""
    made: dict[str, gruppo.RunResult] = {}

    def run(variant: str) -> gruppo.RunResult:
        if variant not in made:
            out = tmp_path_factory.mktemp("whole") / "run"
            made[variant] = train(config(tiny_model, problems_file, out, **VARIANTS[variant]))
        return made[variant]

    return run


Whole = Callable[[str], gruppo.RunResult]


def test_one_call_runs_every_stage(whole: Whole, tiny_model: Path):
    result = whole("full")
    run = result.folder
    assert result.finished
    assert [row["step"] for row in result.metrics] == list(range(1, STEPS + 1))
    assert [row["step"] for row in RunFolder(run / "sft").read_metrics()] == list(range(1, SFT_STEPS + 1))
    assert set(result.seconds) == {"sft", "eval_before", "grpo", "eval_after"}
    assert result.before is not None
    assert result.after is not None
    assert len(result.after.per_problem) == 4
    assert result.difference is not None
    assert result.difference["pass_at_1"].value == result.after.pass_at_1.value - result.before.pass_at_1.value
    assert RunFolder(run).done_stages().keys() == {"sft", "grpo", "eval"}
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step-000004", "step-000006"]
    assert [path.name for path in sorted((run / "rollouts").iterdir())][-1] == "step-000006.parquet"
    assert (run / "report.html").stat().st_size > 1000
    states = [load_file(folder / "model.safetensors") for folder in (tiny_model, run / "sft/model", result.model)]
    moved = [max(float((a[n] - b[n]).abs().max()) for n in a) for a, b in pairwise(states)]
    assert min(moved) > 1e-4  # both stages moved the weights
    assert all(row["sampler_logprob_difference_max"] < 1e-5 for row in result.metrics)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_metrics_of_the_variants(whole: Whole, variant: str):
    rows = whole(variant).metrics
    assert [row["policy_version"] for row in rows] == list(range(1, STEPS + 1))
    assert all(0.1 < row["grad_norm"] < 100 for row in rows)
    assert [row["learning_rate"] / max(row["learning_rate"] for row in rows) for row in rows] == pytest.approx(
        [0.5, 1.0, 0.8535534, 0.5, 0.1464466, 0.0]
    )
    if variant == "full":
        assert {row["policy_ratio_mean"] for row in rows} == {1.0}
    if variant == "bfloat16":  # the second update of a batch sees what the first has moved
        assert all(row["policy_ratio_mean"] != 1.0 for row in rows[:5])
    if variant == "rollouts in bfloat16":
        assert all(1e-3 < row["sampler_logprob_difference_max"] < 0.05 for row in rows)
        assert all(1e-4 < row["sampler_logprob_difference_mean"] < 0.01 for row in rows)
        assert all(1e-7 < row["sampler_kl"] < 1e-4 for row in rows)
        assert all(0 < abs(row["importance_weight_mean"] - 1) < 1e-3 for row in rows)
    else:
        assert {row["importance_weight_mean"] for row in rows} == {None}
    if variant == "lora with a reference":
        kls = [row["kl_to_reference"] for row in rows]
        assert kls[0] == 0.0
        assert min(kls[1:]) > 1e-6
    else:
        assert {row["kl_to_reference"] for row in rows} == {None}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_same_again_in_another_folder_to_the_bit(
    whole: Whole, variant: str, tiny_model: Path, problems_file: Path, tmp_path: Path
):
    again = train(config(tiny_model, problems_file, tmp_path / "run", **VARIANTS[variant]))
    assert outcome(again.folder) == outcome(whole(variant).folder)


def test_another_seed_is_another_run(whole: Whole, tiny_model: Path, problems_file: Path, tmp_path: Path):
    other = train(config(tiny_model, problems_file, tmp_path / "run", seed=4))
    assert other.metrics[0]["reward_mean"] != whole("full").metrics[0]["reward_mean"]


def test_a_finished_run_is_not_trained_again(tiny_model: Path, problems_file: Path, tmp_path: Path):
    settings = config(tiny_model, problems_file, tmp_path / "run", steps=2)
    first = train(settings)
    before = outcome(first.folder)

    def never(completion: str) -> float:
        raise AssertionError("a finished run asked for a reward")

    second = train(settings, never)
    assert outcome(second.folder) == before
    assert (second.finished, second.metrics, second.after) == (True, first.metrics, first.after)
    assert second.seconds == first.seconds


class Breaking(SilentProgress):
    """Does something once, after a step of a stage."""

    def __init__(self, stage: str, step: int, action: Callable[[], object]) -> None:
        self._at, self._action = (stage, step), action
        self.notes: list[str] = []

    def step(self, stage: str, done: int, values: Any) -> None:
        if (stage, done) == self._at:
            self._action()

    def note(self, text: str) -> None:
        self.notes.append(text)


def crash() -> None:
    raise ZeroDivisionError


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


class Looking(SilentProgress):
    """Looks at the process after every step of a stage."""

    def __init__(self) -> None:
        self.frozen: dict[str, list[int]] = {}

    def step(self, stage: str, done: int, values: Any) -> None:
        self.frozen.setdefault(stage, []).append(gc.get_freeze_count())


def test_what_a_stage_begins_with_is_spared_by_the_collector(tiny_model: Path, problems_file: Path, tmp_path: Path):
    before, looking = gc.get_freeze_count(), Looking()
    train(config(tiny_model, problems_file, tmp_path / "run"), observer=looking)
    assert all(min(looking.frozen[stage]) > before + 10_000 for stage in ("sft", "grpo"))
    assert gc.get_freeze_count() == before


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("stage", "step", "kept"), [("sft", 1, 0), ("sft", 5, 4), ("grpo", 1, 0), ("grpo", 5, 4)])
def test_a_run_that_crashed_goes_on_to_the_same_bits(
    whole: Whole, variant: str, stage: str, step: int, kept: int, tiny_model: Path, problems_file: Path, tmp_path: Path
):
    settings = config(tiny_model, problems_file, tmp_path / "run", **VARIANTS[variant])
    with pytest.raises(ZeroDivisionError):
        train(settings, observer=Breaking(stage, step, crash))
    watcher = Breaking("", 0, crash)
    result = train(settings, observer=watcher)
    assert outcome(result.folder) == outcome(whole(variant).folder)
    assert [note for note in watcher.notes if "goes on after" in note] == (
        [f"{stage}: goes on after step {kept}"] if kept else []
    )


@pytest.mark.parametrize(("stage", "steps"), [("sft", SFT_STEPS), ("grpo", STEPS)])
def test_a_run_that_was_asked_to_stop_goes_on_to_the_same_bits(
    whole: Whole, stage: str, steps: int, tiny_model: Path, problems_file: Path, tmp_path: Path
):
    settings = config(tiny_model, problems_file, tmp_path / "run")
    watcher = Breaking(stage, 3, terminate)
    stopped = train(settings, observer=watcher)
    assert not stopped.finished
    assert watcher.notes[-1] == f"{stage}: stopped after step 3 of {steps}; the same command goes on from here"
    watcher = Breaking("", 0, crash)
    result = train(settings, observer=watcher)
    assert f"{stage}: goes on after step 3" in watcher.notes
    assert result.finished
    assert outcome(result.folder) == outcome(whole("full").folder)


def test_a_reward_that_breaks_in_a_later_step_loses_nothing(
    whole: Whole, tiny_model: Path, problems_file: Path, tmp_path: Path
):
    calls = 0

    def breaking(completion: str) -> float:
        nonlocal calls
        calls += 1
        if calls > 4 * 5 + 20 * 3:  # evaluation before: 4 x (4 + 1); three steps of 5 x 4
            raise OSError("the judge is away")
        return digits(completion)

    settings = config(tiny_model, problems_file, tmp_path / "run")
    with pytest.raises(RewardError, match=r"reward 'digits' .* raised OSError .*: the judge is away"):
        train(settings, breaking)
    assert [row["step"] for row in RunFolder(tmp_path / "run").read_metrics()] == [1, 2, 3]
    assert outcome(train(settings).folder) == outcome(whole("full").folder)


def test_a_damaged_checkpoint_is_told_and_passed_over(
    whole: Whole, tiny_model: Path, problems_file: Path, tmp_path: Path
):
    settings = config(tiny_model, problems_file, tmp_path / "run")
    with pytest.raises(ZeroDivisionError):
        train(settings, observer=Breaking("grpo", 5, crash))
    os.truncate(tmp_path / "run/checkpoints/step-000004/policy.pt", 1000)
    watcher = Breaking("", 0, crash)
    result = train(settings, observer=watcher)
    complaint = "checkpoint step-000004 is damaged (policy.pt does not match its hash); going on from an earlier one"
    assert complaint in watcher.notes
    assert "grpo: goes on after step 2" in watcher.notes
    assert [event["text"] for event in RunFolder(result.folder).read_events() if event["kind"] == "checkpoint_damaged"]
    assert outcome(result.folder) == outcome(whole("full").folder)


def test_stages_one_by_one_are_the_stages_together(whole: Whole, tiny_model: Path, problems_file: Path, tmp_path: Path):
    settings = config(tiny_model, problems_file, tmp_path / "run")
    train(settings, stages=("sft",))
    assert (tmp_path / "run/model/model.safetensors").exists()
    assert not (tmp_path / "run/metrics.jsonl").exists()
    result = train(settings)
    assert outcome(result.folder) == outcome(whole("full").folder)


def test_sft_whose_model_is_gone_is_an_error(tiny_model: Path, problems_file: Path, tmp_path: Path):
    settings = config(tiny_model, problems_file, tmp_path / "run")
    train(settings, stages=("sft",))
    (tmp_path / "run/model").rename(tmp_path / "elsewhere")
    with pytest.raises(RunFolderError, match="has done SFT, but its model is gone"):
        train(settings)


def test_how_the_work_is_cut_changes_the_numbers_by_rounding_alone(
    tiny_model: Path, problems_file: Path, tmp_path: Path
):
    # One step: from the second on, a rounding of the weights may fall on the border between two tokens.
    cuts = [{}, {"micro_batch_tokens": 40, "max_live_completions": 3}]
    runs = [
        train(config(tiny_model, problems_file, tmp_path / str(i), steps=1, sft=None, eval=None, beta=0.1, **cut))
        for i, cut in enumerate(cuts)
    ]
    whole, cut = ({n: v for n, v in run.metrics[0].items() if n not in TIMES} for run in runs)
    assert whole.pop("sampler_logprob_difference_max") < 1e-5
    assert cut.pop("sampler_logprob_difference_max") < 1e-5
    assert [n for n in cut if cut[n] is None] == [n for n in whole if whole[n] is None]
    measured = {n: v for n, v in whole.items() if v is not None}
    assert {n: cut[n] for n in measured} == pytest.approx(measured, rel=1e-5, abs=1e-6)
    assert (cut["reward_mean"], cut["completion_length_mean"]) == (
        whole["reward_mean"],
        whole["completion_length_mean"],
    )


def test_evaluation_by_itself_gives_what_the_run_said(whole: Whole, problems_file: Path):
    result = whole("full")
    settings = EvalConfig(data=str(problems_file), samples=4, max_problems=4)
    plain = config(result.model, problems_file, result.folder, sft=None, eval=None)
    assert gruppo.evaluate(plain, settings, rewards=[digits]) == result.after


def test_functions_are_named_for_the_metrics(tiny_model: Path, problems_file: Path, tmp_path: Path):
    weight = 0.5

    def format(completion: str) -> float:
        return weight

    settings = config(tiny_model, problems_file, tmp_path / "run", steps=1, sft=None, eval=None).model_dump()
    del settings["rewards"]
    result = gruppo.train(
        Config(**settings),
        rewards=[lambda completion: 1.0, lambda completion: 2.0, format],
        observer=SilentProgress(),
    )
    found = {name: value for name, value in result.metrics[0].items() if name.startswith("reward/")}
    assert found == {"reward/reward": 1.0, "reward/reward_2": 2.0, "reward/format_2": 0.5}
    assert result.metrics[0]["reward_mean"] == 3.5
    assert result.metrics[0]["optimizer_step"] == 0  # no group has signal


CELL = """
import asyncio

target = 3

async def near(completions, answer, **columns):
    await asyncio.sleep(0)
    return [-abs(len(text) - target) / 10 for text in completions]

result = gruppo.train(config, rewards=[near], observer=observer)
"""


def test_a_notebook_cell_with_a_closure_and_a_running_loop(tiny_model: Path, problems_file: Path, tmp_path: Path):
    plain = config(tiny_model, problems_file, tmp_path / "run", steps=2, sft=None, eval=None, rewards=["near"])
    names: dict[str, Any] = {"gruppo": gruppo, "config": plain, "observer": SilentProgress()}

    async def notebook() -> None:
        exec(compile(CELL, "<cell>", "exec"), names)

    asyncio.run(notebook())
    result = names["result"]
    assert result.finished
    assert len(result.metrics) == 2
    assert -2.0 < result.metrics[0]["reward/near"] < 0.0
    assert result.metrics[0]["optimizer_step"] == 1


KILLED = """
    import os, signal, sys
    import gruppo
    calls = 0

    def digits(completion):
        global calls
        calls += 1
        if calls == {calls}:
            os.kill(os.getpid(), signal.SIGKILL)
        return sum(letter.isdigit() for letter in completion) / max(1, len(completion))

    gruppo.train(gruppo.Config.model_validate_json(sys.argv[1]), rewards=[digits])
"""


def test_killed_without_warning_and_going_on_to_the_same_bits(
    whole: Whole, tiny_model: Path, problems_file: Path, tmp_path: Path
):
    settings = config(tiny_model, problems_file, tmp_path / "run")
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(KILLED).format(calls=20 + 20 * 4 + 7))
    done = subprocess.run(
        [sys.executable, str(script), settings.model_dump_json()],
        capture_output=True,
        timeout=400,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (tmp_path / "run/model").exists()
    assert outcome(train(settings).folder) == outcome(whole("full").folder)


KILLED_WRITING = """
    import os, signal, sys, threading, time
    from pathlib import Path
    import gruppo

    run, sync = Path(sys.argv[2]), os.fsync

    def fsync(descriptor):
        sync(descriptor)
        aside = run / "checkpoints/writing-step-000004"
        if threading.current_thread().name == "gruppo-writer" and len(list(aside.glob("*.pt"))) == 2:
            end = time.monotonic() + 60
            while len((run / "metrics.jsonl").read_text().splitlines()) < 5 and time.monotonic() < end:
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)

    os.fsync = fsync

    def digits(completion):
        return sum(letter.isdigit() for letter in completion) / max(1, len(completion))

    gruppo.train(gruppo.Config.model_validate_json(sys.argv[1]), rewards=[digits])
"""


def test_killed_while_a_checkpoint_is_written_beside_the_next_step(
    whole: Whole, tiny_model: Path, problems_file: Path, tmp_path: Path
):
    run = tmp_path / "run"
    settings = config(tiny_model, problems_file, run, save_rollouts_every=0)
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(KILLED_WRITING))
    done = subprocess.run(
        [sys.executable, str(script), settings.model_dump_json(), str(run)],
        capture_output=True,
        timeout=400,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(RunFolder(run).read_metrics()) == 5  # the step after the checkpoint was made while it was being written
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step-000002", "writing-step-000004"]
    watcher = Breaking("", 0, crash)
    result = train(settings, observer=watcher)
    assert "grpo: goes on after step 2" in watcher.notes
    assert outcome(result.folder) == outcome(whole("full").folder)
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step-000004", "step-000006"]


def test_a_disk_that_fills_up_behind_the_training_ends_the_run_with_its_message(
    whole: Whole, tiny_model: Path, problems_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    settings = config(tiny_model, problems_file, tmp_path / "run")
    sync = os.fsync

    def fsync(descriptor: int) -> None:
        if (tmp_path / "run/checkpoints/writing-step-000004").exists():
            raise OSError(28, "No space left on device")
        sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(RunFolderError, match=r"can't write .*step-000004: No space left on device"):
            train(settings)
    assert len(RunFolder(tmp_path / "run").read_metrics()) in (4, 5)  # by how quick the thread was
    assert outcome(train(settings).folder) == outcome(whole("full").folder)


def test_what_was_submitted_is_on_the_disk_when_the_training_returns(
    tiny_model: Path, problems_file: Path, tmp_path: Path
):
    settings = config(tiny_model, problems_file, tmp_path / "run", steps=3, sft=None, eval=None)
    with pytest.raises(ZeroDivisionError):
        train(settings, observer=Breaking("grpo", 3, crash))  # told before the rollouts of step 3 are written
    assert RunFolder(tmp_path / "run").rollout_steps() == [1, 2]
    assert RunFolder(tmp_path / "run").checkpoint_steps() == [2]
    assert list((tmp_path / "run").rglob(".*.tmp")) == []
    train(settings)
    assert RunFolder(tmp_path / "run").rollout_steps() == [1, 2, 3]
    assert RunFolder(tmp_path / "run").checkpoint_steps() == [2, 3]
