"""Presets: their values, their order under what the user says, and that a resolved config keeps its meaning."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

import gruppo
from gruppo.config.advice import advise
from gruppo.config.load import load_config
from gruppo.config.preset_page import render_page
from gruppo.config.presets import PRESETS, canonical
from gruppo.config.ranges import by_gpus, by_size
from gruppo.config.reference import options
from gruppo.config.schema import Config
from gruppo.errors import ConfigError

VALUES: dict[str, dict[str, Any]] = {
    "deepseek-r1": {
        "epsilon": 10,
        "beta": 0.001,
        "group_size": 16,
        "temperature": 1.0,
        "learning_rate": 3e-6,
        "prompts_per_step": 32,
        "minibatches": 16,
        "max_completion_length": 32768,
        "reference_refresh_every": 400,
    },
    "deepseekmath": {
        "group_size": 64,
        "beta": 0.04,
        "learning_rate": 1e-6,
        "loss_aggregation": "sequences",
        "prompts_per_step": 16,
        "max_completion_length": 1024,
    },
    "dr-grpo": {"advantage_scale": "none", "loss_aggregation": "constant", "beta": 0},
    "dapo": {
        "epsilon": 0.2,
        "epsilon_high": 0.28,
        "loss_aggregation": "tokens",
        "max_sampling_factor": 3,
        "truncated": "mask",
        "beta": 0,
        "group_size": 16,
        "prompts_per_step": 512,
        "minibatches": 16,
        "learning_rate": 1e-6,
        "max_completion_length": 20480,
    },
    "gspo": {
        "loss": "gspo",
        "epsilon": 0.0003,
        "epsilon_high": 0.0004,
        "loss_aggregation": "sequences",
        "minibatches": 4,
    },
    "cispo": {"loss": "cispo", "epsilon": 10, "epsilon_high": 4},
    "rloo": {"advantage_scale": "leave_one_out", "loss": "policy_gradient"},
    "reinforce": {"advantage_scale": "none", "loss": "policy_gradient"},
}
TASKS: dict[str, tuple[float, ...]] = {
    # epsilon, beta, group_size, temperature, learning_rate, max_completion_length
    "math": (12, 0.001, 16, 1.0, 3e-6, 2048),
    "code": (10, 0.0015, 16, 1.0, 3e-6, 1024),
    "qa": (6, 0.002, 8, 0.9, 2e-6, 256),
    "format": (15, 0.0005, 8, 1.2, 5e-6, 512),
    "math_reasoning": (0.2, 0.05, 16, 1.0, 1e-5, 500),
    "instruction_following": (0.2, 0.1, 8, 1.0, 5e-6, 200),
    "logic": (0.2, 0, 8, 1.0, 3e-6, 2048),
}
COLUMNS = ("epsilon", "beta", "group_size", "temperature", "learning_rate", "max_completion_length")


def made(**values: Any) -> Config:
    return Config.model_validate({"model": "m", "data": "d", **values})


def loaded(tmp_path: Path, text: str, **flags: Any) -> tuple[Config, list[str]]:
    path = tmp_path / "run.yaml"
    path.write_text("model: m\ndata: d\n" + text)
    return load_config(path, flags)


# ---- the data


def test_the_presets_by_paper() -> None:
    assert {name: dict(preset.values) for name, preset in PRESETS.items() if preset.kind == "paper"} == VALUES


def test_the_presets_by_task() -> None:
    found = {name: dict(preset.values) for name, preset in PRESETS.items() if preset.kind == "task"}
    assert found == {name: dict(zip(COLUMNS, row)) for name, row in TASKS.items()}
    ranges = {
        name: (found.low, found.high) for name, task in PRESETS.items() for found in task.ranges.values() if task.ranges
    }
    assert ranges == {"math": (10, 15), "code": (8, 12), "qa": (5, 8), "format": (12, 15)}


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_config_that_needs_no_advice(name: str) -> None:
    """Its options exist, its values are in bounds, its fields fit each other; reasons are of what it sets."""
    config = made(preset=name)
    for option, value in PRESETS[name].values.items():
        assert getattr(config, option) == value
    assert advise(config) == []
    assert set(PRESETS[name].values) <= {option.name for option in options()}
    assert set(PRESETS[name].reasons) | set(PRESETS[name].ranges) <= set(PRESETS[name].values)
    if PRESETS[name].kind == "paper":
        assert PRESETS[name].source.startswith("https://")


def test_the_page_is_made_from_the_data() -> None:
    page = (Path(__file__).resolve().parents[1] / "docs" / "presets.md").read_text()
    assert render_page(page) == page, "run: python -m gruppo.config.preset_page docs/presets.md"
    assert "| `math` | 12 (10 to 15) | 0.001 | 16 | 1 | 3e-06 | 2048 |" in page
    with pytest.raises(ValueError, match="<!-- task table -->"):
        render_page("nothing here")


# ---- names


@pytest.mark.parametrize(
    ("given", "own"),
    [
        ("math-reasoning", "math_reasoning"),
        ("instruction-following", "instruction_following"),
        ("deepseek_r1", "deepseek-r1"),
        ("dr_grpo", "dr-grpo"),
        ("DAPO", "dapo"),
        ("maths", None),
    ],
)
def test_names_however_their_words_are_joined(given: str, own: str | None) -> None:
    assert canonical(given) == own


def test_an_alias_is_resolved_and_said(tmp_path: Path) -> None:
    config, notes = loaded(tmp_path, "preset: math-reasoning\n")
    assert (config.preset, config.beta, config.max_completion_length) == (("math_reasoning",), 0.05, 500)
    assert notes == ["preset math-reasoning is math_reasoning here"]


def test_an_unknown_name_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, "preset: [math, dapoo]\nsteps: 0\n")
    assert str(caught.value).split("\n")[1:] == [
        "  steps: got 0, wanted 1 or more",
        "  preset: there is no preset 'dapoo', only deepseek-r1, deepseekmath, dr-grpo, dapo, gspo, cispo, rloo, "
        "reinforce, math, code, qa, format, math_reasoning, instruction_following, logic. Did you mean 'dapo'?",
    ]


@pytest.mark.parametrize(
    ("given", "wrong"),
    [("preset: 3", "preset.0: got 3, wanted text"), ("preset:", "preset: got nothing, wanted a list")],
)
def test_what_is_no_name_is_refused(tmp_path: Path, given: str, wrong: str) -> None:
    with pytest.raises(ConfigError, match=wrong):
        loaded(tmp_path, given)


# ---- order


def test_the_users_values_stand_over_the_presets_and_later_presets_over_earlier(tmp_path: Path) -> None:
    config, _ = loaded(tmp_path, "preset: [dapo, math]\nkl_coef: 0.002\ngroup_size: 4\n", group_size="32")
    assert config.beta == 0.002  # the file's, by its alias
    assert config.group_size == 32  # the flag's
    assert config.learning_rate == 3e-6  # math's, over dapo's 1e-6
    assert config.minibatches == 16  # dapo's alone
    turned, _ = loaded(tmp_path, "preset: [math, dapo]\n")
    assert (turned.learning_rate, turned.epsilon, turned.epsilon_high) == (1e-6, 0.2, 0.28)


def test_the_clip_range_is_one_thing() -> None:
    """math's epsilon is not left with DAPO's high side; the user's own epsilon changes one leaf."""
    both = made(preset=["dapo", "math"])
    assert (both.epsilon, both.epsilon_high, both.clip_high) == (12, None, 12)
    own = made(preset=["dapo"], epsilon=0.1)
    assert (own.epsilon, own.epsilon_high) == (0.1, 0.28)


