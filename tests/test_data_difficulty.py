"""Difficulty read from columns, slices by it, and problems that ask the same."""

import json
from decimal import Decimal
from pathlib import Path

import pytest

from gruppo.config.schema import DataFields
from gruppo.data.difficulty import DifficultySlice, difficulty_slice, read_difficulty, within
from gruppo.data.duplicates import duplicate_notes, overlap_warning
from gruppo.data.problems import load_problems
from gruppo.errors import ConfigError, DataError
from gruppo.types import Problem

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def problem(name: str, prompt: str = "?", answer: str | None = None, **columns: object) -> Problem:
    return Problem(name, prompt, answer, columns, difficulty=read_difficulty(columns))


def jsonl(path: Path, *rows: dict) -> str:
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


@pytest.mark.parametrize(
    ("columns", "difficulty"),
    [
        ({"level": "Level 3"}, 3.0),
        ({"Level": "3"}, 3.0),
        ({"DIFFICULTY": 6.5}, 6.5),
        ({"difficulty": Decimal("2.5")}, 2.5),
        ({"difficulty": "hard", "level": 4}, 4.0),
        ({"difficulty": 1, "level": 4}, 1.0),
        ({"level": " level-2 "}, 2.0),
        ({"level": "v1.5"}, 1.5),
        ({"level": 0}, 0.0),
        ({"level": "Level ?"}, None),
        ({"level": "3/5"}, None),
        ({"level": "-3"}, None),
        ({"level": True}, None),
        ({"level": None}, None),
        ({"level": float("nan")}, None),
        ({"level": [3]}, None),
        ({"levels": 3}, None),
    ],
)
def test_difficulty_is_the_one_number_in_its_column(columns: dict, difficulty: float | None) -> None:
    assert read_difficulty(columns) == difficulty


def test_slices_hold_their_bounds_and_nothing_without_difficulty() -> None:
    middle = DifficultySlice(2, 3.5)
    assert [middle.holds(value) for value in (1.9, 2, 3.5, 3.6, None)] == [False, True, True, False, False]
    assert [DifficultySlice(low=2).holds(value) for value in (1, 2, None)] == [False, True, False]
    assert not DifficultySlice().holds(None)
    assert difficulty_slice(None, None) is None
    assert difficulty_slice(None, 3) == DifficultySlice(None, 3)
    with pytest.raises(ConfigError, match="min_difficulty: 3 is above max_difficulty, 2"):
        DifficultySlice(3, 2)


def test_an_empty_slice_says_what_there_is() -> None:
    problems = [problem("a", level=1), problem("b", level="Level 4.5"), problem("c")]
    assert [p.id for p in within(problems, DifficultySlice(low=2))] == ["b"]
    with pytest.raises(DataError) as caught:
        within(problems, DifficultySlice(low=6))
    assert str(caught.value) == (
        "min_difficulty, max_difficulty: no problem has a difficulty of at least 6; 2 of 3 problems have one, "
        "from 1 to 4.5: choose bounds within that."
    )
    with pytest.raises(DataError, match="none of the 1 problems has a difficulty; give the rows a column"):
        within([problem("c")], DifficultySlice(1, 5))


def test_loading_reads_difficulty_and_source_and_keeps_what_is_within(tmp_path: Path) -> None:
    rows = [{"question": f"q{level}", "level": f"Level {level}"} for level in (1, 2, 3, 4)]
    one, two = jsonl(tmp_path / "a.jsonl", *rows), jsonl(tmp_path / "b.jsonl", {"question": "no level"})
    whole = load_problems([one, two], DataFields())
    assert [p.difficulty for p in whole.problems] == [1, 2, 3, 4, None]
    assert [p.source for p in whole.problems] == [one] * 4 + [two]
    assert "4 of 5 problems have a difficulty, from 1 to 4" in whole.notes
    upper = load_problems([one, two], DataFields(max_problems=2), limits=DifficultySlice(low=2))
    assert [p.id for p in upper.problems] == ["a.jsonl:2", "a.jsonl:3"]
    assert (
        "2 of 5 problems left out: their difficulty is not of at least 2 (min_difficulty, max_difficulty)"
        in upper.notes
    )


