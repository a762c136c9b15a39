"""Files and overrides to a config: numbers, aliases, and every mistake told with its cure."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from gruppo.config.load import load_config
from gruppo.config.schema import Config
from gruppo.errors import ConfigError

BASE = "model: m\ndata: d.jsonl\n"


def load(tmp_path: Path, text: str, **overrides: Any) -> tuple[Config, list[str]]:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return load_config(path, overrides)


def complaint(tmp_path: Path, text: str, **overrides: Any) -> list[str]:
    """The message's lines, with the file's own path shortened."""
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, **overrides)
    return str(caught.value).replace(str(tmp_path / "run.yaml"), "run.yaml").split("\n")


# ---- values


def test_numbers_that_yaml_takes_for_text_are_numbers(tmp_path: Path) -> None:
    config, _ = load(tmp_path, BASE + "learning_rate: 3e-6\nsteps: 1e3\nsft: {data: s.jsonl, learning_rate: 2e-5}\n")
    assert config.learning_rate == 3e-6
    assert config.steps == 1000
    assert config.sft is not None
    assert config.sft.learning_rate == 2e-5


def test_a_lone_item_is_a_list_of_one(tmp_path: Path) -> None:
    config, _ = load(tmp_path, BASE + "rewards: math\nstop: '###'\nlora_targets: q_proj\n")
    assert config.data == ("d.jsonl",)
    assert config.stop == ("###",)
    assert config.lora_targets == ("q_proj",)
    assert [reward.name for reward in config.rewards] == ["math"]


def test_rewards_by_name_or_as_a_section(tmp_path: Path) -> None:
    text = (
        BASE + "rewards:\n- {name: format, pattern: '.*####.*', weight: 0.2}\n- my.py:brevity\nsuccess: my.py:brevity\n"
    )
    config, _ = load(tmp_path, text)
    assert [(reward.name, reward.weight) for reward in config.rewards] == [("format", 0.2), ("my.py:brevity", 1.0)]
    assert config.success_name == "my.py:brevity"


def test_a_config_survives_being_written_and_read(tmp_path: Path) -> None:
    text = BASE + (
        "learning_rate: 3e-6\nepsilon_high: 0.28\nstop: ['a', 'b']\nrewards: [math, {name: format, pattern: x}]\n"
        "seed: 9223372036854775807\nsft: {data: [a, b], epochs: 2.5}\neval: {data: e, greedy: false}\n"
    )
    config, _ = load(tmp_path, text)
    for plain in (config.model_dump(), config.model_dump(mode="json")):
        written = yaml.safe_dump(_lists(plain))
        again, notes = load(tmp_path, written)
        assert again == config
        assert notes == []


def _lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _lists(item) for key, item in value.items()}
    return [_lists(item) for item in value] if isinstance(value, (list, tuple)) else value


def test_overrides_go_over_the_file_leaf_by_leaf(tmp_path: Path) -> None:
    text = BASE + "steps: 5\nsft: {data: s.jsonl, steps: 7, batch_size: 3}\n"
    config, _ = load(tmp_path, text, **{"steps": "6", "sft.steps": "8", "eval.data": ["e.jsonl"]})
    assert config.sft is not None
    assert config.eval is not None
    assert (config.steps, config.sft.steps, config.sft.batch_size, config.eval.data) == (6, 8, 3, ("e.jsonl",))


# ---- aliases


def test_an_alias_is_resolved_once_and_said(tmp_path: Path) -> None:
    config, notes = load(tmp_path, BASE + "num_generations: 4\nkl_coef: 0.04\nsft: {data: s, max_steps: 3}\n")
    assert (config.group_size, config.beta, config.sft and config.sft.steps) == (4, 0.04, 3)
    assert notes == [
        "num_generations is group_size here",
        "kl_coef is beta here",
        "sft.max_steps is sft.steps here",
    ]


def test_an_override_goes_over_the_files_alias(tmp_path: Path) -> None:
    config, notes = load(tmp_path, BASE + "num_generations: 4\n", group_size=16)
    assert config.group_size == 16
    assert notes == ["num_generations is group_size here"]


def test_one_field_under_two_names_is_refused(tmp_path: Path) -> None:
    assert complaint(tmp_path, BASE + "group_size: 8\nrollout_n: 8\n") == [
        "group_size: given twice, also as 'rollout_n'; keep one"
    ]
    assert complaint(tmp_path, BASE + "sft: {data: s, steps: 1, max_steps: 2}\n") == [
        "sft.steps: given twice, also as 'max_steps'; keep one"
    ]


# ---- broken files


def test_a_missing_file_is_named_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "gsm8k.yaml").write_text(BASE)
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "gsm8.yaml", {})
    assert str(caught.value) == (
        f"{tmp_path / 'gsm8.yaml'}: there is no such file; give the path of a YAML config. Did you mean 'gsm8k.yaml'?"
    )
    with pytest.raises(ConfigError, match="is a folder; give the path of a YAML config"):
        load_config(tmp_path, {})


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("model: m\ndata: [a, b\nsteps: 3\n", ["run.yaml:3: this is not valid YAML: expected ',' or ']', but got ':'"]),
        ("model: m\nsteps: 1\nmodel: n\n", ["run.yaml:3: this is not valid YAML: 'model' stands twice"]),
        ("sft:\n  data: a\n  data: b\n", ["run.yaml:3: this is not valid YAML: 'data' stands twice"]),
        ("- a\n- b\n", ["run.yaml: wanted `name: value` lines, got a list"]),
    ],
)
def test_what_is_no_mapping_is_told_with_its_line(tmp_path: Path, text: str, lines: list[str]) -> None:
    assert complaint(tmp_path, text) == lines


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_bytes(b"model: \xff\xfe\n")
    with pytest.raises(ConfigError, match=r"run\.yaml: can't be read"):
        load_config(tmp_path / "run.yaml", {})


# ---- wrong fields


def test_all_wrong_fields_at_once_each_with_its_cure(tmp_path: Path) -> None:
    text = "model: m\ndata: d\nlearning_rte: 1\nlearning_rate: -3\ntemperature: 99\ngroup_size: 1\nprecision: fp32\n"
    assert complaint(tmp_path, text) == [
        "run.yaml: 5 fields are wrong",
        "  group_size: got 1, wanted 2 or more",
        "  temperature: got 99, wanted 5 or less",
        "  learning_rate: got -3, wanted a number above 0",
        "  precision: got 'fp32', wanted one of 'float32' or 'bfloat16'",
        "  learning_rte: there is no such field. Did you mean 'learning_rate'?",
    ]


def test_stages_are_named(tmp_path: Path) -> None:
    text = BASE + "sft: {data: s, learning_rate: 2, epoch: 1}\neval: {samples: 0}\n"
    assert complaint(tmp_path, text) == [
        "run.yaml: 4 fields are wrong",
        "  sft.learning_rate: got 2, wanted 1 or less",
        "  sft.epoch: there is no such field. Did you mean 'epochs'?",
        "  eval.data: must be given (Held-out problems: a file (JSONL, JSON, Parquet, CSV), a folder, a hub name "
        "(name:config/split), or a list)",
        "  eval.samples: got 0, wanted 1 or more",
    ]


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("steps: 1.5", "steps: got 1.5, wanted a whole number"),
        ("steps: many", "steps: got 'many', wanted a whole number"),
        ("learning_rate: small", "learning_rate: got 'small', wanted a number"),
        ("learning_rate: .nan", "learning_rate: got nan, wanted a finite number"),
        ("lora_rank: yes", "lora_rank: got true, wanted a number"),
        ("steps:", "steps: got nothing, wanted a whole number"),
        ("system_prompt: 3", "system_prompt: got 3, wanted text (quote it if it looks like a number)"),
        ("stop: ''", "stop.0: got '', wanted text that is not empty"),
        ("output_dir: ''", "output_dir: got '', wanted text that is not empty"),
        ("eval: yes", "eval: got true, wanted a section of `name: value` lines"),
        ("rewards: []", "rewards: got [], wanted at least one"),
        ("rewards: [{nme: math}]", None),
        (
            "rewards: format",
            "rewards.0: the reward 'format' needs a `pattern`, such as '.*####.*', or `tags`, such as [think, answer], "
            "or a `json_schema`",
        ),
        (
            "rewards: {name: math, pattern: x}",
            "rewards.0.pattern: belongs to the reward 'format', not to 'math'",
        ),
        ("rewards: [math, math]", "rewards: each reward may stand once, got ['math', 'math']"),
        ("success: mat", "success: 'mat' is none of the rewards ['math']"),
        ("prompt_template: 'Q: '", "prompt_template: must contain {prompt}"),
        ("out_dir: x", "out_dir: there is no such field. Did you mean 'output_dir'?"),
        ("SFT: {}", "SFT: there is no such field."),
        (
            "packing: padded",
            "packing: there is no such field any more; say plain: true for what was padded, and nothing for trees",
        ),
    ],
)
def test_one_wrong_field(tmp_path: Path, line: str, wrong: str | None) -> None:
    lines = complaint(tmp_path, BASE + line + "\n")
    if wrong is None:
        assert lines == [
            "run.yaml: 2 fields are wrong",
            "  rewards.0.name: must be given (A built-in (docs/rewards.md) or your function as "
            "`file.py:function` or `module:function`)",
            "  rewards.0.nme: there is no such field. Did you mean 'name'?",
        ]
    else:
        assert lines == ["run.yaml: 1 field is wrong", f"  {wrong}"]


def test_the_command_line_is_named_where_there_is_no_file() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, {"model": "m", "learning_rate": "-3"})
    assert str(caught.value) == (
        "the command line: 2 fields are wrong\n"
        "  data: must be given (Problems: a file (JSONL, JSON, Parquet, CSV), a folder, a hub name "
        "(name:config/split), or a list of them)\n"
        "  learning_rate: got -3, wanted a number above 0"
    )


# ---- data: weights, difficulties, rewards of some data sets


def test_data_sets_with_and_without_weights(tmp_path: Path) -> None:
    config, _ = load(tmp_path, "model: m\ndata: [a.jsonl, {path: b.jsonl, weight: 2}]\n")
    assert [(source.path, source.weight) for source in config.sources] == [("a.jsonl", 1.0), ("b.jsonl", 2.0)]
    assert config.data_paths == ("a.jsonl", "b.jsonl")


def test_pool_weights_are_three_numbers(tmp_path: Path) -> None:
    assert load(tmp_path, BASE, pool_weights=["0", "1", "2.5"])[0].pool_weights == (0.0, 1.0, 2.5)


def test_a_span_without_a_bound_has_the_top_levels(tmp_path: Path) -> None:
    text = "min_difficulty: 3\ncurriculum:\n- {steps: 1-9, max_difficulty: 4}\n- {steps: 10-, min_difficulty: 1}\n"
    config, _ = load(tmp_path, BASE + text)
    assert config.difficulty_bounds == [(3, None), (3, 4), (1, None)]


def test_a_reward_is_for_data_sets_that_there_are(tmp_path: Path) -> None:
    text = "model: m\ndata: [sums.jsonl, {path: talk.jsonl, weight: 2}]\neval: {data: held.jsonl}\n"
    config, _ = load(tmp_path, text + "rewards: [{name: math, data: [talk.jsonl, held.jsonl]}]\n")
    assert config.rewards[0].data == ("talk.jsonl", "held.jsonl")
    assert complaint(tmp_path, text + "rewards: [{name: math, data: sum.jsonl}]\n")[1] == (
        "  rewards: 'math' is for 'sum.jsonl', which is none of the data sets of data and eval.data, "
        "['sums.jsonl', 'talk.jsonl', 'held.jsonl']. Did you mean 'sums.jsonl'?"
    )
