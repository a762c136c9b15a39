"""A row's tests, whatever their form: scripts with asserts, calls with expected values, inputs with outputs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gruppo.errors import RewardError

_FORMS = (
    'a list of assert statements, one script, {"inputs": [...], "outputs": [...]} (with "fn_name" for calls), or a '
    'list of {"input": ..., "output": ...} or {"function": ..., "args": [...], "expected": ...}'
)
_FUNCTION = ("fn_name", "function", "call")
_ARGUMENTS = ("args", "inputs", "input")
_EXPECTED = ("expected", "outputs", "output")


@dataclass(frozen=True)
class Asserts:
    """Python text: one script, or statements with a test in each."""

    sources: tuple[str, ...]


@dataclass(frozen=True)
class Calls:
    """Function, arguments, keyword arguments, and the values that are right, of each test."""

    tests: tuple[tuple[str, Sequence[Any], Mapping[str, Any], tuple[Any, ...]], ...]


@dataclass(frozen=True)
class Scripts:
    """Standard input and expected output of each test."""

    tests: tuple[tuple[str, str], ...]


Tests = Asserts | Calls | Scripts


def read_tests(tests: Any, entry_point: str | None = None) -> Tests:
    """The tests of a row in one of three forms. Raises RewardError that says what came and what was wanted."""
    value = _loaded(tests)
    if isinstance(value, str) and value.strip():
        return Asserts((value,))
    if isinstance(value, Mapping):
        return _mapping(value, entry_point)
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)) and len(value):
        if all(isinstance(item, str) for item in value):
            return Asserts(tuple(value))
        if all(isinstance(item, Mapping) for item in value):
            return _join([_mapping(item, entry_point) for item in value])
    raise RewardError(f"the code reward can't use the tests {_shown(tests)}; wanted {_FORMS}.")


def _loaded(tests: Any) -> Any:
    """JSON text as what it holds, a numpy array (of a parquet file) as a list."""
    if isinstance(tests, str) and tests.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(tests)
        except ValueError:
            return tests
    if type(tests).__module__ == "numpy":
        return getattr(tests, "tolist", list)()
    return tests


def _mapping(tests: Mapping[str, Any], entry_point: str | None) -> Tests:
    function = next((tests[name] for name in _FUNCTION if tests.get(name)), None)
    if function is None and "args" in tests:
        function = entry_point
    given: Any = next((tests[name] for name in _ARGUMENTS if name in tests), None)
    expected: Any = next((tests[name] for name in _EXPECTED if name in tests), None)
    if not any(name in tests for name in _EXPECTED) or given is None:
        raise RewardError(f"the code reward can't use the test {_shown(tests)}; wanted {_FORMS}.")
    if function is not None:
        return _calls(str(function), tests, given, expected)
    if "inputs" in tests and not isinstance(given, str):
        _same_length(tests, given, expected)
        return Scripts(tuple((_text(one), _text(other)) for one, other in zip(given, expected, strict=True)))
    return Scripts(((_text(given), _text(expected)),))


def _calls(function: str, tests: Mapping[str, Any], given: Any, expected: Any) -> Calls:
    kwargs = tests.get("kwargs") or {}
    if "args" in tests or "expected" in tests:
        args = given if isinstance(given, (list, tuple)) else [given]
        return Calls(((function, args, kwargs, (expected,)),))
    if "input" in tests:
        return Calls(((function, given if isinstance(given, list) else [given], kwargs, (expected,)),))
    _same_length(tests, given, expected)
    wrapped = all(isinstance(item, list) and len(item) == 1 for item in expected)
    # APPS wraps each expected value in a list of its own, as often as not.
    wanted = [(item, item[0]) if wrapped else (item,) for item in expected]
    return Calls(tuple((function, list(args), kwargs, one) for args, one in zip(given, wanted, strict=True)))


def _same_length(tests: Mapping[str, Any], given: Any, expected: Any) -> None:
    pair = (given, expected)
    if not all(isinstance(item, (list, tuple)) for item in pair) or len(given) != len(expected) or not given:
        raise RewardError(f"the code reward wants as many outputs as inputs, at least one; got {_shown(tests)}.")


def _text(value: Any) -> str:
    """Input or output as text; a list is its lines."""
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple)):
        return "\n".join(str(item) for item in value)
    return str(value)


def _join(parts: Sequence[Tests]) -> Tests:
    if all(isinstance(part, Calls) for part in parts):
        return Calls(tuple(test for part in parts for test in part.tests))  # type: ignore[union-attr]
    if all(isinstance(part, Scripts) for part in parts):
        return Scripts(tuple(test for part in parts for test in part.tests))  # type: ignore[union-attr]
    raise RewardError(
        "the code reward wants tests of one form in a row; got call tests and input/output tests together."
    )


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{text if len(text) <= 120 else text[:117] + '...'} ({type(value).__name__})"
