"""Data sets by name and by the form of their rows: the names that live, the prompt, the answer, the tests."""

import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest

from gruppo.config.schema import DataFields
from gruppo.data.forms import FORMS, called_function, last_box, names_function, normalised_tests
from gruppo.data.known import KNOWN, look_up
from gruppo.data.problems import load_problems
from gruppo.data.readers import read_tables
from gruppo.errors import DataError
from gruppo.types import Problem

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"

GSM8K = {"question": "Ann has 3 pens and buys 4. How many?", "answer": "She has 3+4=<<3+4=7>>7 pens.\n#### 7"}
MATH = {
    "problem": "What is $1/2+1/4$?",
    "level": "Level 3",
    "type": "Algebra",
    "solution": "First \\boxed{2/4}, then $\\frac{1}{2}+\\frac{1}{4}=\\boxed{\\frac{3}{4}}$.",
}
MBPP = {
    "text": "Write a function to double a number.",
    "code": "def twice(n):\r\n  return 2 * n",
    "task_id": 1,
    "test_setup_code": "import math",
    "test_list": ["assert twice(2) == 4", "assert math.isclose(twice(0.5), 1)"],
    "challenge_test_list": [],
}
SANITIZED = {
    "source_file": "b.ipynb",
    "task_id": 2,
    "prompt": "Write a function to halve a number.",
    "code": "def half(n):\n    return n / 2",
    "test_imports": ["import math"],
    "test_list": ["assert math.isclose(half(1), 0.5)"],
}
HUMANEVAL = {
    "task_id": "Own/0",
    "prompt": 'def add(a: int, b: int) -> int:\n    """The sum of a and b."""\n',
    "canonical_solution": "    return a + b\n",
    "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n",
    "entry_point": "add",
}
APPS = {
    "problem_id": 0,
    "question": "Print the sum of the two numbers.",
    "solutions": json.dumps(
        ["a, b = map(int, input().split())\nprint(a + b)\n", "print(sum(map(int, input().split())))"]
    ),
    "input_output": json.dumps({"inputs": ["1 2\n", "3 4\n"], "outputs": ["3\n", "7\n"]}),
    "difficulty": "interview",
    "url": "https://example.org/1",
    "starter_code": "",
}
APPS_CALL = APPS | {
    "question": "Add two numbers.",
    "solutions": json.dumps(["class Solution:\n    def plus(self, a, b):\n        return a + b\n"]),
    "input_output": json.dumps({"fn_name": "plus", "inputs": [[1, 2]], "outputs": [[3]]}),
    "difficulty": "introductory",
    "starter_code": "class Solution:\n    def plus(self, a: int, b: int) -> int:\n",
}
OWN = {
    "problem": "Write a function is_prime that tells whether n is prime.",
    "tests": "assert is_prime(7) == True\nassert is_prime(8) == False",
    "solution": "def is_prime(n):\n    return n > 1 and all(n % d for d in range(2, n))",
}
NQ = {"question": "who wrote hamlet", "answer": ["William Shakespeare", "Shakespeare"]}
KK = {
    "quiz": "You meet Ann and Bob. Ann says that Bob is a knave. Who is what?",
    "names": ["Ann", "Bob"],
    "solution": [True, False],
    "solution_text": "Ann is a knight, and Bob is a knave.",
    "statements": "(('lying', 1), ('telling-truth', 1))",
    "prompt": [{"role": "user", "content": "<|im_start|>user\nYou meet ..."}],
}
AIME = {"problem": "Find x.", "solution": "So \\boxed{61}, no: 60.", "answer": "60", "difficulty": 4.5}


def loaded(tmp_path: Path, *rows: dict[str, Any], **fields: Any) -> tuple[Problem, tuple[str, ...]]:
    """The first problem of a file of these rows, and the notes."""
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    found = load_problems([str(path)], DataFields(**fields))
    return found.problems[0], found.notes


