"""Knights and knaves: every solution in many forms is right, every one with a single person flipped is wrong."""

import doctest
import itertools
import math
import random
import time
from pathlib import Path

import pytest

from gruppo.errors import RewardError
from gruppo.rewards import logic
from gruppo.rewards.logic import logic_reward

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "kk"
NAMES = ["Zoey", "Owen"]
SOLUTION = [True, False]


def puzzles() -> list[dict]:
    if not SHARED.exists():
        pytest.skip("kk of the shared data is absent")
    from pyarrow import parquet

    columns = ["names", "solution", "solution_text", "solution_text_format", "statements"]
    files = [SHARED / f"{people}ppl_train.parquet" for people in range(3, 8)]
    return [row for file in files for row in parquet.read_table(file, columns=columns).to_pylist()]


def pairs(names: list[str], roles: list[bool]) -> list[tuple[str, str]]:
    return [(name, "knight" if role else "knave") for name, role in zip(names, roles)]


def sentence(names: list[str], roles: list[bool]) -> str:
    *first, last = [f"{name} is a {kind}" for name, kind in pairs(names, roles)]
    return f"{', '.join(first)}, and {last}."


def numbered(names: list[str], roles: list[bool]) -> str:
    return "\n".join(f"({number}) {name} is a {kind}" for number, (name, kind) in enumerate(pairs(names, roles), 1))


def tagged(names: list[str], roles: list[bool]) -> str:
    return f"<think>So {names[0]} is a knight.</think>\n<answer>\n{numbered(names, roles)}\n</answer>"


def table(names: list[str], roles: list[bool]) -> str:
    return "| Name | Kind |\n|---|---|\n" + "\n".join(f"| {name} | **{kind}** |" for name, kind in pairs(names, roles))


def kinds(names: list[str], roles: list[bool]) -> str:
    groups = {kind: [name for name, other in pairs(names, roles) if other == kind] for kind in ("knight", "knave")}
    return "\n".join(f"**{kind.title()}s:** {', '.join(group) or 'none'}" for kind, group in groups.items())


def after_working(names: list[str], roles: list[bool]) -> str:
    working = f"Assume {names[-1]} is a knave. Then {names[0]} is a knight, and {names[-1]} is not a knave.\n\nSo:\n"
    return working + "\n".join(f"- {name}: {kind.title()}" for name, kind in pairs(names, roles))


FORMS = [sentence, numbered, tagged, table, kinds, after_working]


def flips(roles: list[bool]) -> list[list[bool]]:
    return [[role != (index == flipped) for index, role in enumerate(roles)] for flipped in range(len(roles))]


def check(rows: list[dict], forms_of_flips) -> tuple[int, int]:
    """How many right claims score 1, and how many wrong ones score more than 0."""
    right = wrong = 0
    for row, forms in zip(rows, forms_of_flips):
        names, solution = row["names"], row["solution"]
        right += sum(logic_reward(form(names, solution), names, solution).value for form in FORMS)
        wrong += sum(
            logic_reward(form(names, roles), names, solution).value > 0 for form in forms for roles in flips(solution)
        )
    return int(right), wrong


def test_the_examples_in_the_docstrings() -> None:
    outcome = doctest.testmod(logic)
    assert (outcome.failed, outcome.attempted) == (0, 2)


def test_real_puzzles_in_every_form_and_flips_in_one_form_each() -> None:
    rows = puzzles()
    assert len(rows) == 4500
    assert check(rows, ([form] for form in itertools.cycle(FORMS))) == (27_000, 0)


@pytest.mark.slow
def test_real_puzzles_and_flips_in_every_form() -> None:
    assert check(puzzles(), itertools.repeat(FORMS)) == (27_000, 0)