def test_a_folder_is_one_source(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    jsonl(folder / "a.jsonl", {"question": "a"})
    jsonl(folder / "b.jsonl", {"question": "b"})
    assert [p.source for p in load_problems([str(folder)], DataFields()).problems] == [str(folder)] * 2


def test_repeated_questions_are_counted_and_conflicting_answers_told() -> None:
    assert duplicate_notes([problem("a", "x"), problem("b", "y")]) == []
    same = [problem("a", "What is  1+1?", "2"), problem("b", "y", "3"), problem("c", " what is 1+1?\n", " 2")]
    assert duplicate_notes(same) == ["1 of 3 problems repeat the question of another (such as a and c); they are kept"]
    unlike = [
        *same,
        problem("d", "Y", "work #### 4"),
        problem("e", "y", None),
        problem("f", "What is 1+1?", "1+1 #### 2"),
    ]
    assert duplicate_notes(unlike) == [
        "4 of 6 problems repeat the question of another (such as a and c); they are kept",
        "warning: 1 questions stand more than once with different answers (such as b: '3', and d: '4'); what a "
        "completion earns there is chance: add what tells them apart to the prompt, or remove the rows that are wrong",
    ]


def test_accepted_answers_conflict_only_where_none_is_shared() -> None:
    def pair(*answers: list[str]) -> int:
        return len(duplicate_notes([problem(str(i), "x", a[0], answers=a) for i, a in enumerate(answers)]))

    assert pair(["1972", "Dec 1972"], ["dec 1972", "December"]) == 1
    assert pair(["1972"], ["1973"]) == 2


def test_conversations_are_the_same_only_with_all_their_messages() -> None:
    def talk(name: str, first: str) -> Problem:
        messages = [{"role": "system", "content": first}, {"role": "user", "content": "Why?"}]
        return problem(name, "Why?", "a", prompt_messages=messages)

    assert duplicate_notes([talk("a", "Be brief."), talk("b", "Be long.")]) == []
    assert len(duplicate_notes([talk("a", "Be brief."), talk("b", "be  brief.")])) == 1


def test_overlap_with_held_out_problems_is_counted() -> None:
    train = [problem("t:1", "One?"), problem("t:2", "Two?"), problem("t:3", "one?")]
    held_out = [problem("e:1", "three?"), problem("e:2", "ONE? "), problem("e:3", "two?")]
    assert overlap_warning(train, held_out) == (
        "2 of 3 problems of eval.data are in the training data too (e:2 is t:1, e:3 is t:2): there the evaluation "
        "measures memory; take them out of one of the two"
    )
    assert overlap_warning(train, held_out[:1]) is None
    assert overlap_warning(train, []) is None


def test_real_competition_problems_have_levels() -> None:
    path = SHARED / "math" / "math_train.jsonl"
    if not path.exists():
        pytest.skip("math/math_train.jsonl of the shared data is absent")
    hardest = load_problems([str(path)], DataFields(), limits=DifficultySlice(low=5))
    assert len(hardest) == 2297
    assert any(note.startswith("5176 of 7473 problems left out") for note in hardest.notes)


def test_real_questions_without_their_bodies_conflict() -> None:
    path = SHARED / "arith" / "svamp_70.jsonl"
    if not path.exists():
        pytest.skip("arith/svamp_70.jsonl of the shared data is absent")
    notes = load_problems([str(path)], DataFields()).notes
    assert any(note.startswith("warning: 138 questions stand more than once with different answers") for note in notes)
    whole = load_problems([str(path)], DataFields(prompt="{Body} {Question}")).notes
    assert not any("different answers" in note for note in whole)