@pytest.mark.parametrize(
    ("row", "prompt", "answer", "tests", "difficulty"),
    [
        (GSM8K, GSM8K["question"], GSM8K["answer"], None, None),
        (MATH, MATH["problem"], "\\frac{3}{4}", None, 3.0),
        (
            MBPP,
            "Write a function to double a number.\n\nYour code must pass this test:\nassert twice(2) == 4",
            None,
            ["import math\nassert twice(2) == 4", "import math\nassert math.isclose(twice(0.5), 1)"],
            None,
        ),
        (
            SANITIZED,
            "Write a function to halve a number.\n\nYour code must pass this test:\nassert math.isclose(half(1), 0.5)",
            None,
            ["import math\nassert math.isclose(half(1), 0.5)"],
            None,
        ),
        (HUMANEVAL, HUMANEVAL["prompt"], None, HUMANEVAL["test"], None),
        (
            APPS,
            "Print the sum of the two numbers.\n\n"
            "Read the input from standard input and print the answer to standard output.",
            None,
            {"inputs": ["1 2\n", "3 4\n"], "outputs": ["3\n", "7\n"]},
            2.0,
        ),
        (
            APPS_CALL,
            "Add two numbers.\n\nStart from this code:\n"
            "```python\nclass Solution:\n    def plus(self, a: int, b: int) -> int:\n```",
            None,
            {"fn_name": "plus", "inputs": [[1, 2]], "outputs": [[3]]},
            1.0,
        ),
        (APPS_CALL | {"starter_code": ""}, "Add two numbers.\n\nWrite the function `plus`.", None, ..., 1.0),
        (OWN, OWN["problem"], OWN["solution"], OWN["tests"], None),
        (NQ, "who wrote hamlet", "William Shakespeare", None, None),
        (KK, KK["quiz"], "[true, false]", None, 2.0),
        (AIME, "Find x.", "60", None, 4.5),
    ],
)
def test_a_row_of_each_form(tmp_path: Path, row: dict, prompt: str, answer: str | None, tests, difficulty) -> None:
    problem, notes = loaded(tmp_path, row)
    assert problem.prompt == prompt
    assert problem.answer == answer
    assert tests is ... or problem.columns.get("tests") == tests
    assert problem.difficulty == difficulty
    assert not any("unused text column" in note or note.startswith("warning") for note in notes), notes


def test_the_entry_point_and_the_own_columns_reach_rewards(tmp_path: Path) -> None:
    assert loaded(tmp_path, HUMANEVAL)[0].columns["entry_point"] == "add"
    assert loaded(tmp_path, KK)[0].columns["solution"] == [True, False]
    assert loaded(tmp_path, MATH)[0].columns["solution"] == MATH["solution"]
    assert loaded(tmp_path, NQ)[0].columns["answers"] == ["William Shakespeare", "Shakespeare"]


def test_the_prompt_shows_one_test_and_only_where_the_name_is_missing(tmp_path: Path) -> None:
    named = MBPP | {"text": "Write a function twice(n) to double a number."}
    assert loaded(tmp_path, named)[0].prompt == named["text"]
    unnamed = OWN | {"problem": "Is n prime?"}
    problem, _ = loaded(tmp_path, unnamed)
    assert problem.prompt == "Is n prime?\n\nYour code must pass this test:\nassert is_prime(7) == True"
    script = {"prompt": "Add.", "tests": "def check(candidate):\n    assert candidate(1) == 2", "entry_point": "inc"}
    assert loaded(tmp_path, script)[0].prompt == "Add.\n\nWrite the function `inc`."
    for row in (MBPP, SANITIZED, HUMANEVAL, OWN):
        assert "math.isclose(twice" not in loaded(tmp_path, row)[0].prompt
        assert str(row.get("code", "no code")) not in loaded(tmp_path, row)[0].prompt


def test_a_template_of_the_users_goes_first_and_a_missing_name_is_warned_of(tmp_path: Path) -> None:
    problem, notes = loaded(tmp_path, MBPP, prompt="Task: {text}")
    assert problem.prompt == "Task: Write a function to double a number."
    assert notes[-1] == (
        "warning: 1 of 1 prompts don't name the function that their tests call (such as 'twice' of rows.jsonl:1), and "
        "no completion can guess it; add the name to the prompt"
    )
    problem, _ = loaded(tmp_path, MATH, answer="{type}")
    assert problem.answer == "Algebra"
    assert loaded(tmp_path, KK, prompt="{quiz} Think.")[0].prompt.endswith("Who is what? Think.")


def test_a_question_without_its_body_is_still_warned_of(tmp_path: Path) -> None:
    body = {"body": "Ann has three red pens and buys four more of them."}
    for row in (GSM8K, NQ):
        _, notes = loaded(tmp_path, row | body)
        assert any("unused text column 'body'" in note for note in notes), row


