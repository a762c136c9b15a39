"""Rewards tried on completions before a run: what each call came to, and how long it took.

1. Each reward runs where it would in a run, with the same limits. One that takes a single completion is called for one
   after the other, so that each call has a time of its own; one that takes a batch gets all of a problem's at once, and
   its time is shared out.
2. Failures are gathered and count 0, whatever the reward's policy; even one that would stop a run is no more than that.
3. Processes are started and functions loaded before the first call that is timed.
"""

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from gruppo.errors import RewardError
from gruppo.preflight.probes import Probe
from gruppo.rewards.binding import BoundFunction, Completions, bind
from gruppo.rewards.dispatch import Dispatch
from gruppo.rewards.outcomes import Failure, Outcome
from gruppo.rewards.rubric import Reward, Rubric
from gruppo.types import Problem, Score

THREAD_TOLERANCE = 1e-3
"""Models on a GPU or a server differ in the last digits by what stands beside a text."""


@dataclass(frozen=True, slots=True)
class FailedCall:
    """A call that gave no reward."""

    reward: str
    kind: str
    """raised, returned, timeout or crashed."""
    text: str
    """What is wrong, with the problem's name."""
    problem: str
    completion: str


@dataclass(slots=True)
class Tried:
    """What the rubric makes of one completion."""

    problem: Problem
    probe: Probe
    score: Score
    outcomes: tuple[Outcome, ...]
    """One for each reward."""
    decided: bool
    """Whether the reward that says if it passes has said anything."""


@dataclass
class Trial:
    """Calls of a rubric's rewards, timed, failures gathered. To be closed."""

    rubric: Rubric
    seconds: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    """Of each call, by reward."""
    failures: list[FailedCall] = field(default_factory=list[FailedCall])

    def __post_init__(self) -> None:
        pool = self.rubric.pool
        self.bound = [bind(reward.name, reward.function) for reward in self.rubric.rewards]
        self._dispatch = [
            Dispatch(bound, reward.place, reward.time_limit, pool, reward.portable, reward.fast)
            for reward, bound in zip(self.rubric.rewards, self.bound)
        ]
        self._threads = ThreadPoolExecutor(pool.size if pool is not None else 1, thread_name_prefix="gruppo-trial")
        self.seconds |= {reward.name: [] for reward in self.rubric.rewards}

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> "Trial":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def warm_up(self, problem: Problem, text: str) -> None:
        """Have every process come up and every function loaded, whatever comes of it."""
        pool = self.rubric.pool
        if pool is None:
            return
        group = _completions([text], [False])
        for reward, bound in zip(self.rubric.rewards, self.bound):
            if reward.place == "here" or not reward.is_for(problem):
                continue
            cold = Dispatch(bound, reward.place, reward.time_limit, pool, reward.portable)
            calls = [self._threads.submit(_outcomes, cold, problem, group) for _ in range(pool.size)]
            for call in calls:
                call.result()

    def scores(
        self, problem: Problem, texts: Sequence[str], truncated: Sequence[bool] | None = None
    ) -> list[tuple[Score, tuple[Outcome, ...]]]:
        """The score of each text, and what each reward said of it."""
        cut = [False] * len(texts) if truncated is None else truncated
        pending = [
            self._begin(reward, bound, dispatch, problem, texts, cut)
            for reward, bound, dispatch in zip(self.rubric.rewards, self.bound, self._dispatch)
        ]
        columns = [[outcome for part in parts for outcome in _done(part)] for parts in pending]
        for reward, column in zip(self.rubric.rewards, columns):
            for text, outcome in zip(texts, column):
                if isinstance(outcome, Failure):
                    told = outcome.told(problem.id)
                    self.failures.append(FailedCall(reward.name, outcome.kind, told, problem.id, text))
        return list(zip(self.rubric.combine(problem, columns), zip(*columns)))

    def decided(self, problem: Problem, outcomes: Sequence[Outcome]) -> bool:
        """Whether the reward that decides about the problem has said anything of a completion."""
        decider = self.rubric.decider(problem)
        said = {reward.name: outcome for reward, outcome in zip(self.rubric.rewards, outcomes)}
        return decider is not None and said[decider] is not None

    def _begin(
        self,
        reward: Reward,
        bound: BoundFunction,
        dispatch: Dispatch,
        problem: Problem,
        texts: Sequence[str],
        truncated: Sequence[bool],
    ) -> "Sequence[Future[list[Outcome]] | list[Outcome]]":
        if not reward.is_for(problem) or not bound.applies(problem):
            nothing: list[Outcome] = [None] * len(texts)
            return [nothing]
        parts = [slice(0, len(texts))] if bound.batch else [slice(n, n + 1) for n in range(len(texts))]
        groups = [_completions(texts[part], truncated[part]) for part in parts]
        if self.rubric.pool is None or reward.place == "here":
            return [self._timed(reward.name, dispatch, problem, group) for group in groups]
        return [self._threads.submit(self._timed, reward.name, dispatch, problem, group) for group in groups]

    def _timed(self, name: str, dispatch: Dispatch, problem: Problem, group: Completions) -> list[Outcome]:
        began = time.perf_counter()
        found = _outcomes(dispatch, problem, group)
        count = len(group.texts)
        self.seconds[name] += [(time.perf_counter() - began) / count] * count
        return found


def same(reward: Reward, one: Outcome, other: Outcome) -> bool:
    """Whether two runs agree on a completion."""
    if isinstance(one, Failure) or isinstance(other, Failure):
        return isinstance(one, Failure) and isinstance(other, Failure) and one.kind == other.kind
    if one is None or other is None:
        return one is other
    return abs(one.value - other.value) <= (THREAD_TOLERANCE if reward.place == "thread" else 0.0)


def _completions(texts: Sequence[str], truncated: Sequence[bool]) -> Completions:
    """Texts with their lengths in words, for want of a tokenizer; a token's number is its place."""
    lengths = [len(text.split()) for text in texts]
    return Completions(texts, truncated, lengths, [list(range(length)) for length in lengths])


def _outcomes(dispatch: Dispatch, problem: Problem, group: Completions) -> list[Outcome]:
    """What the calls come to; where gruppo itself refuses, a failure with its words."""
    try:
        return dispatch.begin(problem, group)()
    except RewardError as error:
        failure = Failure("raised", "can't be scored:", f": {error}", fatal=True, cause=error)
        return [failure] * len(group.texts)


def _done(part: "Future[list[Outcome]] | list[Outcome]") -> list[Outcome]:
    return part if isinstance(part, list) else part.result()
