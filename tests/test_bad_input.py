"""Whatever a user gets wrong: exit code 2, one message that names what and where and the cure, nothing broken."""

import json
import shutil
import subprocess
import sys

import pytest

from command_line import Bench

# ---- the config


def test_all_wrong_fields_of_a_file_at_once(bench: Bench) -> None:
    bench.write(
        "run.yaml",
        f"model: {bench.model}\ndata: problems.jsonl\nlearning_rte: 1e-6\nlearning_rate: -3\ntemperature: 99\n"
        "group_size: 1\n",
    )
    assert bench.gruppo("train", "run.yaml").error == (
        "run.yaml: 4 fields are wrong\n"
        "  group_size: got 1, wanted 2 or more\n"
        "  temperature: got 99, wanted 5 or less\n"
        "  learning_rate: got -3, wanted a number above 0\n"
        "  learning_rte: there is no such field. Did you mean 'learning_rate'?"
    )


def test_the_same_fields_as_flags(bench: Bench) -> None:
    assert bench.train(learning_rate=-3, temperature=99, group_size=1, precision="float23").error == (
        "the command line: 4 fields are wrong\n"
        "  group_size: got 1, wanted 2 or more\n"
        "  temperature: got 99, wanted 5 or less\n"
        "  learning_rate: got -3, wanted a number above 0\n"
        "  precision: got 'float23', wanted one of 'float32' or 'bfloat16'"
    )


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (
            ["train", "--learning-rte", "1e-6", "--temprature=2"],
            "gruppo train: there is no flag or argument '--learning-rte'. Did you mean '--learning-rate'?\n"
            "gruppo train: there is no flag or argument '--temprature'. Did you mean '--temperature'?\n"
            "See gruppo train --help",
        ),
        (
            ["tran", "run.yaml"],
            "there is no command 'tran', only demo, check, train, init, sft, eval, show, config, plan, reward, "
            "serve-reward. Did you mean 'train'?",
        ),
        (
            ["--vresion"],
            "gruppo: there is no flag or argument '--vresion'. Did you mean '--version'? See gruppo --help",
        ),
        (["train", "--steps"], "gruppo train: argument --steps: expected one argument; see gruppo train --help"),
        (["train", "--beta", "0", "--kl_coef", "0"], "--kl_coef: given twice, also as --beta; keep one"),
        (["demo", "--seed", "x"], "gruppo demo: argument --seed: invalid int value: 'x'; see gruppo demo --help"),
        (
            ["train", "--packing", "padded"],
            "gruppo train: there is no flag or argument '--packing'. In its place say plain: true for what was padded, "
            "and nothing for trees. See gruppo train --help",
        ),
        (["show"], "gruppo show: the following arguments are required: RUN; see gruppo show --help"),
        (["show", "nowhere"], "nowhere is no folder; wanted the folder that a run was given with --out"),
        (
            ["show", "."],
            ". is no run of gruppo (it has no config.yaml and environment.json); wanted the folder that a run was given"
            " with --out",
        ),
        (
            ["config", "explain", "lerning-rate"],
            "there is no option or file 'lerning-rate'. Did you mean 'learning_rate'?",
        ),
        (
            ["train", "missing.yaml"],
            "missing.yaml: there is no such file; give the path of a YAML config.",
        ),
        (
            ["eval", "--model", "m"],
            "the command line: 1 field is wrong\n  eval.data: must be given (Held-out problems: a file (JSONL, JSON, "
            "Parquet, CSV), a folder, a hub name (name:config/split), or a list)",
        ),
        (
            ["train", "--rewards", "{name: [math}"],
            "--rewards: '{name: [math}' is no mapping such as '{name: math, weight: 2}'",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_the_command_line(bench: Bench, arguments: list[str], error: str) -> None:
    assert bench.gruppo(*arguments).error == error


def test_a_command_that_runs_one_stage_wants_its_section(bench: Bench) -> None:
    bench.write("run.yaml", f"model: {bench.model}\ndata: problems.jsonl\n")
    assert bench.gruppo("sft", "run.yaml").error == "run.yaml: there is no `sft:` section for gruppo sft to run"


def test_in_a_process_of_its_own(bench: Bench) -> None:
    """What a shell sees: the exit code, nothing on standard output, one message."""
    command = [sys.executable, "-m", "gruppo", "train", "--model", "m", "--steps", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: the command line: 2 fields are wrong\n"
        "  data: must be given (Problems: a file (JSONL, JSON, Parquet, CSV), a folder, a hub name (name:config/split),"
        " or a list of them)\n"
        "  steps: got 0, wanted 1 or more\n"
    )


# ---- the data


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        ("bad.jsonl", '{"question": "a", "answer": "1"}\n{"question": \n', "bad.jsonl:2: broken JSON, Expecting value"),
        ("empty.jsonl", "", "data: 'empty.jsonl' has no rows; give a source with at least one."),
        (
            "gap.jsonl",
            '{"question": "a", "answer": "1"}\n{"question": "", "answer": "2"}\n',
            "gap.jsonl:2: no question: column 'question' is missing or empty; fill it or remove the row.",
        ),
        (
            "other.jsonl",
            '{"frage": "a", "antwort": "1"}\n',
            "data: 'other.jsonl' has no column of a known name for the question (question, problem, prompt, "
            "instruction, input, text), only ['frage', 'antwort']; say what the question is, such as "
            "prompt: '{frage}'.",
        ),
        ("list.jsonl", "[1, 2]\n", "list.jsonl:1: wanted an object with columns, got list: [1, 2]"),
        (
            "cells.csv",
            "question,answer\na,1\nb,2,3\n",
            "cells.csv:3: 3 cells, but the header has 2 columns.",
        ),
        ("data.txt", "hello", "data: 'data.txt' has the suffix '.txt', wanted one of .jsonl, .json, .parquet, .csv."),
    ],
)
def test_broken_data(bench: Bench, name: str, text: str, error: str) -> None:
    bench.write(name, text)
    assert bench.train(data=name).error.startswith(error)


