"""Values that are allowed and rarely meant: outside a recommended range, or without effect. Each line says why.

The ranges are data: those of tasks in presets.py, by size, hardware and in general in ranges.py. A value that comes
from a preset is as its paper or task has it, and nothing is said of it. The model's size is read from its folder;
advice never changes a value.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from gruppo.config.checks import own, shown
from gruppo.config.idle import warnings
from gruppo.config.model_shape import read_shape
from gruppo.config.presets import PRESETS, layer
from gruppo.config.ranges import GENERAL, TOY, Range, by_gpus, by_size
from gruppo.config.schema import Config


@dataclass(frozen=True, slots=True)
class Advice:
    """A rule: when it speaks, and what it says."""

    field: str
    applies: Callable[[Config], bool]
    text: str


def _alone(config: Config) -> bool:
    """Whether no policy ratio is in play, which top-p and top-k would bias (checks.py)."""
    return config.optimizer_steps_per_batch == 1 and config.sampler_correction == "none"


RULES: tuple[Advice, ...] = (
    Advice(
        "top_p",
        lambda c: c.top_p < 1 and _alone(c),
        "below 1 draws from another distribution than the one that is trained; 1 leaves it off",
    ),
    Advice(
        "top_k",
        lambda c: c.top_k > 0 and _alone(c),
        "above 0 draws from another distribution than the one that is trained; 0 leaves it off",
    ),
    Advice(
        "max_completion_length",
        lambda c: c.max_completion_length < 16,
        "very short: truncated completions rarely hold an answer",
    ),
    Advice(
        "rewards",
        lambda c: any(reward.isolation == "inline" for reward in c.rewards),
        "with isolation: inline a reward runs in the trainer: nothing stops it if it hangs. Keep that for debugging",
    ),
    Advice(
        "rewards",
        lambda c: any(reward.isolation == "unsafe" for reward in c.rewards),
        "with isolation: unsafe programs written by the model may do whatever your account may do",
    ),
)
"""What no range says."""


@dataclass(frozen=True, slots=True)
class Recommendation:
    """A recommended range of an option, and who recommends it."""

    field: str
    range: Range
    who: str
    """`preset math`, `models below 1B parameters`, `4 to 7 GPUs`; empty: everybody."""


LORA_RATE = Range(5e-6, 1.0, "LoRA wants about 10 times the rate of full fine-tuning; 1e-5 to 1e-4 is usual")
"""`learning_rate` with LoRA, where the model's size is not known."""


def recommendations(
    config: Config, parameters: float | None = None, gpus: int | None = None
) -> Iterator[Recommendation]:
    """The ranges that are meant for this config, the nearest to it first.

    Args:
        config: with its task among its presets.
        parameters: the model's size; None: not known, and nothing is recommended by it.
        gpus: how many there are; None: not known.
    """
    for name in reversed(config.preset):
        for field, found in PRESETS[name].ranges.items():
            yield Recommendation(field, found, f"preset {name}")
    lora = config.lora_rank > 0
    for field, (who, found) in by_size(parameters, lora=lora).items() if parameters is not None else ():
        if field != "beta" or config.beta > 0:
            yield Recommendation(field, found, who)
    if lora and (parameters is None or parameters < TOY):
        yield Recommendation("learning_rate", LORA_RATE, "")
    for field, (who, found) in by_gpus(gpus).items() if gpus is not None else ():
        yield Recommendation(field, found, who)
    for field, found in GENERAL.items():
        if field != "max_completion_length" or parameters is None or parameters >= TOY:
            yield Recommendation(field, found, "")


def advise(config: Config, parameters: float | None = None, gpus: int | None = None) -> list[str]:
    """One line for each value that is rarely meant, options in no particular order.

    Args:
        config: the resolved config.
        parameters: the model's size; None: from the config.json in the model's folder, where there is one.
        gpus: how many there are; None: nothing is said by it.
    """
    if parameters is None and (shape := read_shape(config.model)) is not None:
        parameters = shape.parameters
    lines = [f"{rule.field}: {_value(config, rule.field)}; {rule.text}" for rule in RULES if rule.applies(config)]
    told = {rule.field for rule in RULES if rule.applies(config)}
    for found in recommendations(config, parameters, gpus):
        if found.field not in told and _outside(config, found):
            told.add(found.field)
            lines.append(f"{found.field}: {_value(config, found.field)}; {_objection(config, found)}")
    for conflict in warnings(config):
        value = getattr(config, conflict.fields[0])
        head = "" if isinstance(value, tuple) else f" {_value(config, conflict.fields[0])};"
        lines.append(f"{conflict.fields[0]}:{head} {conflict.text}")
    return lines


def _outside(config: Config, found: Recommendation) -> bool:
    value = getattr(config, found.field)
    preset = layer(config.preset)
    if found.field in preset and preset[found.field][0] == value:
        return False
    # A task's range is of what the user has set; what another preset has set is that one's business.
    return not found.range.holds(value) and (not found.who.startswith("preset ") or own(config, found.field))


def _objection(config: Config, found: Recommendation) -> str:
    reason = found.range.objection(getattr(config, found.field))
    if not found.who:
        return reason
    verb = "recommends" if found.who.startswith("preset ") else "want"
    return f"{found.who} {verb} {found.range.text}: {reason}"


def _value(config: Config, field: str) -> str:
    value = getattr(config, field)
    return str(value) if isinstance(value, float) else shown(value)
