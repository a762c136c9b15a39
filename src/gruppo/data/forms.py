"""Forms of rows that published data sets share, told by their columns: how such a row becomes a problem.

A form adds to what `gruppo.data.columns` finds by name: what to say beside the question, where the answer stands within
a column, the tests in one shape, a difficulty, and the completion that must score full. It is a row of a table, so a
local file of the same form is read as its data set is. Names of data sets are in `gruppo.data.known`.

1. The first form whose columns a table has, and whose `accepts` holds for its first row, counts; none may.
2. A `prompt` or `answer` template of the user's takes the place of what the form would make of them.
3. Tests are text (asserts, or a script that defines `check(candidate)`), a list of asserts, a list of cases, or
   {"inputs", "outputs"} with `fn_name` where a function is called and not a program run. JSON in text is parsed, and
   code that must run before the tests (`test_setup_code`, `test_imports`) stands in front of each.
4. Of the tests the prompt shows the first, and only where the function's name stands nowhere else.
5. What can't be read (a broken JSON cell) is None: such a problem has no tests, and is counted.
"""

import builtins
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Columns = Mapping[str, Any]

_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
_BARE_BOX = re.compile(r"\\(?:boxed|fbox)[ \t]+([^\s${}][^${}\n]*)")
_CALLED = re.compile(r"(?<![\w.])([A-Za-z_]\w*)\s*\(")
_NOT_THEIRS = frozenset(dir(builtins)) | {"assert", "not", "and", "or", "in", "is", "if", "else", "lambda", "candidate"}
_REFERENCES = ("solution", "code", "canonical_solution", "reference_solution")


@dataclass(frozen=True, slots=True)
class RowForm:
    """One form of rows."""

    name: str
    columns: tuple[str, ...]
    """What a table of this form has; `a|b` is one of several."""
    reward: str
    """The built-in reward that fits."""
    accepts: Callable[[Columns], bool] = lambda columns: True
    """Whether a row with these columns is of the form."""
    question: str | None = None
    """The column of the question, where the finder would take another."""
    tests_column: str | None = None
    """Where the tests stand, where that is no known name."""
    ask: Callable[[Columns, str], str] | None = None
    """The prompt from the row and its question."""
    answer: Callable[[Columns], str | None] | None = None
    """The answer, where it is less than a whole column."""
    tests: Callable[[Columns], Any] | None = None
    """The tests in one of the shapes above."""
    difficulty: Callable[[Columns], float | None] | None = None
    """How hard a row is, where no column says so."""
    gold: Callable[[Columns], str | None] | None = None
    """The completion that must score full; None: made of the answer."""
    whole: bool = False
    """Whether the question needs no other column, so that unused text is nothing to warn of."""
    note: str = ""
    """What is worth a line at start."""


def find_form(names: Iterable[str], first: Columns) -> RowForm | None:
    """The form of a table with these columns and this first row, or None."""
    have = set(names)
    for form in FORMS:
        if all(have.intersection(wanted.split("|")) for wanted in form.columns) and form.accepts(first):
            return form
    return None


def last_box(text: str) -> str | None:
    """What stands in the last whole `\\boxed{}` (or `\\boxed 5`, where there is no brace); None: no box."""
    opened: list[int | None] = []
    found: str | None = None
    for match in _BOX.finditer(text):
        sign = match[0]
        if sign[-1] == "{" and sign != "\\{":
            opened.append(match.end() if len(sign) > 1 else None)
        elif sign == "}" and opened:
            start = opened.pop()
            found = text[start : match.start()] if start is not None else found
    if found is None:
        bare = _BARE_BOX.findall(text)
        found = bare[-1] if bare else None
    return found.strip() if found and found.strip() else None