def test_missing_data(bench: Bench) -> None:
    assert bench.train(data="problem.jsonl").error == (
        "data: no file or folder 'problem.jsonl'. Did you mean 'problems.jsonl'?"
    )
    assert bench.train(data="problems").error == (
        "data: 'problems' is neither a file or folder that exists nor a hub name (owner/name, owner/name:config or "
        "owner/name:config/split). Did you mean 'problems.jsonl'?"
    )


def test_a_template_with_an_unknown_column(bench: Bench) -> None:
    assert bench.train(prompt="{qestion} = ?").error == (
        "prompt (data 'problems.jsonl'): the template '{qestion} = ?' names the column 'qestion', but the columns are "
        "['question', 'answer']. Did you mean 'question'? (A brace that is no column is written twice: {{ }}.)"
    )


def test_long_prompts_are_counted_or_refused(bench: Bench) -> None:
    long = json.dumps({"question": "What is 2 + 2? " * 60, "answer": "4"}) + "\n"
    bench.write("long.jsonl", long + (bench.folder / "problems.jsonl").read_text())
    skipped = bench.train(data="long.jsonl", steps=1)
    assert skipped.code == 0
    # The model's context of 256, less 12 for the completion.
    assert "1 of 13 prompts are longer than 244 tokens and left out (long_prompts: skip)" in skipped.err
    assert "indexing errors" not in skipped.err
    refused = bench.train(data="long.jsonl", long_prompts="refuse", out="run2").error
    assert refused.startswith("long.jsonl:1: the prompt has ")
    assert refused.endswith(
        " tokens, max_prompt_length is 244; raise max_prompt_length, remove the row, or leave such rows out with "
        "long_prompts: skip."
    )
    assert bench.train(max_prompt_length=3, out="run3").error.startswith(
        "all 12 prompts are longer than max_prompt_length 3 (the shortest has "
    )


