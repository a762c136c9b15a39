"""The options: their list, their help, their schedule and the advice on them."""

import pytest

from gruppo.config.advice import RULES, advise
from gruppo.config.load import ALIASES, LISTS, load_config
from gruppo.config.reference import options
from gruppo.config.rewards import REWARDS
from gruppo.config.schedules import lr_factor
from gruppo.config.schema import Config, LRSchedule, OptimizerFields, RewardConfig

GRPO = """
model data output_dir seed
steps prompts_per_step group_size min_difficulty max_difficulty max_sampling_factor pool_weights drop_after
demonstrations demonstrations_weight
max_prompt_length long_prompts max_completion_length temperature top_k top_p stop
prompt_template system_prompt
rewards success reward_scale
learning_rate updates_per_batch minibatches advantage_scale advantage_clip no_signal_groups truncated
loss loss_aggregation epsilon epsilon_high dual_clip sampler_correction sampler_correction_max
beta kl_estimator kl_in target_kl reference_refresh_every reference_decay
precision rollout_precision device threads lora_rank lora_alpha rslora lora_targets quantize gradient_checkpointing
micro_batch_tokens plain batch_invariant max_live_completions
engine vllm_url engine_memory
checkpoint_every keep_checkpoints save_rollouts_every report_to
preset curriculum
"""
OPTIMIZER = """
optimizer muon_learning_rate weight_decay adam_beta1 adam_beta2 max_grad_norm
warmup_ratio warmup_steps lr_schedule min_lr_ratio
"""
DATA = "prompt answer max_problems"
SFT = """
data completion epochs steps batch_size shuffle learning_rate max_length
"""
EVAL = "data samples temperature greedy before max_completion_length"


def option(name: str):
    return next(option for option in options() if option.name == name)


def test_the_list_is_frozen_and_short() -> None:
    """A new option is a decision: it has to be written here too. A word means the same in every stage."""
    shared = [*OPTIMIZER.split(), *DATA.split()]
    expected = [*GRPO.split(), *shared]
    expected += [f"sft.{name}" for name in (*SFT.split(), *shared)]
    expected += [f"eval.{name}" for name in (*EVAL.split(), *DATA.split())]
    assert [option.name for option in options()] == expected
    lists = {name for section in LISTS.values() for name in section.model_fields}
    assert len({name.rpartition(".")[2] for name in expected} | lists) < 100


REWARD = "name weight full_scale data gate time_limit on_error isolation"
REWARDS_OWN = {
    "math": "strict tolerance",
    "code": "score test_seconds memory_mb",
    "format": "pattern tags json_schema opened",
    "overlong": "buffer",
    "model": "path url device offload precision max_length squash normalize",
    "length": "shape budget rate",
    "language": "language",
    "repetition": "ngram",
    "reflection": "phrases most",
    "keywords": "",
    "qa": "mode levels partial_at aliases",
    "logic": "",
    "reasoning_gym": "partial strict",
}
"""What a built-in reward asks for besides: the keyword options of its function, and no words of the config
(docs/decisions/0008)."""


def test_the_fields_of_a_reward() -> None:
    assert list(RewardConfig.model_fields) == REWARD.split()
    own = {name: section.model_fields.keys() - RewardConfig.model_fields.keys() for name, section in REWARDS.items()}
    assert own == {name: set(words.split()) for name, words in REWARDS_OWN.items()}


def test_every_option_has_help_of_a_sentence() -> None:
    for each in options():
        assert len(each.help) > 10, each.name
        assert each.help.endswith("."), each.name
        assert "  " not in each.help, each.name


def test_every_option_shows_its_default_and_every_number_its_range() -> None:
    for each in options():
        assert f"default {each.default}]" in each.text, each.name
        if each.type in ("INT", "NUMBER", "CHOICE"):
            assert each.limits, each.name


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "learning_rate",
            "Peak rate of AdamW. About 1e-6 for full fine-tuning, ten times as much for LoRA. "
            "[above 0, at most 1; default 1e-06]",
        ),
        ("group_size", "Completions per prompt, G. [at least 2, at most 4096; default 8]"),
        ("precision", "[float32, bfloat16; default float32]"),
        ("temperature", "[at least 0.05, at most 5; default 1]"),
        ("model", "[default required]"),
        ("epsilon_high", "[above 0; default unset]"),
        ("rewards", "[default math]"),
        ("stop", "[default none]"),
        ("sft.shuffle", "[default true]"),
        ("warmup_ratio", "[at least 0.0, at most 1.0; default 0.1]"),
    ],
)
def test_help_ends_with_range_and_default(name: str, text: str) -> None:
    assert option(name).text.endswith(text)


def test_flags() -> None:
    assert option("learning_rate").flag == "--learning-rate"
    assert option("sft.max_grad_norm").flag == "--sft.max-grad-norm"
    assert [each.name for each in options() if each.repeated] == [
        "data",
        "pool_weights",
        "demonstrations",
        "stop",
        "rewards",
        "lora_targets",
        "preset",
        "curriculum",
        "sft.data",
        "eval.data",
    ]


