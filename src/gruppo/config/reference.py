"""The options as a table, for flags, help and docs: name, type, range, default and text, all from the schema."""

import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic.fields import FieldInfo

from gruppo.config.load import ALIASES, STAGES
from gruppo.config.schema import Config, RewardConfig, Section


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a stage."""

    name: str
    """Dotted: `learning_rate`, `sft.epochs`."""
    type: str
    limits: str
    """The range in words; empty where everything goes."""
    default: str
    """As it would be written; `required`, or `unset`."""
    help: str
    repeated: bool
    """Whether it takes several values."""
    choices: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()

    @property
    def flag(self) -> str:
        """How it is given on the command line."""
        return "--" + self.name.replace("_", "-")

    @property
    def text(self) -> str:
        """Help, range and default in one line."""
        facts = [fact for fact in (self.limits, f"default {self.default}") if fact]
        return f"{self.help} [{'; '.join(facts)}]"


def options(section: type[Section] = Config, prefix: str = "") -> Iterator[Option]:
    """The options of a section; those of the stages are under their own dotted names, after the GRPO stage's."""
    own = [name for name in section.model_fields if name in section.__annotations__]
    inherited = [name for name in section.model_fields if name not in section.__annotations__]
    for name in (*own, *inherited):
        if name not in STAGES:
            yield _option(prefix + name, section.model_fields[name])
    if section is Config:
        for stage, stage_section in STAGES.items():
            yield from options(stage_section, f"{stage}.")


def _option(name: str, field: FieldInfo) -> Option:
    leaf = name.rsplit(".", 1)[-1]
    choices = _choices(field.annotation)
    limits = ", ".join(choices) if choices else _limits(field.metadata)
    repeated = _is_repeated(field.annotation)
    return Option(
        name=name,
        type=_type_name(field.annotation),
        limits=limits,
        default=_default(field),
        help=" ".join((field.description or "").split()),
        repeated=repeated,
        choices=choices,
        aliases=tuple(alias for alias, own in ALIASES.items() if own == leaf),
    )


def _alternatives(annotation: Any) -> list[Any]:
    """The members of a union without None, or the type itself."""
    if get_origin(annotation) in (Union, types.UnionType):
        return [member for member in get_args(annotation) if member is not type(None)]
    return [annotation]


def _choices(annotation: Any) -> tuple[str, ...]:
    for member in _alternatives(annotation):
        if get_origin(member) is Literal:
            return tuple(map(str, get_args(member)))
    return ()


def _is_repeated(annotation: Any) -> bool:
    return any(get_origin(member) is tuple for member in _alternatives(annotation))


def _type_name(annotation: Any) -> str:
    names = {int: "INT", float: "NUMBER", bool: "true|false", str: "TEXT"}
    for member in _alternatives(annotation):
        if member in names:
            return names[member]
    return "CHOICE" if _choices(annotation) else "TEXT"


def _limits(metadata: list[Any]) -> str:
    return ", ".join(text for bound in metadata if (text := _limit(bound)))


def _limit(bound: object) -> str:
    match bound:
        case annotated_types.Ge(ge=value):
            return f"at least {value}"
        case annotated_types.Gt(gt=value):
            return f"above {value}"
        case annotated_types.Le(le=value):
            return f"at most {value}"
        case annotated_types.Lt(lt=value):
            return f"below {value}"
        case _:
            return ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.default
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        items = [item.name if isinstance(item, RewardConfig) else str(item) for item in value]  # pyright: ignore
        return " ".join(items) if items else "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
