"""The recipe for real word problems: the literal workings, the formulas found, the split, and what is written."""

import json
import sys
from decimal import Decimal
from pathlib import Path
from random import Random

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "recipes"))

from word_problems import augment, formula, rows, working  # noqa: E402

DATA = ROOT.parent / "shared" / "data" / "arith"


def d(*numbers):
    return tuple(Decimal(str(n)) for n in numbers)


@pytest.mark.parametrize(
    ("step", "text"),
    [
        (working.add(*d(4, 5)), "4+5=9"),
        (working.add(*d(47, 85)), "47+85:7+5=12,4+8+1=13=132"),
        (working.add(*d(5, 130)), "5+130:5+0=05,0+3=03,0+1=01=135"),
        (working.add(*d(5, "2.75")), "5.00+2.75:0+5=05,0+7=07,5+2=07=7.75"),
        (working.add(*d("6.51", "5.79")), "6.51+5.79:1+9=10,5+7+1=13,6+5+1=12=12.30"),
        (working.subtract(*d(52, 17)), "52-17:2-7=15,5-1-1=03=35"),
        (working.subtract(*d(100, 1)), "100-1:0-1=19,0-0-1=19,1-0-1=00=99"),
        (working.multiply(*d(6, 8)), "6*8=48"),
        (working.multiply(*d(24, 3)), "24*3:4*3=12,2*3+1=07=72"),
        (working.multiply(*d(3, 24)), "3*24:4*3=12,2*3+1=07=72"),
        (working.multiply(*d(24, 10)), "24*10=240"),
        (working.multiply(*d("1.25", 4)), "1.25*4:5*4=20,2*4+2=10,1*4+1=05=5.00"),
        (
            working.multiply(*d(24, 35)),
            "24*35:35*4:5*4=20,3*4+2=14=140,35*2:5*2=10,3*2+1=07=70,140+700:0+0=00,4+0=04,1+7=08=840=840",
        ),
        (working.divide(53, 8), "53/8=6r5"),
        (working.divide(84, 3), "84/3:8=2r2,24=8r0=28r0"),
        (working.divide(1346, 12), "1346/12:13=1r1,14=1r2,26=2r2=112r2"),
        (working.greatest_common_divisor(48, 72), "gcd(48,72):72/48=1r24,48/24=2r0=24"),
        (working.least_common_multiple(6, 8), "gcd(6,8):8/6=1r2,6/2=3r0=2;6/2=3r0;3*8=24"),
    ],
)
def test_steps_are_worked_digit_by_digit(step, text):
    assert step == text


def test_numbers_of_a_text():
    text = "On the 2nd day, 5 cats, twenty-two dogs and one of 1,250 birds ate $ 6.51 in 1/2 hour at 2:30."
    template, values, spelled = rows.split_numbers(text)
    assert template == "On the 2nd day, {0} cats, {1} dogs and {2} of {3} birds ate $ {4} in 1/2 hour at 2:30."
    assert values == d(5, 22, 1, 1250, "6.51")
    assert spelled == (False, True, True, False, False)


@pytest.mark.parametrize(
    ("text", "answer", "values", "completion"),
    [
        ("8*2=16; 8+16+6=30", 30, (8, 6), "8*2=16;8+16:8+6=14,0+1+1=02=24;24+6:4+6=10,2+0+1=03=30#### 30"),
        ("53/4=13 r1", 13, (53, 4), "53/4:5=1r1,13=3r1=13r1#### 13"),
        ("53/4=13 r1", 1, (53, 4), "53/4:5=1r1,13=3r1=13r1#### 1"),
        ("53/4=13 r1", 14, (53, 4), "53/4:5=1r1,13=3r1=13r1;13+1:3+1=04,1+0=01=14#### 14"),
        ("GCD(20,8)=4", 4, (20, 8), "gcd(20,8):20/8=2r4,8/4=2r0=4#### 4"),
        ("30+20=50", 50, (20, 30), "20+30:0+0=00,2+3=05=50#### 50"),
        ("92-(4*9)=56", 56, (92, 4, 9), "4*9=36;92-36:2-6=16,9-3-1=05=56#### 56"),
        ("1 (week) * 7 (day/week) = 7", 7, (1,), "1*7=7#### 7"),
    ],
)
def test_asdiv_formulas(text, answer, values, completion):
    node = formula.read_asdiv(text, Decimal(answer), d(*values))
    assert node is not None
    assert formula.work(formula.canonical(node, d(*values)), d(*values)) == completion


@pytest.mark.parametrize("text", ["48:64=3:4", "x+2x=96", "3, 6, 9", "5*7=12", "8"])
def test_asdiv_formulas_that_cannot_be_used(text):
    assert formula.read_asdiv(text, Decimal(12), d(5, 7)) is None


def test_mawps_formulas_are_found_by_trying():
    assert formula.search(d(75, 19, 8), Decimal(7), (2, 1, 3)) == ("/", ("-", ("slot", 0), ("slot", 1)), ("slot", 2))
    assert formula.search(d(2, 2), Decimal(4)) is None, "2+2 or 2*2: no telling"
    assert formula.search(d(11, 5, 5), Decimal(30), (2,)) == ("*", ("-", ("slot", 0), ("slot", 1)), ("slot", 2))
    assert formula.search(d(20, 3), Decimal(99)) is None


def _mawps(index, text, target, kind="singleop"):
    return {"input": text, "target": target, "type": kind, "idx": index}