def test_no_room_for_a_prompt(bench: Bench) -> None:
    assert bench.train(max_completion_length=256).error == (
        "max_completion_length: 256 leaves no room for a prompt in the model's context of 256 tokens; lower it"
    )


def test_a_later_stages_data_is_missed_before_the_first_stage_begins(bench: Bench) -> None:
    sft = {"sft.data": "problems.jsonl", "sft.steps": 1}
    assert bench.train(data="problem.jsonl", **sft).error.startswith("data: no file or folder 'problem.jsonl'.")
    assert bench.train(rewards="rewards.py:wants_level", **sft).error.startswith("reward 'wants_level'")
    bench.write("empty.jsonl", "")
    assert "'empty.jsonl' has no rows" in bench.train(**sft, **{"eval.data": "empty.jsonl"}).error
    assert not (bench.folder / "run" / "sft").exists()


# ---- the model


def test_model_folders(bench: Bench) -> None:
    bare = bench.folder / "bare"
    shutil.copytree(bench.model, bare)
    (bare / "chat_template.jinja").unlink()
    assert bench.train(model="bare").error == (
        "the tokenizer of 'bare' has no chat template; give a plain one with --prompt-template '{prompt}', or take a "
        "model that has a chat template."
    )
    for file in bare.glob("tokenizer*"):
        file.unlink()
    assert bench.train(model="bare").error == (
        "model: the folder 'bare' has no tokenizer (tokenizer.json, tokenizer_config.json, tokenizer.model); copy the "
        "tokenizer's files of the model it was made from into it"
    )
    (bench.folder / "empty").mkdir()
    assert bench.train(model="empty").error == "model: the folder 'empty' holds no model (no config.json)"
    (bench.folder / "done" / "model").mkdir(parents=True)
    assert bench.train(model="done").error == (
        "model: the folder 'done' holds no model (no config.json); it is a run, whose model is 'done/model'"
    )
    assert bench.train(model="./nowhere").error == (
        "model: there is no folder './nowhere'; give a model folder or a hub name such as org/name"
    )
    assert bench.train(model="problems.jsonl").error == (
        "model: 'problems.jsonl' is a file; give the folder that it stands in"
    )


def test_broken_weights(bench: Bench) -> None:
    shutil.copytree(bench.model, bench.folder / "broken")
    (bench.folder / "broken" / "model.safetensors").write_bytes(b"no weights")
    assert bench.train(model="broken").error.startswith(
        "model: 'broken' can't be loaded as a causal language model: Error while deserializing header"
    )


def test_a_name_that_the_hub_can_not_be_asked_for(bench: Bench) -> None:
    """Hub names are asked for once, without a minute of retries; tests never reach the hub (conftest.py)."""
    error = bench.train(model="no-such-model").error
    assert error.startswith("model: 'no-such-model' is no folder here, and the hub can't be asked for it (")
    assert error.endswith("); check the name and the network, or give a model folder")


def test_lora_targets(bench: Bench) -> None:
    assert bench.train(lora_rank=2, lora_targets="q_prj").error.startswith(
        "lora_targets: ['q_prj'] can't be adapted; the model's linear layers are down_proj, gate_proj, k_proj, lm_head,"
        " o_proj, q_proj, up_proj, v_proj. Did you mean 'q_proj'? Or say all-linear."
    )


def test_devices(bench: Bench) -> None:
    import torch

    assert bench.train(device="gpu").error == "device: there is no device 'gpu'; say auto, cpu, cuda, cuda:N or mps"
    if not torch.cuda.is_available():
        error = bench.train(device="cuda").error
        assert error.startswith("device: 'cuda' can't be used here (")
        assert error.endswith("); say auto, cpu, cuda, cuda:N or mps")
