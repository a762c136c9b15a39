"""Whatever a user gets wrong: exit code 2, one message that names what and where and the cure, nothing broken."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from command_line import Bench
from gruppo.monitor.run_folder import RunFolder
from gruppo.rewards import loading

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
            "there is no command 'tran', only demo, train, sft, eval, show, config. Did you mean 'train'?",
        ),
        (
            ["--vresion"],
            "gruppo: there is no flag or argument '--vresion'. Did you mean '--version'? See gruppo --help",
        ),
        (["train", "--steps"], "gruppo train: argument --steps: expected one argument; see gruppo train --help"),
        (["train", "--beta", "0", "--kl_coef", "0"], "--kl_coef: given twice, also as --beta; keep one"),
        (["demo", "--seed", "x"], "gruppo demo: argument --seed: invalid int value: 'x'; see gruppo demo --help"),
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


# ---- the rewards


@pytest.mark.parametrize(
    ("reward", "error"),
    [
        (
            "says_good",
            "returned 'good' (str) for problems.jsonl:{row}; wanted a finite number, None (does not apply) or a",
        ),
        (
            "one_value",
            "returned 1 values for the 2 completions of problems.jsonl:{row}; wanted a list of 2 numbers, one",
        ),
        ("raises", "raised KeyError for problems.jsonl:{row}: '"),
        (
            "scores",
            "returned [1.0] (list) for problems.jsonl:{row}; wanted a finite number, None (does not apply) or a",
        ),
        ("wants_level", "wants the parameter 'level', but problems.jsonl:1 has no such column. There are: "),
    ],
)
def test_a_reward_that_breaks_its_contract(bench: Bench, reward: str, error: str) -> None:
    message = bench.train(rewards=f"rewards.py:{reward}").error
    line = (bench.folder / "rewards.py").read_text().split("\n").index(f"def {reward}({_parameters(reward)}):") + 1
    before, _, after = error.partition("{row}")
    assert message.startswith(f"reward '{reward}' (rewards.py:{line}) {before}")
    assert after in message


def _parameters(reward: str) -> str:
    return {"one_value": "completions", "raises": "completion, answer", "wants_level": "completion, level"}.get(
        reward, "completion"
    )


@pytest.mark.parametrize(
    ("reward", "error"),
    [
        (
            "rewards.py:digit",
            "reward 'rewards.py:digit': rewards.py has no function 'digit', only ['digits', 'says_good', 'one_value', "
            "'raises', 'wants_level', 'scores']. Did you mean 'digits'?",
        ),
        ("reward.py:digits", "reward 'reward.py:digits': no file 'reward.py'. Did you mean 'rewards.py'?"),
        ("rewards.py:number", "reward 'rewards.py:number': 'number' of rewards.py is a int, no function."),
        (
            "mth",
            "rewards: no built-in reward 'mth', only math, format. Did you mean 'math'? Your own is file.py:function or"
            " module:function.",
        ),
        (
            "nowhere:f",
            "reward 'nowhere:f': no module 'nowhere' in the working folder or the environment; a file is named with its"
            " suffix, file.py:function.",
        ),
        (
            "format",
            "the command line: 1 field is wrong\n"
            "  rewards.0: the reward 'format' needs a `pattern`, such as '.*####.*'",
        ),
        (
            "{name: math, wieght: 2}",
            "the command line: 1 field is wrong\n  rewards.0.wieght: there is no such field. Did you mean 'weight'?",
        ),
    ],
)
def test_a_reward_that_is_not_there(bench: Bench, reward: str, error: str) -> None:
    assert bench.train(rewards=reward).error == error


def test_a_reward_file_that_is_no_python(bench: Bench) -> None:
    bench.write("broken.py", "x = 1\ndef f(completion)\n")
    assert bench.train(rewards="broken.py:f").error == (
        "reward 'broken.py:f': broken.py, line 2, raised SyntaxError: expected ':' (broken.py, line 2)"
    )


def test_a_reward_that_needs_answers_where_there_are_none(bench: Bench) -> None:
    bench.write("bare.jsonl", '{"question": "What is 1 + 1?"}\n')
    error = bench.train(data="bare.jsonl", rewards="math").error
    assert error.startswith("reward 'math' (math.py:")
    assert error.endswith(
        ") needs the answer, and none of the 1 problems has one; name its column with --answer, or take another reward."
    )


# ---- the output folder


def test_a_folder_in_use_by_another_process(bench: Bench) -> None:
    code = (
        "import sys; from gruppo.monitor.run_folder import RunFolder\n"
        "with RunFolder.open('run', {'steps': 1}): print('open', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        assert bench.train().error == (
            f"output_dir: run is in use by process {process.pid}. Wait for it, stop it, or choose another with --out"
        )
        assert process.stdin is not None
        process.stdin.close()


def test_a_folder_in_use_by_this_process(bench: Bench) -> None:
    with RunFolder.open("run", {"steps": 1}):
        assert bench.train().error.startswith("output_dir: run is in use by this very process.")


def test_folders_that_can_not_be_written(bench: Bench) -> None:
    assert bench.train(out="/dev/null/run").error == (
        "output_dir: can't write /dev/null/run: Not a directory. Wanted a folder that this user can write, on a disk "
        "with space left; choose another with --out"
    )
    assert bench.train(out="problems.jsonl").error == (
        "output_dir: problems.jsonl is a file; wanted a folder, choose another with --out"
    )
    closed = bench.folder / "closed"
    closed.mkdir(mode=0o500)
    if os.access(closed, os.W_OK):
        pytest.skip("this user may write read-only folders")
    assert bench.train(out="closed/run").error.startswith("output_dir: can't write closed/run: Permission denied.")


def test_a_folder_of_something_else(bench: Bench) -> None:
    (bench.folder / "mine").mkdir()
    bench.write("mine/thesis.tex", "")
    assert bench.train(out="mine").error == (
        "output_dir: mine holds thesis.tex, and is no run of gruppo. Wanted a new folder, an empty one, or a run to go"
        " on with; choose another with --out"
    )
    assert os.listdir(bench.folder / "mine") == ["thesis.tex"]


def test_a_folder_of_another_config(bench: Bench) -> None:
    assert bench.train(steps=1).code == 0
    assert bench.train(steps=1, temperature=0.9, seed=3).error == (
        "output_dir: run holds a run of another config:\n"
        "  seed: the folder has 0, now 3\n"
        "  temperature: the folder has 1.0, now 0.9\n"
        "Choose another with --out, go back to the folder's values to go on with that run, or delete the folder to"
        " start afresh"
    )


def test_a_mistake_can_be_mended_in_the_same_folder(bench: Bench) -> None:
    """Nothing was computed, so there is no run to protect, and no folder to delete by hand."""
    assert bench.train(data="problem.jsonl").code == 2
    assert bench.train(rewards="rewards.py:says_good").code == 2
    assert bench.train(steps=1).code == 0


# ---- nothing is lost


def test_a_reward_that_fails_late_loses_nothing(bench: Bench) -> None:
    """Four completions a step: the ninth call is in step 3. Mended, the run ends with the weights of a whole one."""
    counted = "calls = 0\ndef digits(completion):\n    global calls\n    calls += 1\n"
    share = "    return sum(map(str.isdigit, completion)) / max(1, len(completion))\n"
    options = {"rewards": "late.py:digits", "steps": 4}
    bench.write("late.py", f"{counted}    assert calls < 9, 'out of memory'\n{share}")
    error = bench.train(**options).error
    assert error.startswith("reward 'digits' (late.py:2) raised AssertionError for problems.jsonl:")
    assert error.endswith(": out of memory")
    metrics = bench.folder / "run" / "metrics.jsonl"
    before = metrics.read_text()
    assert [json.loads(line)["step"] for line in before.splitlines()] == [1, 2]

    bench.write("late.py", f"{counted}{share}")
    loading._LOADED.clear()
    again = bench.train(**options)
    assert again.code == 0
    assert "grpo: goes on after step 2" in again.err
    assert metrics.read_text().startswith(before)
    assert [json.loads(line)["step"] for line in metrics.read_text().splitlines()] == [1, 2, 3, 4]

    assert bench.train(**options, out="whole").code == 0
    weights = [(bench.folder / run / "model" / "model.safetensors").read_bytes() for run in ("run", "whole")]
    assert weights[0] == weights[1]
    assert weights[0] != (bench.model / "model.safetensors").read_bytes()
