"""Columns found or refused, rows to problems and demonstrations; the real files where they are at hand."""

import json
from pathlib import Path

import pytest

from gruppo.config.schema import DataFields, SFTConfig
from gruppo.data.columns import as_text, find_columns, parse_template
from gruppo.data.problems import ProblemSet, load_demonstrations, load_problems
from gruppo.data.readers import Row, Table
from gruppo.errors import DataError

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def jsonl(path: Path, *rows: dict) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


def refused(source: str, **fields: str) -> str:
    with pytest.raises(DataError) as caught:
        load_problems([source], DataFields(**fields))
    return str(caught.value)


@pytest.mark.parametrize(
    ("columns", "lines"),
    [
        (["answer", "text", "question"], ["prompt: column 'question'", "answer: column 'answer'"]),
        (["INPUT", "Target"], ["prompt: column 'INPUT'", "answer: column 'Target'"]),
        (["Question", "question", "label"], ["prompt: column 'question'", "answer: column 'label'"]),
        (["problem", "Solution", "answer"], ["prompt: column 'problem'", "answer: column 'answer'"]),
        (["text", "test_list"], ["prompt: column 'text'", "answer: none", "tests: column 'test_list'"]),
        (["instruction", "ground_truth"], ["prompt: column 'instruction'", "answer: column 'ground_truth'"]),
    ],
)
def test_known_names_in_their_order_whatever_their_case(columns: list[str], lines: list[str]) -> None:
    table = Table("t", (Row("t:1", dict.fromkeys(columns, "x")),))
    assert find_columns(table, DataFields()).describe() == lines


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("007", "007"),
        (" 7 ", " 7 "),
        (7.0, "7"),
        (0.5, "0.5"),
        (12, "12"),
        (True, "True"),
        (None, None),
        (float("nan"), None),
        (["14 December", "December"], "14 December"),
        ([True, False], "[true, false]"),
        ({"a": 1}, '{"a": 1}'),
    ],
)
def test_cells_as_text(value: object, text: str | None) -> None:
    assert as_text(value) == text


def test_templates() -> None:
    names = ["Body", "question", "Question"]
    row = Row("t:1", {"Body": "B.", "question": "q", "Question": "Q?"})
    assert parse_template("{body} {Question}", names, "prompt").render(row) == "B. Q?"
    assert parse_template("{question}: {{x}} in \\boxed{}", names, "prompt").render(row) == "q: {x} in \\boxed{}"
    assert parse_template("Question", names, "prompt").sole_column == "Question"
    with pytest.raises(DataError, match=r"names the column 'bodi', but the columns are .* Did you mean 'Body'\?"):
        parse_template("{bodi}", names, "prompt")
    with pytest.raises(DataError, match=r"names 'QUESTION', which may be any of \["):
        parse_template("{QUESTION}", names, "prompt")
    with pytest.raises(DataError, match="names no column"):
        parse_template("Solve it.", names, "prompt")


def test_bad_rows_and_columns_are_named(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "f.jsonl", {"question": "a", "answer": "1"}, {"question": " ", "answer": "2"})
    assert refused(source) == (
        "f.jsonl:2: no question: column 'question' is missing or empty; fill it or remove the row."
    )
    assert "prompt (data" in refused(source, prompt="{qestion}")
    assert "Did you mean 'question'?" in refused(source, prompt="{qestion}")
    assert "Did you mean 'answer'?" in refused(source, answer="{anser}")
    assert refused(source, prompt="{question} {answer}").startswith("f.jsonl:2: the template")
    other = jsonl(tmp_path / "g.jsonl", {"foo": "a"})
    assert "has no column of a known name for the question" in refused(other)
    assert "only ['foo']; say what the question is, such as prompt: '{foo}'." in refused(other)
    lists = jsonl(tmp_path / "h.jsonl", {"question": {"a": 1}})
    assert "h.jsonl:1: column 'question' is the question, but holds a dict" in refused(lists)
    with pytest.raises(DataError, match="listed twice"):
        load_problems([other, other], DataFields())


def test_missing_answers_and_repeats_are_counted(tmp_path: Path) -> None:
    rows = [{"question": "a", "answer": 7.0}, {"question": "a", "answer": None}, {"question": "b"}]
    found = load_problems([jsonl(tmp_path / "f.jsonl", *rows)], DataFields())
    assert [problem.answer for problem in found.problems] == ["7", None, None]
    assert found.notes[1:] == (
        "2 of 3 problems have no answer (the first: f.jsonl:2)",
        "1 of 3 problems repeat the question of another (such as f.jsonl:1 and f.jsonl:2); they are kept",
    )
    assert len(load_problems([str(tmp_path / "f.jsonl")], DataFields(max_problems=2))) == 2


def test_ids_are_unique_over_sources_that_share_a_file_name(tmp_path: Path) -> None:
    one = jsonl(tmp_path / "one" / "f.jsonl", {"question": "a"})
    two = jsonl(tmp_path / "two" / "f.jsonl", {"input": "b"})
    found = load_problems([one, two], DataFields())
    assert [problem.id for problem in found.problems] == ["one/f.jsonl:1", "two/f.jsonl:1"]
    assert [problem.prompt for problem in found.problems] == ["a", "b"]
    assert [note.rpartition("; prompt: ")[2] for note in found.notes] == [
        "column 'question'; answer: none",
        "column 'input'; answer: none",
    ]


