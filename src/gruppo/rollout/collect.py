"""From problems to scored groups: submit, and score each group as soon as its last completion is there."""

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

from gruppo.rollout.engine import RolloutEngine
from gruppo.types import (
    Completion,
    Group,
    GroupRequest,
    Problem,
    Rollout,
    SamplingParams,
    Scorer,
    TextDecoder,
)


@dataclass(frozen=True, slots=True)
class Collected:
    """The groups of a step, in the order of their problems, and where the time went."""

    groups: tuple[Group, ...]
    seconds_rollout: float
    seconds_reward: float

    @property
    def generated_tokens(self) -> int:
        """Completion tokens of all groups."""
        return sum(len(rollout.completion) for group in self.groups for rollout in group.rollouts)


@dataclass(frozen=True, slots=True)
class Collector:
    """The engine, the rubric and how to sample, together."""

    engine: RolloutEngine
    scorer: Scorer
    decoder: TextDecoder
    sampling: SamplingParams
    group_size: int

    def collect(self, problems: Sequence[Problem], seed: int) -> Collected:
        """One scored group per problem; the same seed and weights give the same groups."""
        start = time.perf_counter()
        occurrences: Counter[str] = Counter()
        for index, problem in enumerate(problems):
            self.engine.submit(self._request(index, problem, seed + occurrences[problem.id]))
            occurrences[problem.id] += 1
        waiting: dict[int, list[Completion]] = {index: [] for index in range(len(problems))}
        groups: dict[int, Group] = {}
        seconds_reward = 0.0
        with closing(self.engine.completed()) as completions:
            for completion in completions:
                members = waiting[completion.request_id]
                members.append(completion)
                if len(members) == self.group_size:
                    began = time.perf_counter()
                    groups[completion.request_id] = self._scored(problems[completion.request_id], members)
                    seconds_reward += time.perf_counter() - began
        seconds = time.perf_counter() - start
        ordered = tuple(groups[index] for index in range(len(problems)))
        return Collected(ordered, seconds_rollout=seconds - seconds_reward, seconds_reward=seconds_reward)

    def _request(self, index: int, problem: Problem, seed: int) -> GroupRequest:
        return GroupRequest(
            id=index,
            problem_id=problem.id,
            prompt_ids=problem.prompt_ids,
            group_size=self.group_size,
            sampling=self.sampling,
            seed=seed,
        )

    def _scored(self, problem: Problem, members: Sequence[Completion]) -> Group:
        ordered = sorted(members, key=lambda completion: completion.sample)
        texts = [self.decoder.decode(completion.token_ids.tolist()) for completion in ordered]
        scores = self.scorer.score(problem, texts, [completion.truncated for completion in ordered])
        return Group(problem, tuple(map(Rollout, ordered, texts, scores)))
