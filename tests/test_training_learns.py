"""GRPO learns: a few steps on an untrained model, a reward that it can find, and what does not teach."""

from pathlib import Path
from typing import Any

import pytest

import gruppo
from gruppo.monitor.progress import SilentProgress


def digits(completion: str) -> float:
    """The share of digits; about 0.01 before training."""
    return sum(letter.isdigit() for letter in completion) / max(1, len(completion))


def rewards(model: Path, problems: Path, out: Path, **changes: Any) -> list[float]:
    values: dict[str, Any] = {
        "steps": 15,
        "prompts_per_step": 8,
        "group_size": 8,
        "max_completion_length": 12,
        "learning_rate": 2e-2,
        "lr_schedule": "constant",
        "threads": 1,
    }
    config = gruppo.Config(model=str(model), data=str(problems), output_dir=str(out), **{**values, **changes})
    result = gruppo.train(config, rewards=[digits], observer=SilentProgress())
    return [row["reward_mean"] for row in result.metrics]


@pytest.mark.parametrize(
    "changes",
    [{}, {"seed": 1}, {"updates_per_batch": 2, "learning_rate": 1e-2}, {"precision": "bfloat16"}, {"temperature": 0.8}],
    ids=str,
)
def test_fifteen_steps_find_the_digits(tiny_model: Path, problems_file: Path, tmp_path: Path, changes: dict[str, Any]):
    found = rewards(tiny_model, problems_file, tmp_path / "run", **changes)
    assert found[0] < 0.03
    assert found[-1] > 0.9
    assert sum(found[10:]) > sum(found[5:10]) > sum(found[:5])


def test_lora_learns_as_far_as_frozen_random_embeddings_let_it(tiny_model: Path, problems_file: Path, tmp_path: Path):
    found = rewards(tiny_model, problems_file, tmp_path / "run", lora_rank=8, steps=20)
    assert sum(found[:2]) / 2 < 0.02
    assert sum(found[12:]) / 8 > 0.03


def test_the_reference_holds_it_back(tiny_model: Path, problems_file: Path, tmp_path: Path):
    found = rewards(tiny_model, problems_file, tmp_path / "run", beta=10.0)
    assert max(found) < 0.2