def normalised_tests(value: Any, setup: str = "") -> Any:
    """Tests in one of the shapes of the module's text; None where there are none or they can't be read."""
    if isinstance(value, str):
        text = value.strip()
        if not text:
            return None
        if text[0] in "[{":
            return normalised_tests(read_json(text), setup)
        return _with_setup(value, setup)
    if isinstance(value, Sequence) and value:
        return [_with_setup(item, setup) if isinstance(item, str) else item for item in value]
    if isinstance(value, Mapping):
        cases = {key: item for key, item in value.items() if item is not None}
        return cases if cases.get("inputs") and cases.get("outputs") else None
    return None


def read_json(text: Any) -> Any:
    """A cell of JSON, parsed; a cell that is no text as it is; None where it can't be parsed."""
    if not isinstance(text, str):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def fenced(code: str) -> str:
    """A program as a completion: in a fence, unless it has one; lines end as Python's do."""
    code = code.replace("\r\n", "\n").strip("\n")
    return code if "```" in code else f"```python\n{code}\n```"


def called_function(tests: Any, entry_point: Any = None) -> str | None:
    """The name of the function that tests call; None where they don't tell."""
    if isinstance(entry_point, str) and entry_point:
        return entry_point
    if isinstance(tests, Mapping):
        name = tests.get("fn_name")
        return name if isinstance(name, str) and name else None
    for test in [tests] if isinstance(tests, str) else tests if isinstance(tests, list) else []:
        asserts = [line for line in _lines(test) if line.startswith("assert")]
        named = [name for line in asserts for name in _CALLED.findall(line) if name not in _NOT_THEIRS]
        if named:
            return named[0]
    return None


def names_function(prompt: str, name: str) -> bool:
    """Whether a prompt says a function's name, as a name: a plain word such as `split` may stand there by chance."""
    word = rf"(?<!\w){re.escape(name)}(?!\w)"
    if name.isalpha() and name == name.lower():
        word = rf"(?:[`'\"]|\b(?:function|method|class|def|called|named) ){word}|{word}(?:\s?\(|[`'\"])"
    return re.search(word, prompt) is not None


def _lines(test: Any) -> list[str]:
    return [line.strip() for line in test.splitlines()] if isinstance(test, str) else []


def _with_setup(test: str, setup: str) -> str:
    return f"{setup}\n{test}" if setup.strip() else test


def _setup(columns: Columns) -> str:
    imports = columns.get("test_imports")
    lines = [line for line in imports if isinstance(line, str)] if isinstance(imports, list) else []
    setup = columns.get("test_setup_code")
    return "\n".join([*lines, setup] if isinstance(setup, str) and setup.strip() else lines)


def _first_test(tests: Any) -> str | None:
    """The first assert, to show."""
    if isinstance(tests, list) and tests and isinstance(tests[0], str):
        tests = tests[0]
    lines = [line for line in _lines(tests) if line.startswith("assert")]
    return lines[0] if lines and "candidate(" not in lines[0] else None


def _ask_with_test(columns: Columns, question: str) -> str:
    """The question, with the first test where it doesn't name the function that the tests call."""
    tests = normalised_tests(columns.get("test_list") or columns.get("tests") or columns.get("test_cases"))
    name = called_function(tests, columns.get("entry_point"))
    if name is None or names_function(question, name):
        return question
    shown = _first_test(tests)
    if shown is None:
        return f"{question}\n\nWrite the function `{name}`."
    return f"{question}\n\nYour code must pass this test:\n{shown}"


def _ask_apps(columns: Columns, question: str) -> str:
    """The question, the code to start from, and how the program is run."""
    tests = read_json(columns.get("input_output"))
    name = called_function(tests) if isinstance(tests, Mapping) else None
    starter = columns.get("starter_code")
    parts = [question.strip()]
    if isinstance(starter, str) and starter.strip():
        parts.append(f"Start from this code:\n```python\n{starter.strip()}\n```")
    if name is None:
        parts.append("Read the input from standard input and print the answer to standard output.")
    elif not any(names_function(part, name) for part in parts):
        parts.append(f"Write the function `{name}`.")
    return "\n\n".join(parts)


def _apps_gold(columns: Columns) -> str | None:
    solutions = read_json(columns.get("solutions"))
    first = solutions[0] if isinstance(solutions, list) and solutions else None
    return fenced(first) if isinstance(first, str) and first.strip() else None


