"""Short answers: where one is read, which are equal, and that listing them all earns nothing."""

import doctest
import json
import math
import random
import time
from pathlib import Path

import pytest

from gruppo.errors import ConfigError
from gruppo.rewards import answers, qa
from gruppo.rewards.answers import normal, token_f1
from gruppo.rewards.qa import qa_levels_warning, qa_reward, stated_answers

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def score(completion: str, answer, answers=None, **options) -> float | None:
    result = qa_reward(completion, answer, answers, **options)
    return None if result is None else result.value


@pytest.mark.parametrize("module", [answers, qa])
def test_the_examples_in_the_docstrings(module) -> None:
    outcome = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert (outcome.failed, outcome.attempted > 1) == (0, True)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("3,000", "three thousand"),
        ("3000", "3,000.0"),
        ("3.5 million", "3,500,000"),
        ("twenty-one", "21"),
        ("one hundred and five", "105"),
        ("a hundred", "100"),
        ("two thousand and one", "2001"),
        ("Twenty-first", "the 21st"),
        ("three hundred and sixty-fifth", "365th"),
        ("-7", "−7"),
        ("٣", "3"),
        ("$5 million", "5,000,000 dollars"),
        ("50%", "fifty per cent"),
        ("March 5, 1999", "1999-03-05"),
        ("5 March 1999", "Mar. 5th, 1999"),
        ("the 5th of March 1999", "Friday, March 5, 1999"),
        ("12\xa0April\xa01979", "1979/4/12"),
        ("25/12/1999", "12/25/1999"),
        ("March 1999", "mar, 1999"),
        ("5 March", "March the 5th"),
        ("U.S.", "us"),
        ("The Beatles", "beatles"),
        ("Paraná River", "PARANA RIVER"),
        ("Jean-Luc", "jean luc"),
        ("O’Neill", "O'Neill"),
        ("R&B", "R and B"),
        ("\\text{Friday}", "Friday"),
        ("10{,}000", "10000"),
        ("ﬁle", "file"),
        ("Ελλάδα", "ελλαδα"),
    ],
)
def test_ways_to_write_the_same(one: str, other: str) -> None:
    assert normal(one) == normal(other)
    assert score(f"<answer>{one}</answer>", other) == 1.0


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("7", "-7"),
        ("3.5", "35"),
        ("3/5/1999", "5/3/1999"),
        ("March 1999", "March 5, 1999"),
        ("21", "21st"),
        ("one two three", "6"),
        ("one two three", "123"),
        ("twenty twenty", "40"),
        ("thousand million", "1000000"),
        ("1,2", "12"),
        ("vitamin A", "vitamin"),
        ("C++", "C"),
        ("C#", "C"),
        ("が", "か"),
        ("हिन्दी", "हिन्द"),
        ("5 dollars", "5 euros"),
        ("1914-1918", "1914"),
        ("not Paris", "Paris"),
    ],
)
def test_what_is_not_the_same(one: str, other: str) -> None:
    assert normal(one) != normal(other)
    assert score(f"<answer>{one}</answer>", other) == 0.0


@pytest.mark.parametrize(
    ("completion", "value"),
    [
        ("Paris", 1.0),
        ("  **Paris.**\n\n", 1.0),
        ("I recall that.\nParis", 1.0),
        ("The answer is Paris.", 1.0),
        ("The answer is Paris. It lies on the Seine.", 1.0),
        ("The answer is Paris, because it is the capital.", 1.0),
        ("The final answer to the question is: *Paris*", 1.0),
        ("**Answer:**\nParis\n\nI hope this helps.", 1.0),
        ("It is Rome. The answer is Rome. No: the answer is Paris.", 1.0),
        ("so \\boxed{Paris}, the capital", 1.0),
        ("\\boxed{Rome} \\boxed{\\text{Paris}}", 1.0),
        ("#### Paris", 1.0),
        ("\\boxed{Rome}\n#### Paris\n", 1.0),
        ("<answer>Paris</answer> as asked", 1.0),
        ("<answer>Rome</answer><answer>The answer is \\boxed{Paris}</answer>", 1.0),
        ("<think>Rome? The answer is Rome.</think>Paris", 1.0),
        ("Paris</think>Rome", 0.0),
        ("<think>The answer is Paris.", 0.0),
        ("<think>Paris</think>", 0.0),
        ("\\boxed{Paris", 0.0),
        ("\\boxed{Paris} \\boxed{Rome}", 0.0),
        ("\\boxed{}", 0.0),
        ("Paris\n#### Rome", 0.0),
        ("Paris is the capital of France", 0.0),
        ("The answer is Paris or Rome.", 0.0),
        ("The answer is Paris, Rome, London.", 0.0),
        ("The answer is Paris. Rome. London.", 0.0),
        ("<answer>Paris Rome London</answer>", 0.0),
        ("<answer>Rome</answer> The answer is Paris", 0.0),
        ("The answer is not Paris", 0.0),
        ("The answer is", 0.0),
        ("Paris " * 21, 0.0),
        ("", 0.0),
    ],
)
def test_where_the_answer_is_read(completion: str, value: float) -> None:
    assert score(completion, "Paris") == value


