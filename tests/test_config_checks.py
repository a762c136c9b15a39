"""Fields that can't stand together are refused, and fields without effect are warned of: each row of both tables."""

from pathlib import Path
from typing import Any

import pytest

from gruppo.config.advice import advise
from gruppo.config.checks import REFUSALS, changed, conflicts, own
from gruppo.config.idle import WARNINGS
from gruppo.config.load import load_config
from gruppo.config.reference import options
from gruppo.config.schema import Config
from gruppo.demo.run import demo_config
from gruppo.errors import ConfigError


def made(**values: Any) -> Config:
    return Config.model_validate({"model": "m", "data": "d", **values})


def refused(**values: Any) -> list[str]:
    """The complaints, without the headline."""
    with pytest.raises(ConfigError) as caught:
        load_config(None, {"model": "m", "data": "d", **values})
    head, *lines = str(caught.value).split("\n")
    count = "1 field is wrong" if len(lines) == 1 else f"{len(lines)} fields are wrong"
    assert head == f"the command line: {count}"
    return [line.removeprefix("  ") for line in lines]


NO_BETA = "but beta is 0 at every step, so there is no KL penalty; set beta above 0"

ONE_BY_ONE: list[tuple[dict[str, Any], str]] = [
    (
        {"min_difficulty": 4, "max_difficulty": 2.5},
        "min_difficulty: 4 is above max_difficulty 2.5; no problem is left, swap them",
    ),
    ({"target_kl": 0.05}, f"target_kl: got 0.05, {NO_BETA} to start from, or leave target_kl out"),
    (
        {"reference_refresh_every": True},
        f"reference_refresh_every: got 500, {NO_BETA}, or reference_refresh_every to null",
    ),
    (
        {"beta": 0.1, "reference_decay": 0.9},
        "reference_decay: got 0.9, but the reference is never refreshed; set reference_refresh_every, or leave "
        "reference_decay out",
    ),
    ({"kl_in": "reward"}, f"kl_in: got reward, {NO_BETA}, or leave kl_in out"),
    (
        {"kl_in": "reward", "beta": 0.1, "kl_estimator": "exact"},
        "kl_in: got reward with kl_estimator exact, which needs the loss's own pass; take kl_estimator k1, k2 or k3, "
        "or kl_in loss",
    ),
    (
        {"dual_clip": 3, "loss": "cispo", "minibatches": 2},
        "dual_clip: got 3, but it belongs to loss clip, not to cispo; leave dual_clip out",
    ),
    (
        {"dual_clip": 3, "epsilon": 10, "minibatches": 2},
        "dual_clip: got 3, wanted more than 1 + the high side of the clip range (epsilon 10, epsilon_high unset); "
        "raise it, or leave dual_clip out",
    ),
    (
        {"dual_clip": 1.2, "minibatches": 2},
        "dual_clip: got 1.2, wanted more than 1 + the high side of the clip range (epsilon 0.2, epsilon_high unset); "
        "raise it, or leave dual_clip out",
    ),
    (
        {"loss": "policy_gradient", "updates_per_batch": 2},
        "loss: policy_gradient takes no old log-probs, so only the first optimizer step of a batch would be right, got "
        "updates_per_batch 2 and minibatches 1; set both to 1, or take loss clip",
    ),
    (
        {"minibatches": 33, "prompts_per_step": 4, "group_size": 8},
        "minibatches: got 33, more than the completions of a step (prompts_per_step 4 x group_size 8, or fewer in the "
        "curriculum); lower it",
    ),
    (
        {"quantize": "4bit"},
        "quantize: got 4bit, but 4-bit weights can't be trained; set lora_rank, such as 16, or quantize none",
    ),
    ({"rslora": "true"}, "rslora: got true without LoRA; set lora_rank, such as 16, or leave rslora out"),
    (
        {"optimizer": "muon", "lora_rank": 8},
        "optimizer: muon is for whole matrices, not for LoRA's (lora_rank 8); take adamw, or lora_rank 0",
    ),
    (
        {"demonstrations_weight": 0.5},
        "demonstrations_weight: got 0.5 without demonstrations; name them, or leave it out",
    ),
    (
        {"sampler_correction_max": 3},
        "sampler_correction_max: got 3, but sampler_correction is none; choose one, such as token_truncate, or leave "
        "it out",
    ),
    (
        {"pool_weights": [1, -1, 1]},
        "pool_weights: got [1, -1, 1], wanted three weights of 0 or more for easy, normal and hard, "
        "and one above 0 for normal, where every problem begins",
    ),
    (
        {"pool_weights": [1, 0, 1]},
        "pool_weights: got [1, 0, 1], wanted three weights of 0 or more for easy, normal and hard, "
        "and one above 0 for normal, where every problem begins",
    ),
    (
        {"warmup_ratio": 0.2, "warmup_steps": 5},
        "warmup_steps: got 5 beside warmup_ratio 0.2; keep one of them",
    ),
    (
        {"warmup_steps": 10, "steps": 10},
        "warmup_steps: got 10, but there are 10 steps; lower it, or the rate never reaches its peak",
    ),
    (
        {"sft.data": "s", "sft.warmup_steps": 10, "sft.steps": 7},
        "sft.warmup_steps: got 10, but there are 7 steps; lower it, or the rate never reaches its peak",
    ),
    (
        {"sft.data": "s", "sft.warmup_steps": 2, "sft.warmup_ratio": 0},
        "sft.warmup_steps: got 2 beside warmup_ratio 0; keep one of them",
    ),
]


