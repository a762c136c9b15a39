"""The math reward on made and on real answers; what could hang is refused with a reason."""

import json
from itertools import pairwise
from pathlib import Path

import pytest

from gruppo.rewards.math import math_reward, reference_answer, stated_answer

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def rows(name: str) -> list[dict]:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{name} of the shared data is absent")
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("95-59 = 36 #### 36", "36"),
        ("#### 1\n#### 2\nmore", "2"),
        ("so \\boxed{\\frac{1}{2}} it is", "\\frac{1}{2}"),
        ("\\boxed{1} then \\boxed{2", "1"),
        ("\\boxed{\\boxed{5}}", "5"),
        ("\\boxed{ \\{1, 2\\} }", "\\{1, 2\\}"),
        ("#### Step 2: add\nso \\boxed{28}.", "28"),
        ("\\boxed{27}\n#### 28", "28"),
        ("#### \\boxed{5}", "5"),
        ("The answer is 7. No: the answer is: **3.5**.", "3.5"),
        ("\\boxed{}", None),
        ("####", None),
        ("I think 12", None),
        ("", None),
        ("\\boxed{1}" + " " * 20_000, None),
    ],
)
def test_the_stated_answer(text: str, answer: str | None) -> None:
    assert stated_answer(text) == answer


@pytest.mark.parametrize(
    ("stated", "gold", "score"),
    [
        ("72", "Natalia sold ... #### 72", 1.0),
        ("1,234", "1234", 1.0),
        ("$5.00", "5", 1.0),
        ("50\\%", "50", 1.0),
        ("50%", "0.5", 0.0),
        ("28", "28 (packs)", 1.0),
        ("28 packs", "28 (bags of rice)", 1.0),
        ("5 million", "5", 0.0),
        ("1/2", "\\frac{1}{2}", 1.0),
        ("0.5", "\\frac12", 1.0),
        ("0.333333", "1/3", 1.0),
        ("0.3333", "1/3", 0.0),
        ("10000001", "10000000", 0.0),
        ("7.", "7", 1.0),
        ("-7", "7", 0.0),
        ("1\\frac{9}{10}", "1.9", 1.0),
        ("007", "7", 1.0),
        ("10{,}000", "10,000", 1.0),
        ("friday", "Friday", 1.0),
        ("\\text{Friday}", "Friday", 1.0),
        ("x^2+2x+1", "(x+1)^2", 1.0),
        ("x^2+2x", "(x+1)^2", 0.0),
        ("(1, 2)", "(1,2)", 1.0),
        ("(2, 1)", "(1,2)", 0.0),
        ("1+\\sqrt{2}", "\\sqrt{2}+1", 1.0),
        ("k=\\frac{-33}{2}", "k = -\\frac{33}{2}", 1.0),
        ("[0,3)", "[0,3]", 0.0),
        ("1/0", "0", 0.0),
    ],
)
def test_scores(stated: str, gold: str, score: float) -> None:
    assert math_reward(f"so \\boxed{{{stated}}}", gold).value == score


@pytest.mark.parametrize(
    ("stated", "reason"),
    [
        ("9^{9^{9^9}}", "a stacked power"),
        ("((9^{9})^{9})^{9}", "a stacked power"),
        ("9**9**9", "a stacked power"),
        ("9^{99999}", "a large power"),
        ("9^{99*99*99}", "a large power"),
        ("(x+y)^{500}", "a large power"),
        ("99999999!", "a factorial"),
        ("\\sum_{n=1}^{99} n", "a sum, product, integral, limit or binomial"),
        ("\\frac{y}{123456789 \\ln 10}", "a long number beside a function"),
        ("\\sin(\\sin(x))", "a function in a function"),
        ("\\sqrt[999]{\\pi}", "a large root"),
        ("x" * 257, "more than 256 characters"),
        ("(" * 25 + ")" * 25, "more than 24 brackets"),
        ("1" * 41 + "x", "a number of more than 40 digits"),
    ],
)
def test_what_could_hang_is_refused_but_may_be_the_reference_word_for_word(stated: str, reason: str) -> None:
    result = math_reward(f"\\boxed{{{stated}}}", "x+3")
    assert (result.value, result.reason) == (0.0, f"the answer has {reason}, which is not evaluated")
    assert math_reward(f"\\boxed{{{stated}}}", stated).value == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "\\boxed{" * 2000,
        "{" * 16_000,
        "\\boxed{" + "(" * 8000 + "}",
        "\\boxed{\x00\ud800}",
        "\\boxed{\\}",
        "#" * 16_000,
        "the answer is " * 1200,
        "\\boxed{" + "9" * 16_000 + "}",
        "\\boxed{\\frac{}{}}",
        "\\boxed{٣}",
    ],
)
def test_any_text_gives_a_score_and_a_reason(text: str) -> None:
    result = math_reward(text, "3")
    assert result.value == 0.0
    assert result.reason


def test_reasons() -> None:
    assert math_reward("no idea", "3").reason == "no answer found"
    assert math_reward("#### 4", "3").reason == "4 is not 3"
    assert math_reward("#### 3.0", "3").reason == "3.0 equals 3"
    assert reference_answer("first \\boxed{7}") == "7"


def test_every_reference_of_gsm8k_is_right_by_itself() -> None:
    answers = [row["answer"] for row in rows("gsm8k/train.jsonl")]
    assert len(answers) == 7473
    assert sum(math_reward(answer, answer).value for answer in answers) == 7473
    shifted = sum(math_reward(one, other).value for one, other in pairwise(answers))
    assert shifted == 75


def test_labels_of_real_model_outputs() -> None:
    # The one that differs is labelled wrong for saying 10000 where the reference is 10{,}000.
    judged = [
        (row["idx"], math_reward(text, row["answer"]).value == 1.0, label)
        for row in rows("verifier/qwen_outputs_30.jsonl")
        for text, label in zip(row["code"], row["score"])
    ]
    assert len(judged) == 240
    assert [judgement for judgement in judged if judgement[1] != judgement[2]] == [(72, True, False)]


def test_reference_answers_with_units_of_real_word_problems() -> None:
    answers = [row["answer"] for row in rows("arith/asdiv_70.jsonl")]
    assert sum(math_reward(f"#### {answer.split(' (')[0]}", answer).value for answer in answers) == 1550
