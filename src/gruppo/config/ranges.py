"""Recommended ranges as data: in general, by the model's size, by the hardware. Each says why.

A value outside one is allowed and warned of (advice.py); what is refused stands at the field itself (schema.py). A
model's size is its parameters. Below `TOY` none is recommended by size, nor a length: models that small are trained
on short drills, from scratch, at rates of their own.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from gruppo.errors import ConfigError

TOY = 1e8
"""Parameters below which a model is a toy to the recommendations."""
LORA_FACTOR = 10.0
"""LoRA's learning rate over that of full fine-tuning."""
SMALL_GPU = 24.0
"""GB of memory below which a GPU gets half the group."""


@dataclass(frozen=True, slots=True)
class Range:
    """Values from low to high, both inside, and why."""

    low: float
    high: float
    reason: str
    above: str = ""
    """The reason not to go above it, where it is another."""

    def holds(self, value: float) -> bool:
        """Whether a value is inside, up to rounding."""
        return self.low * (1 - 1e-9) <= value <= self.high * (1 + 1e-9)

    def nearest(self, value: float) -> float:
        """The value, or the end that it lies beyond."""
        return min(max(value, self.low), self.high)

    def times(self, factor: float, because: str) -> "Range":
        """Both ends multiplied, with one more reason."""
        return Range(float(f"{self.low * factor:g}"), float(f"{self.high * factor:g}"), f"{self.reason}; {because}")

    def objection(self, value: float) -> str:
        """Why a value outside is not recommended."""
        return self.above or self.reason if value > self.high else self.reason

    @property
    def text(self) -> str:
        """In words."""
        return f"{self.low:g} to {self.high:g}"


@dataclass(frozen=True, slots=True)
class Rule:
    """A recommendation for models, or numbers of GPUs, up to a limit."""

    limit: float
    """Below this many parameters, or GPUs."""
    who: str
    """Whom it is for, in words."""
    range: Range


GENERAL: Mapping[str, Range] = {
    "group_size": Range(
        4,
        64,
        "so few completions leave most groups without a signal; 8 to 16 is usual",
        "so many completions of one problem hardly sharpen its baseline; 8 to 16 is usual, 64 the most in use",
    ),
    "temperature": Range(
        0.7,
        1.5,
        "too low leaves groups without variety; 1.0 is balanced, 1.2 to 1.5 explores, 0.7 to 0.9 is for inference",
        "too high breaks the text; 1.0 is balanced, 1.2 to 1.5 explores",
    ),
    "beta": Range(0.0, 0.1, "so heavy a KL penalty holds the policy at its start; 0 to 0.04 is usual"),
    "max_completion_length": Range(
        256,
        32768,
        "short: truncated completions rarely hold an answer; 256 to 32,768 is usual",
        "so long that a step costs more than it teaches; 256 to 32,768 is usual",
    ),
}
"""Whatever the task, the model and the hardware."""

_RATE = "the larger the model, the smaller the rate that it bears"
_BETA = "a larger model knows more that the penalty is to keep"

RATE_BY_SIZE: tuple[Rule, ...] = (
    Rule(1e9, "models below 1B parameters", Range(5e-6, 1e-5, _RATE)),
    Rule(8e9, "models of 1B to 7B parameters", Range(3e-6, 5e-6, _RATE)),
    Rule(float("inf"), "models above 7B parameters", Range(1e-6, 3e-6, _RATE)),
)
"""`learning_rate` of full fine-tuning; LoRA's is `LORA_FACTOR` times that. A model named 7B has up to 8e9."""

BETA_BY_SIZE: tuple[Rule, ...] = (
    Rule(3e9, "models below 3B parameters", Range(0.0005, 0.001, _BETA)),
    Rule(1.1e10, "models of 3B to 10B parameters", Range(0.001, 0.002, _BETA)),
    Rule(float("inf"), "models above 10B parameters", Range(0.002, 0.005, _BETA)),
)
"""`beta`, where a penalty is wanted at all."""

GROUP_BY_GPUS: tuple[Rule, ...] = (
    Rule(4, "fewer than 4 GPUs", Range(4, 8, "a step's completions are drawn by few GPUs")),
    Rule(8, "4 to 7 GPUs", Range(8, 16, "there is room for a sharper baseline")),
    Rule(float("inf"), "8 GPUs or more", Range(16, 64, "16 to 32 is usual, and 64 where problems are hard")),
)
"""`group_size`."""


def by_size(parameters: float, *, lora: bool = False) -> dict[str, tuple[str, Range]]:
    """What is recommended for a model of this size: by option, for whom and what. Nothing for a toy."""
    if parameters < TOY:
        return {}
    rate, beta = _rule(RATE_BY_SIZE, parameters), _rule(BETA_BY_SIZE, parameters)
    rates = rate.range.times(LORA_FACTOR, "ten times that for LoRA") if lora else rate.range
    return {"learning_rate": (rate.who, rates), "beta": (beta.who, beta.range)}


def by_gpus(gpus: int) -> dict[str, tuple[str, Range]]:
    """What is recommended for this many GPUs."""
    rule = _rule(GROUP_BY_GPUS, gpus)
    return {"group_size": (rule.who, rule.range)}


def _rule(rules: tuple[Rule, ...], value: float) -> Rule:
    return next(rule for rule in rules if value < rule.limit)


def parameters_of(size: float | str) -> float:
    """A model's size as a number: 7e9, "7B", "0.5b", "494M".

    Raises:
        ConfigError: it is no size.
    """
    if isinstance(size, str):
        text = size.strip().lower()
        unit = {"b": 1e9, "m": 1e6, "k": 1e3}.get(text[-1:], 1.0)
        text = text[:-1] if unit > 1 else text
    else:
        text, unit = str(size), 1.0
    try:
        number = float(text) * unit
    except ValueError:
        number = 0.0
    if not 0 < number < 1e15:
        raise ConfigError(f"model_size: got {size!r}, wanted a number of parameters such as 7B, 0.5b or 7e9")
    return number