def test_a_prompt_of_chat_messages(tmp_path: Path) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    found = load_problems([jsonl(tmp_path / "f.jsonl", {"prompt": messages, "answer": "x"})], DataFields())
    assert found.problems[0].prompt == "Why?"
    assert found.problems[0].columns["prompt_messages"] == messages
    only_system = jsonl(tmp_path / "g.jsonl", {"prompt": messages[:1]})
    assert "g.jsonl:1: the messages in column 'prompt' have no text of the role 'user'." in refused(only_system)


def test_demonstrations(tmp_path: Path) -> None:
    def completions(row: dict, **fields: str) -> list[tuple[str, str]]:
        source = jsonl(tmp_path / "f.jsonl", row)
        found = load_demonstrations([source], SFTConfig(data=(source,), **fields))
        return [(item.problem.prompt, item.completion) for item in found.demonstrations]

    assert completions({"question": "q", "answer": "a", "Response": "r"}) == [("q", "r")]
    assert completions({"question": "q", "answer": "a"}) == [("q", "a")]
    assert completions({"question": "q", "cot": "c", "answer": 4}, completion="{cot} #### {answer}") == [
        ("q", "c #### 4")
    ]
    assert completions({"prompt": "q", "completion": [{"role": "assistant", "content": "yes"}]}) == [("q", "yes")]
    with pytest.raises(DataError, match=r"f\.jsonl:1: no completion"):
        completions({"question": "q", "answer": ""})
    with pytest.raises(DataError, match="no column of a known name for the completion"):
        completions({"question": "q"})


def real(name: str, **fields: str) -> ProblemSet:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{name} of the shared data is absent")
    return load_problems([str(path)], DataFields(**fields))


@pytest.mark.parametrize(
    ("name", "rows", "lines", "prompt", "answer"),
    [
        ("gsm8k/train.jsonl", 7473, "question answer", "Natalia sold clips", "Natalia sold 48/2"),
        ("arith/mawps_70.jsonl", 1445, "input target", "The cafeteria had", "7"),
        ("arith/asdiv_70.jsonl", 1550, "question answer", "How many packs of", "28 (packs)"),
        ("arith/svamp_70.jsonl", 700, "Question Answer", "How much money", "192"),
        ("math/math_train.jsonl", 7473, "problem answer", "Let \\[f(x) =", "0"),
        ("math/deepscaler_aime_train.json", 975, "problem answer", "Let $x$, $y$", "60"),
        ("mbpp/mbpp_train.jsonl", 474, "text none test_list", "Write a function", None),
        ("kk/3ppl_train.parquet", 900, "quiz solution", "A very special", "[true, true, true]"),
        ("nq_open/NQ-open.dev.jsonl", 3610, "question answer", "when was the last", "14 December 1972 UTC"),
    ],
)
def test_real_files(name: str, rows: int, lines: str, prompt: str, answer: str | None) -> None:
    found = real(name)
    first = found.problems[0]
    assert len(found) == rows
    assert (
        " ".join(line.rpartition(": ")[2].removeprefix("column ").strip("'") for line in found.mapping.describe())
        == lines
    )
    assert first.prompt.startswith(prompt)
    assert str(first.answer).startswith(str(answer))


def test_real_files_warn_of_unused_text_and_no_other() -> None:
    body = (
        "unused text column 'Body' ('Last week Fred had 47 dollars and Jason had 9...'); "
        "if the question needs it: prompt: '{Body} {Question}'"
    )
    assert real("arith/svamp_70.jsonl").mapping.warnings == (body,)
    assert [warning[:27] for warning in real("arith/asdiv_70.jsonl").mapping.warnings] == [
        "unused text column 'body' ("
    ]
    for name in ("gsm8k/train.jsonl", "arith/mawps_70.jsonl", "math/math_train.jsonl", "mbpp/mbpp_train.jsonl"):
        assert real(name).mapping.warnings == ()
    with_body = real("arith/svamp_70.jsonl", prompt="{Body} {Question}")
    assert with_body.mapping.warnings == ()
    assert with_body.problems[0].prompt.endswith("washed cars earning 34 dollars. How much money does Fred have now?")


def test_baked_in_chat_turns_are_warned_of_and_the_bare_question_is_named(tmp_path: Path) -> None:
    baked = [{"role": "user", "content": "<|im_start|>user\nWhy is the sky blue?"}]
    rows = [{"prompt": baked, "answer": "x", "riddle": f"Why is the sky over town {n} so blue?"} for n in (1, 2)]
    notes = load_problems([jsonl(tmp_path / "f.jsonl", *rows)], DataFields()).notes
    assert any("if the question needs it: prompt: '{riddle}'" in note for note in notes)
    assert any(note.startswith("2 of 2 prompts have another model's chat turns") for note in notes)


def test_real_puzzles_ask_the_bare_question_and_a_template_brings_the_warning() -> None:
    found = real("kk")
    assert len(found) == 4500
    assert not any("chat turns" in note for note in found.notes)
    assert {problem.difficulty for problem in found.problems} == {3, 4, 5, 6, 7}
    found = real("kk", prompt="{prompt}")
    assert any(note.startswith("4500 of 4500 prompts have another model's chat turns") for note in found.notes)


def test_real_accepted_answers_and_tests_are_columns() -> None:
    assert real("nq_open/NQ-open.dev.jsonl").problems[0].columns["answers"] == ["14 December 1972 UTC", "December 1972"]
    assert len(real("mbpp/mbpp_train.jsonl").problems[0].columns["tests"]) == 3
