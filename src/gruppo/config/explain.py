"""A config told option by option: its value, where it came from, why, and what is recommended."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from gruppo.config.advice import Recommendation, advise, recommendations
from gruppo.config.checks import shown
from gruppo.config.configure import Configured, configure
from gruppo.config.load import Given, check, dotted_names
from gruppo.config.model_shape import ModelShape, read_shape
from gruppo.config.presets import PRESETS, Preset, layer
from gruppo.config.ranges import parameters_of
from gruppo.config.reference import Option, options
from gruppo.config.schema import Config, RewardConfig
from gruppo.config.sections import DataSource, Span
from gruppo.config.table import aligned, wrapped

_SENTENCE_END = re.compile(r"(?<!Dr)\. ")


@dataclass(frozen=True, slots=True)
class Hardware:
    """What a config is to run on, as far as it is known."""

    gpu_memory: float | None = None
    """GB of one GPU."""
    gpus: int | None = None
    model_size: str | None = None
    """Parameters, such as 7B. Unset: from the model's folder."""


@dataclass(frozen=True, slots=True)
class Row:
    """One option of a config."""

    option: str
    value: Any
    source: str
    """file, flag, default, or the preset's kind and name: `task math`, `paper dapo`."""
    why: str
    recommended: str
    """The nearest recommended range, and whose it is; empty: none."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """A whole config, told."""

    config: Config
    rows: tuple[Row, ...]
    shape: ModelShape | None
    """The model's, where its folder is at hand."""
    fitted: Configured | None
    """What `configure` makes of the same presets and values on this hardware; None: nothing was said of it."""
    warnings: tuple[str, ...]


def explain(given: Given, hardware: Hardware) -> Explanation:
    """Tell a config.

    Raises:
        ConfigError: fields are wrong; all of them are listed.
    """
    config = check(Config, given.values, given.source)
    shape = read_shape(config.model)
    size = hardware.model_size or (None if shape is None else shape.parameters)
    parameters = None if size is None else parameters_of(size)
    nearest: dict[str, Recommendation] = {}
    for found in recommendations(config, parameters, hardware.gpus):
        nearest.setdefault(found.field, found)
    return Explanation(
        config=config,
        rows=tuple(_rows(config, given, nearest)),
        shape=shape,
        fitted=_fitted(config, given, hardware, parameters) if hardware != Hardware() else None,
        warnings=tuple(advise(config, parameters, hardware.gpus)),
    )


def _rows(config: Config, given: Given, nearest: dict[str, Recommendation]) -> Iterator[Row]:
    named = frozenset(dotted_names(given.values))
    presets = layer(config.preset)
    for option in options():
        stage, _, leaf = option.name.rpartition(".")
        section = getattr(config, stage) if stage else config
        if section is None:
            continue
        source, why = _origin(option, given, named, presets.get(option.name), config)
        found = nearest.get(option.name)
        recommended = f"{found.range.text} ({found.who or 'in general'})" if found else ""
        yield Row(option.name, getattr(section, leaf), source, why, recommended)


def _origin(
    option: Option, given: Given, named: frozenset[str], preset: tuple[Any, Preset] | None, config: Config
) -> tuple[str, str]:
    """Where a value came from, and why."""
    what = _SENTENCE_END.split(option.help)[0].rstrip(".")
    if option.name in named:
        why = f"{what}; in place of {preset[1].name}'s {shown(preset[0])}" if preset else what
        return ("flag" if option.name in given.flags else "file"), why
    if preset:
        return f"{preset[1].kind} {preset[1].name}", preset[1].why(option.name)
    if option.name == "sampler_correction" and config.rollouts_differ:
        return "rollout_precision", "rollouts in another precision than the update are corrected"
    return "default", what


def _fitted(config: Config, given: Given, hardware: Hardware, parameters: float | None) -> Configured:
    """The same presets and values, fitted to the hardware."""
    names = {name for name in given.values if name in Config.model_fields}
    own = {name: getattr(config, name) for name in names - {"preset", "model", "data"}}
    return configure(config.preset, gpu_memory=hardware.gpu_memory, gpus=hardware.gpus, model_size=parameters, **own)


# ---- as text and as JSON


def as_text(told: Explanation) -> str:
    """Tables that fit 110 columns: what is set, what is at its default, what the hardware would change; warnings."""
    config = told.config
    lines = [_table([row for row in told.rows if row.source != "default"]), ""]
    lines += ["At their defaults:", _table([row for row in told.rows if row.source == "default"]), ""]
    lines += [f"preset {name}: {PRESETS[name].source}" for name in config.preset]
    if told.shape is not None:
        lines.append(f"model: {told.shape.family}, {told.shape.parameters:,} parameters")
    lines.append(
        f"per step: {config.completions_per_step} completions ({config.prompts_per_step} x {config.group_size})"
    )
    if changes := changes_of(told):
        moved = [(name, shown(value), source, why) for name, value, source, why in changes]
        lines += ["", "For this model and hardware gruppo.configure takes:", aligned(moved), ""]
    return "\n".join([*lines, *(wrapped(f"warning: {line}") for line in told.warnings)])


def _table(rows: list[Row]) -> str:
    cells = [(row.option, text(row.value), row.source, _reason(row)) for row in rows]
    return aligned([("option", "value", "from", "why"), *cells])


def _reason(row: Row) -> str:
    return f"{row.why}; recommended {row.recommended}" if row.recommended else row.why


def changes_of(told: Explanation) -> list[tuple[str, Any, str, str]]:
    """What the model's size and the hardware would move: option, value, source, why."""
    if told.fitted is None:
        return []
    sources = told.fitted.sources
    return [
        (name, value, sources[name].source, sources[name].why)
        for name, value in told.fitted.values.items()
        if sources[name].source in ("size", "hardware")
    ]


def as_json(told: Explanation) -> dict[str, Any]:
    """The same as plain data."""
    plain = told.config.model_dump(mode="json")
    return {
        "options": [
            {
                "option": row.option,
                "value": _plain(plain, row.option),
                "from": row.source,
                "why": row.why,
                "recommended": row.recommended or None,
            }
            for row in told.rows
        ],
        "presets": [
            {"name": name, "kind": PRESETS[name].kind, "source": PRESETS[name].source} for name in told.config.preset
        ],
        "completions_per_step": told.config.completions_per_step,
        "parameters": None if told.shape is None else told.shape.parameters,
        "fitted": [
            {"option": name, "value": value, "from": source, "why": why}
            for name, value, source, why in changes_of(told)
        ],
        "warnings": list(told.warnings),
    }


def _plain(values: dict[str, Any], name: str) -> Any:
    stage, _, leaf = name.rpartition(".")
    return values[stage][leaf] if stage else values[name]


def text(value: Any) -> str:
    """An option's value in a cell."""
    match value:
        case RewardConfig(name=name):
            return name
        case DataSource(path=path, weight=weight):
            return f"{path} x {weight:g}"
        case Span(steps=steps):
            return steps
        case tuple() if value:
            return ", ".join(text(item) for item in value)  # pyright: ignore[reportUnknownVariableType]
        case tuple() | "":
            return "none"
        case _:
            return shown(value)