def test_accepted_answers_come_as_text_lists_json_and_mappings() -> None:
    for answer, listed in (
        ("Rome", ["Paris", "Rome"]),
        (["Rome", "Paris"], None),
        ('["Rome", "Paris"]', None),
        ({"text": ["Paris"], "answer_start": [3]}, None),
        ({"value": "Rome", "aliases": ["Paris"]}, None),
        (None, ["Paris"]),
    ):
        assert score("Paris", answer, listed) == 1.0
        assert score("London", answer, listed) == 0.0
    assert score("7", 7.0) == 1.0
    assert score("?", "?") == 1.0
    assert score("!", "?") == 0.0
    for none in (None, float("nan"), [], "", " ", [None]):
        assert score("Paris", none) is None


def test_a_list_of_accepted_answers_only() -> None:
    accepted = ["Bobby Scott", "Bob Russell"]
    assert score("The answer is Bobby Scott and Bob Russell.", accepted) == 1.0
    assert score("Bob Russell, Bobby Scott", accepted) == 1.0
    assert score("Bob Russell, Bobby Scott, and Neil Diamond", accepted) == 0.0
    assert score("Bob Russell or Bobby Scott", accepted) == 0.0


def test_aliases_are_whole_names() -> None:
    groups = [["United States", "USA", "U.S.", "America"], ["UK", "United Kingdom"]]
    assert score("the U.S.A.", "United States of America", aliases=groups) == 0.0
    assert score("the U.S.A.", "America", aliases=groups) == 1.0
    assert score("North America", "America", aliases=groups) == 0.0
    assert score("United Kingdom and USA", ["america", "uk"], aliases=groups) == 1.0


def test_token_f1() -> None:
    assert score("Answer: Neil Alden Armstrong", "Neil Armstrong", mode="f1") == pytest.approx(0.8)
    assert score("Answer: Neil Alden Armstrong", ["X", "Neil Armstrong", "Neil A. Armstrong"], mode="f1") == 0.8
    assert score("5 March 1999", "March 1999", mode="f1") == pytest.approx(0.8)
    assert score("Rome", "Paris", mode="f1") == 0.0
    assert score("the Paris", "Paris", mode="f1") == 1.0
    assert token_f1(("a", "a", "b"), ("a", "b", "b")) == pytest.approx(2 / 3)
    assert token_f1((), ("a",)) == 0.0
    result = qa_reward("Answer: Neil Alden Armstrong", "Neil Armstrong")
    assert result is not None
    assert (result.value, dict(result.parts)) == (0.0, {"exact": 0.0, "f1": 0.8})
    assert result.reason == "'Neil Alden Armstrong' is none of the 1 accepted answers; token F1 0.80"


def test_the_users_own_levels() -> None:
    levels = (1.0, -0.5, 0.0)
    texts = ["Neil Armstrong", "Neil Alden Armstrong", "Buzz Aldrin", "", "Armstrong Aldrin Collins Neil Buzz Mike"]
    given = [score(text, "Neil Armstrong", mode="levels", levels=levels) for text in texts]
    assert given == [1.0, -0.5, 0.0, 0.0, -0.5]
    strict = [score(text, "Neil Armstrong", mode="levels", levels=levels, partial_at=0.6) for text in texts]
    assert strict == [1.0, -0.5, 0.0, 0.0, 0.0]
    assert qa_levels_warning((1.0, 0.5, 0.0)) is None
    assert qa_levels_warning((1.0, 0.0, 0.0)) is None
    assert qa_levels_warning(levels) == (
        "levels: partly right (-0.5) ranks below wrong (0): the model learns to be rather wrong than partly right. If "
        "that is not meant, take [1, 0, -0.5]."
    )
    assert str(qa_levels_warning((0.0, 0.5, 1.0))).startswith("levels: right (0) ranks no higher than partly right")