def test_the_aliases() -> None:
    assert ALIASES == {
        "num_generations": "group_size",
        "samples_per_prompt": "group_size",
        "rollout_n": "group_size",
        "clip_range": "epsilon",
        "clip_ratio": "epsilon",
        "epsilon_low": "epsilon",
        "kl_coef": "beta",
        "max_output_length": "max_completion_length",
        "max_new_tokens": "max_completion_length",
        "iterations": "steps",
        "max_steps": "steps",
        "out": "output_dir",
    }
    assert option("group_size").aliases == ("num_generations", "samples_per_prompt", "rollout_n")
    names = {each.name.rpartition(".")[2] for each in options()}
    assert not names & set(ALIASES)


# ---- the learning rate by step: 10 steps, 2 of warm-up, a floor of 0.1

WARM_UP = [1 / 3, 2 / 3]


@pytest.mark.parametrize(
    ("schedule", "after"),
    [
        ("cosine", [1.0, 0.955436, 0.830570, 0.650134, 0.449866, 0.269430, 0.144564, 0.1]),
        ("linear", [1.0, 0.871429, 0.742857, 0.614286, 0.485714, 0.357143, 0.228571, 0.1]),
        ("constant", [1.0] * 8),
    ],
)
def test_the_schedules(schedule: LRSchedule, after: list[float]) -> None:
    fields = OptimizerFields(lr_schedule=schedule, warmup_ratio=0.2, min_lr_ratio=0.1)
    factors = [lr_factor(step, 10, fields) for step in range(10)]
    assert factors == pytest.approx([*WARM_UP, *after], abs=1e-6)


def test_schedules_of_few_steps() -> None:
    # A tenth of 5 steps rounds to no warm-up; cos at 0, 45, 90, 135 and 180 degrees.
    factors = [lr_factor(step, 5, OptimizerFields()) for step in range(5)]
    assert factors == pytest.approx([1.0, 0.853553, 0.5, 0.146447, 0.0], abs=1e-6)
    assert lr_factor(0, 1, OptimizerFields()) == 1.0
    rising = OptimizerFields(lr_schedule="linear", warmup_ratio=1.0)
    assert [lr_factor(step, 4, rising) for step in range(4)] == pytest.approx([0.2, 0.4, 0.6, 0.8])


def test_warm_up_in_steps() -> None:
    fields = OptimizerFields(lr_schedule="constant", warmup_steps=3)
    assert [lr_factor(step, 100, fields) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert lr_factor(0, 100, OptimizerFields(warmup_steps=0)) == 1.0


# ---- advice


def test_the_defaults_need_no_advice() -> None:
    assert advise(Config(model="m", data="d.jsonl")) == []


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"lora_rank": 8}, "learning_rate: 1e-06; LoRA wants about 10 times the rate of full fine-tuning"),
        ({"group_size": 2}, "group_size: 2; so few completions leave most groups without a signal"),
        ({"temperature": 0.3}, "temperature: 0.3; too low leaves groups without variety"),
        ({"temperature": 2}, "temperature: 2.0; too high breaks the text"),
        ({"top_p": 0.9}, "top_p: 0.9; below 1 draws from another distribution"),
        ({"top_k": 50}, "top_k: 50; above 0 draws from another distribution"),
        ({"max_completion_length": 8}, "max_completion_length: 8; very short"),
        ({"beta": 0.5}, "beta: 0.5; so heavy a KL penalty"),
    ],
)
def test_each_rule_speaks_alone(changes: dict[str, float], line: str) -> None:
    (said,) = advise(Config.model_validate({"model": "m", "data": "d.jsonl", **changes}))
    assert said.startswith(line)


def test_advice_is_of_options() -> None:
    assert {rule.field for rule in RULES} <= {each.name for each in options()}


def test_derived_values() -> None:
    config, _ = load_config(None, {"model": "m", "data": "d", "rewards": [{"name": "math"}, {"name": "a.py:f"}]})
    assert (config.clip_high, config.completions_per_step, config.success_name) == (0.2, 256, "math")
    config, _ = load_config(None, {"model": "m", "data": "d", "epsilon_high": 0.28, "lora_rank": 4})
    assert (config.clip_high, config.lora_scale_alpha) == (0.28, 8.0)


@pytest.mark.parametrize(
    ("rewards", "fits"),
    [
        (["math"], True),
        ([{"name": "code", "score": "all"}], True),
        ([{"name": "mine.py:f", "weight": 2}], True),
        ([{"name": "math", "wieght": 1}], False),
        ([{"name": "math", "score": "all"}], False),
        ([{"name": "mth"}], False),
        ([], False),
    ],
)
def test_editors_tell_the_kinds_of_rewards_apart(rewards: list, fits: bool) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed (the extra `schema`)")
    schema = Config.model_json_schema()
    found = jsonschema.Draft202012Validator(schema).is_valid({"model": "m", "data": ["d"], "rewards": rewards})
    assert found is fits
