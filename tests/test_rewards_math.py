"""The math reward on made and on real answers: which answer is taken, when it is equal, and what is no answer."""

import json
import time
from itertools import pairwise
from pathlib import Path

import pytest

from gruppo.errors import RewardError
from gruppo.rewards.math import math_fast, math_reward, reference_answer, stated_answer

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
        ("I think 12", "12"),
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
    ("completion", "gold"),
    [
        ("$5", "5"),
        ("5 dollars", "\\$5"),
        ("\\boxed{5\\text{ cm}}", "5"),
        ("\\boxed{50\\%}", "50"),
        ("1,234,567", "1234567"),
        ("#### 3/4", "0.75"),
        ("\\boxed{1\\frac12}", "1.5"),
        ("1 1/2", "3/2"),
        ("\\boxed{1.5\\times10^3}", "1500"),
        ("1.5e3", "1500"),
        ("5 million", "5,000,000"),
        ("\\boxed{(1,2)}", "(1, 2)"),
        ("\\boxed{[0,3)}", "[0, 3)"),
        ("\\boxed{\\{3,2,1\\}}", "1,2,3"),
        ("\\boxed{x\\in(1,2)}", "(1,2)"),
        ("\\boxed{1<x<2}", "(1,2)"),
        ("\\boxed{x \\geq 3}", "[3,\\infty)"),
        ("\\boxed{\\begin{bmatrix}1&2\\\\3&4\\end{bmatrix}}", "\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}"),
        ("(B)", "B"),
        ("B. 42", "B"),
        ("Answer: B", "B"),
        ("The answer is (B).", "B"),
        ("The correct answer is B) Paris", "(B)"),
        ("\\boxed{\\text{(B)}}", "B"),
        ("\\boxed{B. 42}", "42"),
        ("It happens on Tuesday.", "Tuesday"),
        ("\\boxed{\\text{Tuesday}}", "tuesday"),
        ("x = 5", "5"),
        ("\\boxed{5}", "x=5"),
        ("So x = 2 + 3 = 5.", "5"),
        ("\\boxed{30^\\circ}", "30"),
        ("30 degrees", "30^\\circ"),
        ("3:4", "3 : 4"),
        ("\\boxed{3:4}", "3:4"),
        ("3/4", "3:4"),
        ("3:30 PM", "3:30 p.m."),
        ("15:30", "3:30 p.m."),
        ("03:30", "3:30"),
        ("<think>I guess \\boxed{7}</think>The answer is 5", "5"),
        ("<think>3</think>\\boxed{5}", "5"),
        ("<think>hm</think><answer>5</answer>", "5"),
        ("<think>\\boxed{5}</think>", "5"),
        ("Natalia sold 48 + 24 = 72 clips altogether in May.", "72"),
        ("Natalia sold 72 clips.", "72"),
        ("She had 24. Then she sold more. She now has 72.", "72"),
        ("$$x = \\frac{1}{2}$$", "0.5"),
        ("So\n\\[\n\\frac{1}{2}\n\\]\n", "1/2"),
        ("**Answer:** 42", "42"),
        ("### Final Answer\n42", "42"),
        ("**Final Answer**: $42$", "42"),
        ("The final answer is $\\boxed{42}$. I hope it is correct.", "42"),
        ("the answer to the question is 42 because 40+2 makes it", "42"),
        ("\\boxed{\\sqrt{8}}", "2\\sqrt{2}"),
        ("\\boxed{2*sqrt(2)}", "2\\sqrt2"),
        ("\\boxed{3*x**2}", "3x^2"),
        ("\\boxed{\\pm 5}", "5,-5"),
        ("\\boxed{5,-5}", "\\pm 5"),
        ("\\boxed{2 \\text{ or } 3}", "3,2"),
        ("\\boxed{\\frac{\\pi}{2}}", "\\pi/2"),
        ("\\boxed{2π}", "2\\pi"),
        ("\\boxed{√2}", "\\sqrt{2}"),
        ("\\boxed{120}", "5!"),
        ("\\boxed{\\binom{10}{3}}", "120"),
        ("\\boxed{\\sum_{n=1}^{10} n}", "55"),
        ("\\boxed{10001}", "10001_2"),
        ("\\boxed{10001_{2}}", "10001_2"),
        ("\\boxed{\\sqrt2\\approx1.414}", "\\sqrt2"),
        ("\\boxed{y = x+2}", "x+2"),
        ("\\boxed{x+2}", "y=x+2"),
        ("\\boxed{2y=4x}", "y=2x"),
        ("$12$", "12"),
        ("The area is 12 cm^2.", "12"),
        ("\\boxed{12\\pi\\text{ cm}^2}", "12\\pi"),
        ("6th", "6"),
        ("The probability is 1/4.", "\\frac14"),
        ("-7", "−7"),
        ("\\boxed{-\\frac{1}{2}}", "-0.5"),
        ("\\boxed{\\frac{-1}{2}}", "-1/2"),
        ("\\boxed{(x-1)(x+1)}", "x^2-1"),
        ("\\boxed{(-\\infty,1)\\cup(2,\\infty)}", "(2,\\infty)\\cup(-\\infty,1)"),
        ("\\boxed{1+2i}", "2i+1"),
        ("\\boxed{e^{i\\pi}}", "-1"),
        ("\\boxed{\\{5\\}}", "5"),
        ("True", "true"),
        ("#### 10 000", "10000"),
        ("#### The answer is 5", "5"),
        ("50 cents", "50"),
        ("\\boxed{[1, 2, 3]}", "(1,2,3)"),
    ],
)
def test_right_in_this_form(completion: str, gold: str) -> None:
    result = math_reward(completion, gold)
    assert (result.value, result.parts["lenient"]) == (1.0, 1.0), result.reason


