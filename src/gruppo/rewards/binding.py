"""A reward function's parameters, bound by name from a problem and its completions.

Two signatures, told apart by the parameter names:

- single, one completion a call: `completion` (also `generated`, `generated_code`), `prompt`, `answer` (also
  `ground_truth`), `tests` (also `test_cases`), `truncated`, `completion_length` (tokens), any column, `**row` for
  all the rest;
- batch, as TRL's: `completions`, `prompts`, every column and every name above as a list with one item per
   completion. Where the prompt is a conversation, `prompts` and `completions` are lists of chat messages, as
   there.

1. A column is found by its exact name, then whatever its case. A row's own `ground_truth` or `test_cases`
   goes before the other name of `answer` or `tests`.
2. A parameter with a default is left out where the row has no such column. One without a default is a
   RewardError.
3. A reward that needs the answer does not apply to a problem without one.
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
BATCH_NAMES = frozenset({"completions", "prompts"})
_ANSWER_NAMES = ("answer", "ground_truth")
_OWN_NAMES = ("prompt", "completion", "answer", "tests", "truncated", "completion_length")
_FACTS = ("truncated", "completion_length")


@dataclass(frozen=True, slots=True)
class Completions:
    """What a reward may know of the completions of a group, one item each."""

    texts: Sequence[str]
    truncated: Sequence[bool]
    lengths: Sequence[int]
    """Tokens."""


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
        """Whether the problem has the answer, where the function needs one."""
        return not any(
            parameter.name in _ANSWER_NAMES
            and parameter.default is parameter.empty
            and _column(parameter.name, problem) == (True, None)
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
        prompt = problem.prompt if messages is None else messages
        completions = list(texts) if messages is None else [[{"role": "assistant", "content": text}] for text in texts]
        own: dict[str, Any] = {"prompts": [prompt] * len(texts), "completions": completions}
        own |= {"truncated": list(group.truncated), "completion_length": list(group.lengths)}
        own["prompt"] = [problem.prompt] * len(texts)
        own |= {name: list(texts) for name in COMPLETION_NAMES}
        return self._bind(problem, own)

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
        found, value = _column(name, problem)
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


def _row(problem: Problem, own: Mapping[str, Any], repeat: int | None) -> dict[str, Any]:
    """Everything that `**row` may hold."""
    row: dict[str, Any] = {**problem.columns, "answer": problem.answer}
    if repeat is not None:
        row = {name: [value] * repeat for name, value in row.items()}
        return row | {name: own[name] for name in ("prompts", "completions", *_FACTS)}
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
    """A reward's name from its function: the function's own, or the class of a callable object."""
    inner = underlying(function)
    if inspect.isroutine(inner) or inspect.isclass(inner):
        return "lambda" if inner.__name__ == "<lambda>" else inner.__name__
    return type(inner).__name__


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
