"""Runs of a few steps with every preset, every alias and every moving part of the algorithm."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from gruppo.config.load import ALIASES, load_config
from gruppo.config.presets import PRESETS
from gruppo.config.schema import Config
from gruppo.errors import TrainingError
from gruppo.monitor.run_folder import RunFolder
from gruppo.training import policy as policy_module
from test_launch_pipeline import TIMES, Breaking, crash, digits, train
from test_launch_pipeline import config as staged

SMALL = {"steps": 3, "prompts_per_step": 2, "group_size": 4, "max_completion_length": 8}
RATE = {"learning_rate": 2e-3, "lr_schedule": "constant"}


@pytest.fixture(scope="module")
def graded(problems_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The problems with a difficulty of 1 to 3."""
    rows = [json.loads(line) for line in problems_file.read_text().splitlines()]
    path = tmp_path_factory.mktemp("graded") / "graded.jsonl"
    path.write_text("".join(json.dumps({**row, "level": 1 + i % 3}) + "\n" for i, row in enumerate(rows)))
    return path


def config(model: Path, problems: Path, out: Path, **changes: Any) -> Config:
    """GRPO alone."""
    return staged(model, problems, out, **{"sft": None, "eval": None, **changes})


def outcome(folder: Path) -> tuple[bytes, list[dict[str, Any]]]:
    """Everything that must be the same to the bit."""
    rows = RunFolder(folder).read_metrics()
    figures = [{name: value for name, value in row.items() if name not in TIMES} for row in rows]
    return (folder / "model/model.safetensors").read_bytes(), figures


def moved(model: Path, folder: Path) -> float:
    """How far the weights went, largest of all."""
    start, end = load_file(model / "model.safetensors"), load_file(folder / "model" / "model.safetensors")
    return max(float((end[name].float() - start[name].float()).abs().max()) for name in start)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_trains(preset: str, tiny_model: Path, problems_file: Path, tmp_path: Path):
    values = {"minibatches": min(4, PRESETS[preset].values.get("minibatches", 1)), **SMALL, **RATE}
    result = train(config(tiny_model, problems_file, tmp_path / "run", preset=preset, **values))
    assert [row["step"] for row in result.metrics] == [1, 2, 3]
    assert sum(row["optimizer_step"] for row in result.metrics) >= 1
    assert all(row["skipped_optimizer_steps"] == 0 for row in result.metrics if row["skipped_optimizer_steps"])
    assert moved(tiny_model, result.folder) > 1e-4
    own = PRESETS[preset].values
    assert all(row["beta"] == own.get("beta", 0.0) for row in result.metrics)
    stepped = [row for row in result.metrics if row["optimizer_step"]]
    assert {row["kl_to_reference"] is not None for row in stepped} == {own.get("beta", 0) > 0}
    assert all(row["sampled_groups"] <= 2 * own.get("max_sampling_factor", 1) for row in result.metrics)


@pytest.mark.parametrize("names", [list(ALIASES)[start::3] for start in range(3)], ids=" ".join)
def test_every_alias_runs(names: list[str], tiny_model: Path, problems_file: Path, tmp_path: Path):
    own = {**SMALL, "epsilon": 0.3, "beta": 0.01, "output_dir": str(tmp_path / "run"), "steps": 2}
    spelled = {ALIASES[name]: name for name in names}
    values = {spelled.get(name, name): value for name, value in own.items()}
    file = tmp_path / "run.yaml"
    file.write_text(json.dumps({"model": str(tiny_model), "data": str(problems_file), "rewards": "digits", **values}))
    resolved, notes = load_config(file, {})
    assert {note.split()[0] for note in notes} == set(spelled.values())
    result = train(resolved)
    assert result.folder == tmp_path / "run"
    assert [len(result.metrics), resolved.group_size, resolved.epsilon, resolved.beta] == [2, 4, 0.3, 0.01]
    assert max(row["completion_length_max"] for row in result.metrics) == 8


EVERYTHING: dict[str, Any] = {
    "updates_per_batch": 2,
    "minibatches": 2,
    "beta": 0.05,
    "kl_in": "reward",
    "kl_estimator": "k1",
    "target_kl": 1e-6,
    "reference_refresh_every": 2,
    "reference_decay": 0.5,
    "sampler_correction": "token_truncate",
    "max_sampling_factor": 2.0,
    "pool_weights": [1, 1, 2],
    "drop_after": 3,
    "demonstrations_weight": 0.5,
    "curriculum": [
        {"steps": "1-3", "max_difficulty": 1, "temperature": [1.2, 0.8]},
        {"steps": "4-", "min_difficulty": 2, "epsilon": 10, "group_size": 6},
    ],
}


