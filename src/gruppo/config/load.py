"""From a file and flags to a checked config: aliases at the door, all errors at once, each with its cure."""

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from gruppo.config.complaints import Conflict, Conflicts
from gruppo.config.presets import canonical
from gruppo.config.rewards import REWARDS, YOURS
from gruppo.config.schema import Config, DataSource, EvalConfig, RewardConfig, Section, SFTConfig, Span
from gruppo.errors import ConfigError, nearest

ALIASES: Mapping[str, str] = {
    "num_generations": "group_size",
    "samples_per_prompt": "group_size",
    "rollout_n": "group_size",
    "clip_range": "epsilon",
    "clip_ratio": "epsilon",
    "epsilon_low": "epsilon",
    "kl_coef": "beta",
    "max_output_length": "max_completion_length",
    "max_new_tokens": "max_completion_length",
    "iterations": "steps",
    "max_steps": "steps",
    "out": "output_dir",
}
"""Peers' names for our fields, accepted in files and flags."""

GONE: Mapping[str, str] = {"packing": "say plain: true for what was padded, and nothing for trees"}
"""Fields of earlier versions, and what to say in their place."""

STAGES: Mapping[str, type[Section]] = {"sft": SFTConfig, "eval": EvalConfig}
"""The stages with a section of their own."""

LISTS: Mapping[str, type[Section]] = {"rewards": RewardConfig, "data": DataSource, "curriculum": Span}
"""The lists of sections in the GRPO stage."""

KINDS: Mapping[str, tuple[str, ...]] = {"rewards": (*REWARDS, YOURS), "data": ("lone path", "path with weight")}
"""The kinds of items of a list, which pydantic puts into the address of a mistake."""

_Model = TypeVar("_Model", bound=Section)
Values = dict[str, Any]


def load_config(path: Path | None, overrides: Mapping[str, Any]) -> tuple[Config, list[str]]:
    """The config of a file with flags laid over it.

    Args:
        path: a YAML (or JSON) file; None: flags alone.
        overrides: by dotted name (`learning_rate`, `sft.epochs`), as given on the command line or by a program.

    Returns:
        The config, and a line for each alias that was resolved.

    Raises:
        ConfigError: the file can't be read, or fields are wrong; all of them are listed.
    """
    given = read_given(path, overrides)
    return check(Config, given.values, given.source), given.notes


@dataclass(frozen=True, slots=True)
class Given:
    """What a file and flags say, under gruppo's own names, before any default or preset."""

    values: Values
    notes: list[str]
    """A line for each alias that was resolved."""
    flags: frozenset[str]
    """What came from flags, by dotted name."""
    source: str
    """Where the values are from, for a complaint."""


def read_given(path: Path | None, overrides: Mapping[str, Any]) -> Given:
    """A file with flags laid over it, unchecked.

    Raises:
        ConfigError: the file can't be read, or a field is given under two names.
    """
    notes: list[str] = []
    values = resolve_aliases(read_file(path), notes) if path is not None else {}
    flags: Values = {}
    for dotted, value in overrides.items():
        _set(flags, dotted, value)
    # Each resolved by itself: a flag overrides the file, whichever name either has used.
    flags = resolve_aliases(flags, notes)
    values = _laid_over(values, flags)
    notes += _preset_notes(values.get("preset"))
    source = str(path) if path is not None else "the command line"
    return Given(values, notes, frozenset(dotted_names(flags)), source)


def dotted_names(values: Values) -> Iterator[str]:
    """The options that values are for: `learning_rate`, `sft.epochs`."""
    for name, value in values.items():
        if name in STAGES and isinstance(value, dict):
            yield from (f"{name}.{leaf}" for leaf in cast(Values, value))
        else:
            yield name


def _preset_notes(given: Any) -> list[str]:
    names = cast(list[Any], given if isinstance(given, (list, tuple)) else [given])
    pairs = [(name, canonical(name)) for name in names if isinstance(name, str)]
    return [f"preset {name} is {own} here" for name, own in pairs if own is not None and own != name]


