"""Data sources to problems and demonstrations, with the mapping and everything worth knowing told in notes.

1. A problem's id is the name of its file and its row (`train.jsonl:17`); where two sources share a file name,
   as much of the path stands before it as tells them apart.
2. Beside the row's own columns, reward functions find `tests` (the column of a known name), `answers` (where
   the answer is a list of accepted ones) and `prompt_messages` (where the prompt is a list of chat messages).
3. Each file is mapped by itself, so that files of different columns can stand in one list or folder.
4. A problem's difficulty is the number in its column `difficulty` or `level` (else what the form of its row says), its
   source the item of `data:` that it was read from.
5. Rows of a form in `gruppo.data.forms` become problems as it says, templates of the user's before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gruppo.config.schema import DataFields, SFTConfig
from gruppo.data.columns import (
    ColumnMapping,
    Template,
    accepted_answers,
    as_text,
    chat_messages,
    find_columns,
)
from gruppo.data.difficulty import DifficultySlice, range_of, read_difficulty, within
from gruppo.data.duplicates import ANSWERS, PROMPT_MESSAGES, duplicate_notes
from gruppo.data.forms import called_function, names_function, normalised_tests
from gruppo.data.readers import Purpose, Row, Table, read_tables
from gruppo.errors import DataError
from gruppo.types import Problem

TESTS = "tests"

_CHAT_MARKS = ("<|im_start|>", "<|start_header_id|>", "<start_of_turn>", "[INST]", "<|user|>")


@dataclass(frozen=True, slots=True)
class ProblemSet:
    """The problems of a stage."""

    problems: tuple[Problem, ...]
    mapping: ColumnMapping
    """Of the first file; the notes hold every other one that differs."""
    notes: tuple[str, ...]
    """Which column is what, what was chosen, what looks odd: each worth a line to the user."""

    def __len__(self) -> int:
        return len(self.problems)


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A problem with a completion to imitate."""

    problem: Problem
    completion: str


@dataclass(frozen=True, slots=True)
class DemonstrationSet:
    """The demonstrations of an SFT stage."""

    demonstrations: tuple[Demonstration, ...]
    mapping: ColumnMapping
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.demonstrations)


def load_problems(
    sources: Sequence[str], fields: DataFields, *, split: Purpose = "train", limits: DifficultySlice | None = None
) -> ProblemSet:
    """The problems of these sources, in their order: those within the limits, the first `fields.max_problems` of them.

    Raises DataError for a source that can't be read, a column that can't be found, a row without a question, and
    limits that no problem is within.
    """
    tables = _tables(sources, split)
    mappings = [find_columns(table, fields) for _, table in tables]
    notes = _table_notes([table for _, table in tables], mappings)
    problems = [
        _problem(row, mapping, source) for (source, table), mapping in zip(tables, mappings) for row in table.rows
    ]
    chosen = problems if limits is None else within(problems, limits)
    if limits is not None:
        notes.append(
            f"{len(problems) - len(chosen)} of {len(problems)} problems left out: their difficulty is not {limits} "
            "(min_difficulty, max_difficulty)"
        )
    chosen = chosen[: fields.max_problems]
    rated = sum(problem.difficulty is not None for problem in chosen)
    if rated:
        notes.append(f"{rated} of {len(chosen)} problems have a difficulty, {range_of(chosen)}")
    if any(mapping.answer is not None for mapping in mappings):
        without = [problem.id for problem in chosen if problem.answer is None]
        if without:
            notes.append(f"{len(without)} of {len(chosen)} problems have no answer (the first: {without[0]})")
    notes += _tests_notes(chosen)
    notes += duplicate_notes(chosen)
    notes += _prompt_notes(chosen)
    return ProblemSet(tuple(chosen), mappings[0], tuple(notes))


def load_demonstrations(sources: Sequence[str], fields: SFTConfig) -> DemonstrationSet:
    """The demonstrations of these sources: prompts as `load_problems` finds them, each with its completion.

    Raises DataError as `load_problems` does, and for a row without a completion.
    """
    tables = _tables(sources, "train")
    mappings = [find_columns(table, fields, fields.completion, demonstrations=True) for _, table in tables]
    notes = _table_notes([table for _, table in tables], mappings)
    demonstrations = [
        _demonstration(row, mapping, source) for (source, table), mapping in zip(tables, mappings) for row in table.rows
    ][: fields.max_problems]
    notes += _prompt_notes([demonstration.problem for demonstration in demonstrations])
    return DemonstrationSet(tuple(demonstrations), mappings[0], tuple(notes))


def _tables(sources: Sequence[str], split: Purpose) -> list[tuple[str, Table]]:
    """Every table with the source that it is of."""
    if not sources:
        raise DataError("data: no source given; name a file, a folder or a hub data set.")
    twice = sorted({source for source in sources if list(sources).count(source) > 1})
    if twice:
        raise DataError(f"data: listed twice: {twice}; list each source once.")
    read = [(source, table) for source in sources for table in read_tables(source, split)]
    unique = _with_unique_ids([table for _, table in read])
    return [(source, table) for (source, _), table in zip(read, unique)]


def _with_unique_ids(tables: list[Table]) -> list[Table]:
    """The tables, with parent folders before the file names that several of them share."""
    depth, unique = 1, tables
    while _labels_clash(unique):
        depth += 1
        if depth > 64:
            raise DataError(f"data: the same file twice: {[table.name for table in tables]}; list each source once.")
        unique = [_with_parents(table, depth) for table in tables]
    return unique


def _labels_clash(tables: list[Table]) -> bool:
    labels = [{row.source.rpartition(":")[0] for row in table.rows} for table in tables]
    return sum(len(label) for label in labels) > len(set().union(*labels))


