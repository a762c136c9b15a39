"""The check before a run: its statistics, its commands and exit codes, and that it leaves a run as it was."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import gruppo
from command_line import Bench
from gruppo.config.schema import Config, RewardConfig
from gruppo.demo.run import demo_config, prepare
from gruppo.errors import CannotLearnError
from gruppo.evaluation.statistics import Estimate
from gruppo.launch.check import check_config, write_fixed
from gruppo.monitor.progress import SilentProgress
from gruppo.planner.measured import read_measured
from gruppo.preflight.check import Check
from gruppo.preflight.of_update import lower_rate
from gruppo.preflight.reasons import Cure, Reason, in_order, verdict_of, yaml_lines
from gruppo.preflight.signal import RateFit, fit_rates, fit_rewards
from gruppo.preflight.subject import untouched_randomness

# ---- statistics


def test_one_beta_distribution_by_hand() -> None:
    """Beta(1, 1), the uniform: E[p^g] = 1 / (g + 1)."""
    one = np.array([1.0])
    fit = RateFit(one, one, one)
    assert fit.signal(2).value == pytest.approx(1 - 2 / 3)
    assert fit.signal(8).value == pytest.approx(1 - 2 / 9)
    assert fit.pass_at(10).value == pytest.approx(10 / 11)
    never_equal = replace(fit, others_equal=0.0)
    assert never_equal.signal(8).value == pytest.approx(1 - 1 / 9)


def test_the_fit_finds_the_share_that_the_plug_in_misses() -> None:
    """Pass rates of Beta(0.5, 2), 8 completions of each of 400 problems: what groups of 32 will show."""
    rng = np.random.default_rng(0)
    passes = rng.binomial(8, rng.beta(0.5, 2.0, 400))
    rates = rng.beta(0.5, 2.0, 200_000)
    truth = float(np.mean(1 - rates**32 - (1 - rates) ** 32))
    plugged = passes / 8
    biased = float(np.mean(1 - plugged**32 - (1 - plugged) ** 32))
    found = fit_rates(passes.tolist(), [8] * 400).signal(32)
    assert truth == pytest.approx(0.771, abs=0.005)
    assert biased == pytest.approx(0.503, abs=0.02)
    assert found.value == pytest.approx(truth, abs=0.06)
    assert found.low < truth < found.high


def test_nothing_that_passed_is_not_a_rate_of_zero() -> None:
    found = fit_rates([0] * 64, [8] * 64)
    assert 0.0 < found.signal(8).value < 0.02
    assert found.signal(8).high < 0.06
    assert found.pass_at(10).low < 2e-4


def test_the_interval_holds_what_ten_steps_show() -> None:
    """A sample of what `benchmarks/check_interval.py` measures on a model: 100 runs of three kinds, 19 in 20 wanted."""
    rng = np.random.default_rng(3)
    inside = 0
    for number in range(99):
        draw = [lambda n: rng.beta(0.5, 2.0, n), lambda n: rng.random(n), lambda n: rng.choice([0.0, 0.3], n)][
            number % 3
        ]
        fit = fit_rates(rng.binomial(8, draw(64)).tolist(), [8] * 64)
        passes = rng.binomial(8, draw(320))
        seen = float(np.mean((passes > 0) & (passes < 8)))
        interval = fit.predicted(8, 320)
        inside += interval.low <= seen <= interval.high
    assert 89 <= inside <= 99


def test_rewards_of_many_values() -> None:
    """Half the completions at 0, the others all different: only groups of zeros are equal."""
    rng = np.random.default_rng(0)
    groups = [np.where(rng.random(8) < 0.5, 0.0, rng.random(8)) for _ in range(64)]
    fit = fit_rewards(groups)
    assert fit.others_equal == 0.0
    assert fit.signal(2).value == pytest.approx(0.75, abs=0.05)
    two = fit_rewards([np.where(rng.random(8) < 0.5, 0.0, 1.0) for _ in range(64)])
    assert two.others_equal == 1.0
    assert two.signal(2).value == pytest.approx(0.5, abs=0.05)


def test_more_passes_than_completions_are_refused() -> None:
    with pytest.raises(ValueError, match="got \\[3\\] passes of \\[2\\] completions"):
        fit_rates([3], [2])


# ---- reasons and cures


def test_the_verdict_is_that_of_the_gravest_reason() -> None:
    reasons = [Reason("a", "note", "x"), Reason("b", "slow", "y"), Reason("c", "stop", "z")]
    assert [reason.kind for reason in in_order(reasons)] == ["c", "b", "a"]
    assert [verdict_of(reasons[:n]) for n in (0, 1, 2, 3)] == ["ready", "ready", "will learn slowly", "cannot learn"]


def test_cures_as_config_lines() -> None:
    changes = {"group_size": 16, "rewards": ["math"], "success": None, "prompt": "{a} {b}"}
    assert yaml_lines(changes) == ["group_size: 16", "rewards: [math]", "# without success", "prompt: '{a} {b}'"]


def test_the_graver_reason_decides_about_an_option(tmp_path: Path) -> None:
    reasons = (
        Reason("a", "stop", "x", (), (Cure("No lines."), Cure("Larger:", {"group_size": 16}))),
        Reason("b", "slow", "y", (), (Cure("Smaller:", {"group_size": 4}),)),
        Reason("c", "note", "z", (), (Cure("Cooler:", {"temperature": 0.5}),)),
    )
    given = {"model": "m", "group_size": 8, "success": "math"}
    fixed = write_fixed(given, Check(reasons, 0.0), tmp_path / "new.yaml")
    assert fixed is not None
    assert yaml.safe_load(fixed.path.read_text()) == {"model": "m", "success": "math", "group_size": 16}
    assert "# a: Larger: group_size: 16\n" in fixed.path.read_text()
    assert write_fixed(given, Check(reasons[2:], 0.0), tmp_path / "none.yaml") is None


@pytest.mark.parametrize(("kl", "rate"), [(2.0, 1e-3), (None, 1e-4), (0.6, 2e-3), (200.0, 1e-4)])
def test_a_lower_rate(kl: float | None, rate: float) -> None:
    """KL grows with the square of the rate: from 2 to 0.02 is a tenth of it."""
    assert lower_rate(0.01, kl) == pytest.approx(rate)


# ---- nothing is changed


def test_random_states_are_as_they_were() -> None:
    with untouched_randomness():
        random.random(), np.random.rand(), torch.rand(1)
        random.seed(5), np.random.seed(5), torch.manual_seed(5)
        before = (random.random(), np.random.rand(), float(torch.rand(1)))
        random.seed(5), np.random.seed(5), torch.manual_seed(5)
        with untouched_randomness():
            random.random(), np.random.rand(), torch.rand(1)
        assert before == (random.random(), np.random.rand(), float(torch.rand(1)))


def digits(completion: str) -> float:
    return sum(letter.isdigit() for letter in completion) / max(1, len(completion))


@pytest.mark.parametrize(
    "changes",
    [{}, {"precision": "bfloat16", "updates_per_batch": 2}, {"lora_rank": 2, "beta": 0.1, "learning_rate": 0.01}],
    ids=["full", "bfloat16", "lora with a reference"],
)
def test_a_run_is_the_same_bits_with_and_without_the_check(
    tiny_model: Path, problems_file: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    kept: list[tuple[bytes, list[dict[str, Any]], tuple[float, ...]]] = []
    for number, check in enumerate((False, True)):
        out = tmp_path / f"run-{number}"
        settings: dict[str, Any] = {
            "model": str(tiny_model),
            "data": str(problems_file),
            "output_dir": str(out),
            "threads": 1,
            "steps": 2,
            "prompts_per_step": 4,
            "group_size": 4,
            "max_completion_length": 8,
            "learning_rate": 0.002,
            "rewards": [RewardConfig(name="digits", isolation="inline")],
        }
        random.seed(1), np.random.seed(1), torch.manual_seed(1)
        result = gruppo.train(
            Config.model_validate({**settings, **changes}),
            rewards=[digits],
            observer=SilentProgress(),
            check=check,
            anyway=True,
        )
        assert (out / "check.json").exists() == check
        metrics = [
            {k: v for k, v in row.items() if not k.startswith(("seconds", "tokens_per"))} for row in result.metrics
        ]
        states = (random.random(), np.random.rand(), float(torch.rand(1)))
        kept.append(((out / "model/model.safetensors").read_bytes(), metrics, states))
    assert kept[0] == kept[1]


# ---- commands


def test_the_command_says_why_and_exits_with_3(bench: Bench) -> None:
    bench.write("run.yaml", f"model: {bench.model}\ndata: problems.jsonl\nthreads: 1\nmax_completion_length: 8\n")
    outcome = bench.gruppo("check", "run.yaml", "--problems", 8, "--json", "found.json")
    assert outcome.code == 3
    lines = outcome.out.splitlines()
    assert lines[-1].startswith("cannot learn (checked in ")
    assert "data         12 problems, no repeats" in lines
    assert any((line.startswith("stop: ") and "no signal" in line) or "cut off" in line for line in lines)
    assert max(map(len, lines)) <= 110
    data = json.loads((bench.folder / "found.json").read_text())
    assert data["verdict"] == "cannot learn"
    assert data["outputs"]["samples"] == 8
    measured = read_measured(bench.folder / "found.json")
    assert (measured.device, measured.problems, measured.group_size) == ("cpu", 8, 8)
    assert measured.longest_completion == 8
    assert measured.update_seconds > 0


def test_train_stops_before_the_first_step(bench: Bench) -> None:
    flags = ["--model", bench.model, "--data", "problems.jsonl", "--threads", 1, "--steps", 1, "--prompts-per-step", 2]
    flags += ["--group-size", 2, "--max-completion-length", 8, "--out", "run"]
    stopped = bench.gruppo("train", *flags)
    assert stopped.code == 3
    assert "check: cannot learn; pass@1 0.00" in stopped.err
    assert "error: the check says that this run cannot learn" in stopped.err
    assert not (bench.folder / "run" / "metrics.jsonl").exists()
    assert json.loads((bench.folder / "run" / "check.json").read_text())["verdict"] == "cannot learn"
    anyway = bench.gruppo("train", *flags, "--anyway")
    assert anyway.code == 0
    assert "check: cannot learn" in anyway.err
    again = bench.gruppo("train", *flags)
    assert (again.code, "check:" in again.err) == (0, False)


def test_a_run_with_steps_is_not_checked_again(tiny_model: Path, problems_file: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "model": str(tiny_model),
        "data": str(problems_file),
        "output_dir": str(tmp_path / "run"),
        "threads": 1,
        "steps": 2,
        "prompts_per_step": 2,
        "group_size": 2,
        "max_completion_length": 8,
        "checkpoint_every": 1,
    }
    config = Config.model_validate(settings)
    with pytest.raises(CannotLearnError):
        gruppo.train(config, observer=SilentProgress(), check=True)

    class Stops(SilentProgress):
        def step(self, stage: str, done: int, values: Any) -> None:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGINT)

    assert not gruppo.train(config, observer=Stops()).finished
    (tmp_path / "run" / "check.json").unlink()
    assert gruppo.train(config, observer=SilentProgress(), check=True).finished
    assert not (tmp_path / "run" / "check.json").exists()


def test_the_demo_is_ready_before_its_sft(tmp_path: Path) -> None:
    prepare(0, tmp_path)
    found = check_config(demo_config(0, tmp_path), seconds=30)
    assert found.verdict == "ready"
    assert [reason.level for reason in found.reasons if reason.kind != "duplicates"] == []
    assert found.before_sft
    assert found.signal is None
    assert 4 <= min(found.demonstrations) < max(found.demonstrations) <= 48
    short = check_config(demo_config(0, tmp_path).model_copy(update={"max_completion_length": 8}), seconds=30)
    assert (short.verdict, short.reasons[0].kind) == ("will learn slowly", "truncated")
    assert short.reasons[0].cures[0].changes["max_completion_length"] in (40, 48)


def test_estimates_print_in_two_digits() -> None:
    from gruppo.cli.check_text import _interval

    assert _interval(Estimate(0.2345, 0.1, 0.3)) == "0.23 [0.10, 0.30]"