@pytest.mark.parametrize(("values", "line"), ONE_BY_ONE)
def test_what_can_not_stand_together_is_refused_with_the_cure(values: dict[str, Any], line: str) -> None:
    assert refused(**values) == [line]


def test_a_decay_without_beta_lacks_both() -> None:
    assert refused(reference_decay=0.5) == [
        f"reference_decay: got 0.5, {NO_BETA}, or leave reference_decay out",
        "reference_decay: got 0.5, but the reference is never refreshed; set reference_refresh_every, or leave "
        "reference_decay out",
    ]


@pytest.mark.parametrize(
    "values",
    [
        {"target_kl": 0.05, "beta": 0.01},
        {"reference_refresh_every": 100, "curriculum": [{"steps": "5-", "beta": [0, 0.1]}]},
        {"reference_refresh_every": 100, "reference_decay": 0.9, "beta": 0.01},
        {"kl_in": "reward", "beta": 0.1, "kl_estimator": "k1"},
        {"dual_clip": 1.21, "updates_per_batch": 2},
        {"minibatches": 32, "prompts_per_step": 4, "group_size": 8},
        {"quantize": "4bit", "rslora": True, "lora_rank": 8},
        {"optimizer": "muon"},
        {"sft.data": "s", "sft.optimizer": "muon", "lora_rank": 8},
        {"demonstrations_weight": 0.5, "demonstrations": "d.jsonl"},
        {"sampler_correction": "token_mask", "sampler_correction_max": 3},
        {"pool_weights": [0, 1, 0.5], "drop_after": 3},
        {"warmup_steps": 9, "steps": 10},
        {"warmup_steps": 9, "steps": 10, "warmup_ratio": 0.1},
        {"min_difficulty": 3, "max_difficulty": 3},
        {"curriculum": [{"steps": "1-10"}, {"steps": "11-20"}, {"steps": "30-"}]},
    ],
    ids=str,
)
def test_what_can_stand_together_is_not_refused(values: dict[str, Any]) -> None:
    config, notes = load_config(None, {"model": "m", "data": "d", **values})
    assert (notes, conflicts(config)) == ([], [])
    assert config.model_fields_set == {"model", "data", *(name.partition(".")[0] for name in values)}


# ---- the curriculum


@pytest.mark.parametrize(
    ("spans", "lines"),
    [
        (
            [{"steps": "1-10"}, {"steps": "10-20"}],
            ["curriculum.1.steps: '10-20' overlaps '1-10'; begin it at step 11, or end the other earlier"],
        ),
        (
            [{"steps": "11-20"}, {"steps": "1-5"}],
            ["curriculum.1.steps: '1-5' begins before '11-20'; put the spans in order of steps"],
        ),
        (
            [{"steps": "1-"}, {"steps": "50-60"}],
            ["curriculum.0.steps: '1-' has no end, but '50-60' follows; give it its last step, or put it last"],
        ),
        (
            [{"steps": "1-10"}, {"steps": "201-"}],
            ["curriculum.1.steps: '201-' begins after the last step, 200; raise steps, or leave the span out"],
        ),
        (
            [{"steps": "1-10", "temperature": [1, 9], "beta": 11, "group_size": 1.4, "epsilon": [0, 1]}],
            [
                "curriculum.0.temperature: got 9, wanted 5 or less",
                "curriculum.0.epsilon: got 0, wanted a number above 0",
                "curriculum.0.beta: got 11, wanted 10 or less",
                "curriculum.0.group_size: got 1.4, wanted 2 or more",
            ],
        ),
        (
            [{"steps": "1-10", "learning_rate": 2, "max_completion_length": [0, 16], "prompts_per_step": 0.4}],
            [
                "curriculum.0.learning_rate: got 2, wanted 1 or less",
                "curriculum.0.max_completion_length: got 0, wanted 1 or more",
                "curriculum.0.prompts_per_step: got 0.4, wanted 1 or more",
            ],
        ),
        (
            [{"steps": "1-10", "min_difficulty": 5}],
            ["curriculum.0: min_difficulty 5 is above max_difficulty 4; no problem is left"],
        ),
    ],
)
def test_spans(spans: list[dict[str, Any]], lines: list[str]) -> None:
    more = {"max_difficulty": 4} if "min_difficulty" in spans[0] else {"minibatches": 1}
    # The spans' own bounds also make a step of no completions at all: that line is not of interest here.
    assert [line for line in refused(curriculum=spans, **more) if not line.startswith("minibatches")] == lines


