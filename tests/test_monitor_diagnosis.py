"""Each rule fires on its symptom, says the evidence, stays silent on a healthy run and between two outbreaks."""

import math

import pytest

from gruppo.monitor.diagnosis import Finding, diagnose, rules

HEALTHY = {
    "reward_mean": 0.5,
    "reward_std": 0.5,
    "no_signal_share": 0.3,
    "pass_at_1": 0.5,
    "kl_to_reference": 0.02,
    "clipped_share": 0.0,
    "entropy": 0.6,
    "truncated_share": 0.02,
    "grad_norm": 0.8,
    "loss": 0.01,
    "optimizer_step": 1.0,
    "sampler_logprob_difference_max": 1e-6,
}


def run(*stretches: tuple[int, dict[str, float | None]]) -> list[dict[str, float | None]]:
    """Steps from stretches of (how many, what differs from a healthy step)."""
    changes = [change for count, change in stretches for _ in range(count)]
    return [{**HEALTHY, **change, "step": step} for step, change in enumerate(changes, start=1)]


def fired(*stretches: tuple[int, dict[str, float | None]], precision: str = "float32") -> list[tuple[str, int]]:
    return [(finding.rule, finding.step) for finding in diagnose(run(*stretches), precision)]


def test_a_healthy_run_has_no_findings() -> None:
    assert fired((100, {})) == []


SICK = [
    ("all_failing", 15, {"no_signal_share": 0.9, "pass_at_1": 0.03, "reward_std": 0.1}),
    ("all_passing", 15, {"no_signal_share": 0.9, "pass_at_1": 0.97, "reward_std": 0.1}),
    ("constant_reward", 15, {"no_signal_share": 1.0, "pass_at_1": 0.0, "reward_std": 0.0, "reward_mean": 0.0}),
    ("truncated", 13, {"truncated_share": 0.6}),
    ("clipped", 13, {"clipped_share": 0.3}),
    ("kl", 13, {"kl_to_reference": 0.9}),
    ("entropy_collapse", 15, {"entropy": 0.03}),
    ("not_finite", 11, {"loss": math.nan}),
    ("not_finite", 11, {"grad_norm": math.inf}),
    ("not_finite", 11, {"loss": None, "grad_norm": None, "optimizer_step": 0.0}),
    ("sampler_difference", 11, {"sampler_logprob_difference_max": 0.02}),
]


@pytest.mark.parametrize(("rule", "step", "change"), SICK)
def test_a_rule_fires_once_when_its_symptom_has_lasted(rule: str, step: int, change: dict[str, float | None]) -> None:
    assert fired((10, {}), (30, change)) == [(rule, step)]


def test_every_rule_has_a_case_here() -> None:
    assert {rule.name for rule in rules()} == {name for name, _, _ in SICK}


@pytest.mark.parametrize(
    "change",
    [
        {"no_signal_share": 0.8, "pass_at_1": 0.1},
        {"truncated_share": 0.5},
        {"entropy": 0.06},
        {"entropy": 0.03, "pass_at_1": 0.95},
        {"kl_to_reference": None},
        {"optimizer_step": 0.0, "grad_norm": None, "no_signal_share": 1.0, "pass_at_1": None},
    ],
)
def test_what_is_just_healthy_is_not_reported(change: dict[str, float | None]) -> None:
    assert fired((10, {}), (30, change)) == []


def test_a_short_outbreak_is_not_reported() -> None:
    assert fired((10, {}), (2, {"truncated_share": 1.0}), (10, {})) == []


def test_a_symptom_is_reported_again_only_after_ten_clear_steps() -> None:
    cut = {"truncated_share": 1.0}
    assert fired((5, cut), (5, {}), (5, cut)) == [("truncated", 3)]
    assert fired((5, cut), (10, {}), (5, cut)) == [("truncated", 3), ("truncated", 18)]


def test_half_precision_may_differ_more() -> None:
    assert fired((3, {"sampler_logprob_difference_max": 0.02}), precision="bfloat16") == []
    assert fired((3, {"sampler_logprob_difference_max": 0.06}), precision="bfloat16") == [("sampler_difference", 1)]


def test_a_finding_says_the_figures_and_survives_json() -> None:
    (finding,) = diagnose(run((5, {"no_signal_share": 0.9, "pass_at_1": 0.03})))
    assert finding.evidence == "90% of the groups have equal rewards, pass@1 0.030, mean of 5 steps"
    assert str(finding) == (
        "step 5: Nearly all groups fail throughout, so there is nothing to learn from "
        "(90% of the groups have equal rewards, pass@1 0.030, mean of 5 steps). "
        "The problems are too hard for this model, or correct completions are not recognised. "
        "Cure: Read a few completions in rollouts/; take easier problems, run SFT first, raise group_size, "
        "or mend the reward."
    )
    assert Finding.from_json({"time": "t", "kind": "finding", **finding.to_json()}) == finding


def test_sft_metrics_are_understood_too() -> None:
    assert [f.rule for f in diagnose([{"step": 1, "loss": math.nan, "grad_norm": 1.0}])] == ["not_finite"]
    assert diagnose([{"step": 1, "loss": 2.0, "grad_norm": 1.0}]) == []
