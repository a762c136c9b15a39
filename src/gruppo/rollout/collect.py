"""From problems to scored groups: submit, and begin to score each group as soon as its last completion is there.

Scoring goes on beside the sampling of the other groups; what is still on its way at the end is waited for.

Dynamic sampling is that of DAPO (https://arxiv.org/abs/2503.14476, section 3.2), but for three things:
1. A group is replaced where its rewards are equal, whatever they are; the paper's are those of accuracy 0 or 1.
2. Only as many groups are sampled anew as are missing, and no more in all than the budget of the step; the paper
   samples whole batches until one is full.
3. Where the budget is spent, groups without signal fill the step up, so that every step has as many groups.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
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

_ROUNDING = 1e-9
"""1.1 * 10 is 11, and not the little more that floating point makes of it."""


@dataclass(frozen=True, slots=True)
class Collected:
    """The groups of a step, and where the time went."""

    groups: tuple[Group, ...]
    """What is trained on; in the order of their problems, unless groups were replaced."""
    seconds_rollout: float
    seconds_reward: float
    """Scoring that sampling had to wait for: what ran beside it is not counted."""
    all_groups: tuple[Group, ...]
    """Every group that was sampled, in order, those that were replaced too: what pass rates are taken from."""

    @property
    def sampled_groups(self) -> int:
        """How many groups were sampled, those that were replaced too."""
        return len(self.all_groups)

    @property
    def generated_tokens(self) -> int:
        """Completion tokens of every group that was sampled."""
        return sum(len(rollout.completion) for group in self.all_groups for rollout in group.rollouts)


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
        return self._round(problems, seed, Counter(), 0)

    def collect_informative(
        self, take: Callable[[int], Sequence[Problem]], n: int, max_factor: float, seed: int
    ) -> Collected:
        """n groups; those without signal are replaced while sampling may go on (dynamic sampling).

        Rounds of as many groups as are missing follow each other until n groups have signal, or max_factor * n
        groups, rounded up, were sampled. Then the groups with signal come first, in the order of their sampling, and
        those without fill up to n. If the first round is the last, its groups stay in their order: with max_factor 1
        this is `collect`.

        Args:
            take: gives so many further problems, such as `ProblemStream.take`.
            n: groups of the step.
            max_factor: how many times n groups may be sampled, 1 or more.
            seed: of the step. A problem that comes again in a later round gets other draws.
        """
        most = max(n, math.ceil(max_factor * n - _ROUNDING))
        occurrences: Counter[str] = Counter()
        rounds: list[Collected] = []
        sampled: list[Group] = []
        missing = n
        while missing > 0 and len(sampled) < most:
            problems = take(min(missing, most - len(sampled)))
            rounds.append(self._round(problems, seed, occurrences, len(sampled)))
            sampled += rounds[-1].groups
            missing = n - sum(group.has_signal for group in sampled)
        chosen = sampled if len(sampled) == n else sorted(sampled, key=lambda group: not group.has_signal)[:n]
        return Collected(
            tuple(chosen),
            seconds_rollout=sum(each.seconds_rollout for each in rounds),
            seconds_reward=sum(each.seconds_reward for each in rounds),
            all_groups=tuple(sampled),
        )

    def _round(self, problems: Sequence[Problem], seed: int, occurrences: Counter[str], first_id: int) -> Collected:
        """A group per problem. `occurrences` counts how often each problem came in this step already."""
        start = time.perf_counter()
        for index, problem in enumerate(problems):
            self.engine.submit(self._request(first_id + index, problem, seed + occurrences[problem.id]))
            occurrences[problem.id] += 1
        waiting: dict[int, list[Completion]] = {first_id + index: [] for index in range(len(problems))}
        scoring: dict[int, Callable[[], Group]] = {}
        seconds_reward = 0.0
        with closing(self.engine.completed()) as completions:
            for completion in completions:
                members = waiting[completion.request_id]
                members.append(completion)
                if len(members) == self.group_size:
                    began = time.perf_counter()
                    problem = problems[completion.request_id - first_id]
                    scoring[completion.request_id] = self._scoring(problem, members)
                    seconds_reward += time.perf_counter() - began
        began = time.perf_counter()
        ordered = tuple(scoring[index]() for index in waiting)
        seconds_reward += time.perf_counter() - began
        seconds = time.perf_counter() - start
        return Collected(ordered, seconds - seconds_reward, seconds_reward, all_groups=ordered)

    def _request(self, index: int, problem: Problem, seed: int) -> GroupRequest:
        return GroupRequest(
            id=index,
            problem_id=problem.id,
            prompt_ids=problem.prompt_ids,
            group_size=self.group_size,
            sampling=self.sampling,
            seed=seed,
        )

    def _scoring(self, problem: Problem, members: Sequence[Completion]) -> Callable[[], Group]:
        """Begin to score a group; what it gives waits for it."""
        ordered = sorted(members, key=lambda completion: completion.sample)
        token_ids = [completion.token_ids.tolist() for completion in ordered]
        texts = [self.decoder.decode(ids) for ids in token_ids]
        truncated, lengths = [completion.truncated for completion in ordered], list(map(len, ordered))
        scores = self.scorer.submit(problem, texts, truncated, lengths, token_ids)
        return lambda: Group(problem, tuple(map(Rollout, ordered, texts, scores())))