def test_a_span_that_is_no_ramp() -> None:
    wrong = {"steps": "1-9", "beta": True, "epsilon_high": [1, 2, 3], "temperature": "3e-1"}
    assert refused(curriculum=wrong) == [
        "curriculum.0.epsilon_high: got [1, 2, 3], wanted a number, or [from, to]",
        "curriculum.0.beta: got True, wanted a number, or [from, to]",
    ]
    (line,) = refused(curriculum={"steps": "1-9", "epsilon_high": 0})
    assert line == "curriculum.0.epsilon_high: got 0, wanted a number above 0"
    config, _ = load_config(None, {"model": "m", "data": "d", "curriculum": {"steps": 7, "temperature": "3e-1"}})
    assert (config.curriculum[0].steps, config.curriculum[0].temperature) == ("7-7", (0.3, 0.3))


def test_a_span_counts_in_what_several_fields_need() -> None:
    (line,) = refused(minibatches=16, curriculum=[{"steps": "1-9", "prompts_per_step": [2, 32], "group_size": 4}])
    assert line.startswith("minibatches: got 16, more than the completions of a step")
    (line,) = refused(dual_clip=3, minibatches=2, curriculum=[{"steps": "1-9", "epsilon": [0.2, 2]}])
    assert line.startswith("dual_clip: got 3, wanted more than 1 + the high side")


# ---- all at once


def test_everything_wrong_is_told_at_once() -> None:
    assert refused(temperature=9, quantize="4bit", target_kl=0.1, warmup_steps=300, stesp=3) == [
        "temperature: got 9, wanted 5 or less",
        "stesp: there is no such field. Did you mean 'steps'?",
        f"target_kl: got 0.1, {NO_BETA} to start from, or leave target_kl out",
        "quantize: got 4bit, but 4-bit weights can't be trained; set lora_rank, such as 16, or quantize none",
        "warmup_steps: got 300, but there are 200 steps; lower it, or the rate never reaches its peak",
    ]


def test_a_wrong_field_is_not_complained_of_twice() -> None:
    """beta would be 0 without its mistake: nothing is said of target_kl until it is right."""
    assert refused(beta=-1, target_kl=0.1) == ["beta: got -1, wanted 0 or more"]
    assert refused(steps="many", warmup_steps=300) == ["steps: got 'many', wanted a whole number"]


def test_in_python_too() -> None:
    with pytest.raises(ValueError, match=r"target_kl: got 0\.1, but beta is 0") as caught:
        made(target_kl=0.1, rslora=True)
    assert "rslora: got true without LoRA" in str(caught.value)


# ---- warnings

