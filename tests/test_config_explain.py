"""`gruppo config explain FILE`: where each value came from, why, what is recommended; as text and as JSON."""

import json
from typing import Any

import pytest

from command_line import Bench
from gruppo.config.reference import options

TEXT = """\
model: m
data: [{path: d.jsonl, weight: 2}, e.jsonl]
preset: [deepseek-r1, math-reasoning]
clip_ratio: 0.3
rewards: [math, {name: format, pattern: x}]
curriculum: [{steps: 1-10, beta: 0.1}]
eval: {data: held.jsonl}
"""


def told(bench: Bench, *flags: object, text: str = TEXT) -> dict[str, Any]:
    bench.write("run.yaml", text)
    outcome = bench.gruppo("config", "explain", "run.yaml", "--json", *flags)
    assert outcome.code == 0
    return json.loads(outcome.out)


def test_each_value_has_its_origin_and_reason(bench: Bench) -> None:
    found = told(bench, "--steps", 300)
    rows = {row["option"]: row for row in found["options"]}
    assert list(rows) == [option.name for option in options() if not option.name.startswith("sft.")]
    origins = {name: row["from"] for name, row in rows.items() if row["from"] != "default"}
    assert origins == {
        "model": "file",
        "data": "file",
        "steps": "flag",
        "prompts_per_step": "paper deepseek-r1",
        "group_size": "task math_reasoning",
        "max_completion_length": "task math_reasoning",
        "temperature": "task math_reasoning",
        "rewards": "file",
        "learning_rate": "task math_reasoning",
        "minibatches": "paper deepseek-r1",
        "epsilon": "file",
        "beta": "task math_reasoning",
        "reference_refresh_every": "paper deepseek-r1",
        "preset": "file",
        "curriculum": "file",
        "eval.data": "file",
    }
    assert (rows["steps"]["value"], rows["beta"]["value"], rows["eval.data"]["value"]) == (300, 0.05, ["held.jsonl"])
    assert rows["beta"]["why"] == "0.05 holds the policy near its start"
    assert rows["epsilon"]["why"].endswith("earn no more; in place of math_reasoning's 0.2")
    assert rows["advantage_scale"]["why"].endswith(
        "nothing (Dr. GRPO), the batch's std, or nothing with the mean of the others as baseline (RLOO)"
    )
    assert rows["temperature"]["recommended"] == "0.7 to 1.5 (in general)"
    assert [preset["source"] for preset in found["presets"]] == [
        "https://arxiv.org/abs/2501.12948, Nature: https://doi.org/10.1038/s41586-025-09422-z",
        "a rule of the trade, careful; not measured here",
    ]
    assert (found["completions_per_step"], found["parameters"], found["fitted"], found["warnings"]) == (
        512,
        None,
        [],
        [],
    )


def test_what_size_and_hardware_would_move(bench: Bench) -> None:
    text = "model: m\ndata: d\npreset: math\nlearning_rate: 2e-6\n"
    found = told(bench, "--gpu-memory", 16, "--gpus", 8, "--model-size", "70B", text=text)
    assert [(row["option"], row["value"], row["from"]) for row in found["fitted"]] == [
        ("prompts_per_step", 64, "hardware"),
        ("beta", 0.002, "size"),
        ("group_size", 16, "hardware"),
    ]
    rows = {row["option"]: row for row in found["options"]}
    assert (rows["group_size"]["value"], rows["group_size"]["recommended"]) == (16, "16 to 64 (8 GPUs or more)")
    assert rows["learning_rate"]["recommended"] == "1e-06 to 3e-06 (models above 7B parameters)"
    assert rows["epsilon"]["recommended"] == "10 to 15 (preset math)"


def test_the_models_folder_says_its_size(bench: Bench) -> None:
    found = told(bench, text=f"model: {bench.model}\ndata: d\n")
    real = json.loads((bench.model / "config.json").read_text())
    assert found["parameters"] > real["vocab_size"] * real["hidden_size"]
    assert f", {found['parameters']:,} parameters\n" in bench.gruppo("config", "explain", "run.yaml").out


def test_the_text_fits_110_columns(bench: Bench) -> None:
    bench.write("run.yaml", TEXT.replace("held.jsonl", "a/path/that/is/much/too/long/for/a/column.jsonl"))
    outcome = bench.gruppo("config", "explain", "run.yaml", "--gpu-memory", 16, "--top-k", 5)
    lines = outcome.out.rstrip("\n").split("\n")
    assert max(map(len, lines)) <= 110
    for line in (
        "data                     d.jsonl x 2, e.jsonl        file                 Problems: a file (JSONL, JSON,",
        "top_k                    5                           flag                 Draw among the k likeliest tokens;",
        "curriculum               1-10                        file                 Spans of steps with problems and",
        "eval.data                a/path/that/is/much/too...  file                 Held-out problems: a file (JSONL,",
        "preset math_reasoning: a rule of the trade, careful; not measured here",
        "per step: 512 completions (32 x 16)",
        "For this model and hardware gruppo.configure takes:",
        "group_size        8   hardware  half of 16: a GPU of 16 GB, under 24",
    ):
        assert line in lines
    assert outcome.err == "note: clip_ratio is epsilon here\nnote: preset math-reasoning is math_reasoning here\n"


@pytest.mark.parametrize(
    ("flags", "error"),
    [
        (["--gpus", "two"], "--gpus: got 'two', wanted a whole number"),
        (["--gpu-memory", "lots"], "--gpu-memory: got 'lots', wanted a number of GB"),
        (["--gpus", "0"], "gpus: got 0, wanted a number above 0"),
        (["--model-size", "big"], "model_size: got 'big', wanted a number of parameters such as 7B, 0.5b or 7e9"),
        (
            ["--rslora", "true"],
            "run.yaml: 1 field is wrong\n  rslora: got true without LoRA; set lora_rank, such as 16, "
            "or leave rslora out",
        ),
    ],
)
def test_what_is_wrong_is_said(bench: Bench, flags: list[str], error: str) -> None:
    bench.write("run.yaml", "model: m\ndata: d\n")
    assert bench.gruppo("config", "explain", "run.yaml", *flags).error == error
