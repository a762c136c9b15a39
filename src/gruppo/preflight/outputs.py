"""What the starting model writes: drawn and scored as the first steps will, in waves that a budget of time allows."""

import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gruppo.preflight.subject import Budget, Subject
from gruppo.rewards.language import language_of
from gruppo.rollout.draws import derive_seed
from gruppo.types import Group, Problem, Rollout

FEWEST = 8
"""Completions per problem at least: of fewer, pass rates say too little."""
SAMPLING_SHARE = 0.6
"""Of the budget; then no further wave is begun."""
_PROBE = 4
"""Problems of the first wave, which tells how long the others will take."""
_WAVE = 256
"""Completions of a further wave, about."""

MARKS = {"####": "####", r"\boxed": r"\\boxed", "<answer>": "<answer>", "<think>": "<think>", "```": "```"}
"""Ways to mark an answer or a part of a completion, as patterns."""


@dataclass(frozen=True)
class Outputs:
    """Completions of the starting model, scored."""

    groups: tuple[Group, ...]
    limit: int
    """max_completion_length that they were drawn with."""
    temperature: float
    seconds_rollout: float
    seconds_reward: float

    @property
    def rollouts(self) -> list[Rollout]:
        """Of all groups."""
        return [rollout for group in self.groups for rollout in group.rollouts]

    @property
    def samples(self) -> int:
        """Completions per problem."""
        return len(self.groups[0].rollouts)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each completion."""
        return np.array([len(rollout.completion) for rollout in self.rollouts])

    @cached_property
    def passes(self) -> list[int]:
        """Completions that pass, by problem."""
        return [sum(rollout.score.passed for rollout in group.rollouts) for group in self.groups]

    @property
    def pass_rate(self) -> float:
        """pass@1."""
        return sum(self.passes) / len(self.rollouts)

    @property
    def truncated_share(self) -> float:
        """Of all completions."""
        return float(np.mean([rollout.completion.truncated for rollout in self.rollouts]))

    @property
    def truncated_passes(self) -> float:
        """The share of truncated completions that pass all the same."""
        cut = [rollout.score.passed for rollout in self.rollouts if rollout.completion.truncated]
        return sum(cut) / len(cut) if cut else 0.0

    @property
    def alike_share(self) -> float:
        """The share of groups whose completions are all the same text."""
        return float(np.mean([len({rollout.text for rollout in group.rollouts}) == 1 for group in self.groups]))

    @property
    def signal_share(self) -> float:
        """The share of these groups, of as many completions as were drawn, whose rewards differ."""
        return float(np.mean([group.has_signal for group in self.groups]))

    def covering(self, share: float) -> int | None:
        """The max_completion_length that so many of the completions would fit; None where too many were cut off."""
        if self.truncated_share > 1.0 - share:
            return None
        return int(np.quantile(self.lengths, share, method="higher"))

    @cached_property
    def formats(self) -> dict[str, float]:
        """The share of completions with each mark that some have."""
        texts = [rollout.text for rollout in self.rollouts]
        shares = {name: sum(bool(re.search(mark, text)) for text in texts) / len(texts) for name, mark in MARKS.items()}
        return {name: share for name, share in shares.items() if share > 0}

    @cached_property
    def languages(self) -> dict[str, float]:
        """The share of completions in each language, the commonest first; those without words left out."""
        found = Counter(language_of(group.rollouts[0].text) for group in self.groups)
        counted = [(name, count) for name, count in found.most_common() if name is not None]
        return {name: count / len(self.groups) for name, count in counted}

    def rate_of(self, problems: Sequence[Problem]) -> float:
        """pass@1 over some of the problems."""
        ids = {problem.id for problem in problems}
        chosen = [c for group, c in zip(self.groups, self.passes) if group.problem.id in ids]
        return sum(chosen) / (self.samples * len(chosen)) if chosen else 0.0


def draw(
    subject: Subject,
    problems: Sequence[Problem],
    *,
    samples: int | None = None,
    temperature: float | None = None,
    limit: int | None = None,
    purpose: str = "",
) -> Outputs:
    """Completions of these problems, with other settings than the first step's where some are given.

    Args:
        subject: what samples and scores.
        problems: at least one.
        samples: per problem; None: the group size, `FEWEST` at least.
        temperature: None: the run's.
        limit: max_completion_length; None: the run's.
        purpose: draws of another purpose are other draws.
    """
    base = subject.collector
    sampling = base.sampling
    if temperature is not None:
        sampling = replace(sampling, temperature=temperature)
    if limit is not None:
        sampling = replace(sampling, max_completion_length=limit)
    collector = replace(base, sampling=sampling, group_size=samples or max(base.group_size, FEWEST))
    found = collector.collect(problems, derive_seed(subject.config.seed, "check", purpose))
    return Outputs(
        found.groups, sampling.max_completion_length, sampling.temperature, found.seconds_rollout, found.seconds_reward
    )


def sample(subject: Subject, budget: Budget, *, few: bool = False) -> Outputs:
    """Completions of as many of the first problems as the budget has time for; a wave that was begun is finished.

    Args:
        subject: what samples and scores.
        budget: lowered to its share of the run's expected seconds, once those can be told.
        few: of the first wave alone.
    """
    problems = subject.first[: budget.problems]
    done = 0
    waves: list[Outputs] = []
    per_wave = max(_PROBE, _WAVE // max(subject.collector.group_size, FEWEST))
    while done < len(problems):
        count = _PROBE if not waves else per_wave
        began = time.perf_counter()
        waves.append(draw(subject, problems[done : done + count]))
        seconds = time.perf_counter() - began
        done += len(waves[-1].groups)
        if len(waves) == 1 and budget.of_run is not None:
            budget.lower(budget.of_run * expected_seconds(subject, waves[0]))
        if few or budget.left(SAMPLING_SHARE) < seconds * per_wave / count:
            break
    return Outputs(
        tuple(group for wave in waves for group in wave.groups),
        waves[0].limit,
        waves[0].temperature,
        sum(wave.seconds_rollout for wave in waves),
        sum(wave.seconds_reward for wave in waves),
    )


def expected_seconds(subject: Subject, outputs: Outputs) -> float:
    """What the run's sampling will take, from a few completions: a guess from below, as updates come on top."""
    per_completion = (outputs.seconds_rollout + outputs.seconds_reward) / len(outputs.rollouts)
    return per_completion * subject.config.completions_per_step * subject.config.steps
