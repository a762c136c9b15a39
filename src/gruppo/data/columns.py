"""Which column is what: by known names, whatever their case, or by the user's templates.

1. Known names are tried in the order below; the first that the data has wins.
2. Where a table is of a form in `gruppo.data.forms`, the form says which column is the question.
3. A template is text with {column} in it; `{{` and `}}` are braces, and so is an empty `{}` (as in
   `\\boxed{}`). A bare column name is the template of that column alone.
4. Answers become text: strings untouched ("007"), 7.0 is "7", True is "True", a list of strings is a list of
   accepted answers whose first is the answer, anything else is JSON.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gruppo.config.schema import DataFields
from gruppo.data.forms import RowForm, find_form
from gruppo.data.readers import Row, Table
from gruppo.errors import DataError, nearest

PROMPT_NAMES = ("question", "problem", "prompt", "instruction", "input", "text")
ANSWER_NAMES = ("answer", "solution", "target", "label", "ground_truth")
TESTS_NAMES = ("tests", "test_list", "test_cases")
COMPLETION_NAMES = ("completion", "response", "output")

_REFERENCE_NAME = re.compile(
    "answer|solution|target|label|truth|completion|response|output|code|cot|rationale|explanation|reasoning|test"
)
_FIELD = re.compile(r"\{\{|\}\}|\{([^{}]+)\}")
_WORD = re.compile(r"[^\W\d_]{2,}")
_SAMPLED_ROWS = 200
_PROSE_WORDS = 4
_PROSE_LETTERS = 0.6


@dataclass(frozen=True, slots=True)
class Template:
    """Text with columns in it, parsed."""

    text: str
    """As the user or the finder wrote it."""
    pieces: tuple[tuple[str, str | None], ...]
    """Literal text and the column that follows it; None at the end."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it uses, in order."""
        return tuple(column for _, column in self.pieces if column is not None)

    @property
    def sole_column(self) -> str | None:
        """The column, where the template is one column and nothing else."""
        return self.pieces[0][1] if len(self.pieces) == 2 and not self.pieces[0][0] + self.pieces[1][0] else None

    def render(self, row: Row) -> str | None:
        """The text for a row, or None where every column of it is missing or empty.

        Raises DataError where some columns are there and others are not.
        """
        values = {name: as_text(row.columns.get(name)) for name in self.columns}
        missing = [name for name, value in values.items() if not value or not value.strip()]
        if len(missing) == len(values):
            return None
        if missing:
            raise DataError(
                f"{row.source}: the template '{self.text}' needs the column '{missing[0]}', which is empty."
            )
        return "".join(text + (values[name] or "" if name is not None else "") for text, name in self.pieces)


@dataclass(frozen=True, slots=True)
class ColumnMapping:
    """What of a table is the question, the answer, the tests, the demonstrated completion."""

    prompt: Template
    answer: Template | None
    tests: str | None
    completion: Template | None
    columns: tuple[str, ...]
    """All columns of the table."""
    warnings: tuple[str, ...]
    form: RowForm | None = None
    """What the rows' form adds, less what templates of the user's say."""
    unused: tuple[tuple[str, str], ...] = ()
    """Columns of text that the question might need and does not have, each with a `prompt` template that has it."""

    def describe(self) -> list[str]:
        """One line per role."""
        lines = [f"prompt: {_shown(self.prompt)}"]
        lines.append(f"answer: {_shown(self.answer)}" if self.answer else "answer: none")
        if self.tests is not None:
            lines.append(f"tests: column '{self.tests}'")
        if self.completion is not None:
            lines.append(f"completion: {_shown(self.completion)}")
        return lines


def _shown(template: Template) -> str:
    column = template.sole_column
    return f"column '{column}'" if column is not None else f"'{template.text}'"


def find_columns(
    table: Table, fields: DataFields, completion: str | None = None, *, demonstrations: bool = False
) -> ColumnMapping:
    """The mapping of a table.

    `completion` is the template of an SFT stage; with `demonstrations` a completion is wanted and, without a
    column of a known name, it is the answer. Raises DataError for a template's unknown column, or where no
    column has a known name.
    """
    names = table.column_names
    form = find_form(names, table.rows[0].columns)
    known = PROMPT_NAMES if form is None or form.question is None else (form.question, *PROMPT_NAMES)
    prompt = _role(table.name, "prompt", fields.prompt, known, names)
    if prompt is None:
        raise DataError(
            f"data: '{table.name}' has no column of a known name for the question "
            f"({', '.join(PROMPT_NAMES)}), only {names}; say what the question is, "
            f"such as prompt: '{{{names[0] if names else 'column'}}}'."
        )
    answer = _role(table.name, "answer", fields.answer, ANSWER_NAMES, names)
    demonstrated = None
    if demonstrations:
        demonstrated = _role(table.name, "completion", completion, COMPLETION_NAMES, names) or answer
        if demonstrated is None:
            raise DataError(
                f"data: '{table.name}' has no column of a known name for the completion "
                f"({', '.join(COMPLETION_NAMES + ANSWER_NAMES)}), only {names}; say what it is, "
                "such as completion: '{column}'."
            )
    tests = _known(TESTS_NAMES, names)
    if form is not None:
        tests = form.tests_column or tests
        form = replace(form, ask=form.ask if fields.prompt is None else None)
        form = replace(form, answer=form.answer if fields.answer is None else None)
    used = {
        *prompt.columns,
        *(answer.columns if answer else ()),
        *(demonstrated.columns if demonstrated else ()),
    }
    whole = fields.prompt is not None or (form is not None and form.whole)
    unused = {} if whole else _unused_text(table, prompt, used)
    warnings = tuple(_unused_warning(table, name, both) for name, both in unused.items())
    return ColumnMapping(prompt, answer, tests, demonstrated, tuple(names), warnings, form, tuple(unused.items()))