def test_the_rows_of_the_three_sources():
    mawps = rows.make_row("mawps", _mawps(7, "Tom had 9 apples . He ate two .  How many are left ?", 7.0))
    assert (mawps.text, mawps.answer) == ("Tom had 9 apples . He ate two . How many are left ?", "7")
    assert mawps.formula == ("-", ("slot", 0), ("slot", 1))
    asdiv = rows.make_row(
        "asdiv",
        {"body": "53 drawings, 4 a card.", "question": "How many cards?", "answer": "13 (cards)",
         "formula": "53/4=13 r1", "idx": 520},
    )  # fmt: skip
    assert (asdiv.text, asdiv.answer, asdiv.id) == ("53 drawings, 4 a card. How many cards?", "13", "asdiv:520")
    svamp = rows.make_row(
        "svamp",
        {"Body": "He has 32 mails, 55 blocks, 8 a house", "Question": "How many houses?", "Answer": 4.0,
         "Equation": "( 32.0 / 8.0 )", "idx": 731},
    )  # fmt: skip
    assert (svamp.answer, svamp.formula) == ("4", ("/", ("slot", 0), ("slot", 2)))
    text_answer = rows.make_row(
        "asdiv",
        {"body": "Harry is 34 cm, Hermione 3 cm less.", "question": "Who is taller?", "answer": "Harry",
         "formula": "34 cm(Harry) > 34-3=31 cm(Hermione)", "idx": 1},
    )  # fmt: skip
    assert (text_answer.answer, text_answer.formula) == ("Harry", None)


def test_near_twins_of_held_out_problems_leave_training():
    held = next(i for i in range(100) if rows.is_held_out("mawps", i))
    kept = [i for i in range(100) if not rows.is_held_out("mawps", i)]
    texts = [
        (held, "Tom had 9 apples. He ate 2. How many are left?", 7.0),
        (kept[0], "Rebecca had 41 apples. Anna ate three . How many are left ?", 38.0),
        (kept[1], "Tom had 9 pears. He ate 2. How many are left?", 7.0),
        (kept[2], "What is the colour of 5 apples and 5 pears?", 99.0),
    ]
    table = [rows.make_row("mawps", _mawps(*text)) for text in texts]
    assert rows.skeleton(texts[0][1]) == "@ had # apples @ ate # @ many are left"
    train, test, twins = rows.split_rows(table)
    # He is blanked like Anna, so kept[0] is a twin; kept[2] has no formula but is no twin
    assert ([r.index for r in train], [r.index for r in test], twins) == ([kept[1]], [held], 1)


def test_redrawn_numbers_keep_the_formula_working():
    row = rows.make_row("mawps", _mawps(1, "75 apples, 19 gone, 8 a pie: how many pies ?", 7.0, "multiarith"))
    rng = Random(0)
    drawn = [augment.redraw(row, rng) for _ in range(200)]
    assert all((a - b) % c == 0 and a > b and c > 1 for a, b, c in drawn)
    assert len(set(drawn)) > 150
    assert drawn[:2] == [augment.redraw(row, rng2) for rng2 in [Random(0)] for _ in range(2)]


def test_a_drill_says_what_python_says():
    rng = Random(3)
    for _ in range(500):
        example = augment.drill(rng)
        assert example.completion.endswith(f"#### {example.answer}")
        question = example.question
        if question.startswith("remainder of "):
            a, b = question.removeprefix("remainder of ").split("/")
            assert int(example.answer) == int(a) % int(b)
        else:
            left, sign, right = next(question.partition(s) for s in "+-*/" if s in question)
            a, b = Decimal(left), Decimal(right)
            assert Decimal(example.answer) == {"+": a + b, "-": a - b, "*": a * b, "/": a / b}[sign]


def test_prepared_files_are_equal_byte_for_byte(tmp_path):
    from word_problems.prepare import Settings, prepare

    data = tmp_path / "data"
    data.mkdir()
    names = ["Tom", "Anna", "Rebecca", "Jose"]
    lines = [_mawps(i, f"At noon {names[i % 4]} had {i + 9} pears and ate {i % 7 + 2} . How many pears are left ?",
                    float(i + 7 - i % 7)) for i in range(13)]  # fmt: skip
    lines += [_mawps(i, f"Yesterday {names[i % 4]} saw {i + 3} birds and {i * 3 + 20} cows . How many in all ?",
                     float(4 * i + 23)) for i in range(13, 29)]  # fmt: skip
    (data / "mawps_x.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (data / "asdiv_x.jsonl").write_text("")
    (data / "svamp_x.jsonl").write_text("")
    settings = Settings(sft_steps=10, batch_size=8, grpo_problems=20)
    first, second = prepare(data, tmp_path / "a", settings), prepare(data, tmp_path / "b", settings)
    assert first == second
    for name in ("sft.jsonl", "train.jsonl", "test.jsonl", "model/tokenizer.json", "model/model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    assert len((tmp_path / "a" / "sft.jsonl").read_text().splitlines()) == 80


@pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data/arith is absent")
def test_the_real_files():
    table = rows.read_rows(DATA)
    train, test, twins = rows.split_rows(table)
    assert (len(table), len(test), twins, len(train)) == (3695, 769, 325, 2241)
    held_out = {rows.skeleton(row.text) for row in test}
    assert not any(rows.skeleton(row.text) in held_out for row in train)
    assert all(formula.evaluate(row.formula, row.values) == Decimal(row.answer) for row in train)
