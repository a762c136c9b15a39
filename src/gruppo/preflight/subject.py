"""What a check looks at: everything that a run will load, put together."""

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from gruppo.config.schema import Config
from gruppo.data.chat import ChatRenderer
from gruppo.rewards.rubric import Rubric
from gruppo.rollout.collect import Collector
from gruppo.training.models import LoadedModel
from gruppo.types import Problem


@dataclass(frozen=True)
class Subject:
    """A run before its first step. Nothing in it is changed by a check."""

    config: Config
    loaded: LoadedModel
    renderer: ChatRenderer
    rubric: Rubric
    collector: Collector
    """As the first step samples."""
    problems: tuple[Problem, ...]
    """All of the training data, rendered, those too long for the context too."""
    prompt_limit: int | None
    """The longest prompt that a run takes, tokens; None: any."""
    first: tuple[Problem, ...]
    """Problems of the first steps, in the run's own order, each once; those that are too long left out."""
    held_out: tuple[Problem, ...]
    unused: tuple[tuple[str, str], ...]
    """Columns of text that the prompt leaves out, each with a `prompt:` that has it."""
    token_budget: int
    """Tokens of a micro-batch."""
    packing: str
    """How completions stand in a pass: trees or padded."""
    vary: Callable[[Mapping[str, Any]], "Subject"]
    """The same with other options (not of the model)."""
    before_sft: bool = False
    """The model is not the one that GRPO will start from: SFT comes first."""
    demonstrations: tuple[int, ...] = ()
    """Lengths of the completions that SFT will teach, tokens."""
    baseline_bytes: int | None = None
    """What the process held before the model was loaded."""

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.loaded.model.parameters()).device

    @property
    def difficulties(self) -> list[float]:
        """Those that the first problems have, ascending, each once."""
        return sorted({problem.difficulty for problem in self.first if problem.difficulty is not None})


@dataclass
class Budget:
    """Seconds that a check may take, and how much may be spent on each part."""

    seconds: float
    problems: int = 64
    """The most problems to sample from."""
    thorough: bool = True
    """Also what only informs: other temperatures, a second update."""
    of_run: float | None = None
    """At most this share of the run's own expected seconds, known once something was sampled; None: no such limit."""
    _start: float = field(default_factory=time.perf_counter)

    def begin(self) -> None:
        """Count from now: loading is what the run does too."""
        self._start = time.perf_counter()

    @property
    def spent(self) -> float:
        """Seconds since it began."""
        return time.perf_counter() - self._start

    def left(self, share: float = 1.0) -> float:
        """Seconds until so much of it is spent, 0 or more."""
        return max(0.0, share * self.seconds - self.spent)

    def lower(self, seconds: float) -> None:
        """Make do with so many in all."""
        self.seconds = min(self.seconds, seconds)


@contextmanager
def untouched_randomness() -> Iterator[None]:
    """Every random state of the process as it was before, whatever the block draws."""
    python, arrays = random.getstate(), np.random.get_state()
    devices = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(arrays)


def fitting(problems: Sequence[Problem], limit: int | None) -> list[Problem]:
    """Those whose prompt fits, each problem once, in their order."""
    unique = {problem.id: problem for problem in problems if limit is None or len(problem.prompt_ids) <= limit}
    return list(unique.values())
