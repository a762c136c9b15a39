"""`gruppo train "a sentence"`: the plan, the questions, the yes."""

import io
import json
import os
import pty
import shutil
import subprocess
import sys

import pytest
import yaml

from command_line import Bench

FIRST = "Train a math reasoning model using GRPO on openai/gsm8k based on Qwen2.5-0.5B."
SHORT = ["--steps", 1, "--prompts-per-step", 2, "--group-size", 2, "--max-completion-length", 8]
SHORT += ["--threads", 1, "--no-check"]


class Terminal(io.StringIO):
    """Somebody who types these lines."""

    def isatty(self) -> bool:
        return True


def types(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal("".join(f"{line}\n" for line in lines)))


@pytest.fixture
def stand_ins(bench: Bench) -> Bench:
    """A small model and GSM8K's form of rows under the names of the first sentence."""
    (bench.folder / "openai" / "gsm8k").mkdir(parents=True)
    rows = [{"question": f"What is {a} + 2?", "answer": f"{a} and 2 are {a + 2}.\n#### {a + 2}"} for a in range(8)]
    (bench.folder / "openai" / "gsm8k" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shutil.copytree(bench.model, bench.folder / "Qwen2.5-0.5B")
    return bench


def test_without_a_terminal_the_plan_is_shown_and_nothing_starts(bench: Bench) -> None:
    outcome = bench.gruppo("train", FIRST)
    assert outcome.error.startswith("not started: there is no terminal to say yes at. Run the plan's command line")
    assert (
        "    model: Qwen/Qwen2.5-0.5B        # assumed: 'Qwen2.5-0.5B' is Qwen/Qwen2.5-0.5B on the hub\n" in outcome.err
    )
    assert '    rewards: [math]                 # "a math reasoning model"\n' in outcome.err
    assert "The same: gruppo train --model Qwen/Qwen2.5-0.5B --data openai/gsm8k --preset math" in outcome.err
    assert not (bench.folder / "runs").exists()


def test_yes_will_not_do_where_something_is_assumed(bench: Bench) -> None:
    outcome = bench.gruppo("train", FIRST, "--yes")
    assert outcome.error == (
        "--yes will not do: model, eval.data was assumed, not said. Say it, or run the plan's command line"
    )


@pytest.mark.parametrize(
    ("sentence", "open_questions"),
    [
        ("Train my model on problems.jsonl", "a question is open (model); answer in the sentence, or by flags"),
        ("Train m/a-model on problems.jsonl. Don't use LoRA", "a question is open (not); put the sentence differently"),
        ("Train m/a-model on problems.jsonl politely", "a question is open (words); put the sentence differently"),
        ("Train on a.jsonl and b.jsonl", "2 questions are open (model, data); answer in the sentence, or by flags"),
    ],
)
def test_nothing_starts_while_a_question_is_open(bench: Bench, sentence: str, open_questions: str) -> None:
    for flags in ([], ["--yes"]):
        assert bench.gruppo("train", sentence, *flags).error == f"not started: {open_questions}"


def test_yes_starts_what_was_all_said(bench: Bench) -> None:
    outcome = bench.gruppo("train", f"Train {bench.model} on problems.jsonl", "--yes", "--out", "run", *SHORT)
    assert (outcome.code, outcome.out) == (0, "model          run/model\nreport         run/report.html\n")
    assert yaml.safe_load((bench.folder / "run" / "config.yaml").read_text())["data"] == ["problems.jsonl"]


def test_the_first_sentence_runs_with_stand_ins_after_a_yes(stand_ins: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    types(monkeypatch, "no")
    refused = stand_ins.gruppo("train", FIRST, "--out", "run", *SHORT)
    assert (refused.code, refused.out) == (1, "")
    assert not (stand_ins.folder / "run").exists()

    types(monkeypatch, "yes")
    outcome = stand_ins.gruppo("train", FIRST, "--out", "run", *SHORT)
    assert (outcome.code, outcome.out) == (0, "model          run/model\nreport         run/report.html\n")
    assert "Start it? [yes/no]: " in outcome.err
    resolved = yaml.safe_load((stand_ins.folder / "run" / "config.yaml").read_text())
    assert (resolved["model"], resolved["data"], resolved["preset"]) == ("Qwen2.5-0.5B", ["openai/gsm8k"], ["math"])
    assert [reward["name"] for reward in resolved["rewards"]] == ["math"]


@pytest.mark.slow
def test_the_first_sentence_at_a_real_terminal(stand_ins: Bench) -> None:
    """A process of its own whose standard input is a terminal at which `yes` is typed."""
    ours, theirs = pty.openpty()
    os.write(ours, b"yes\n")
    flags = [str(flag) for flag in (*SHORT, "--out", "run")]
    command = [sys.executable, "-m", "gruppo", "train", FIRST, *flags]
    done = subprocess.run(command, cwd=stand_ins.folder, stdin=theirs, capture_output=True, text=True, timeout=300)
    os.close(ours)
    os.close(theirs)
    assert (done.returncode, done.stdout) == (0, "model          run/model\nreport         run/report.html\n")
    assert "Start it? [yes/no]: " in done.stderr


def test_questions_are_asked_at_a_terminal(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    sentence = "Train with GRPO on problems.jsonl. Custom reward: +1 for correct, -0.5 for partial, 0 for wrong."
    types(monkeypatch, str(bench.model), "a half", "0.5", "yes", "yes")
    outcome = bench.gruppo("train", sentence, "--out", "run", *SHORT)
    assert outcome.code == 0
    assert "model: which folder or hub name is the model to train?: " in outcome.err
    assert "got 'a half', wanted a number above 0 and up to 1" in outcome.err
    assert "scale: this scale ranks partial (-0.5) below wrong (0): meant so?: " in outcome.err
    (reward,) = yaml.safe_load((bench.folder / "run" / "config.yaml").read_text())["rewards"]
    assert (reward["name"], reward["levels"], reward["partial_at"]) == ("qa", [1, -0.5, 0], 0.5)


def test_an_input_that_ends_is_no_yes(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    types(monkeypatch)
    assert bench.gruppo("train", f"Train {bench.model} on problems.jsonl", "--out", "run").code == 1
    types(monkeypatch)
    assert bench.gruppo("train", "Train my model on problems.jsonl").error == (
        "the input ended at the question: model: which folder is your model?"
    )


def test_a_file_with_a_space_in_its_name_is_a_file(bench: Bench) -> None:
    bench.write("my run.yaml", "model: m\ndata: d\ngroup_size: 1\n")
    assert bench.gruppo("train", "my run.yaml").error == (
        "my run.yaml: 1 field is wrong\n  group_size: got 1, wanted 2 or more"
    )
    assert "there is no such file" in bench.gruppo("train", "your-run.yaml").error


def test_another_language_is_refused_in_one_message(bench: Bench) -> None:
    error = bench.gruppo("train", "Trainiere ein Modell mit GRPO auf problems.jsonl").error
    assert error.startswith("this is not understood ('Trainiere', 'ein', 'Modell', 'mit', 'auf'): gruppo reads plain")


def test_yes_is_for_sentences(bench: Bench) -> None:
    assert bench.gruppo("train", "--yes", "--model", "m").error == (
        "--yes: there is no sentence to say yes to; a file or flags start at once"
    )


def test_unquoted_words_are_no_sentence(bench: Bench) -> None:
    error = bench.gruppo("train", "Train", "a", "model").error
    assert error == (
        "gruppo train: there is no flag or argument 'a'. A sentence stands in quotes. See gruppo train --help"
    )