def _humaneval_gold(columns: Columns) -> str | None:
    prompt, body = columns.get("prompt"), columns.get("canonical_solution")
    return fenced(prompt + body) if isinstance(prompt, str) and isinstance(body, str) and body.strip() else None


def _reference(columns: Columns) -> str | None:
    """The reference program, fenced."""
    texts = (columns.get(name) for name in _REFERENCES)
    return next((fenced(text) for text in texts if isinstance(text, str) and text.strip()), None)


def _kk_gold(columns: Columns) -> str | None:
    text = columns.get("solution_text")
    if isinstance(text, str) and text.strip():
        return text
    names, knights = columns.get("names"), columns.get("solution")
    if not isinstance(names, list) or not isinstance(knights, list) or len(names) != len(knights):
        return None
    kinds = ("knight" if knight else "knave" for knight in knights)
    return "\n".join(f"({n}) {name} is a {kind}" for n, (name, kind) in enumerate(zip(names, kinds), start=1))


def _people(columns: Columns) -> float | None:
    names = columns.get("names")
    return float(len(names)) if isinstance(names, list) and names else None


def _text(columns: Columns, name: str) -> str | None:
    value = columns.get(name)
    return value if isinstance(value, str) and value.strip() else None


def _generated(columns: Columns) -> bool:
    metadata = columns.get("metadata")
    return isinstance(metadata, Mapping) and "source_dataset" in metadata


def _is_list_of_text(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, str) for item in value)


FORMS: tuple[RowForm, ...] = (
    RowForm(
        "APPS", ("question", "input_output"), "code", question="question", tests_column="input_output", whole=True,
        ask=_ask_apps, tests=lambda columns: normalised_tests(columns.get("input_output")), gold=_apps_gold,
        note="the prompt says the code to start from, and whether a program is run or a function called",
    ),
    RowForm(
        "HumanEval", ("prompt", "test", "entry_point"), "code", question="prompt", tests_column="test", whole=True,
        tests=lambda columns: normalised_tests(columns.get("test")), gold=_humaneval_gold,
    ),
    RowForm(
        "MBPP", ("text|prompt|question", "test_list"), "code", ask=_ask_with_test,
        tests=lambda columns: normalised_tests(columns.get("test_list"), _setup(columns)), gold=_reference,
        note="the prompt shows the first test, which alone has the function's name; the others stay hidden",
    ),
    RowForm(
        "problem, tests, solution", ("problem|question|prompt|instruction", "tests|test_cases"), "code",
        ask=_ask_with_test, gold=_reference,
        tests=lambda columns: normalised_tests(columns.get("tests") or columns.get("test_cases"), _setup(columns)),
        note="where a question doesn't name the function that its tests call, the prompt shows the first test",
    ),
    RowForm(
        "knights and knaves", ("quiz", "names", "solution"), "logic", question="quiz", gold=_kk_gold, whole=True,
        difficulty=_people, note="the question is the bare 'quiz'; the difficulty is the number of people",
    ),
    RowForm(
        "reasoning-gym", ("question", "answer", "metadata"), "reasoning_gym", question="question", whole=True,
        accepts=_generated,
    ),
    RowForm(
        "MATH", ("problem", "solution"), "math",
        accepts=lambda columns: "answer" not in columns and last_box(_text(columns, "solution") or "") is not None,
        answer=lambda columns: last_box(_text(columns, "solution") or "") or _text(columns, "solution"),
        gold=lambda columns: _text(columns, "solution"), note="the answer is the last box of 'solution'",
    ),
    RowForm(
        "GSM8K", ("question", "answer"), "math",
        accepts=lambda columns: "####" in (_text(columns, "answer") or ""),
    ),
    RowForm(
        "questions with accepted answers", ("question", "answer"), "qa",
        accepts=lambda columns: _is_list_of_text(columns.get("answer")),
    ),
)  # fmt: skip
"""Every form, the more particular first."""
