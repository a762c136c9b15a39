"""Values for a task on given hardware, each with where it came from: `gruppo.configure`.

Order, the later over the earlier: gruppo's defaults, the presets, the model's size, the hardware, the caller.
1. **Size** moves the learning rate to the nearest end of its range, and raises beta to the lower end of its own. It
   never lowers beta: a heavier penalty is a task's caution.
2. **LoRA** takes ten times the rate.
3. **Hardware**: on a GPU under 24 GB the group is halved and `prompts_per_step` doubled, so that a step sees as many
   completions; then the group is moved into the range for the number of GPUs, where that is given.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gruppo.config.advice import advise
from gruppo.config.checks import shown
from gruppo.config.load import Values, check, resolve_aliases
from gruppo.config.presets import PRESETS, canonical, layer, unknown
from gruppo.config.ranges import LORA_FACTOR, SMALL_GPU, by_gpus, by_size, parameters_of
from gruppo.config.schema import Config
from gruppo.config.table import aligned, wrapped
from gruppo.errors import ConfigError

Source = Literal["user", "task", "paper", "size", "hardware", "default"]
LORA_RANK = 16
"""The rank where LoRA is asked for without one."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value came from, and why it is so."""

    source: Source
    why: str


@dataclass(frozen=True, slots=True)
class Configured:
    """Values for some options, by name, and where each came from; print it to see them."""

    presets: tuple[str, ...]
    values: Mapping[str, Any]
    sources: Mapping[str, Origin]
    warnings: tuple[str, ...]
    """What is outside a recommended range, or without effect."""

    def config(self, model: str, data: Any, **more: Any) -> Config:
        """A config with these values.

        Args:
            model: the model's folder or hub name.
            data: the problems, as in `Config`.
            more: any other option, over the values.

        Raises:
            ConfigError: fields are wrong; all of them are listed.
        """
        given = resolve_aliases(more, [])
        values = {"preset": self.presets, **self.values, "model": model, "data": data, **given}
        return check(Config, values, "gruppo.configure")

    def __str__(self) -> str:
        """A table of the values with their sources and reasons, and the warnings."""
        rows = [
            (name, shown(value), self.sources[name].source, self.sources[name].why)
            for name, value in self.values.items()
        ]
        presets = [f"preset {name}: {PRESETS[name].source}" for name in self.presets]
        return "\n".join([aligned(rows), *presets, *(wrapped(f"warning: {line}") for line in self.warnings)])


def configure(
    task: str | Sequence[str],
    *,
    gpu_memory: float | None = None,
    gpus: int | None = None,
    model_size: float | str | None = None,
    lora: bool = False,
    **overrides: Any,
) -> Configured:
    """Values for a task, fitted to the model and the hardware.

    Args:
        task: a preset of docs/presets.md, such as "math", or several, the last over those before it.
        gpu_memory: GB of one GPU; None: not known, and nothing is fitted to it.
        gpus: how many; None: not known.
        model_size: parameters, 7e9 or "7B"; None: not known.
        lora: train adapters in place of the whole model.
        overrides: your own values, by option or alias; nothing is put over them.

    Raises:
        ConfigError: no such preset, or fields are wrong; all of them are listed.
    """
    names = _known([task] if isinstance(task, str) else task)
    own = resolve_aliases(overrides, [])
    if lora:
        own.setdefault("lora_rank", LORA_RANK)
    typed = _checked(names, own)
    draft = _Draft(names, {name: getattr(typed, name) for name in own})
    parameters = None if model_size is None else parameters_of(model_size)
    _fit_size(draft, parameters, typed.lora_rank > 0)
    _fit_hardware(draft, gpu_memory, gpus)
    config = _checked(names, draft.values)
    values = {name: getattr(config, name) for name in draft.values}
    return Configured(names, values, draft.sources, tuple(advise(config, parameters, gpus)))


def _checked(names: tuple[str, ...], values: Values) -> Config:
    """A config of these values, for a model and data that are yet to be named."""
    return check(Config, {"model": "unnamed", "data": "unnamed", "preset": names, **values}, "gruppo.configure")


class _Draft:
    """Values on their way, the caller's never overwritten."""

    def __init__(self, names: Sequence[str], own: Values) -> None:
        self._own = own
        default = Config.model_fields["prompts_per_step"].default
        self.values: Values = {"prompts_per_step": default}
        self.sources: dict[str, Origin] = {"prompts_per_step": Origin("default", "gruppo's own")}
        for name, (value, preset) in layer(names).items():
            self.put(name, value, preset.kind, f"{preset.name}: {preset.why(name)}")
        for name, value in own.items():
            self.values[name], self.sources[name] = value, Origin("user", "as you say")

    def put(self, name: str, value: Any, source: Source, why: str) -> None:
        """Set a value, unless the caller has."""
        if name not in self._own:
            self.values[name], self.sources[name] = value, Origin(source, why)

    def value(self, name: str, default: Any) -> Any:
        """What stands so far."""
        return self.values.get(name, default)

    def free(self, *names: str) -> bool:
        """Whether the caller has left these alone."""
        return not any(name in self._own for name in names)


def _known(given: Sequence[str]) -> tuple[str, ...]:
    for name in given:
        if canonical(name) is None:
            raise ConfigError(f"task: {unknown(name)}")
    return tuple(canonical(name) or name for name in given)


def _fit_size(draft: _Draft, parameters: float | None, lora: bool) -> None:
    """The rate and beta for the model's size, and the rate for LoRA."""
    rate = draft.value("learning_rate", Config.model_fields["learning_rate"].default)
    fitted, why = rate, ""
    if lora:
        fitted, why = float(f"{rate * LORA_FACTOR:g}"), f"ten times {rate:g}, for LoRA"
    ranges = {} if parameters is None else by_size(parameters, lora=lora)
    for name, (who, found) in ranges.items():
        because = f"{who} want {found.text}: {found.reason}"
        if name == "learning_rate" and not found.holds(fitted):
            fitted, why = found.nearest(fitted), because
        if name == "beta" and 0 < draft.value("beta", 0.0) < found.low:
            draft.put("beta", found.low, "size", because)
    if why:
        draft.put("learning_rate", fitted, "size", why)


def _fit_hardware(draft: _Draft, gpu_memory: float | None, gpus: int | None) -> None:
    """The group for the GPUs."""
    for name, given in (("gpu_memory", gpu_memory), ("gpus", gpus)):
        if given is not None and not given > 0:
            raise ConfigError(f"{name}: got {given!r}, wanted a number above 0")
    default = Config.model_fields["group_size"].default
    group, prompts = draft.value("group_size", default), draft.value("prompts_per_step", 1)
    if gpu_memory is not None and gpu_memory < SMALL_GPU and group >= 4 and draft.free("group_size"):
        why = f"a GPU of {gpu_memory:g} GB, under {SMALL_GPU:g}"
        draft.put("group_size", group // 2, "hardware", f"half of {group}: {why}")
        draft.put("prompts_per_step", 2 * prompts, "hardware", f"twice {prompts}, for as many completions: {why}")
    if gpus is not None:
        who, found = by_gpus(gpus)["group_size"]
        group = draft.value("group_size", default)
        if draft.free("group_size") and not found.holds(group):
            draft.put("group_size", int(found.nearest(group)), "hardware", f"{who} want {found.text}: {found.reason}")