@pytest.mark.parametrize(
    ("completion", "gold"),
    [
        ("1, 2, 3, 4, 5", "3"),
        ("1 2 3 4 5", "5"),
        ("\\boxed{3 or 4}", "4"),
        ("\\boxed{3, 4}", "4"),
        ("\\boxed{3=4}", "4"),
        ("\\boxed{1 2 3}", "6"),
        ("The answer is 3 or 4 or 5", "5"),
        ("A or B", "B"),
        ("(A)(B)(C)", "B"),
        ("A, B, C", "B"),
        ("It could be 3, but also 4", "4"),
        ("The answer is not 5", "5"),
        ("\\boxed{5", "5"),
        ("the answer is \\boxed{5", "5"),
        ("<think>\\boxed{5}", "3"),
        ("<think>it is 5", "5"),
        ("\\boxed{(5,-7)}", "(2,-1)"),
        ("\\boxed{(2,1)}", "(1,2)"),
        ("\\boxed{(1,2]}", "(1,2)"),
        ("\\boxed{5ab}", "5xy"),
        ("\\boxed{10001_3}", "10001_2"),
        ("\\boxed{y=5}", "x=5"),
        ("3:4", "4:3"),
        ("6:8", "3:4"),
        ("3:30 a.m.", "3:30 p.m."),
        ("5 minutes", "5 hours"),
        ("50 cents", "$50"),
        ("Wednesday", "Tuesday"),
        ("Monday Tuesday Wednesday", "Tuesday"),
        ("\\boxed{\\text{I think }3}", "3"),
        ("\\boxed{x}", "5"),
        ("\\boxed{1=1}", "x=1"),
        ("\\boxed{\\emptyset}", "(3,1)"),
        ("\\boxed{1/0}", "\\infty"),
        ("\\boxed{\\mathbb{R}}", "5"),
        ("\\boxed{[4,6]}", "5"),
        ("\\boxed{5\\pm 1}", "6"),
        ("\\boxed{1,2,3,4,5,6}", "1,2,3"),
        ("\\boxed{-1}", "1"),
        ("\\boxed{0.33}", "1/3"),
        ("\\boxed{1e-9}", "0"),
        ("\\boxed{2\\times10^{-8}}", "1\\times10^{-8}"),
        ("\\boxed{5\\approx 7}", "7"),
        ("\\boxed{5\\mid6}", "6"),
        ("\\boxed{5\\\\6}", "6"),
        ("\\boxed{5\\ 6}", "56"),
        ("\\boxed{5\\ 6}", "6"),
        ("\\boxed{5\\quad 6}", "11"),
        ("\\boxed{A}", "B"),
        ("\\boxed{}", "5"),
        ("", "5"),
        ("5", ""),
        ("", ""),
        ("the answer is", "is"),
        ("\\boxed{n}", "5"),
        ("\\boxed{x>0}", "5"),
        ("\\boxed{5 \\text{ or maybe } 6}", "6"),
        ("\\boxed{\\text{5 or 6}}", "6"),
        ("5 apples and 6 pears", "6"),
        ("\\boxed{\\{4,5\\}}", "5"),
        ("\\boxed{\\begin{pmatrix}1&2\\end{pmatrix}}", "\\begin{pmatrix}1\\\\2\\end{pmatrix}"),
        ("\\boxed{\\begin{pmatrix} 7 \\\\ 0 \\end{pmatrix}}", "\\begin{pmatrix} 4 \\\\ 0 \\end{pmatrix}"),
        ("\\boxed{x^2}", "x^3"),
        ("\\boxed{5 or x}", "5"),
    ],
)
def test_wrong_or_no_answer(completion: str, gold: str) -> None:
    result = math_reward(completion, gold)
    assert (result.value, dict(result.parts)) == (0.0, {"strict": 0.0, "lenient": 0.0}), result.reason


