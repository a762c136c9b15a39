"""`gruppo.configure`: values for a task, moved by size and hardware, never over the caller's own."""

from typing import Any

import pytest

import gruppo
from gruppo.config.configure import Configured
from gruppo.errors import ConfigError

MATH = {
    "prompts_per_step": 32,
    "epsilon": 12,
    "beta": 0.001,
    "group_size": 16,
    "temperature": 1.0,
    "learning_rate": 3e-6,
    "max_completion_length": 2048,
}


def sources(found: Configured) -> dict[str, str]:
    return {name: origin.source for name, origin in found.sources.items()}


def test_a_task_alone_gives_its_row() -> None:
    found = gruppo.configure("math")
    assert found.values == MATH
    assert sources(found) == {name: "default" if name == "prompts_per_step" else "task" for name in MATH}
    assert found.sources["beta"].why == "math: a light penalty, since the reward can be trusted"
    assert found.warnings == ()


def test_a_small_gpu_halves_the_group_and_a_step_sees_as_many_completions() -> None:
    found = gruppo.configure("math", gpu_memory=16)
    assert found.values == {**MATH, "group_size": 8, "prompts_per_step": 64}
    assert (sources(found)["group_size"], sources(found)["prompts_per_step"]) == ("hardware", "hardware")
    assert found.sources["group_size"].why == "half of 16: a GPU of 16 GB, under 24"
    assert gruppo.configure("math", gpu_memory=24).values == MATH


@pytest.mark.parametrize(
    ("task", "settings", "changed"),
    [
        ("math", {"model_size": "0.5B"}, {"learning_rate": 5e-6}),
        ("math", {"model_size": "7b"}, {}),
        ("math", {"model_size": 70e9}, {"beta": 0.002}),
        ("math_reasoning", {"model_size": "7B"}, {"learning_rate": 5e-6}),  # its beta, 0.05, is its caution
        ("qa", {"model_size": "3B"}, {"learning_rate": 3e-6}),
        ("format", {"model_size": "13B"}, {"learning_rate": 3e-6, "beta": 0.002}),
        ("math", {"model_size": "1M"}, {}),
        ("math", {"lora": True}, {"learning_rate": 3e-5, "lora_rank": 16}),
        ("math_reasoning", {"lora": True, "model_size": "7B"}, {"learning_rate": 5e-5, "lora_rank": 16}),
        ("math", {"lora_rank": "4"}, {"learning_rate": 3e-5, "lora_rank": 4}),
        ("math", {"lora": True, "lora_rank": 64}, {"learning_rate": 3e-5, "lora_rank": 64}),
        ("math", {"gpus": 1}, {"group_size": 8}),
        ("math", {"gpus": 4}, {}),
        ("qa", {"gpus": 8}, {"group_size": 16}),
        ("math", {"gpus": 1, "gpu_memory": 8}, {"group_size": 8, "prompts_per_step": 64}),
    ],
)
def test_size_and_hardware_move_values_into_their_ranges(
    task: str, settings: dict[str, Any], changed: dict[str, Any]
) -> None:
    plain = gruppo.configure(task)
    found = gruppo.configure(task, **settings)
    assert {name: value for name, value in found.values.items() if plain.values.get(name) != value} == changed
    expected = {name: "size" if name in ("learning_rate", "beta") else "hardware" for name in changed}
    expected |= {"lora_rank": "user"} if "lora_rank" in changed else {}
    assert {name: sources(found)[name] for name in changed} == expected


def test_the_callers_values_are_never_moved() -> None:
    found = gruppo.configure(
        "math", gpu_memory=8, gpus=8, model_size="70B", num_generations=4, kl_coef=0.0001, learning_rate="2e-5"
    )
    assert found.values == {**MATH, "group_size": 4, "beta": 0.0001, "learning_rate": 2e-5}
    assert [sources(found)[name] for name in ("group_size", "beta", "learning_rate", "prompts_per_step")] == [
        "user",
        "user",
        "user",
        "default",
    ]
    assert [line.split(";")[0] for line in found.warnings] == [
        "learning_rate: 2e-05",
        "beta: 0.0001",
        "group_size: 4",
    ]


def test_several_presets() -> None:
    found = gruppo.configure(["dapo", "math-reasoning"], steps=7)
    assert found.presets == ("dapo", "math_reasoning")
    assert (found.values["minibatches"], found.sources["minibatches"].source) == (16, "paper")
    assert (found.values["beta"], found.values["steps"]) == (0.05, 7)
    assert "epsilon_high" not in found.values


def test_a_config_from_it() -> None:
    found = gruppo.configure("math", gpu_memory=16, steps=7)
    config = found.config("m", "d.jsonl", kl_coef=0.003)
    assert config == gruppo.Config(
        model="m", data=("d.jsonl",), preset=("math",), group_size=8, prompts_per_step=64, steps=7, beta=0.003
    )
    assert (config.completions_per_step, config.epsilon) == (512, 12)
    with pytest.raises(ConfigError, match=r"^gruppo\.configure: 1 field is wrong\n  rslora: got true without LoRA"):
        found.config("m", "d.jsonl", rslora=True)


def test_it_can_be_printed() -> None:
    lines = str(gruppo.configure("qa", model_size="0.5b", top_k=20)).split("\n")
    assert lines[0] == "prompts_per_step       32     default  gruppo's own"
    assert "beta                   0.002  task     qa: a light penalty, since the reward can be trusted" in lines
    (rate,) = [line for line in lines if line.startswith("learning_rate")]
    assert rate.startswith("learning_rate          5e-06  size     models below 1B parameters want 5e-06 to 1e-05:")
    assert "preset qa: a rule of the trade where rewards are verifiable; not measured here" in lines
    assert any(line.startswith("warning: top_k: 20; above 0 draws from another distribution") for line in lines)
    assert max(map(len, lines)) <= 110


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "maths"}, "^task: there is no preset 'maths', only .* Did you mean 'math'"),
        ({"model_size": "huge"}, "^model_size: got 'huge', wanted a number of parameters such as 7B"),
        ({"gpu_memory": 0}, "^gpu_memory: got 0, wanted a number above 0"),
        ({"gpus": -1}, "^gpus: got -1, wanted a number above 0"),
        ({"grop_size": 3}, "^gruppo.configure: 1 field is wrong\n  grop_size: .* Did you mean 'group_size'"),
        ({"temperature": 9, "beta": -1}, "^gruppo.configure: 2 fields are wrong\n"),
    ],
)
def test_what_is_wrong_is_said(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        gruppo.configure(**{"task": "math", **arguments})