def _with_parents(table: Table, depth: int) -> Table:
    path = Path(table.name).expanduser()
    if not path.exists():
        return table
    folder = path.resolve().parent
    prefix = "/".join(folder.parts[-(depth - 1) :]).removeprefix("/").replace("//", "/")
    return replace(table, rows=tuple(replace(row, source=f"{prefix}/{row.source}") for row in table.rows))


def _table_notes(tables: list[Table], mappings: list[ColumnMapping]) -> list[str]:
    """What was read and how, tables of one mapping in one line."""
    notes = [note for table in tables for note in table.notes]
    alike: dict[tuple[str, ...], list[tuple[Table, ColumnMapping]]] = {}
    for table, mapping in zip(tables, mappings):
        alike.setdefault((*mapping.describe(), *mapping.columns), []).append((table, mapping))
    for same in alike.values():
        table, mapping = same[0]
        name = table.name + (f" and {len(same) - 1} more" if len(same) > 1 else "")
        rows = sum(len(other.rows) for other, _ in same)
        notes.append(f"{name}: {rows} rows; {'; '.join(mapping.describe())}")
        notes += [f"{name}: {warning}" for warning in mapping.warnings]
        if mapping.form is not None and mapping.form.note:
            notes.append(f"{name}: rows of the form {mapping.form.name}: {mapping.form.note}")
    return notes


def _problem(row: Row, mapping: ColumnMapping, source: str) -> Problem:
    columns = dict(row.columns)
    form = mapping.form
    prompt, messages = _prompt(row, mapping.prompt)
    if form is not None and form.ask is not None and messages is None:
        prompt = form.ask(row.columns, prompt)
    if messages is not None:
        columns[PROMPT_MESSAGES] = messages
    if mapping.tests is not None:
        made = form.tests if form is not None else None
        columns[TESTS] = made(row.columns) if made else normalised_tests(row.columns.get(mapping.tests))
    answer = None
    if mapping.answer is not None:
        answer = mapping.answer.render(row)
        sole = mapping.answer.sole_column
        answers = accepted_answers(row.columns.get(sole)) if sole is not None else None
        if answers is not None and ANSWERS not in columns:
            columns[ANSWERS] = answers
    if form is not None and form.answer is not None:
        answer = form.answer(row.columns) or answer
    difficulty = read_difficulty(row.columns)
    if difficulty is None and form is not None and form.difficulty is not None:
        difficulty = form.difficulty(row.columns)
    return Problem(row.source, prompt, answer, columns, difficulty=difficulty, source=source)


def _prompt(row: Row, template: Template) -> tuple[str, list[dict[str, Any]] | None]:
    """The question of a row, and its messages where it is a conversation."""
    column = template.sole_column
    value = row.columns.get(column) if column is not None else None
    messages = chat_messages(value)
    if messages is not None:
        asked = [message["content"] for message in messages if message["role"] == "user"]
        if not asked or not isinstance(asked[-1], str) or not asked[-1].strip():
            raise DataError(f"{row.source}: the messages in column '{column}' have no text of the role 'user'.")
        return asked[-1], messages
    if isinstance(value, (list, dict)):
        raise DataError(
            f"{row.source}: column '{column}' is the question, but holds a {type(value).__name__}; wanted "
            "text or a list of chat messages. Name another column, as in prompt: '{question}'."
        )
    text = template.render(row)
    if text is None:
        wanted = f"column '{column}'" if column is not None else f"'{template.text}'"
        raise DataError(f"{row.source}: no question: {wanted} is missing or empty; fill it or remove the row.")
    return text, None


def _demonstration(row: Row, mapping: ColumnMapping, source: str) -> Demonstration:
    if mapping.completion is None:
        raise DataError(f"{row.source}: no column holds the completion.")
    column = mapping.completion.sole_column
    messages = chat_messages(row.columns.get(column)) if column is not None else None
    completion = mapping.completion.render(row) if messages is None else as_text(messages[-1]["content"])
    if completion is None or not completion.strip():
        raise DataError(
            f"{row.source}: no completion: '{mapping.completion.text}' is missing or empty; remove the row."
        )
    return Demonstration(_problem(row, mapping, source), completion)


def _tests_notes(problems: Sequence[Problem]) -> list[str]:
    """Problems whose tests are missing, or call a function that the prompt doesn't name."""
    tested = [problem for problem in problems if TESTS in problem.columns]
    notes: list[str] = []
    without = [problem.id for problem in tested if problem.columns[TESTS] is None]
    if without:
        notes.append(
            f"{len(without)} of {len(problems)} problems have no tests that can be read (the first: {without[0]})"
        )
    called = [(p, called_function(p.columns[TESTS], p.columns.get("entry_point"))) for p in tested]
    unnamed = [(p, name) for p, name in called if name is not None and not names_function(_asked(p), name)]
    if unnamed:
        problem, name = unnamed[0]
        notes.append(
            f"warning: {len(unnamed)} of {len(problems)} prompts don't name the function that their tests call (such "
            f"as '{name}' of {problem.id}), and no completion can guess it; add the name to the prompt"
        )
    return notes


def _asked(problem: Problem) -> str:
    """All that the model is told."""
    messages = problem.columns.get(PROMPT_MESSAGES)
    return problem.prompt if messages is None else "\n".join(str(message["content"]) for message in messages)


def _prompt_notes(problems: Sequence[Problem]) -> list[str]:
    marked = [problem.id for problem in problems if any(mark in problem.prompt for mark in _CHAT_MARKS)]
    if not marked:
        return []
    return [
        f"{len(marked)} of {len(problems)} prompts have another model's chat turns in them (the first: "
        f"{marked[0]}), and the chat template would wrap them again: better name the column of the bare "
        "question, as in prompt: '{question}'"
    ]