@pytest.mark.parametrize(
    ("completion", "gold", "reason"),
    [
        ("####  4", "3", "####: 4 is not 3"),
        ("\\boxed{3.0}", "3", "boxed: 3.0 equals 3"),
        ("The answer is 3.", "3", "the answer is: 3 equals 3"),
        ("So 1 + 2 = 3.", "3", "last line: 3 equals 3"),
        ("<answer>3</answer>", "3", "answer tag: 3 equals 3"),
        ("<think>\\boxed{3}</think>", "3", "boxed in the reasoning: 3 equals 3"),
        ("<think>so 3", "3", "no answer found: the reasoning has no end"),
        ("<think>" + "1 < 2. " * 4000 + "So 3", "3", "no answer found: the reasoning has no end"),
        ("<think>" + "1 < 2. " * 4000 + "</think>So 3", "3", "last line: 3 equals 3"),
        ("The answer is 3. <think>or 4", "3", "the answer is: 3 equals 3"),
        ("", "3", "no answer found"),
        ("\\boxed{}", "3", "no answer found: boxed with nothing in it"),
        ("\\boxed{3", "3", "no answer found: an unclosed box"),
        ("The answer is not 3.", "3", "no answer found: a denial"),
        ("It is 3, 4, or 5 I guess", "3", "no answer found: last line has 3 different numbers"),
        ("\\boxed{" + "x" * 60 + "}", "3", "boxed: " + "x" * 37 + "... is not 3"),
    ],
)
def test_reasons_say_how_the_answer_was_found_and_what(completion: str, gold: str, reason: str) -> None:
    assert math_reward(completion, gold).reason == reason


@pytest.mark.parametrize(
    ("completion", "strict", "lenient"),
    [
        ("\\boxed{5}", 1.0, 1.0),
        ("#### 5", 1.0, 1.0),
        ("<think>3?</think> #### 5", 1.0, 1.0),
        ("The answer is 5.", 0.0, 1.0),
        ("5", 0.0, 1.0),
        ("<think>\\boxed{5}</think>", 0.0, 1.0),
        ("<think>\\boxed{5}", 0.0, 1.0),
        ("<answer>5</answer>", 0.0, 1.0),
        ("<answer>\\boxed{5}</answer>", 1.0, 1.0),
        ("\\boxed{4} so the answer is 5", 0.0, 0.0),
        ("<think>\\boxed{5}</think> \\boxed{4}", 0.0, 0.0),
    ],
)
def test_both_scores_are_always_there(completion: str, strict: float, lenient: float) -> None:
    parts = {"strict": strict, "lenient": lenient}
    for wanted, value in ((True, strict), (False, lenient)):
        result = math_reward(completion, "5", strict=wanted)
        assert (result.value, dict(result.parts)) == (value, parts)
    if strict < lenient:
        assert math_reward(completion, "5", strict=True).reason.endswith("but is not in a box or after ####")


@pytest.mark.parametrize(
    ("stated", "gold", "tolerance", "score"),
    [
        ("3.14", "3.14159", 0.001, 1.0),
        ("3.13", "3.14159", 0.001, 0.0),
        ("101", "100", 0.01, 1.0),
        ("102", "100", 0.01, 0.0),
        ("99", "100", 0.0, 0.0),
        ("-100", "100", 0.5, 0.0),
        ("1.414", "\\sqrt{2}", 0.001, 1.0),
        ("1.5", "\\sqrt{2}", 0.001, 0.0),
        ("(1.001,2)", "(1,2)", 0.01, 1.0),
        ("1.01x", "x", 0.1, 0.0),
        ("0.1", "0", 0.5, 0.0),
    ],
)
def test_tolerance(stated: str, gold: str, tolerance: float, score: float) -> None:
    assert math_reward(f"\\boxed{{{stated}}}", gold, tolerance=tolerance).value == score


@pytest.mark.parametrize("tolerance", [-0.1, float("nan"), float("inf")])
def test_a_tolerance_that_is_none_is_refused(tolerance: float) -> None:
    with pytest.raises(RewardError, match=r"math: tolerance is .*; wanted a number from 0, such as 0.01"):
        math_reward("1", "1", tolerance=tolerance)


def test_the_fast_path_leaves_expressions_and_only_those() -> None:
    assert math_fast("\\boxed{x+1}", "1+x") is None
    assert math_fast("\\boxed{5!}", "120") is None
    assert math_fast("#### 5", "5", strict=True) == 1.0
    decided = [math_fast(text, "5") for text in ("5", "#### 6", "\\boxed{5, 6}", "no idea", "\\boxed{1 2}", "")]
    assert decided == [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]


def test_the_fast_path_is_fast() -> None:
    """100,000 a second on the machine of benchmarks/rewards.md; half of that is asked of any."""
    rates = []
    for _ in range(5):
        start = time.process_time()
        for _ in range(2000):
            math_fast("#### 72", "72")
        rates.append(2000 / (time.process_time() - start))
    assert max(rates) > 50_000


def test_the_reference_may_be_a_solution() -> None:
    assert reference_answer("first \\boxed{7}") == "7"
    assert reference_answer("Natalia sold ... #### 72") == "72"
    assert reference_answer(" Tuesday ") == "Tuesday"


def test_an_answer_is_the_same_in_every_call() -> None:
    cases = [("\\boxed{\\sin^2 x + \\cos^2 x}", "1"), ("\\boxed{x^2-1}", "(x-1)(x+1)"), ("1 or 2", "2")]
    first = [math_reward(*case) for case in cases]
    assert [result.value for result in first] == [1.0, 1.0, 0.0]
    again = [math_reward(*case) for case in reversed(cases)]
    assert [result.reason for result in reversed(again)] == [result.reason for result in first]


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