def test_tests_that_cannot_be_read_are_counted(tmp_path: Path) -> None:
    broken = [
        APPS,
        APPS | {"question": "Other.", "input_output": ""},
        APPS | {"question": "More.", "input_output": "{"},
    ]
    problem, notes = loaded(tmp_path, *broken)
    assert problem.columns["tests"]["outputs"] == ["3\n", "7\n"]
    assert "2 of 3 problems have no tests that can be read (the first: rows.jsonl:2)" in notes


@pytest.mark.parametrize(
    ("value", "setup", "expected"),
    [
        (["assert f(1)"], "", ["assert f(1)"]),
        (["assert f(1)"], "import m", ["import m\nassert f(1)"]),
        ("assert f(1)\nassert f(2)", "", "assert f(1)\nassert f(2)"),
        ('["assert f(1)"]', "", ["assert f(1)"]),
        ('{"inputs": [1], "outputs": [2], "fn_name": null}', "", {"inputs": [1], "outputs": [2]}),
        ([{"input": "1", "output": "2"}], "import m", [{"input": "1", "output": "2"}]),
        ({"inputs": [], "outputs": []}, "", None),
        ("", "", None),
        ([], "", None),
        (None, "", None),
        (7, "", None),
        ("[" * 100_000, "", None),
    ],
)
def test_tests_in_one_shape(value, setup: str, expected) -> None:
    assert normalised_tests(value, setup) == expected


@pytest.mark.parametrize(
    ("tests", "name"),
    [
        (["assert set(near(1)) == {2}"], "near"),
        (["assert not (f(1))"], "f"),
        (["assert math.isclose(area(2), 4)"], "area"),
        ("def check(candidate):\n    assert candidate(1)", None),
        ({"inputs": ["1"], "outputs": ["2"]}, None),
        ({"inputs": ["1"], "outputs": ["2"], "fn_name": "g"}, "g"),
        (["assert x == 1"], None),
        (None, None),
    ],
)
def test_the_function_that_tests_call(tests, name: str | None) -> None:
    assert called_function(tests) == name


@pytest.mark.parametrize(
    ("prompt", "name", "named"),
    [
        ("Split a string into characters: split it.", "split", False),
        ("Write split(text).", "split", True),
        ("Write the function `split`.", "split", True),
        ("Write a function split that does it.", "split", True),
        ("Write is_prime.", "is_prime", True),
        ("Write is_primes.", "is_prime", False),
        ("Fill a MinHeap.", "MinHeap", True),
        ("Find f.", "f", False),
    ],
)
def test_a_prompt_that_names_a_function(prompt: str, name: str, named: bool) -> None:
    assert names_function(prompt, name) == named


