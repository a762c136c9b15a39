"""The sections of a config below its top level: data sources, curriculum spans, the SFT and eval stages."""

import re
from typing import Annotated, Any, cast

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from gruppo.config.fields import DataFields, OptimizerFields, OrOne, Paths, Section, Text, as_tuple


class DataSource(Section):
    """One of several data sets: where it is, and how often its problems come."""

    path: Text
    """A file (JSONL, JSON, Parquet, CSV), a folder or a hub name (name:config/split)."""
    weight: float = Field(default=1.0, gt=0)
    """Its share of the problems, relative to the other data sets' weights."""


def _kind_of_source(value: object) -> str:
    return "path with weight" if isinstance(value, (dict, DataSource)) else "lone path"


Source = Annotated[
    Annotated[Text, Tag("lone path")] | Annotated[DataSource, Tag("path with weight")],
    Discriminator(_kind_of_source),
]
Sources = Annotated[tuple[Source, ...], BeforeValidator(as_tuple), Field(min_length=1), OrOne()]
"""A path alone, or with a weight."""


def _as_ramp(value: Any) -> Any:
    """A lone number stands for a ramp that doesn't move; YAML's `yes` is no 1."""
    if value is None:
        return None
    ends = list(cast(list[Any], value)) if isinstance(value, (list, tuple)) else [value, value]
    if len(ends) != 2 or any(isinstance(end, bool) for end in ends):
        raise ValueError(f"got {value!r}, wanted a number, or [from, to]")
    return tuple(ends)


Ramp = Annotated[tuple[float, float], BeforeValidator(_as_ramp)]
"""[from, to]: linear over the steps of a span."""


class Span(Section):
    """One span of a curriculum: which steps, which problems, and the numbers that differ there.

    A number is constant over the span; [from, to] moves linearly from its first step to its last.
    """

    steps: str
    """First and last step, "1-1000", or "2001-" up to the end. Between spans the top level holds."""
    promote_at: float | None = Field(default=None, gt=0, le=1)
    """Leave the span early once the mean pass rate of its last 10 steps is this high. Unset: never."""
    min_difficulty: float | None = Field(default=None, ge=0)
    """Problems of at least this difficulty."""
    max_difficulty: float | None = Field(default=None, ge=0)
    """Problems of at most this difficulty."""
    learning_rate: Ramp | None = None
    """Peak rate, before the schedule's factor."""
    temperature: Ramp | None = None
    """Temperature of the rollouts."""
    epsilon: Ramp | None = None
    """Clip range, low side (and high side where epsilon_high is unset)."""
    epsilon_high: Ramp | None = None
    """Clip range, high side."""
    beta: Ramp | None = None
    """Weight of the KL penalty."""
    max_completion_length: Ramp | None = None
    """Longest completion, tokens; rounded."""
    group_size: Ramp | None = None
    """Completions per prompt; rounded."""
    prompts_per_step: Ramp | None = None
    """Problems per step; rounded."""

    @property
    def first(self) -> int:
        """The first step, counted from 1."""
        return int(self.steps.split("-")[0])

    @property
    def last(self) -> int | None:
        """The last step; None: the run's."""
        end = self.steps.split("-")[1]
        return int(end) if end else None

    @model_validator(mode="before")
    @classmethod
    def _steps_as_text(cls, value: Any) -> Any:
        given = cast(dict[str, Any], value) if isinstance(value, dict) else {}
        if isinstance(given.get("steps"), int):
            return {**given, "steps": f"{given['steps']}-{given['steps']}"}
        return value  # pyright: ignore[reportUnknownVariableType]

    @model_validator(mode="after")
    def _steps_are_a_range(self) -> "Span":
        found = re.fullmatch(r"\s*(\d+)\s*-\s*(\d*)\s*", self.steps)
        if not found or int(found[1]) < 1 or (found[2] and int(found[2]) < int(found[1])):
            raise ValueError(f'steps: got {self.steps!r}, wanted first and last step as "1-1000", or "2001-"')
        return self


class SFTConfig(DataFields, OptimizerFields):
    """The SFT stage: supervised fine-tuning on demonstrations, before GRPO."""

    data: Paths
    """Demonstrations: a file (JSONL, JSON, Parquet, CSV), a folder, a hub name (name:config/split), or a list."""
    completion: str | None = None
    """The demonstrated completion as a template over the columns. Unset: the column of a known name, or the answer."""
    epochs: float = Field(default=1.0, gt=0)
    """Passes over the demonstrations; ignored where steps is set."""
    steps: int | None = Field(default=None, ge=1)
    """Optimizer steps. Unset: from epochs."""
    batch_size: int = Field(default=32, ge=1)
    """Demonstrations per optimizer step."""
    shuffle: bool = True
    """Shuffle every epoch; false keeps the order of the data, for a curriculum."""
    learning_rate: float = Field(default=1e-5, gt=0, le=1)
    """Peak rate of AdamW."""
    max_length: int = Field(default=2048, ge=2)
    """Longest prompt and completion together, in tokens; longer demonstrations are left out and counted."""


class EvalConfig(DataFields):
    """The evaluation stage: pass@1 and pass@k on problems of its own, before and after training."""

    data: Paths
    """Held-out problems: a file (JSONL, JSON, Parquet, CSV), a folder, a hub name (name:config/split), or a list."""
    samples: int = Field(default=8, ge=1, le=1024)
    """Completions per problem; k of pass@k."""
    temperature: float = Field(default=1.0, ge=0.05, le=5)
    """Temperature of the sampled completions."""
    greedy: bool = True
    """Also take one greedy completion per problem."""
    before: bool = True
    """Evaluate before GRPO as well, on the same problems, and report the paired difference."""
    max_completion_length: int | None = Field(default=None, ge=1)
    """Longest completion, tokens. Unset: as in GRPO."""