@pytest.mark.parametrize("adapter", [{}, {"lora_rank": 2, "learning_rate": 0.01}], ids=["full", "lora"])
def test_with_everything_on_a_run_that_crashed_goes_on_to_the_same_bits(
    adapter: dict[str, Any], tiny_model: Path, graded: Path, tmp_path: Path
):
    def settings(out: str) -> Config:
        return config(tiny_model, graded, tmp_path / out, **EVERYTHING, **adapter, demonstrations=str(graded))

    whole = train(settings("whole"))
    with pytest.raises(ZeroDivisionError):
        train(settings("cut"), observer=Breaking("grpo", 5, crash))
    again = train(settings("cut"))
    assert outcome(again.folder) == outcome(whole.folder)
    assert [row["span"] for row in whole.metrics] == [1, 1, 1, 2, 2, 2]
    assert [row["temperature"] for row in whole.metrics] == pytest.approx([1.2, 1.0, 0.8, 1.0, 1.0, 1.0])
    assert all(row["demonstrations_loss"] > 1 for row in whole.metrics)
    events = RunFolder(whole.folder).read_events()
    assert [event["step"] for event in events if event["kind"] == "reference_refreshed"] == [2, 4]
    betas = [row["beta"] for row in whole.metrics]
    steps = {event["step"] for event in events if event["kind"] == "beta"}
    for step, (before, after) in enumerate(pairwise(betas), start=1):
        factor = after / before
        assert factor == pytest.approx(1.0 if step not in steps else 1.5 if factor > 1 else 0.9)
    assert steps


def test_the_kl_in_the_reward_bends_the_advantages(tiny_model: Path, problems_file: Path, tmp_path: Path):
    """At the first step the reference is the policy: no penalty. Later it is subtracted."""
    shared = {"beta": 5.0, "learning_rate": 0.02, "advantage_scale": "none"}
    runs = [
        train(config(tiny_model, problems_file, tmp_path / kl_in, **shared, kl_in=kl_in)).metrics
        for kl_in in ("loss", "reward")
    ]
    assert runs[0][0]["kl_to_reference"] == runs[1][0]["kl_to_reference"] == 0.0
    assert runs[0][0]["grad_norm"] == runs[1][0]["grad_norm"]
    assert runs[1][1]["kl_to_reference"] > 1e-4
    assert runs[0][1]["advantage_variance"] != runs[1][1]["advantage_variance"]


def test_a_span_is_left_early_when_its_problems_are_solved(tiny_model: Path, graded: Path, tmp_path: Path):
    def solved(completion: str) -> float:
        return 1.0

    spans = [{"steps": "1-20", "max_difficulty": 1, "promote_at": 0.9}, {"steps": "21-30", "max_difficulty": 2}]
    values = {**SMALL, "steps": 22, "curriculum": spans}
    result = train(config(tiny_model, graded, tmp_path / "run", **values), solved)
    assert [row["span"] for row in result.metrics] == [1] * 10 + [2] * 10 + [None] * 2
    (event,) = [e for e in RunFolder(result.folder).read_events() if e["kind"] == "span_left"]
    assert (event["step"], event["text"]) == (10, "span 1 left early: its pass rate reached promote_at")


def test_poison_three_steps_in_a_row_ends_the_run_with_its_last_good_weights(
    tiny_model: Path, problems_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    plain, calls = policy_module.part_loss, 0

    def poisoned(*arguments: Any) -> Tensor:
        nonlocal calls
        calls += 1
        return plain(*arguments) * (float("nan") if calls > 2 else 1.0)

    settings = config(tiny_model, problems_file, tmp_path / "run", steps=8, checkpoint_every=2)
    monkeypatch.setattr(policy_module, "part_loss", poisoned)
    with pytest.raises(TrainingError, match="step 5: loss or gradient was not finite 3 times in a row"):
        train(settings)
    folder = RunFolder(tmp_path / "run")
    assert [row["optimizer_step"] for row in folder.read_metrics()] == [1, 1, 0, 0, 0]
    kept = [tmp_path / f"run/checkpoints/step-{step:06d}/policy.pt" for step in (4, 5)]
    good, last = (torch.load(path)["optimizers"]["weights"] for path in kept)
    assert all(torch.equal(good[name], last[name]) for name in good)
    monkeypatch.setattr(policy_module, "part_loss", plain)
    assert len(train(settings).metrics) == 8


def test_dynamic_sampling_replaces_groups_without_signal(tiny_model: Path, problems_file: Path, tmp_path: Path):
    def only_some(completion: str, prompt: str) -> float:
        return digits(completion) if "3" in prompt else 0.0

    values = {**SMALL, "prompts_per_step": 4, "steps": 5}
    shares: list[tuple[float, float]] = []
    for factor in (1.0, 4.0):
        settings = config(tiny_model, problems_file, tmp_path / str(factor), **values, max_sampling_factor=factor)
        metrics = train(settings, only_some).metrics
        shares.append(
            (np.mean([m["no_signal_share"] for m in metrics]), np.mean([m["sampled_groups"] for m in metrics]))
        )
    (plain, two), (replaced, more) = shares
    assert two == 4.0
    assert more > 6
    assert replaced < plain - 0.3
