"""The user's own completions and what is expected of them.

A row of the file has `completion`, and may have

- `id` (such as `train.jsonl:17`, as the data's problems are called) or `problem` (the question's text): of which
  problem it is a completion. Without either, a row with a question, an answer or tests of its own is a problem itself;
  one with nothing else is for the first problem of the data.
- `expect`: true or false (does it pass?), or a number (its reward).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gruppo.data.columns import ANSWER_NAMES, PROMPT_NAMES, TESTS_NAMES, as_text
from gruppo.data.forms import normalised_tests
from gruppo.data.gold import TESTS
from gruppo.data.readers import Row, read_tables
from gruppo.errors import DataError, nearest
from gruppo.types import Problem

_OURS = ("completion", "id", "problem", "expect")
_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True)
class Example:
    """A completion with what is expected of it."""

    place: str
    """File and row."""
    problem: Problem
    completion: str
    expect: bool | float | None
    """Whether it passes, its reward, or nothing."""

    def agrees(self, passed: bool, reward: float) -> bool | None:
        """Whether the rubric does as expected; None where nothing is."""
        if self.expect is None:
            return None
        if isinstance(self.expect, bool):
            return passed == self.expect
        return abs(reward - self.expect) <= _TOLERANCE * max(1.0, abs(self.expect))


def read_examples(path: str, problems: Sequence[Problem]) -> list[Example]:
    """The examples of a file, each with its problem.

    Raises:
        DataError: the file can't be read, a row has no completion, names no problem that there is, or expects what is
            neither true, false nor a number.
    """
    by_id = {problem.id: problem for problem in problems}
    by_prompt = {_squeezed(problem.prompt): problem for problem in reversed(problems)}
    rows = [row for table in read_tables(path) for row in table.rows]
    return [_example(row, problems, by_id, by_prompt) for row in rows]


def _example(
    row: Row, problems: Sequence[Problem], by_id: Mapping[str, Problem], by_prompt: Mapping[str, Problem]
) -> Example:
    completion = row.columns.get("completion")
    if not isinstance(completion, str):
        have = ", ".join(row.columns)
        raise DataError(f"--examples: {row.source}: no text in the column `completion`; there are: {have}.")
    problem = _named(row, by_id, by_prompt) or _own(row, problems[0].source) or problems[0]
    return Example(row.source, problem, completion, _expected(row))


def _named(row: Row, by_id: Mapping[str, Problem], by_prompt: Mapping[str, Problem]) -> Problem | None:
    """The problem that a row names. A `problem` beside an answer or tests is a question of the row's own."""
    name = row.columns.get("id")
    if name is not None:
        if str(name) in by_id:
            return by_id[str(name)]
        if _own(row, "") is None:
            first = next(iter(by_id))
            hint = nearest(str(name), list(by_id)[:10_000])
            raise DataError(
                f"--examples: {row.source}: there is no problem '{name}' in the data.{hint} Problems are called as "
                f"'{first}' is."
            )
    text = row.columns.get("problem")
    if not isinstance(text, str) or _reference(row):
        return None
    found = by_id.get(text) or by_prompt.get(_squeezed(text))
    if found is None:
        raise DataError(
            f"--examples: {row.source}: no problem of the data asks {text[:60]!r}; give its id, such as "
            f"'{next(iter(by_id))}', or an `answer` or `tests` beside it."
        )
    return found


def _own(row: Row, source: str) -> Problem | None:
    """The row as a problem of its own, as if of this data set."""
    asked = [name for name in PROMPT_NAMES if isinstance(row.columns.get(name), str)]
    if not _reference(row) and not [name for name in asked if name != "problem"]:
        return None
    columns = {name: value for name, value in row.columns.items() if name != "completion"}
    tests = next((columns[name] for name in TESTS_NAMES if columns.get(name) is not None), None)
    if tests is not None:
        columns[TESTS] = normalised_tests(tests)
    answer = next((as_text(columns[name]) for name in ANSWER_NAMES if columns.get(name) is not None), None)
    return Problem(row.source, str(columns[asked[0]]) if asked else "", answer, columns, source=source)


def _reference(row: Row) -> bool:
    return any(row.columns.get(name) is not None for name in (*ANSWER_NAMES, *TESTS_NAMES))


def _expected(row: Row) -> bool | float | None:
    value: Any = row.columns.get("expect")
    if value is None or isinstance(value, bool):
        return value
    words = {"true": True, "pass": True, "false": False, "fail": False}
    if isinstance(value, str) and value.strip().casefold() in words:
        return words[value.strip().casefold()]
    try:
        return float(value)
    except (TypeError, ValueError):
        raise DataError(
            f"--examples: {row.source}: expect is {value!r}; wanted true or false (does it pass?), or a number (its "
            "reward)."
        ) from None


def _squeezed(text: str) -> str:
    return " ".join(text.split())
