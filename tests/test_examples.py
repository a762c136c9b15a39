"""Every example as a user would run it: a plain script, in a folder of its own."""

import doctest
import importlib
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import torch
from transformers import AutoModelForCausalLM

from gruppo.monitor.run_folder import RunFolder

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def run(example: str, model: Path, problems: Path, out: Path) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / example), str(model), str(problems), str(out)],
        capture_output=True,
        text=True,
        timeout=400,
        cwd=out.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def numbers(line: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?\d+\.\d+", line)]


def test_every_example_is_tested_and_short():
    files = sorted(EXAMPLES.glob("*.py"))
    assert [file.name for file in files] == ["custom_reward.py", "parts.py", "train.py"]
    for file in files:
        text = file.read_text()
        assert len(text.splitlines()) <= 60
        assert "__main__" not in text


def test_train(tiny_model: Path, problems_file: Path, tmp_path: Path):
    lines = run("train.py", tiny_model, problems_file, tmp_path / "run").splitlines()
    steps = [numbers(line) for line in lines if line.startswith("step")]
    assert len(steps) == 15
    assert steps[0][1] < 0.03
    assert steps[-1][1] > 0.9
    assert all(reward <= digits for reward, digits in steps)  # the second reward is never above 0
    assert lines[-1] == f"model  {tmp_path / 'run' / 'model'}"
    AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")


def test_parts(tiny_model: Path, problems_file: Path, tmp_path: Path):
    logprobs, rewards, training = run("parts.py", tiny_model, problems_file, tmp_path / "run").splitlines()
    assert numbers(logprobs) == pytest.approx([-math.log(456)] * 4, abs=0.3)  # an untrained model draws nearly evenly
    assert len(numbers(rewards)) == 4
    assert -0.2 < min(numbers(rewards)) < max(numbers(rewards)) < 0.2
    rising = numbers(training)
    assert len(rising) == 10
    assert rising[0] < 0.03
    assert rising[-1] > 0.5


def test_custom_reward(tiny_model: Path, problems_file: Path, tmp_path: Path):
    lines = run("custom_reward.py", tiny_model, problems_file, tmp_path / "run").splitlines()
    value = {name: float(number) for name, number in map(str.split, lines)}
    parts = value["reward/tidy/plain"], value["reward/tidy/ended"]
    assert value["reward/tidy"] == pytest.approx(sum(parts) / 2, abs=1e-4)
    total = value["reward/close"] + 0.5 * value["reward/judged"] + 0.1 * value["reward/tidy"]
    assert value["reward_mean"] == pytest.approx(total, abs=1e-4)
    assert 0.3 < value["reward_mean"] < 0.7
    table = pyarrow.parquet.read_table(RunFolder(tmp_path / "run").rollouts_path(1))
    assert table.num_rows == 16
    assert str(table.to_pylist()).count("cut off") == round(16 * (1 - value["reward/tidy/ended"]))


def test_the_example_of_the_algorithms_page_says_what_is_true():
    page = (EXAMPLES.parent / "docs" / "algorithm.md").read_text()
    code = page.split("```python\n", 1)[1].split("```", 1)[0]
    found: dict[str, Any] = {}
    exec(code, found)
    assert found["advantages"].tolist() == [[-1.0, 1.0, 1.0, -1.0]]
    assert found["loss"].item() == pytest.approx(0.0, abs=1e-6)
    assert found["kl"].max().item() == pytest.approx(math.exp(-0.1) + 0.1 - 1, abs=1e-7)


@pytest.mark.parametrize("module", ["advantages", "kl", "losses"])
def test_the_examples_of_the_formulas_say_what_is_true(module: str):
    found = doctest.testmod(importlib.import_module(f"gruppo.algorithm.{module}"), extraglobs={"torch": torch})
    assert (found.attempted > 0, found.failed) == (True, 0)