def read_file(path: Path) -> Values:
    """The mapping in a YAML file.

    Raises:
        ConfigError: no such file, not YAML (with the line), a key that stands twice, or not a mapping.
    """
    if not path.is_file():
        near = nearest(path.name, [other.name for other in path.parent.glob("*.y*ml")]) if path.parent.is_dir() else ""
        what = "is a folder" if path.is_dir() else "there is no such file"
        raise ConfigError(f"{path}: {what}; give the path of a YAML config.{near}")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise ConfigError(f"{path}:{line}: this is not valid YAML: {error.problem}") from error
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path}: can't be read: {error}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: wanted `name: value` lines, got a {type(values).__name__}")
    return cast(Values, values)


class _UniqueKeys(yaml.SafeLoader):
    """YAML 1.1 without silently overwritten keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = cast(Hashable, self.construct_object(key_node, deep=True))  # pyright: ignore[reportUnknownMemberType]
            if key in seen:
                raise yaml.MarkedYAMLError(problem=f"'{key}' stands twice", problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def resolve_aliases(values: Values, notes: list[str], prefix: str = "") -> Values:
    """The same values under gruppo's own names; says what it renamed in `notes`.

    Raises:
        ConfigError: a field is given under two names.
    """
    fields = STAGES[prefix[:-1]].model_fields if prefix else Config.model_fields
    resolved: Values = {}
    for name, value in values.items():
        own = ALIASES.get(name, name) if name not in fields else name
        own = own if own in fields else name
        if own in resolved:
            raise ConfigError(f"{prefix}{own}: given twice, also as '{name}'; keep one")
        if own != name:
            notes.append(f"{prefix}{name} is {prefix}{own} here")
        if not prefix and name in STAGES and isinstance(value, dict):
            value = resolve_aliases(cast(Values, value), notes, f"{name}.")
        resolved[own] = value
    return resolved


def check(model: type[_Model], values: Mapping[str, Any], source: str) -> _Model:
    """Validate values against a section.

    Raises:
        ConfigError: every wrong field with what was got, what is wanted, and the nearest name of a typo.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        found = _own_errors(error.errors())
        lines = [line for details in found for line in _complaints(model, details)]
        lines += _conflicts_beside(model, values, found)
        count = "1 field is wrong" if len(lines) == 1 else f"{len(lines)} fields are wrong"
        raise ConfigError(f"{source}: {count}\n" + "\n".join(f"  {line}" for line in lines)) from None


def _complaints(model: type[Section], details: ErrorDetails) -> list[str]:
    """A line for a wrong field, or one for each of the fields that can't stand together."""
    conflicts = _conflicts_in(details)
    return [conflict.text for conflict in conflicts] or [_complaint(model, details)]


def _conflicts_in(details: ErrorDetails) -> tuple[Conflict, ...]:
    cause = details.get("ctx", {}).get("error")
    return cause.conflicts if isinstance(cause, Conflicts) else ()


def _conflicts_beside(model: type[Section], values: Mapping[str, Any], found: list[ErrorDetails]) -> list[str]:
    """What can't stand together among the fields that are right, which pydantic doesn't look at once one is wrong."""
    wrong = {str(details["loc"][0]) for details in found if details["loc"]}
    if not wrong or model is not Config:
        return []
    kept = {name: value for name, value in values.items() if name not in wrong}
    try:
        Config.model_validate({"model": "unknown", "data": "unknown", **kept})
    except ValidationError as error:
        conflicts = [conflict for details in error.errors() for conflict in _conflicts_in(details)]
        about = [conflict for conflict in conflicts if not wrong & {name.split(".")[0] for name in conflict.fields}]
        return [conflict.text for conflict in about]
    return []


_WANTED = {
    "greater_than": "a number above {gt:g}",
    "greater_than_equal": "{ge:g} or more",
    "less_than": "a number below {lt:g}",
    "less_than_equal": "{le:g} or less",
    "literal_error": "one of {expected}",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "string_type": "text (quote it if it looks like a number)",
    "string_too_short": "text that is not empty",
    "too_short": "at least one",
    "model_type": "a section of `name: value` lines",
    "tuple_type": "a list",
}


