"""Recommended ranges: values that are allowed and rarely meant. Each rule says why, and what to do."""

from collections.abc import Callable
from dataclasses import dataclass

from gruppo.config.schema import Config


@dataclass(frozen=True, slots=True)
class Advice:
    """A rule: when it speaks, and what it says."""

    field: str
    applies: Callable[[Config], bool]
    text: str


RULES: tuple[Advice, ...] = (
    Advice(
        "learning_rate",
        lambda c: c.lora_rank > 0 and c.learning_rate < 5e-6,
        "LoRA wants about 10 times the rate of full fine-tuning; 1e-5 to 1e-4 is usual",
    ),
    Advice(
        "group_size",
        lambda c: c.group_size < 4,
        "so few completions leave most groups without a signal; 8 to 16 is usual",
    ),
    Advice(
        "temperature",
        lambda c: not 0.5 <= c.temperature <= 1.5,
        "too low leaves groups without variety, too high breaks the text; 0.7 to 1.2 is usual",
    ),
    Advice(
        "top_p",
        lambda c: c.top_p < 1,
        "below 1 draws from another distribution than the one that is trained; 1 leaves it off",
    ),
    Advice(
        "top_k",
        lambda c: c.top_k > 0,
        "above 0 draws from another distribution than the one that is trained; 0 leaves it off",
    ),
    Advice(
        "max_completion_length",
        lambda c: c.max_completion_length < 16,
        "very short: truncated completions rarely hold an answer",
    ),
    Advice(
        "beta",
        lambda c: c.beta > 0.1,
        "so heavy a KL penalty holds the policy at its start; 0 to 0.04 is usual",
    ),
)


def advise(config: Config) -> list[str]:
    """One line for each rule that speaks."""
    return [f"{rule.field}: {_value(config, rule.field)}; {rule.text}" for rule in RULES if rule.applies(config)]


def _value(config: Config, field: str) -> object:
    return config.model_dump(include={field})[field]
