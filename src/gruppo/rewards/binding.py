"""A reward function's parameters, bound by name from a problem and its completions.

Two signatures, told apart by the parameter names:

- single, one completion a call: `completion` (also `generated`, `generated_code`), `prompt`, `answer` (also
  `ground_truth`, `solution`), `tests` (also `test_cases`), `truncated`, `completion_length` (tokens), any column,
  `**row` for all the rest;
- batch, as TRL's: `completions`, `prompts`, `completion_ids`, every column and every name above as a list with one
  item per completion. `completions` and `prompts` are chat messages where their annotation has a `dict` in it (as
  those of TRL's own rewards have), text where it is `list[str]`, and otherwise what the data's prompts are.

1. A column is found by its exact name, then whatever its case. A row's own `ground_truth`, `solution` or
   `test_cases` goes before the other name of `answer` or `tests`; `solution` is one only where it has no default.
2. A parameter with a default is left out where the row has no such column. One without a default is a
   RewardError.
3. A reward that needs the answer, or the tests, does not apply to a problem whose answer or tests are missing.
4. TRL's `log_extra` and `log_metric` are there for batch functions and record nothing; return a RewardResult with
   parts instead. Its `trainer_state` and `environments` are not.
"""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from gruppo.data.columns import as_text, nearest_column
from gruppo.data.problems import PROMPT_MESSAGES, TESTS
from gruppo.errors import RewardError
from gruppo.types import Problem

COMPLETION_NAMES = frozenset({"completion", "generated", "generated_code"})
BATCH_NAMES = frozenset({"completions", "prompts", "completion_ids"})
_ANSWER_NAMES = ("answer", "ground_truth", "solution")
_NEEDED_NAMES = (*_ANSWER_NAMES, TESTS, "test_cases")
_OWN_NAMES = ("prompt", "completion", "answer", "tests", "truncated", "completion_length")
_FACTS = ("truncated", "completion_length")
_TRL_NAMES = ("completion_ids", "log_extra", "log_metric")


@dataclass(frozen=True, slots=True)
class Completions:
    """What a reward may know of the completions of a group, one item each."""

    texts: Sequence[str]
    truncated: Sequence[bool]
    lengths: Sequence[int]
    """Tokens."""
    token_ids: Sequence[Sequence[int]] | None = None
    """The tokens themselves, where who asks has them."""


def log_nothing(name: str, value: Any) -> None:
    """What stands in for TRL's `log_extra` and `log_metric`. A function of a module, so that it can be pickled."""


@dataclass(frozen=True, slots=True)
class Call:
    """Arguments of one call."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class BoundFunction:
    """A reward function with its signature read once."""

    name: str
    """The reward's name."""
    function: Callable[..., Any]
    place: str
    """File and line, for messages."""
    parameters: tuple[inspect.Parameter, ...]
    batch: bool

    def applies(self, problem: Problem) -> bool:
        """Whether the problem has the answer and the tests, where the function needs them."""
        return not any(
            parameter.name in _NEEDED_NAMES
            and parameter.default is parameter.empty
            and _needed(parameter.name, problem) == (True, None)
            for parameter in self.parameters
        )

    def arguments(self, problem: Problem, group: Completions) -> list[Call]:
        """The calls that score these completions: one for the batch, or one each. Raises RewardError."""
        if self.batch:
            return [self._batch_call(problem, group)]
        each = zip(group.texts, group.truncated, group.lengths, strict=True)
        return [self._single_call(problem, *completion) for completion in each]

    def _single_call(self, problem: Problem, text: str, truncated: bool, length: int) -> Call:
        own: dict[str, Any] = {"prompt": problem.prompt, "truncated": truncated, "completion_length": length}
        own |= dict.fromkeys(COMPLETION_NAMES, text)
        return self._bind(problem, own)

    def _batch_call(self, problem: Problem, group: Completions) -> Call:
        texts = group.texts
        messages = problem.columns.get(PROMPT_MESSAGES)
        prompt: Any = problem.prompt
        if self._wants_messages("prompts", messages is not None):
            prompt = messages or [{"role": "user", "content": problem.prompt}]
        completions: list[Any] = list(texts)
        if self._wants_messages("completions", messages is not None):
            completions = [[{"role": "assistant", "content": text}] for text in texts]
        own: dict[str, Any] = {"prompts": [prompt] * len(texts), "completions": completions}
        own |= {"truncated": list(group.truncated), "completion_length": list(group.lengths)}
        own |= {"log_extra": log_nothing, "log_metric": log_nothing}
        if group.token_ids is not None:
            own["completion_ids"] = [list(ids) for ids in group.token_ids]
        own["prompt"] = [problem.prompt] * len(texts)
        own |= {name: list(texts) for name in COMPLETION_NAMES}
        return self._bind(problem, own)

    def _wants_messages(self, name: str, conversation: bool) -> bool:
        """Whether a parameter takes chat messages, by its annotation, else as the data's prompt is."""
        annotations = [str(parameter.annotation) for parameter in self.parameters if parameter.name == name]
        annotation = annotations[0].lower() if annotations else ""
        if "dict" in annotation or "mapping" in annotation:
            return True
        return conversation and annotation.removeprefix("typing.") not in ("list[str]", "sequence[str]")

    def _bind(self, problem: Problem, own: Mapping[str, Any]) -> Call:
        repeat = len(own["truncated"]) if self.batch else None
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for parameter in self.parameters:
            if parameter.kind is parameter.VAR_POSITIONAL:
                continue
            if parameter.kind is parameter.VAR_KEYWORD:
                taken = {other.name for other in self.parameters}
                kwargs |= {key: item for key, item in _row(problem, own, repeat).items() if key not in taken}
                continue
            found, value = self._value(parameter, problem, own, repeat)
            if parameter.kind is parameter.POSITIONAL_ONLY:
                args.append(value)
            elif found:
                kwargs[parameter.name] = value
        return Call(tuple(args), kwargs)

    def _value(
        self, parameter: inspect.Parameter, problem: Problem, own: Mapping[str, Any], repeat: int | None
    ) -> tuple[bool, Any]:
        """Whether the problem has the parameter, and its value (else the default)."""
        name = parameter.name
        optional = parameter.default is not parameter.empty
        if name in own:
            return True, own[name]
        found, value = (_column if optional else _needed)(name, problem)
        if found and value is None and name in _ANSWER_NAMES and optional:
            return False, parameter.default
        if found:
            return True, value if repeat is None else [value] * repeat
        if optional:
            return False, parameter.default
        known = [*_OWN_NAMES, *(column for column in problem.columns if column not in _OWN_NAMES)]
        raise RewardError(
            f"reward '{self.name}' ({self.place}) wants the parameter '{name}', but {problem.id} has no such "
            f"column.{nearest_column(name, known)} There are: {', '.join(known)}. "
            f"Rename the parameter or give it a default ({name}=None)."
        )


