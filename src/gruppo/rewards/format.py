"""A reward for the form of a completion: a regular expression, tags in order, JSON of a given schema.

1. `pattern`: the whole completion matches. A dot matches line ends too. Nothing here limits the time of a match: a
   pattern of nested repeats, such as `(a+)+b`, can take for ever on a completion that almost matches. In a run, the
   reward with a pattern or a schema belongs in a worker that can be killed.
2. `tags`: of `[think, answer]`, `<think>...</think>` then `<answer>...</answer>`; each of the four stands exactly once
   in the whole completion, something other than whitespace stands within each pair, and nothing but whitespace
   before, between and behind them. Where the chat template has written the first opening tag, so that no completion
   can hold it, say `opened`.
3. `json_schema`: the last fenced block marked json is the JSON; without one, what stands in the last
   `<answer>...</answer>`; without that, all that follows the reasoning. It must parse (NaN and Infinity are no JSON)
   and be valid. Only JSON of up to 65,536 characters is looked at. References to other documents are not followed.
"""

import functools
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gruppo.errors import ConfigError
from gruppo.rewards.reading import TAIL, final_part, last_tagged
from gruppo.rewards.result import RewardResult

_TAG = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_FENCE = re.compile(r"^[ \t]{0,3}+```[ \t]*+([A-Za-z]*+)[ \t]*+\r?$", re.MULTILINE)
_LONGEST_JSON = 65_536

Check = Callable[[str], str]
"""What is wrong with a completion, or nothing."""


def format_reward(
    completion: str,
    *,
    pattern: str | None = None,
    tags: Sequence[str] = (),
    json_schema: str | None = None,
    opened: bool = False,
) -> RewardResult:
    """1 where the completion has the form demanded, else 0; parts: 1 or 0 per demand.

    >>> format_reward("<think>1+1</think> <answer>2</answer>", tags=["think", "answer"]).value
    1.0
    >>> format_reward("so 2", pattern=".*#### [0-9]+").reason
    'pattern: does not match'

    Args:
        completion: any text.
        pattern: a regular expression for all of it.
        tags: names of the tags, in order.
        json_schema: a JSON schema, or the path of a file with one.
        opened: the first opening tag is the prompt's, not the completion's.

    Raises:
        ConfigError: for a demand that can't be understood, or none.
    """
    wrong = {name: check(completion) for name, check in demands(pattern, tuple(tags), json_schema, opened).items()}
    parts = {name: 0.0 if what else 1.0 for name, what in wrong.items()}
    reason = "; ".join(f"{name}: {what}" for name, what in wrong.items() if what)
    return RewardResult(0.0 if reason else 1.0, parts, reason or f"as demanded ({', '.join(parts)})")


@functools.lru_cache(maxsize=64)
def demands(
    pattern: str | None = None, tags: tuple[str, ...] = (), json_schema: str | None = None, opened: bool = False
) -> dict[str, Check]:
    """The demands by name, read once. A rubric calls it when it is built, so that a mistake shows before the run.

    Raises ConfigError for a demand that can't be understood, or none.
    """
    checks: dict[str, Check] = {}
    if pattern is not None:
        checks["pattern"] = _pattern_check(pattern)
    if tags:
        checks["tags"] = _tags_check(tags, opened)
    if json_schema is not None:
        checks["json"] = _json_check(json_schema)
    if not checks:
        raise ConfigError("the reward 'format' demands nothing; give it a pattern, tags or a json_schema.")
    return checks


def _pattern_check(pattern: str) -> Check:
    try:
        compiled = re.compile(pattern, re.DOTALL)
    except (re.error, OverflowError, RecursionError) as error:
        raise ConfigError(f"pattern: {pattern!r} is no regular expression: {error}") from error

    def check(completion: str) -> str:
        try:
            return "" if compiled.fullmatch(completion) else "does not match"
        except (MemoryError, RuntimeError) as error:  # a match too deep for the engine
            return f"could not be matched ({type(error).__name__})"

    return check


def _tags_check(tags: tuple[str, ...], opened: bool) -> Check:
    bad = [tag for tag in tags if not _TAG.fullmatch(tag)]
    if bad or len(set(tags)) < len(tags):
        raise ConfigError(f"tags: {list(tags)}: wanted different names without brackets, such as [think, answer].")

    def check(completion: str) -> str:
        text = f"<{tags[0]}>{completion}" if opened else completion
        at = 0
        for tag in tags:
            opening, closing = f"<{tag}>", f"</{tag}>"
            for mark in (opening, closing):
                count = text.count(mark)
                if count != 1:
                    return f"{mark} stands {count} times, not once"
            begin, end = text.find(opening), text.find(closing)
            if begin < at or end < begin:
                return f"<{tag}>...</{tag}> is out of order"
            if text[at:begin].strip():
                return f"text before {opening}"
            if not text[begin + len(opening) : end].strip():
                return f"nothing in <{tag}>...</{tag}>"
            at = end + len(closing)
        return "text after the last tag" if text[at:].strip() else ""

    return check


def _json_check(json_schema: str) -> Check:
    validator = _validator(json_schema)

    def check(completion: str) -> str:
        text = _json_text(completion)
        if text is None or not text.strip():
            return "no JSON"
        if len(text) > _LONGEST_JSON:
            return f"more than {_LONGEST_JSON} characters"
        try:
            value = json.loads(text, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            return f"no JSON: {str(error)[:120]}"
        try:
            error = next(iter(validator.iter_errors(value)), None)
        except Exception as error:  # a deep value, or a reference that leads nowhere: it is not known to be valid
            return f"could not be validated ({type(error).__name__})"
        return "" if error is None else f"at {error.json_path[:80]}: {error.message[:120]}"

    return check


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _json_text(completion: str) -> str | None:
    """The part of a completion that should be JSON."""
    block: tuple[int, int] | None = None
    text = completion[-TAIL:]
    begin: int | None = None
    is_json = False
    for fence in _FENCE.finditer(text):
        if begin is None:
            begin, is_json = fence.end(), fence[1].casefold() == "json"
        else:
            block = (begin, fence.start()) if is_json else block
            begin = None
    if block is not None:
        return text[block[0] : block[1]]
    final = final_part(completion)
    if final is None:
        return None
    tagged = last_tagged(final, "answer")
    return final if tagged is None else tagged


def _validator(json_schema: str) -> Any:
    try:
        from jsonschema.exceptions import SchemaError  # pyright: ignore[reportMissingModuleSource]
        from jsonschema.validators import validator_for  # pyright: ignore[reportMissingModuleSource]
        from referencing import Registry  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError(
            "json_schema: JSON schemas need the package jsonschema, which is not installed; pip install jsonschema"
        ) from error
    schema = _schema(json_schema)
    kind = validator_for(schema)
    try:
        kind.check_schema(schema)
    except SchemaError as error:
        raise ConfigError(f"json_schema: no JSON schema: at {error.json_path}: {error.message}") from error
    return kind(schema, registry=Registry())


def _schema(json_schema: str) -> Any:
    """The schema, from JSON text (which begins with a brace) or a file."""
    text, where = json_schema, "json_schema"
    if not json_schema.lstrip().startswith("{"):
        path = Path(json_schema).expanduser()
        where = f"json_schema: {path}"
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{where}: can't be read ({error}); wanted a JSON schema, as text in braces or as the path of a file."
            ) from error
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: no JSON: {error}") from error