def test_a_value_given_at_its_default_stands_over_a_preset() -> None:
    assert made(preset="dapo", group_size=8, epsilon_high=None).group_size == 8
    assert made(preset="dapo", epsilon_high=None).clip_high == 0.2


def test_python_gives_the_same_as_a_file(tmp_path: Path) -> None:
    config, _ = loaded(tmp_path, "preset: [deepseek-r1, code]\nsteps: 5\n")
    assert config == gruppo.Config(model="m", data=("d",), preset=("deepseek-r1", "code"), steps=5)
    with pytest.raises(ValidationError, match="there is no preset 'grpo'"):
        gruppo.Config(model="m", data=("d",), preset=("grpo",))


@pytest.mark.parametrize("name", PRESETS)
def test_a_resolved_config_means_the_same_when_it_is_read_again(tmp_path: Path, name: str) -> None:
    first = made(preset=name, beta=0.003, truncated="score", group_size=8)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(first.model_dump(mode="json")))
    again, notes = load_config(tmp_path / "config.yaml", {})
    assert again == first
    assert notes == []
    assert (again.preset, again.beta, again.truncated, again.group_size) == ((name,), 0.003, "score", 8)


def test_a_copy_resolves_nothing() -> None:
    config = made(preset="math").model_copy(update={"epsilon": 0.2, "target_kl": 0.05, "beta": 0.0})
    assert (config.epsilon, config.target_kl, config.beta) == (0.2, 0.05, 0.0)