def test_the_texts_of_the_data_and_the_statements_alone() -> None:
    for row in puzzles()[::10]:
        text, names, statements = row["solution_text"], row["names"], row["statements"]
        assert logic_reward(text, names, row["solution"]).value == 1.0
        assert logic_reward(row["solution_text_format"], answer=text).value == 1.0
        assert logic_reward(text, names, statements=statements).value == 1.0
        for roles in flips(row["solution"]):
            assert logic_reward(sentence(names, roles), names, statements=statements).value == 0.0
            assert logic_reward(sentence(names, roles), solution_text=text).value == 0.0


@pytest.mark.parametrize(
    ("text", "value", "reason"),
    [
        ("Zoey is a knight and Owen a knave", 1.0, "right about all 2"),
        ("Zoey is a knight - Owen is a knave", 1.0, "right about all 2"),
        ("Zoey is not a knave, Owen isn't a knight", 1.0, "right about all 2"),
        ("Zoey cannot be a knave. Thus Owen must be a knave.", 1.0, "right about all 2"),
        ("Zoey is a knight, and the knave is Owen", 1.0, "right about all 2"),
        ("The knights are Zoey, and the knave is Owen", 1.0, "right about all 2"),
        ('{"Zoey": "knight", "Owen": "knave"}', 1.0, "right about all 2"),
        ("Zoey -> Knight\nOwen → Knave", 1.0, "right about all 2"),
        ("ZOEY is a truth-teller; OWEN is a liar", 1.0, "right about all 2"),
        ("Zoey (knight), Owen (knave)", 1.0, "right about all 2"),
        ("\\boxed{Zoey \\text{ is a knight}, Owen \\text{ is a knave}}", 1.0, "right about all 2"),
        ("<answer>Zoey is a knight. Owen is a knave. Zoey is a knight.</answer>", 1.0, "right about all 2"),
        ("Zoey is a knight. Owen is a knave. (Zoey says that Owen is a knight.)", 1.0, "right about all 2"),
        ("Owen is a knight. No! Zoey is a knight. Owen is a knave.", 1.0, "right about all 2"),
        ("Zoey is a knight. Owen is a knight.", 0.0, "wrong about Owen"),
        ("Zoey is a knight", 0.0, "nothing about Owen"),
        ("", 0.0, "nothing about Zoey, Owen"),
        ("Zoey is a knight or a knave. Owen is a knave", 0.0, "Zoey: both a knight and a knave"),
        ("Zoey is a knave or a knight. Owen is a knave", 0.0, "Zoey: both a knight and a knave"),
        ("Zoey is a knave and a knight. Owen is a knave", 0.0, "Zoey: both a knight and a knave"),
        ("Zoey is a knave/knight, Owen is a knave", 0.0, "Zoey: both a knight and a knave"),
        ("Zoey is a knave, Zoey is a knight, Owen is a knave", 0.0, "Zoey: both a knight and a knave"),
        ("<answer>Zoey is a knave. Zoey is a knight. Owen is a knave</answer>", 0.0, "Zoey: both a knight and a knave"),
        ("Zoey and Owen are knaves. Zoey and Owen are knights.", 0.0, "wrong about Owen"),
        ("Zoey is either a knight or a knave; Owen is a knave", 0.0, "nothing about Zoey"),
        ("Zoey might be a knight. Owen is a knave", 0.0, "nothing about Zoey"),
        ("If Zoey is a knight, Owen is a knave.", 0.0, "nothing about Zoey, Owen"),
        ("Zoeys is a knight, Owen is a knave", 0.0, "nothing about Zoey"),
        ("<think>Zoey is a knight, Owen is a knave", 0.0, "the reasoning never ends"),
        ("Zoey is a knight, Owen is a knave <answer>none</answer>", 0.0, "nothing about Zoey, Owen"),
    ],
)
def test_claims(text: str, value: float, reason: str) -> None:
    result = logic_reward(text, NAMES, SOLUTION)
    assert (result.value, result.reason) == (value, reason)


def test_parts() -> None:
    result = logic_reward("Zoey is a knight. Owen is a knight.", [*NAMES, "Ada"], [*SOLUTION, True])
    assert dict(result.parts) == {"named": pytest.approx(2 / 3), "right": pytest.approx(1 / 3)}
    assert result.value == 0.0