SEVERAL = {"updates_per_batch": 2}
NOTHING_TO_CLIP = "no effect: with one optimizer step per batch every policy ratio is 1; raise updates_per_batch"


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"epsilon": 0.3}, f"epsilon: 0.3; {NOTHING_TO_CLIP}"),
        ({"epsilon": 12}, f"epsilon: 12.0; {NOTHING_TO_CLIP}"),
        ({"epsilon_high": 0.28}, f"epsilon_high: 0.28; {NOTHING_TO_CLIP}"),
        ({"dual_clip": 3}, f"dual_clip: 3.0; {NOTHING_TO_CLIP}"),
        ({"curriculum": [{"steps": "1-", "epsilon": [10, 6]}]}, f"curriculum: its epsilon has {NOTHING_TO_CLIP}"),
        ({"epsilon": 10, **SEVERAL}, "epsilon: 10.0; above 1 the low side never clips, for no ratio is below 0"),
        (
            {"loss": "gspo", "loss_aggregation": "sequences", **SEVERAL},
            "epsilon: 0.2; a whole completion's ratio, a mean over its tokens, hardly moves so far",
        ),
        ({"loss": "gspo"}, "loss_aggregation: tokens; weighs long completions more, while GSPO's ratio is one per"),
        (
            {"top_p": 0.9, **SEVERAL},
            "top_p: 0.9; below 1 draws from another distribution than the one that is trained, ",
        ),
        (
            {"top_k": 9, "sampler_correction": "token_mask"},
            "top_k: 9; above 0 draws from another distribution than the",
        ),
        ({"kl_estimator": "k1", "beta": 0.1}, "kl_estimator: k1; in the loss its gradient is zero on average"),
        ({"kl_estimator": "k2"}, "kl_estimator: k2; no effect: beta is 0 at every step"),
        ({"reward_scale": 2}, "reward_scale: 2.0; no effect: advantages are divided by the rewards' std"),
        ({"reward_scale": 2, "advantage_scale": "batch"}, "reward_scale: 2.0; no effect: advantages are divided"),
        ({"advantage_clip": 3, "group_size": 10}, "advantage_clip: 3.0; no effect: advantages divided by their group"),
        ({"lora_alpha": 16}, "lora_alpha: 16.0; no effect without LoRA"),
        ({"lora_targets": "q_proj"}, "lora_targets: no effect without LoRA"),
        ({"muon_learning_rate": 0.02}, "muon_learning_rate: 0.02; no effect: the optimizer is not muon"),
        ({"lr_schedule": "constant", "min_lr_ratio": 0.1}, "min_lr_ratio: 0.1; no effect: a constant rate doesn't"),
    ],
)
def test_what_has_no_effect_or_another_is_warned_of(values: dict[str, Any], line: str) -> None:
    (said,) = advise(made(**values))
    assert said.startswith(line)


@pytest.mark.parametrize(
    "values",
    [
        {"epsilon": 0.3, "epsilon_high": 0.4, "dual_clip": 3, **SEVERAL},
        {"epsilon": 10, "loss": "cispo", **SEVERAL},
        {"epsilon": 0.2},  # its default, said aloud
        {"preset": "math"},  # its epsilon of 12 is the preset's
        {"preset": "deepseek-r1"},
        {"preset": "math", "epsilon": 12.0},  # as the preset has it
        {"loss": "gspo", "loss_aggregation": "sequences", "epsilon": 3e-4, "minibatches": 4},
        {"kl_estimator": "k1", "kl_in": "reward", "beta": 0.1},
        {"kl_estimator": "k1", "kl_in": "reward", "beta": 0.1, "reward_scale": 2},
        {"reward_scale": 2, "advantage_scale": "none"},
        {"reward_scale": 2, "advantage_scale": "leave_one_out"},
        {"advantage_clip": 2.9, "group_size": 10},
        {"advantage_clip": 3, "curriculum": [{"steps": "1-", "group_size": [8, 16]}]},
        {"lora_rank": 8, "lora_alpha": 16, "lora_targets": "q_proj", "learning_rate": 1e-5},
        {"optimizer": "muon", "muon_learning_rate": 0.02, "min_lr_ratio": 0.1},
    ],
    ids=str,
)
def test_what_has_its_effect_is_not_warned_of(values: dict[str, Any]) -> None:
    assert advise(made(**values)) == []


def test_the_demo_needs_no_advice(tmp_path: Path) -> None:
    config = demo_config(0, tmp_path)
    (tmp_path / "start-model").mkdir()
    (tmp_path / "start-model" / "config.json").write_text(
        '{"model_type": "qwen2", "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, '
        '"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 80, "tie_word_embeddings": true}'
    )
    assert advise(config) == []


# ---- the tables themselves


def test_the_rows_name_options() -> None:
    names = {option.name for option in options()}
    for check in (*REFUSALS, *WARNINGS):
        assert set(check.fields) <= names
        assert check.conflict(made()).text  # its text can be filled in


def test_what_counts_as_the_users_own() -> None:
    config = made(preset="math", temperature=1.0, group_size=8, beta=0.002)
    assert [changed(config, name) for name in ("epsilon", "temperature", "group_size", "beta")] == [
        True,
        False,
        False,
        True,
    ]
    assert [own(config, name) for name in ("epsilon", "beta")] == [False, True]


def test_a_penalty_alone_says_nothing_of_success_and_has_room() -> None:
    plain = {"model": "m", "data": "d", "max_completion_length": 10}
    for rewards, message in (
        ([{"name": "overlong", "buffer": 4}], "success: the reward 'overlong' only punishes"),
        (["math", {"name": "overlong", "buffer": 11}], "rewards: buffer: 11 is above max_completion_length 10"),
    ):
        with pytest.raises(ValueError, match=message):
            Config.model_validate({**plain, "rewards": rewards})
    assert (
        Config.model_validate({**plain, "rewards": ["math", {"name": "overlong", "buffer": 10}]}).rewards[1].buffer
        == 10
    )
