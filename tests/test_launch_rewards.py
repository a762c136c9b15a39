"""Rewards in a whole run: those that break now and then, the sandbox, the reward by the form of the data."""

import json
import os
import time
import zlib
from pathlib import Path

import pandas as pd
import pytest

import gruppo
from gruppo.config.rewards import RewardConfig
from gruppo.config.schema import Config, EvalConfig
from gruppo.errors import RewardError, SandboxError
from gruppo.launch.rewards import with_default_rewards
from gruppo.monitor.progress import SilentProgress
from gruppo.monitor.run_folder import RunFolder

WAYS = ("hang", "sleep", "raise", "nan", "text", "inf", "exit", "none")
TOLD = {
    "hang": "took longer than 0.2 s on it",
    "sleep": "took longer than 0.2 s on it",
    "raise": "raised ValueError for it: no such letter",
    "nan": "returned nan (float) for it; wanted a finite number, None (does not apply) or a RewardResult",
    "text": "returned 'good' (str) for it; wanted a finite number, None (does not apply) or a RewardResult",
    "inf": "returned inf (float) for it; wanted a finite number, None (does not apply) or a RewardResult",
    "exit": "ended its process (exit code 3) on it",
}


def way(completion: str) -> str | None:
    """How the reward breaks on a completion: one in a hundred, by its text."""
    draw = zlib.crc32(completion.encode())
    return WAYS[draw // 100 % len(WAYS)] if draw % 100 == 7 else None


def fragile(completion: str):
    match way(completion):
        case "hang":
            while True:
                pass
        case "sleep":
            time.sleep(600)
        case "raise":
            raise ValueError("no such letter")
        case "nan":
            return float("nan")
        case "text":
            return "good"
        case "inf":
            return float("inf")
        case "exit":
            os._exit(3)
        case "none":
            return None
    return sum(letter.isdigit() for letter in completion) / max(1, len(completion))


def config(model: Path, data: Path, out: Path, **changes) -> Config:
    values = {
        "model": str(model),
        "data": str(data),
        "output_dir": str(out),
        "threads": 1,
        "steps": 12,
        "prompts_per_step": 8,
        "group_size": 8,
        "max_completion_length": 12,
        "learning_rate": 1e-5,
    }
    return Config.model_validate({**values, **changes})


def rollouts(run: Path) -> pd.DataFrame:
    folder = RunFolder(run)
    return pd.concat([pd.read_parquet(folder.rollouts_path(step)) for step in folder.rollout_steps()])


@pytest.mark.parametrize("policy", ["zero", "skip"])
def test_a_reward_that_breaks_once_in_a_hundred(tiny_model: Path, problems_file: Path, tmp_path: Path, policy) -> None:
    rewards = [RewardConfig(name="fragile", time_limit=0.2, on_error=policy)]
    settings = config(tiny_model, problems_file, tmp_path / "run", rewards=rewards)
    result = gruppo.train(settings, rewards=[fragile], observer=SilentProgress())
    assert result.finished
    table = rollouts(tmp_path / "run")
    assert len(table) == 12 * 64
    ways = table["completion"].map(way)
    broken = table[ways.notna() & (ways != "none")]
    assert 3 <= len(broken) <= 20
    events = [event for event in RunFolder(tmp_path / "run").read_events() if event["kind"] == "reward_error"]
    named = [(event["step"], event["problem"], event["sample"], event["text"]) for event in events]
    assert named == [
        (row.step, row.problem_id, row.sample, TOLD[str(way(row.completion))]) for row in broken.itertuples()
    ]
    assert [event["completion"] for event in events] == list(broken["completion"])
    assert sum(row["reward_errors"] or 0 for row in result.metrics) == len(broken)
    if policy == "zero":
        assert set(broken["reward"]) == {0.0}
    else:
        assert broken["advantage"].abs().max() < 1e-6


def test_programs_run_in_the_sandbox_by_default(tiny_model: Path, tmp_path: Path) -> None:
    rows = [{"problem": f"Write the function f{n}.", "tests": [f"assert f{n}(1) == {n}"]} for n in range(4)]
    data = tmp_path / "programs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = config(tiny_model, data, tmp_path / "run", steps=1, prompts_per_step=2, group_size=2)
    try:
        gruppo.train(settings, observer=SilentProgress())
    except SandboxError as error:
        pytest.skip(f"no sandbox on this machine: {error}")
    folder = RunFolder(tmp_path / "run")
    assert [reward["name"] for reward in folder.read_config()["rewards"]] == ["code"]
    described = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert described["sandbox"]["level"] in ("namespaces", "landlock")
    assert set(rollouts(tmp_path / "run")["reward"]) == {0.0}


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"question": "1 + 1?", "answer": "2"}, "math"),
        ({"question": "Who was first?", "answer": ["Neil Armstrong", "Armstrong"]}, "qa"),
        ({"problem": "Write f.", "tests": "assert f() == 1"}, "code"),
    ],
)
def test_the_reward_by_the_form_of_the_data(tmp_path: Path, row: dict, name: str) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text(json.dumps(row) + "\n")
    told: list[str] = []
    plain = config(tmp_path, data, tmp_path / "run")
    found = with_default_rewards(plain, plain.data_paths, plain, told.append)
    assert [reward.name for reward in found.rewards] == [name]
    assert len(told) == (name != "math")
    named = config(tmp_path, data, tmp_path / "run", rewards="math")
    assert with_default_rewards(named, named.data_paths, named, told.append) is named


def test_failures_in_an_evaluation_are_told(tiny_model: Path, problems_file: Path, tmp_path: Path) -> None:
    def broken(completion: str) -> float:
        raise OSError("the judge is away")

    settings = config(tiny_model, problems_file, tmp_path / "run", rewards=[RewardConfig(name="broken")])
    with pytest.raises(RewardError, match=r"reward 'broken' .* failed on .*the judge is away"):
        gruppo.evaluate(settings, EvalConfig(data=str(problems_file), samples=4), rewards=[broken])
