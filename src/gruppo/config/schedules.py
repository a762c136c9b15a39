"""Numbers by step: the learning rate's warm-up and fall, and the spans of a curriculum.

How this differs from the cosine that is commonly copied: that one divides by all steps and so never reaches its
end; this one divides by the steps after the warm-up, and the last step is at the floor.
"""

import math
from collections import deque
from dataclasses import dataclass
from typing import Any

from gruppo.config.fields import OptimizerFields
from gruppo.config.schema import Config
from gruppo.config.sections import Span

PROMOTION_WINDOW = 10
"""Steps over which a span's pass rate is averaged before it can be left early."""


def lr_factor(step: int, steps: int, fields: OptimizerFields) -> float:
    """Factor of the peak rate at a step.

    Warm-up of W steps: (step + 1) / (W + 1), so that its first step is not at 0. Then, with x the share of the steps
    behind the warm-up that has passed (1 at the last step): linear 1 - x, cosine (1 + cos(pi x)) / 2, between 1 and
    `min_lr_ratio`; constant 1.

    Args:
        step: 0 to steps - 1.
        steps: optimizer steps of the stage.
        fields: warm-up (steps, or a share of them), form of the fall, and its floor.
    """
    warmup = round(fields.warmup_ratio * steps) if fields.warmup_steps is None else fields.warmup_steps
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if fields.lr_schedule == "constant":
        return 1.0
    progress = (step - warmup) / max(1, steps - 1 - warmup)
    fall = 1.0 - progress if fields.lr_schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))
    return fields.min_lr_ratio + (1.0 - fields.min_lr_ratio) * fall


@dataclass(frozen=True, slots=True)
class StepNumbers:
    """Every number of the GRPO stage that may change from step to step, resolved for one step."""

    lr_factor: float
    """Of the config's peak rate: the schedule's factor, times the span's rate over the config's."""
    learning_rate: float
    """The rate itself."""
    temperature: float
    epsilon: float
    epsilon_high: float
    beta: float
    max_completion_length: int
    group_size: int
    prompts_per_step: int
    min_difficulty: float | None
    max_difficulty: float | None
    span: int | None
    """Which span of the curriculum, counted from 1; None: between spans, or none at all."""


class Curriculum:
    """Where a run is in its spans. Stateful.

    A span that is left early (`promote_at`) brings the later ones forward by the steps that it had left.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._ahead = 0
        self._rates: deque[float] = deque(maxlen=PROMOTION_WINDOW)
        self._seen: int | None = None

    def at(self, step: int) -> StepNumbers:
        """The numbers of a step, counted from 0."""
        config = self._config
        place = step + 1 + self._ahead
        number, span = self._span(place)
        steps = config.steps + self._ahead

        def number_of(name: str, default: float) -> float:
            ramp: tuple[float, float] | None = getattr(span, name) if span is not None else None
            return default if ramp is None or span is None else _on_ramp(ramp, place, span.first, span.last or steps)

        epsilon = number_of("epsilon", config.epsilon)
        high = epsilon if config.epsilon_high is None else config.epsilon_high
        factor = lr_factor(step, config.steps, config)
        factor *= number_of("learning_rate", config.learning_rate) / config.learning_rate
        return StepNumbers(
            lr_factor=factor,
            learning_rate=config.learning_rate * factor,
            temperature=number_of("temperature", config.temperature),
            epsilon=epsilon,
            epsilon_high=number_of("epsilon_high", high),
            beta=number_of("beta", config.beta),
            max_completion_length=round(number_of("max_completion_length", config.max_completion_length)),
            group_size=round(number_of("group_size", config.group_size)),
            prompts_per_step=round(number_of("prompts_per_step", config.prompts_per_step)),
            min_difficulty=_first(span.min_difficulty if span else None, config.min_difficulty),
            max_difficulty=_first(span.max_difficulty if span else None, config.max_difficulty),
            span=number,
        )

    def observe(self, step: int, pass_rate: float) -> int | None:
        """Take note of a step's pass rate.

        Returns:
            The span (counted from 1) that is left early from the next step on, else None.
        """
        place = step + 1 + self._ahead
        number, span = self._span(place)
        if number != self._seen:
            self._seen = number
            self._rates.clear()
        self._rates.append(pass_rate)
        if span is None or span.promote_at is None or span.last is None or place >= span.last:
            return None
        if len(self._rates) < PROMOTION_WINDOW or sum(self._rates) / len(self._rates) < span.promote_at:
            return None
        self._ahead += span.last - place
        return number

    def _span(self, place: int) -> tuple[int | None, Span | None]:
        for number, span in enumerate(self._config.curriculum, start=1):
            if span.first <= place and (span.last is None or place <= span.last):
                return number, span
        return None, None

    def state_dict(self) -> dict[str, Any]:
        """How far ahead of the written steps it is, and the pass rates of the span in hand."""
        return {"ahead": self._ahead, "rates": list(self._rates), "span": self._seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self._ahead, self._seen = state["ahead"], state["span"]
        self._rates = deque(state["rates"], maxlen=PROMOTION_WINDOW)


def _on_ramp(ramp: tuple[float, float], place: int, first: int, last: int) -> float:
    """Linear from the first step of a span to its last."""
    start, end = ramp
    return start if start == end or last == first else start + (end - start) * (place - first) / (last - first)


def _first(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)