@pytest.mark.parametrize(
    ("text", "box"),
    [
        ("\\boxed{1} and \\boxed{2}", "2"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{1} then \\boxed{2", "1"),
        ("\\fbox{ \\{1, 2\\} }", "\\{1, 2\\}"),
        ("so $\\boxed 7$.", "7"),
        ("{\\boxed{3}}", "3"),
        ("\\boxed{}", None),
        ("no box", None),
        ("{" * 200_000, None),
    ],
)
def test_the_last_box(text: str, box: str | None) -> None:
    assert last_box(text) == box


class Hub(ModuleType):
    """Stands in for `datasets`: the configs and splits that the data sets have on the hub, rows with their name."""

    HAS: ClassVar = {
        "openai/gsm8k": (["main", "socratic"], ["train", "test"]),
        "DigitalLearningGmbH/MATH-lighteval": (["algebra", "default"], ["train", "test"]),
        "google-research-datasets/mbpp": (["full", "sanitized"], ["train", "test", "validation", "prompt"]),
        "openai/openai_humaneval": (["openai_humaneval"], ["test"]),
        "metr-evals/apps": (["default"], ["train", "test"]),
        "google-research-datasets/nq_open": (["nq_open"], ["train", "validation"]),
        "some/script": ([], []),
    }

    def get_dataset_config_names(self, name: str) -> list[str]:
        if name == "some/script":
            raise RuntimeError("Dataset scripts are no longer supported, but found script.py")
        return self.HAS[name][0]

    def get_dataset_split_names(self, name: str, config: str) -> list[str]:
        return self.HAS[name][1]

    def load_dataset(self, name: str, config: str, split: str) -> list[dict[str, str]]:
        return [{"question": f"{name}:{config}/{split}"}]


@pytest.mark.parametrize(
    ("source", "purpose", "expected"),
    [
        ("gsm8k", "train", "openai/gsm8k:main/train"),
        ("gsm8k:socratic/test", "train", "openai/gsm8k:socratic/test"),
        ("openai/gsm8k", "test", "openai/gsm8k:main/test"),
        ("hendrycks/math", "train", "DigitalLearningGmbH/MATH-lighteval:default/train"),
        ("hendrycks/competition_math", "test", "DigitalLearningGmbH/MATH-lighteval:default/test"),
        ("lighteval/MATH:algebra", "train", "DigitalLearningGmbH/MATH-lighteval:algebra/train"),
        ("mbpp", "train", "google-research-datasets/mbpp:full/train"),
        ("mbpp:sanitized", "test", "google-research-datasets/mbpp:sanitized/test"),
        ("openai/humaneval", "train", "openai/openai_humaneval:openai_humaneval/test"),
        ("bigcode/apps", "train", "metr-evals/apps:default/train"),
        ("nq_open", "test", "google-research-datasets/nq_open:nq_open/validation"),
    ],
)
def test_names_that_live(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str, purpose, expected: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "datasets", Hub("datasets"))
    (table,) = read_tables(source, purpose)
    assert table.name == source
    assert table.rows[0].columns == {"question": expected}
    former = source.partition(":")[0] != expected.partition(":")[0]
    assert any("is not on the hub (as of November 2026)" in note for note in table.notes) == former


def test_notes_of_a_benchmark_and_of_what_was_taken_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", Hub("datasets"))
    (table,) = read_tables("openai_humaneval")
    assert table.notes == (
        "'openai_humaneval' is not on the hub (as of November 2026); read instead: 'openai/openai_humaneval', which "
        "holds the same data",
        "openai/openai_humaneval: has only a test split: after training on it, it measures nothing",
        "openai_humaneval: config openai_humaneval, split test",
    )
    assert "taken down from the hub in January 2025" in read_tables("hendrycks/math")[0].notes[1]


def test_loading_scripts_are_refused_with_the_reason_and_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", Hub("datasets"))
    with pytest.raises(DataError, match="is a loading script, a program that `datasets` runs no more") as caught:
        read_tables("codeparrot/apps")
    assert "Take the same data in Parquet, 'metr-evals/apps', or download" in str(caught.value)
    with pytest.raises(DataError, match=r"'some/script' is a loading script.* Take a copy in Parquet, or download"):
        read_tables("some/script")


def test_a_file_or_folder_of_a_known_name_goes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "datasets", None)
    (tmp_path / "hendrycks" / "math").mkdir(parents=True)
    (tmp_path / "hendrycks" / "math" / "a.jsonl").write_text(json.dumps(MATH))
    assert read_tables("hendrycks/math")[0].rows[0].source == "math/a.jsonl:1"
    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "gsm8k" / "a.jsonl").write_text(json.dumps(GSM8K))
    assert read_tables("gsm8k")[0].rows[0].columns["question"] == GSM8K["question"]
    with pytest.raises(DataError, match="neither a file or folder that exists nor a hub name"):
        read_tables("gsm9k")


def test_the_tables_agree() -> None:
    forms = {form.name for form in FORMS}
    assert {known.form for known in KNOWN} <= forms
    assert {form.reward for form in FORMS} == {"math", "code", "qa", "logic", "reasoning_gym"}
    names = [name for known in KNOWN for name in (known.name, *known.former)]
    assert len(names) == len(set(names)) == 23
    for known in KNOWN:
        assert re.fullmatch(r"[\w.-]+/[\w.-]+", known.name)
        assert known.script_copy is None or look_up(known.script_copy) is not None


@pytest.mark.parametrize(
    ("name", "checks"),
    [
        ("mbpp/mbpp_train.jsonl", "assert min_cost([[1, 2, 3], [4, 8, 2], [1, 5, 3]], 2, 2) == 8"),
        ("kk/3ppl_train.parquet", "A very special island is inhabited only by knights and knaves."),
    ],
)
def test_real_rows(name: str, checks: str) -> None:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{name} of the shared data is absent")
    found = load_problems([str(path)], DataFields())
    assert checks in found.problems[0].prompt
    assert not any(note.startswith("warning") for note in found.notes)
    if name.startswith("mbpp"):
        shown = [problem for problem in found.problems if "Your code must pass this test:" in problem.prompt]
        assert (len(found), len(shown)) == (474, 474)
        assert sum(problem.prompt.count("assert ") for problem in found.problems) == 474
