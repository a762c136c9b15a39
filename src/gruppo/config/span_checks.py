"""A curriculum's spans against each other and against the bounds of the options that they override."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import annotated_types

from gruppo.config.complaints import Conflict

if TYPE_CHECKING:
    from gruppo.config.schema import Config
    from gruppo.config.sections import Span

RAMPS = (
    "learning_rate",
    "temperature",
    "epsilon",
    "epsilon_high",
    "beta",
    "max_completion_length",
    "group_size",
    "prompts_per_step",
)
"""What a span can override, by the names of the options."""


def span_conflicts(config: "Config") -> Iterator[Conflict]:
    """What is wrong with a curriculum, span by span."""
    for position, span in enumerate(config.curriculum):
        before = config.curriculum[position - 1] if position else None
        yield from _order(config, position, span, before)
        yield from _bounds(config, position, span)
        yield from _difficulty(config, position, span)


def _order(config: "Config", position: int, span: "Span", before: "Span | None") -> Iterator[Conflict]:
    field = f"curriculum.{position}.steps"
    if before is not None and before.last is None:
        yield _conflict(
            f"curriculum.{position - 1}.steps: '{before.steps}' has no end, but '{span.steps}' follows; give it its "
            f"last step, or put it last"
        )
    elif before is not None and span.first < before.first:
        yield _conflict(f"{field}: '{span.steps}' begins before '{before.steps}'; put the spans in order of steps")
    elif before is not None and before.last is not None and span.first <= before.last:
        yield _conflict(
            f"{field}: '{span.steps}' overlaps '{before.steps}'; begin it at step {before.last + 1}, or end the other "
            f"earlier"
        )
    if span.first > config.steps:
        yield _conflict(
            f"{field}: '{span.steps}' begins after the last step, {config.steps}; raise steps, or leave the span out",
            "steps",
        )


def _bounds(config: "Config", position: int, span: "Span") -> Iterator[Conflict]:
    """Each end of a ramp against the option's own bounds."""
    for name in RAMPS:
        option = type(config).model_fields[name]
        ramp: tuple[float, ...] = getattr(span, name) or ()
        for end in dict.fromkeys(ramp):
            value = round(end) if option.annotation is int else end
            for bound in option.metadata:
                if wanted := _broken(bound, value):
                    yield _conflict(f"curriculum.{position}.{name}: got {end:g}, wanted {wanted}")


def _broken(bound: Any, value: float) -> str:
    """What a bound wants where the value breaks it."""
    match bound:
        case annotated_types.Gt(gt=limit) if not value > cast(float, limit):
            return f"a number above {limit:g}"
        case annotated_types.Ge(ge=limit) if not value >= cast(float, limit):
            return f"{limit:g} or more"
        case annotated_types.Lt(lt=limit) if not value < cast(float, limit):
            return f"a number below {limit:g}"
        case annotated_types.Le(le=limit) if not value <= cast(float, limit):
            return f"{limit:g} or less"
        case _:
            return ""


def _difficulty(config: "Config", position: int, span: "Span") -> Iterator[Conflict]:
    """A span's slice, with the top level's bound where the span has none."""
    if span.min_difficulty is None and span.max_difficulty is None:
        return
    low = config.min_difficulty if span.min_difficulty is None else span.min_difficulty
    high = config.max_difficulty if span.max_difficulty is None else span.max_difficulty
    if low is not None and high is not None and low > high:
        yield _conflict(
            f"curriculum.{position}: min_difficulty {low:g} is above max_difficulty {high:g}; no problem is left",
            "min_difficulty",
            "max_difficulty",
        )


def _conflict(text: str, *fields: str) -> Conflict:
    return Conflict(("curriculum", *fields), text)
