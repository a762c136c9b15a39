"""The completion that must score full, and the reward that the data asks for."""

import json
from pathlib import Path
from typing import Any

import pytest

from gruppo.config.schema import DataFields
from gruppo.data.gold import default_reward, gold_completion
from gruppo.data.problems import load_problems
from gruppo.rewards import math_reward
from gruppo.types import Problem

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"

MBPP = {"text": "Double it.", "code": "def twice(n):\r\n  return 2 * n\r\n", "test_list": ["assert twice(2) == 4"]}
HUMANEVAL = {
    "prompt": 'def add(a, b):\n    """Sum."""\n',
    "canonical_solution": "    return a + b\n",
    "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n",
    "entry_point": "add",
}
APPS = {
    "question": "Sum.",
    "solutions": '["print(3)", "print(1 + 2)"]',
    "input_output": '{"inputs": [""], "outputs": ["3"]}',
}
KK = {"quiz": "Who?", "names": ["Ann", "Bob"], "solution": [True, False]}
MATH = {"problem": "1/2+1/4?", "solution": "It is \\boxed{\\frac{3}{4}}.", "level": "Level 1"}
GSM8K = {"question": "3+4?", "answer": "3+4=7\n#### 7"}
NQ = {"question": "who", "answer": ["Ann Lee", "Ann"]}
OWN = {"problem": "Write f.", "tests": ["assert f(1)"], "solution": "```python\nf = bool\n```"}
GYM = {"question": "1+1 =", "answer": "2", "metadata": {"source_dataset": "chain_sum"}}


def loaded(tmp_path: Path, *rows: dict[str, Any], **fields: Any) -> tuple[Problem, ...]:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return load_problems([str(path)], DataFields(**fields)).problems


@pytest.mark.parametrize(
    ("row", "gold", "reward"),
    [
        (GSM8K, "3+4=7\n#### 7", "math"),
        (MATH, "It is \\boxed{\\frac{3}{4}}.", "math"),
        (MBPP, "```python\ndef twice(n):\n  return 2 * n\n```", "code"),
        (HUMANEVAL, '```python\ndef add(a, b):\n    """Sum."""\n    return a + b\n```', "code"),
        (APPS, "```python\nprint(3)\n```", "code"),
        (APPS | {"solutions": ""}, None, "code"),
        (OWN, "```python\nf = bool\n```", "code"),
        (KK, "(1) Ann is a knight\n(2) Bob is a knave", "logic"),
        (
            KK | {"solution_text": "Ann is a knight, and Bob is a knave."},
            "Ann is a knight, and Bob is a knave.",
            "logic",
        ),
        (NQ, "The answer is Ann Lee.", "qa"),
        (GYM, "<answer>2</answer>", "reasoning_gym"),
        ({"input": "2+2?", "target": 4.0}, "The answer is \\boxed{4}.", "math"),
        ({"problem": "x?", "solution": "long \\boxed{1}", "answer": "2"}, "The answer is \\boxed{2}.", "math"),
        ({"question": "brace?", "answer": "a {"}, "The answer is a {.", "math"),
        ({"question": "open"}, None, None),
    ],
)
def test_gold_and_reward_of_each_form(tmp_path: Path, row: dict, gold: str | None, reward: str | None) -> None:
    (problem,) = loaded(tmp_path, row)
    assert gold_completion(problem) == gold
    assert default_reward([problem]) == reward


def test_an_answer_template_makes_the_gold(tmp_path: Path) -> None:
    (problem,) = loaded(tmp_path, MATH | {"final": "0.75"}, answer="{final}")
    assert gold_completion(problem) == "The answer is \\boxed{0.75}."


def test_problems_of_several_kinds_have_no_one_reward(tmp_path: Path) -> None:
    (math,) = loaded(tmp_path, GSM8K)
    (code,) = loaded(tmp_path, MBPP)
    (none,) = loaded(tmp_path, {"question": "open"})
    assert default_reward([math, code]) is None
    assert default_reward([math, none]) == "math"
    assert default_reward([]) is None


@pytest.mark.parametrize("name", ["gsm8k/train.jsonl", "arith/mawps_70.jsonl", "arith/asdiv_70.jsonl"])
def test_real_gold_scores_full(name: str) -> None:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{name} of the shared data is absent")
    problems = load_problems([str(path)], DataFields()).problems
    assert default_reward(problems) == "math"
    failed = [p.id for p in problems if math_reward(gold_completion(p) or "", p.answer or "") != 1.0]
    assert failed == []


def test_real_gold_of_math_scores_full_where_the_answer_is_not_refused() -> None:
    path = SHARED / "math" / "math_train.jsonl"
    if not path.exists():
        pytest.skip("math_train.jsonl of the shared data is absent")
    problems = load_problems([str(path)], DataFields(max_problems=1000)).problems
    answered = [p for p in problems if p.answer is not None]
    failed = [p.answer for p in answered if math_reward(gold_completion(p) or "", p.answer or "") != 1.0]
    assert len(answered) == 999
    assert failed == []


def test_real_gold_programs_pass_their_own_tests() -> None:
    path = SHARED / "mbpp" / "mbpp_train.jsonl"
    if not path.exists():
        pytest.skip("mbpp_train.jsonl of the shared data is absent")
    problems = load_problems([str(path)], DataFields()).problems
    assert default_reward(problems) == "code"
    assert sum(gold_completion(problem) is None for problem in problems) == 0
    for problem in problems[:40]:
        names: dict[str, Any] = {}
        exec((gold_completion(problem) or "").removeprefix("```python\n").removesuffix("```"), names)
        for test in problem.columns["tests"]:
            exec(test, names)


def test_real_puzzles_and_questions() -> None:
    puzzles, questions = SHARED / "kk" / "3ppl_train.parquet", SHARED / "nq_open" / "NQ-open.dev.jsonl"
    if not puzzles.exists() or not questions.exists():
        pytest.skip("kk or nq_open of the shared data is absent")
    found = load_problems([str(puzzles)], DataFields()).problems
    assert default_reward(found) == "logic"
    assert gold_completion(found[0]) == "Michael is a knight, Zoey is a knight, and Ethan is a knight."
    found = load_problems([str(questions)], DataFields()).problems
    assert default_reward(found) == "qa"
    assert gold_completion(found[0]) == "The answer is 14 December 1972 UTC."
