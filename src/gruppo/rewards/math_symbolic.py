"""Expressions compared by sympy and math-verify. Runs in a worker process that is killed at a limit, nowhere else.

Importing this compares some once, as a first comparison takes ten times as long: a limit is for the answer alone.

1. Expressions are read by math-verify's LaTeX reader alone, whole. Its search for numbers in what it can't read is left
   out: it would take the last number of any text for the answer.
2. Nothing limits the time here. What is read as true, false, an empty set or not a number equals nothing.
3. math-verify rounds numbers to 6 decimals; numbers that differ by more than 5e-6 of the reference are not equal here.
4. sympy draws random numbers when it compares; they start from the same seed in every call.
5. A variable named i is the imaginary unit.
"""

import functools
import re
from typing import Any

import sympy
from latex2sympy2_extended import NormalizationConfig, latex2sympy, normalize_latex
from math_verify.grader import should_treat_as_complex, verify
from sympy.core.random import seed

from gruppo.rewards.math_compare import equal
from gruppo.rewards.math_extract import is_prose
from gruppo.rewards.math_numbers import UNITS

_NORMAL = NormalizationConfig(basic_latex=True, units=True, malformed_operators=True, nits=True, boxed="all")
_UNEVALUATED = (sympy.Sum, sympy.Product, sympy.Integral, sympy.Derivative, sympy.Limit)
_CAPITAL_E = re.compile(r"(?<=[0-9])[eE](?=[+-]?[0-9])")
_ROUNDING = 5e-6
"""math-verify rounds to 6 decimals, which makes all small numbers equal."""
_STAR = re.compile(r"\s*\*\s*")
_UNIT = re.compile(r"(?<=[0-9A-Za-z})])\s+((?:[A-Za-z]{2,20}\.?\s?){1,4})(?:\s?\^\s*\{?[23]\}?)?$")


@functools.lru_cache(maxsize=1024)
def math_slow(gold: str, stated: str, tolerance: float | None = None) -> bool:
    """Whether a stated answer equals the reference, with expressions compared symbolically."""
    seed(0)
    return bool(equal(gold, stated, tolerance, functools.partial(_judge, tolerance=tolerance)))


def _judge(gold: str, stated: str, tolerance: float | None) -> bool:
    try:
        wanted, given = _read(gold), _read(stated)
        if not _is_judged(wanted) or not _is_judged(given):
            return False
        if wanted == given:
            return True
        if verify(wanted, given, timeout_seconds=None, allow_set_relation_comp=True):
            return _close(wanted, given, _ROUNDING) is not False
        return tolerance is not None and _close(wanted, given, tolerance) is True
    except Exception:  # a reader of arbitrary text: whatever goes wrong, the texts are not known to be equal
        return False


@functools.lru_cache(maxsize=1024)
def _read(text: str) -> Any:
    match = _UNIT.search(text)
    if match is not None and (is_prose(match[1]) or match[1].strip() in UNITS):
        text = text[: match.start()]
    normal = normalize_latex(_STAR.sub(r" \\cdot ", _CAPITAL_E.sub(r"\\cdot 10^", text)), config=_NORMAL)
    complex_numbers = should_treat_as_complex(normal)
    value = latex2sympy(normal, is_real=not complex_numbers, convert_degrees=False, normalization_config=None)
    if not isinstance(value, sympy.Expr):
        return value
    for symbol in value.free_symbols:
        value = value.subs(symbol, sympy.I) if str(symbol) == "i" else value
    return value.doit() if value.has(*_UNEVALUATED) else value


def _is_judged(value: Any) -> bool:
    if value in (sympy.true, sympy.false, sympy.S.EmptySet):
        return False
    if isinstance(value, sympy.Equality) and not value.free_symbols:
        return False
    return not (isinstance(value, sympy.Basic) and value.has(sympy.nan, sympy.zoo))


def _close(wanted: Any, given: Any, tolerance: float) -> bool | None:
    """Whether two numbers are close; None for what is no number, or next to zero."""
    if not isinstance(wanted, sympy.Expr) or not isinstance(given, sympy.Expr):
        return None
    if wanted.free_symbols or given.free_symbols or wanted.is_infinite or given.is_infinite:
        return None
    share = abs(((given - wanted) / wanted).evalf())
    return bool(share <= tolerance) if share.is_number and share.is_finite else None


for _gold, _stated in (
    ("x^2-1", "(x-1)(x+1)"),
    ("2\\sqrt{3}", "\\sqrt{12}+1"),
    ("(1,\\pi)", "1<x<\\pi"),
    ("y=2x", "2y-4x=0"),
):
    math_slow(_gold, _stated)