def test_options_that_are_none() -> None:
    for wrong in ({"mode": "f2"}, {"levels": (1.0, 0.0)}):
        with pytest.raises(ConfigError, match="wanted exact, f1 or levels, and three numbers"):
            qa_reward("", "x", **wrong)


FORMS = (
    "So the answer is {}.",
    "<think>I recall it.</think>\n<answer>{}</answer>",
    "I remember this one.\n{}",
    "So it must be \\boxed{{{}}}.",
    "Some thoughts.\n\n**Answer:** {}",
)


def test_every_accepted_answer_of_real_questions_in_each_form() -> None:
    path = SHARED / "nq_open" / "NQ-open.dev.jsonl"
    if not path.exists():
        pytest.skip("nq_open of the shared data is absent")
    rows = [json.loads(line)["answer"] for line in path.read_text().splitlines()]
    given = [(form, text, score(form.format(text), row[0], row)) for row in rows for text in row for form in FORMS]
    assert len(given) == 32_450
    # Its one answer of a single sign is taken for the mark of bold text there.
    assert [(form[:3], text) for form, text, value in given if value != 1.0] == [("So ", "*"), ("Som", "*")]
    others = rows[1:] + rows[:1]
    wrong = [
        (row, other[0])
        for row, other in zip(rows, others)
        if any(score(form.format(other[0]), row[0], row) for form in FORMS)
    ]
    # The next question has the same answer.
    assert wrong == [(["1980s"], "the 1980s")]


N = 10_000_000
HOSTILE = {
    "one letter": lambda: "a" * N,
    "spaces": lambda: " " * N,
    "lines": lambda: "\n" * N,
    "NUL": lambda: "\0" * N,
    "right to left": lambda: "\u202e\u05d0" * (N // 2),
    "lone surrogates": lambda: "\ud800" * N,
    "marks": lambda: "a" + "\u0315\u0300" * (N // 2),
    "long compatible sign": lambda: "\ufdfa" * N,
    "opened": lambda: "<think>" * (N // 7),
    "tags": lambda: "<answer>" * (N // 8),
    "boxes": lambda: "\\boxed{" * (N // 7),
    "phrases": lambda: "the answer is " * (N // 14),
    "phrases to": lambda: "answer to " * (N // 10),
    "digits": lambda: "1" * N,
    "commas": lambda: "1," * (N // 2),
    "dots": lambda: ". " * (N // 2),
    "number words": lambda: "one hundred and " * (N // 16),
    "scales": lambda: "million " * (N // 8),
    "dates": lambda: "March 5, 1999 " * (N // 14),
    "money": lambda: "$1,1" * (N // 4),
}


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("before", ["", "The answer is ", "<answer>", "####"])
def test_ten_megabytes_take_less_than_a_second(hostile: str, before: str) -> None:
    text = HOSTILE[hostile]()
    end = "</answer>" if before == "<answer>" else ""
    for completion in (text + before + text[:15_000] + end, before + text):
        begin = time.thread_time()  # CPU time, so that a busy machine gives the same verdict
        assert score(completion, ["Paris", "1999-03-05"]) == 0.0
        assert time.thread_time() - begin < 1.0


PIECES = [
    *"abé \n.,$`<>\\{}[]()#*|:;'\"-+_%&0123/\0\u202e\u0301\ud800\udfff東かแ🙂ß٣²",
    "<think>",
    "</think>",
    "<answer>",
    "</answer>",
    "\\boxed{",
    "the answer is ",
    "one ",
    "hundred ",
    "and ",
    "million ",
    "twenty-",
    "first ",
    "March ",
    "1999",
    "12/",
    "####",
]


def test_any_text_gives_a_number_in_the_range() -> None:
    draw = random.Random(21)
    for _ in range(6000):
        text = "".join(draw.choices(PIECES, k=draw.randrange(40)))
        answer = "".join(draw.choices(PIECES, k=draw.randrange(8)))
        result = qa_reward(text, answer, mode=draw.choice(["exact", "f1"]))
        assert isinstance(stated_answers(text), tuple)
        if result is not None:
            assert 0 <= result.value <= 1, (text, answer)
            assert result.reason
            assert all(math.isfinite(part) for part in result.parts.values())
        assert normal(text) == normal(text.casefold())