def _complaint(model: type[Section], details: ErrorDetails) -> str:
    """One line for one wrong field."""
    location = ".".join(str(part) for part in _address(details))
    kind = details["type"]
    if kind == "extra_forbidden" and (owner := _owner(details)):
        return f"{location}: belongs to the reward '{owner}', not to '{details['loc'][2]}'"
    if kind == "extra_forbidden" and location in GONE:
        return f"{location}: there is no such field any more; {GONE[location]}"
    if kind == "extra_forbidden":
        return f"{location}: there is no such field.{nearest(str(details['loc'][-1]), _siblings(model, details))}"
    if kind == "missing":
        return f"{location}: must be given ({_help(model, details)})"
    if kind == "value_error":
        message = details["msg"].removeprefix("Value error, ")
        return f"{location}: {message}" if location else message
    wanted = _WANTED.get(kind)
    text = wanted.format(**details.get("ctx", {})) if wanted else details["msg"]
    return f"{location}: got {_shown(details['input'])}, wanted {text}"


def _address(details: ErrorDetails) -> list[int | str]:
    """Where the wrong field stands, without the kind of a list's item."""
    loc = list(details["loc"])
    if len(loc) > 2 and loc[2] in KINDS.get(str(loc[0]), ()):
        del loc[2]
    return loc


def _owner(details: ErrorDetails) -> str | None:
    """The reward that an unknown key of another reward belongs to."""
    loc = details["loc"]
    if len(loc) != 4 or loc[0] != "rewards":
        return None
    return next((name for name, section in REWARDS.items() if loc[3] in section.model_fields), None)


def _own_errors(errors: list[ErrorDetails]) -> list[ErrorDetails]:
    """Without the list that pydantic calls too short because an item of it, complained of by itself, is wrong."""
    inner = {details["loc"][:-length] for details in errors for length in range(1, len(details["loc"]))}
    return [details for details in errors if details["type"] != "too_short" or details["loc"] not in inner]


def _shown(value: object) -> str:
    """A value as a file would have it; numbers come from the command line as text."""
    if value is None or isinstance(value, bool):
        return "nothing" if value is None else str(value).lower()
    try:
        return f"{float(value):g}" if isinstance(value, str) else repr(value)
    except ValueError:
        return repr(value)


def _section(model: type[Section], details: ErrorDetails) -> type[Section]:
    """The section that the wrong field stands in."""
    loc = details["loc"]
    first = str(loc[0])
    if first == "rewards" and len(loc) > 2:
        return REWARDS.get(str(loc[2]), RewardConfig)
    if len(loc) > 1 and model is Config:
        return {**STAGES, **LISTS}.get(first, model)
    return model


def _siblings(model: type[Section], details: ErrorDetails) -> list[str]:
    return [*_section(model, details).model_fields, *(STAGES if model is Config else ())]


def _help(model: type[Section], details: ErrorDetails) -> str:
    field = _section(model, details).model_fields[str(details["loc"][-1])]
    return (field.description or "").split("\n")[0].rstrip(".")


def _laid_over(values: Values, given: Values) -> Values:
    """The values with those given over them, leaf by leaf within a stage."""
    merged = dict(values)
    for name, value in given.items():
        below = values.get(name)
        if name in STAGES and isinstance(value, dict):
            if below is not None and not isinstance(below, dict):
                raise ConfigError(f"{name}: wanted a section of `name: value` lines, got {below!r}")
            merged[name] = {**cast(Values, below or {}), **cast(Values, value)}
        else:
            merged[name] = value
    return merged


def _set(values: Values, dotted: str, value: Any) -> None:
    """Lay one override over the values."""
    stage, _, leaf = dotted.rpartition(".")
    if not stage:
        values[leaf] = value
        return
    section = values.setdefault(stage, {})
    if not isinstance(section, dict):
        raise ConfigError(f"{stage}: wanted a section of `name: value` lines, got {section!r}")
    section[leaf] = value