def test_any_assignment_that_fits_the_statements() -> None:
    # Each says that the other lies: two solutions.
    statements = "(('lying', 1), ('lying', 0))"
    texts = ["Zoey is a knight, Owen is a knave", "Zoey is a knave, Owen is a knight", "Zoey, Owen are knights"]
    results = [logic_reward(text, NAMES, statements=statements) for text in texts]
    assert [result.value for result in results] == [1.0, 1.0, 0.0]
    assert results[2].reason == "the words of Zoey, Owen do not fit"
    assert logic_reward("Zoey is a knight", NAMES, statements=statements).parts["right"] == 0.0


@pytest.mark.parametrize(
    "columns",
    [
        {"names": NAMES, "solution": SOLUTION},
        {"names": '["Zoey", "Owen"]', "solution": "[true, false]"},
        {"names": NAMES, "answer": "[true, false]"},
        {"answer": "Zoey is a knight, and Owen is a knave."},
        {"answer": "(1) Zoey is a knight\n(2) Owen is a knave"},
        {"names": NAMES, "solution_text": "Knights: Zoey. Knaves: Owen"},
    ],
)
def test_columns(columns: dict) -> None:
    assert logic_reward("Zoey: knight, Owen: knave", **columns).value == 1.0
    assert logic_reward("Zoey: knight, Owen: knight", **columns).value == 0.0


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({}, "wanted the columns names and solution"),
        ({"answer": "42"}, "wanted the columns names and solution"),
        ({"names": NAMES, "solution": [True]}, "wanted the columns names and solution"),
        ({"names": ["Zoey", "zoey"], "solution": SOLUTION}, "wanted up to 100 different names"),
        ({"names": NAMES, "statements": "(('lying', 2), ('lying', 0))"}, "KeyError: 2; wanted a tuple"),
        ({"names": NAMES, "statements": "(('lying', 1),)"}, "not one statement for each of the 2 people"),
        ({"names": NAMES, "statements": "__import__('os')"}, "wanted a tuple with one for each person"),
        ({"names": NAMES, "statements": "(" * 9000}, "wanted a tuple with one for each person"),
        ({"names": NAMES, "statements": "(" + "('not'," * 2000}, "wanted a tuple with one for each person"),
    ],
)
def test_a_problem_without_a_solution_is_an_error_of_the_data(columns: dict, message: str) -> None:
    with pytest.raises(RewardError, match="logic: ") as caught:
        logic_reward("Zoey is a knight", **columns)
    assert message in str(caught.value)


N = 10_000_000


@pytest.mark.parametrize(
    "piece",
    [
        "a",
        " ",
        "\n",
        "\0",
        "\u202e\u05d0",
        "\ud800",
        "Zoey ",
        "Zoey and ",
        "Zoey is a knight ",
        "knights: Zoey, ",
        "<answer>",
    ],
)
def test_ten_megabytes_take_less_than_a_second(piece: str) -> None:
    text = piece * (N // len(piece))
    begin = time.thread_time()
    result = logic_reward(text, NAMES, SOLUTION)
    assert time.thread_time() - begin < 1.0
    assert result.value == 0.0


def test_any_text_gives_a_number_in_the_range() -> None:
    draw = random.Random(22)
    pieces = [
        *"abé \n.,$`<>\\{}()#*|:;'\"-_01/&\0\u202e\u0301\ud800東",
        " is ",
        " a ",
        " knight",
        " knave",
        " not ",
        "or",
    ]
    pieces += ["Zoey", "Owen", " and ", "<think>", "</think>", "<answer>", "</answer>", "knights", "if "]
    for _ in range(5000):
        text = "".join(draw.choices(pieces, k=draw.randrange(50)))
        result = logic_reward(text, NAMES, SOLUTION)
        assert result.value in (0.0, 1.0)
        assert result.reason
        assert all(0 <= part <= 1 and math.isfinite(part) for part in result.parts.values())