def _column(name: str, problem: Problem) -> tuple[bool, Any]:
    """Whether a problem has this name among its columns, and the value under it."""
    columns = problem.columns
    if name == "answer":
        return True, problem.answer
    if name == "ground_truth":
        return True, as_text(columns[name]) if name in columns else problem.answer
    if name in columns:
        return True, columns[name]
    if name == "test_cases" and TESTS in columns:
        return True, columns[TESTS]
    same = [column for column in columns if column.casefold() == name.casefold()]
    return (True, columns[same[0]]) if len(same) == 1 else (False, None)


def _needed(name: str, problem: Problem) -> tuple[bool, Any]:
    """As `_column`; of a row without a solution, that is another name of the answer."""
    found, value = _column(name, problem)
    return (True, problem.answer) if name == "solution" and not found else (found, value)


def _row(problem: Problem, own: Mapping[str, Any], repeat: int | None) -> dict[str, Any]:
    """Everything that `**row` may hold."""
    row: dict[str, Any] = {**problem.columns, "answer": problem.answer}
    if repeat is not None:
        row = {name: [value] * repeat for name, value in row.items()}
        return row | {name: own[name] for name in ("prompts", "completions", *_FACTS, *_TRL_NAMES) if name in own}
    return row | {name: own[name] for name in ("prompt", "completion", *_FACTS)}


def bind(name: str, function: Callable[..., Any]) -> BoundFunction:
    """A function with its parameters read.

    Raises RewardError for what can't be called, or has no parameter for the completion.
    """
    place = place_of(function)
    if not callable(function):
        raise RewardError(f"reward '{name}' is no function but a {type(function).__name__}.")
    try:
        parameters = tuple(inspect.signature(function).parameters.values())
    except (TypeError, ValueError) as error:
        raise RewardError(
            f"reward '{name}' ({place}) has parameters that can't be read; wrap it in a function "
            "such as lambda completion, answer: ..."
        ) from error
    parameters = tuple(parameter for parameter in parameters if parameter.name not in _fixed(function))
    names = {parameter.name for parameter in parameters}
    batch = bool(names & BATCH_NAMES)
    takes_row = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    if not batch and not takes_row and not names & COMPLETION_NAMES:
        raise RewardError(
            f"reward '{name}' ({place}) has no parameter for the completion, only ({', '.join(sorted(names))}); "
            "call it `completion` (one text a call) or `completions` (a list of them)."
        )
    return BoundFunction(name, function, place, parameters, batch)


def _fixed(function: Callable[..., Any]) -> frozenset[str]:
    """The options that partials have set already: no column of the data may overrule them."""
    names: set[str] = set()
    while isinstance(function, functools.partial):
        names |= function.keywords.keys()
        function = function.func
    return frozenset(names)


def underlying(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function under partials and decorators."""
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.unwrap(function)


def function_name(function: Callable[..., Any]) -> str:
    """A reward's name from its function: its own, or the class of a callable object without one."""
    inner = underlying(function)
    if inspect.isroutine(inner) or inspect.isclass(inner):
        return "lambda" if inner.__name__ == "<lambda>" else inner.__name__
    own = getattr(inner, "__name__", None)
    return own if isinstance(own, str) else type(inner).__name__


def place_of(function: Callable[..., Any]) -> str:
    """`file.py:12` where a function is defined, or what can be said of it."""
    inner = underlying(function)
    if not inspect.isroutine(inner) and not inspect.isclass(inner):
        inner = type(inner).__call__
    if inspect.ismethod(inner):
        inner = inner.__func__
    if inspect.isfunction(inner):
        return f"{PurePath(inner.__code__.co_filename).name}:{inner.__code__.co_firstlineno}"
    return "built in"