def _role(source: str, role: str, template: str | None, known: Sequence[str], names: list[str]) -> Template | None:
    if template is not None:
        return parse_template(template, names, f"{role} (data '{source}')")
    name = _known(known, names)
    return None if name is None else Template(f"{{{name}}}", (("", name), ("", None)))


def _known(known: Sequence[str], names: Sequence[str]) -> str | None:
    """The column of the first known name that the data has; the exact case before any other."""
    for wanted in known:
        same = [name for name in names if name.casefold() == wanted]
        if same:
            return wanted if wanted in same else same[0]
    return None


def parse_template(text: str, names: list[str], where: str) -> Template:
    """A template over these columns. Raises DataError for an unknown column or a text without any."""
    if text in names:
        return Template(f"{{{text}}}", (("", text), ("", None)))
    pieces: list[tuple[str, str | None]] = []
    literal, end = "", 0
    for match in _FIELD.finditer(text):
        literal += text[end : match.start()]
        end = match.end()
        if match[1] is None:
            literal += match[0][0]
            continue
        pieces.append((literal, _column(match[1].strip(), names, text, where)))
        literal = ""
    if not pieces:
        raise DataError(
            f"{where}: the template '{text}' names no column; put one in braces, as in '{{question}}'. "
            f"The columns are {names}.{nearest_column(text, names)}"
        )
    return Template(text, (*pieces, (literal + text[end:], None)))


def _column(name: str, names: list[str], text: str, where: str) -> str:
    same = [known for known in names if known.casefold() == name.casefold()]
    if name in names or len(same) == 1:
        return name if name in names else same[0]
    if same:
        raise DataError(f"{where}: the template '{text}' names '{name}', which may be any of {same}; mind the case.")
    raise DataError(
        f"{where}: the template '{text}' names the column '{name}', but the columns are {names}."
        f"{nearest_column(name, names)} (A brace that is no column is written twice: {{{{ }}}}.)"
    )


def nearest_column(name: str, names: list[str]) -> str:
    """` Did you mean 'x'?` for the column closest to a mistyped one, whatever their case, or nothing."""
    folded = {known.casefold(): known for known in names}
    hint = nearest(name.casefold(), list(folded))
    return next((hint.replace(f"'{low}'", f"'{known}'") for low, known in folded.items() if f"'{low}'" in hint), hint)


def as_text(value: Any) -> str | None:
    """A cell as text; None where it is missing (null or NaN). A list of strings gives its first."""
    match value:
        case None:
            return None
        case str():
            return value
        case float() if math.isnan(value):
            return None
        case float() if value.is_integer():
            return str(int(value))
        case bool() | int() | float():
            return str(value)
        case [str(first), *rest] if all(isinstance(item, str) for item in rest):
            return first
        case _:
            return json.dumps(value, ensure_ascii=False, default=str)


def accepted_answers(value: Any) -> list[str] | None:
    """The accepted answers, where a cell is a list of strings; None where it is anything else."""
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return list(value)
    return None


def chat_messages(value: Any) -> list[dict[str, Any]] | None:
    """The messages, where a cell is a list of chat messages ([{"role": ..., "content": ...}]); else None."""
    if not isinstance(value, list) or not value:
        return None
    whole = all(isinstance(item, Mapping) and {"role", "content"} <= set(item) for item in value)
    return [dict(item) for item in value] if whole else None


def _unused_text(table: Table, prompt: Template, used: set[str]) -> dict[str, str]:
    """Each column of text that the question might need and does not have, with a template that has both."""
    unused: dict[str, str] = {}
    sole = prompt.sole_column
    conversation = sole is not None and chat_messages(table.rows[0].columns.get(sole)) is not None
    for name in table.column_names:
        reference = _REFERENCE_NAME.search(name.casefold()) is not None
        if name in used or reference or not _is_prose(table.rows[:_SAMPLED_ROWS], name):
            continue
        unused[name] = f"{{{name}}}" if conversation else f"{{{name}}} {prompt.text}"
    return unused


def _unused_warning(table: Table, name: str, both: str) -> str:
    example = next(value for row in table.rows if isinstance(value := row.columns.get(name), str) and value.strip())
    shown = " ".join(example.split())
    shown = shown if len(shown) <= 48 else shown[:45] + "..."
    return f"unused text column '{name}' ('{shown}'); if the question needs it: prompt: '{both}'"


def _is_prose(rows: Sequence[Row], name: str) -> bool:
    """Whether a column holds sentences that differ by row, or text under a name that questions have."""
    texts = [value for row in rows if isinstance(value := row.columns.get(name), str) and value.strip()]
    if not texts:
        return False
    if name.casefold() in PROMPT_NAMES:
        return True
    words = [word for text in texts for word in _WORD.findall(text)]
    # Formulas and code have words too, but fewer letters between their signs.
    dense = sum(map(len, words)) >= _PROSE_LETTERS * sum(map(len, texts))
    return dense and len(words) >= _PROSE_WORDS * len(texts) and (len(set(texts)) > 1 or len(texts) == 1)
