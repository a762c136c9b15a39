"""The demo: whole, on one seed, as a sample of the ten in docs/results.md; and cut short, for bits and words."""

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from gruppo.demo import run as demo
from gruppo.monitor.progress import SilentProgress

TIMES = {"seconds_rollout", "seconds_reward", "seconds_update", "seconds_step", "tokens_per_second"}


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SFT_STEPS": 30, "STEPS": 3, "PROMPTS_PER_STEP": 4, "HELD_OUT": 6}.items():
        monkeypatch.setattr(demo, name, value)


def metrics(run: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


@pytest.mark.usefixtures("short")
def test_same_seed_same_bits(tmp_path: Path) -> None:
    results = [demo.run_demo(3, tmp_path / name, SilentProgress()) for name in ("one", "two")]
    assert results[0] is not None
    assert results[1] is not None
    for key in ("before", "after", "difference", "learnt"):
        assert results[0][key] == results[1][key]
    first, second = (tmp_path / name / "run" for name in ("one", "two"))
    assert metrics(first) == metrics(second)
    assert metrics(first / "sft") == metrics(second / "sft")
    assert (first / "model/model.safetensors").read_bytes() == (second / "model/model.safetensors").read_bytes()


@pytest.mark.usefixtures("short")
def test_the_table_and_the_json_say_the_same(tmp_path: Path) -> None:
    result = demo.run_demo(0, tmp_path / "demo", SilentProgress())
    assert result is not None
    wanted = {"pass_at_1", "pass_at_1_greedy", "pass_at_8", "share_worked", "accuracy_given_worked"}
    assert wanted <= set(result["before"])
    assert wanted <= set(result["after"])
    assert set(result["seconds"]) == {"sft", "eval_before", "grpo", "eval_after"}
    text = demo.table(result)
    assert f"{result['after']['pass_at_1']['value']:.3f}" in text
    assert result["run_folder"] in text
    assert Path(result["report"]).is_file()


@pytest.mark.slow
def test_grpo_raises_held_out_accuracy_by_forty_points(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "gruppo", "demo", "--seed", "0", "--out", str(tmp_path / "demo"), "--json"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=900, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    before, after = result["before"]["pass_at_1"], result["after"]["pass_at_1"]
    assert 0.1 < before["value"] < 0.45
    assert after["value"] - before["value"] >= 0.40
    assert after["low"] > before["high"]
    run = Path(result["run_folder"])
    assert len(metrics(run)) == 100
    rewards = [row["reward_mean"] for row in metrics(run)]
    smooth = [sum(rewards[start : start + 20]) / 20 for start in range(0, 100, 20)]
    assert all(later > earlier - 0.03 for earlier, later in pairwise(smooth))