def test_a_flat_block_with_peers_names_works_as_it_stands(tmp_path: Path) -> None:
    text = "epsilon: 10\nbeta: 0.001\ngroup_size: 16\ntemperature: 1.0\nlearning_rate: 3e-6\nmax_output_length: 32768\n"
    config, notes = loaded(tmp_path, text)
    found = tuple(getattr(config, column) for column in COLUMNS)
    assert found == (10, 0.001, 16, 1.0, 3e-6, 32768)
    assert notes == ["max_output_length is max_completion_length here"]


# ---- ranges


@pytest.mark.parametrize(
    ("parameters", "lora", "rate", "beta"),
    [
        (494_032_768, False, (5e-6, 1e-5), (0.0005, 0.001)),
        (1e9, False, (3e-6, 5e-6), (0.0005, 0.001)),
        (3.09e9, False, (3e-6, 5e-6), (0.001, 0.002)),
        (7.6e9, True, (3e-5, 5e-5), (0.001, 0.002)),
        (8.03e9, False, (1e-6, 3e-6), (0.001, 0.002)),
        (70e9, True, (1e-5, 3e-5), (0.002, 0.005)),
    ],
)
def test_ranges_by_size(parameters: float, lora: bool, rate: tuple[float, float], beta: tuple[float, float]) -> None:
    found = {name: (range_.low, range_.high) for name, (_, range_) in by_size(parameters, lora=lora).items()}
    assert found == {"learning_rate": rate, "beta": beta}


def test_nothing_is_recommended_for_toys() -> None:
    assert by_size(99_999_999) == {}


@pytest.mark.parametrize(("gpus", "low", "high"), [(1, 4, 8), (3, 4, 8), (4, 8, 16), (7, 8, 16), (8, 16, 64)])
def test_ranges_by_gpus(gpus: int, low: int, high: int) -> None:
    (found,) = [range_ for _, range_ in by_gpus(gpus).values()]
    assert (found.low, found.high) == (low, high)


@pytest.mark.parametrize(
    ("values", "parameters", "gpus", "line"),
    [
        (
            {"preset": "math", "epsilon": 9.0, "minibatches": 2},
            None,
            None,
            "epsilon: 9.0; preset math recommends 10 to 15: a wide clip range",
        ),
        ({}, 494e6, None, "learning_rate: 1e-06; models below 1B parameters want 5e-06 to 1e-05: the larger"),
        ({"learning_rate": 1e-5}, 8.03e9, None, "learning_rate: 1e-05; models above 7B parameters want 1e-06 to 3e-06"),
        (
            {"lora_rank": 8, "learning_rate": 3e-6},
            7e9,
            None,
            "learning_rate: 3e-06; models of 1B to 7B parameters want",
        ),
        ({"beta": 0.04}, 70e9, None, "beta: 0.04; models above 10B parameters want 0.002 to 0.005: a larger model"),
        ({"group_size": 16}, None, 1, "group_size: 16; fewer than 4 GPUs want 4 to 8: a step's completions"),
        ({}, None, 8, "group_size: 8; 8 GPUs or more want 16 to 64: 16 to 32 is usual"),
        ({"group_size": 128}, None, None, "group_size: 128; so many completions of one problem"),
        ({"max_completion_length": 200}, None, None, "max_completion_length: 200; short: truncated completions"),
        ({"max_completion_length": 65536}, None, None, "max_completion_length: 65536; so long that a step costs"),
    ],
)
def test_outside_a_range_is_warned_of_with_the_reason(
    values: dict[str, Any], parameters: float | None, gpus: int | None, line: str
) -> None:
    (said,) = advise(made(**values), parameters, gpus)
    assert said.startswith(line)


@pytest.mark.parametrize(
    ("values", "parameters"),
    [
        ({"learning_rate": 5e-6, "beta": 0.001}, 494e6),
        ({"preset": "math", "epsilon": 11, "minibatches": 2}, None),
        ({"preset": "instruction-following"}, None),
        ({"preset": "deepseekmath"}, 7e9),  # beta 0.04 and rate 1e-6 are the paper's
        ({"learning_rate": 5e-4, "max_completion_length": 48}, 1.2e6),  # the demo's
    ],
)
def test_what_needs_no_advice(values: dict[str, Any], parameters: float | None) -> None:
    assert advise(made(**values), parameters) == []


def test_the_size_is_read_from_the_models_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        '{"model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, '
        '"num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": true}'
    )
    (said,) = advise(made(model=str(tmp_path)))
    assert said.startswith("learning_rate: 1e-06; models below 1B parameters want 5e-06 to 1e-05")
