"""Bad rewards and output folders, tried one by one: one message, exit code 2, and nothing that was computed is lost."""

import json
import os
import subprocess
import sys

import pytest

from command_line import Bench
from gruppo.monitor.run_folder import RunFolder
from gruppo.rewards import loading

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
    assert message.startswith(f"reward '{reward}' (rewards.py:{line}) ")
    if "wanted a finite" in error or reward == "raises":
        assert "failed on 2 of 2 completions (2 r" in message
        assert message.endswith("give the same command again: the run goes on from its last step.")
    assert before in message
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
            "rewards: no built-in reward 'mth', only math, code, format, overlong, model, length, language, "
            "repetition, reflection, keywords, qa, logic, reasoning_gym. Did you mean 'math'? Your own is "
            "file.py:function or module:function.",
        ),
        (
            "nowhere:f",
            "reward 'nowhere:f': no module 'nowhere' in the working folder or the environment; a file is named with its"
            " suffix, file.py:function.",
        ),
        (
            "format",
            "the command line: 1 field is wrong\n"
            "  rewards.0: the reward 'format' needs a `pattern`, such as '.*####.*', or `tags`, such as [think, "
            "answer], or a `json_schema`",
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
    options = {"rewards": "{name: late.py:digits, on_error: stop, isolation: inline}", "steps": 4}
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
