"""The rubric: a list of rewards whose weighted sum is the reward of a completion.

    reward = reward_scale * sum over rewards that apply of weight_i * value_i

A completion passes where the reward named `success`, unweighted, is at least 0.99 of its full scale.

1. A reward with `data` is only for problems of those data sets; to all others it does not apply, and its part is None.
2. For a problem of a data set that `success` is not for, the first reward that applies says whether it passes. (One
   that is for the data set but has nothing to say of a completion is not replaced: that completion does not pass.)
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from gruppo.errors import RewardError, nearest
from gruppo.rewards.binding import BoundFunction, Completions, bind
from gruppo.rewards.dispatch import Dispatch, Place
from gruppo.rewards.mixing import gated, normalize_group
from gruppo.rewards.outcomes import Failure, Outcome
from gruppo.rewards.process import Portable
from gruppo.rewards.result import RewardResult
from gruppo.rewards.workers import WorkerPool
from gruppo.types import PASS_SHARE, Problem, Score

ErrorPolicy = Literal["zero", "skip", "stop"]

TIME_LIMIT = 10.0
"""Seconds of a call."""
MOST_ERRORS = 0.05
"""Share of a reward's calls that may fail before the run stops."""
_FEW_ERRORS = 5
"""So many say nothing yet of a share."""


@dataclass(frozen=True, slots=True)
class Reward:
    """One reward of a rubric."""

    name: str
    function: Callable[..., Any]
    """Bound by name, single or batch, async or not, as `gruppo.rewards.binding` has it."""
    weight: float = 1.0
    full_scale: float = 1.0
    """The value of a perfect completion."""
    data: tuple[str, ...] = ()
    """Only for problems of these data sets (`Problem.source`); empty: for all."""
    gate: str | None = None
    """Counts only where the reward of this name passes."""
    normalize: bool = False
    """Less the mean over the group, over its standard deviation, after the gate."""
    on_error: ErrorPolicy = "stop"
    """A failed call counts 0, or gives its completion the mean of its group's rewards (no advantage), or raises."""
    time_limit: float = TIME_LIMIT
    """Seconds that one call may compute, and as many that it may wait; where a pool runs it."""
    place: Place = "process"
    """Where a pool would run it."""
    portable: Portable | None = None
    """What a worker loads; None: the function by value."""
    fast: Callable[..., Outcome] | None = None
    """Decides most calls at once, as `gruppo.rewards.dispatch` has it."""

    def is_for(self, problem: Problem) -> bool:
        """Whether the problem is of a data set that the reward is for."""
        return not self.data or problem.source in self.data


class Rubric:
    """Scores completions by several rewards; implements `gruppo.types.Scorer`.

    Raises RewardError for no reward, two of one name, an unknown `success`, or a function that can't be
    bound.
    """

    def __init__(
        self,
        rewards: Sequence[Reward],
        success: str | None = None,
        reward_scale: float = 1.0,
        pool: WorkerPool | None = None,
    ) -> None:
        """pool: where calls run that are not known to be safe; None: all of them run here, without limits."""
        names = [reward.name for reward in rewards]
        if not names:
            raise RewardError("rewards: a rubric needs at least one reward.")
        if len(set(names)) < len(names):
            raise RewardError(f"rewards: each name may stand once, got {names}; give each Reward its own name.")
        if success is not None and success not in names:
            raise RewardError(f"success: '{success}' is none of the rewards {names}.{nearest(success, names)}")
        for reward in rewards:
            if reward.gate is not None and (reward.gate not in names or reward.gate == reward.name):
                raise RewardError(f"rewards: gate: '{reward.gate}' of '{reward.name}' is no other reward of {names}.")
        self.rewards = tuple(rewards)
        self.success = names[0] if success is None else success
        self.reward_scale = reward_scale
        self.pool = pool
        self._bound = tuple(bind(reward.name, reward.function) for reward in rewards)
        self._dispatch = tuple(
            Dispatch(bound, reward.place, reward.time_limit, pool, reward.portable, reward.fast)
            for reward, bound in zip(rewards, self._bound)
        )
        self._budgets = tuple(_ErrorBudget(bound) for bound in self._bound)
        self._noted: set[str] = set()

    def check(self, problems: Sequence[Problem]) -> None:
        """Bind every reward to every problem that it is for, calling none.

        Raises RewardError for a parameter that is no column, for a reward that needs the answer where no problem
        has one, and for a problem of a data set that no reward is for.
        """
        for reward, bound in zip(self.rewards, self._bound):
            meant = [problem for problem in problems if reward.is_for(problem)]
            applicable = [problem for problem in meant if bound.applies(problem)]
            for problem in applicable:
                bound.arguments(problem, Completions([""], [False], [0], [[]]))
            if meant and not applicable:
                raise RewardError(
                    f"reward '{bound.name}' ({bound.place}) needs the answer, and none of the "
                    f"{len(meant)} problems has one; name its column with --answer, or take another reward."
                )
        for problem in problems:
            if not any(reward.is_for(problem) for reward in self.rewards):
                raise RewardError(
                    f"rewards: none is for the data set '{problem.source}' ({problem.id}); name it under `data` of "
                    "one of them, or add a reward without `data`."
                )

    def score(
        self,
        problem: Problem,
        texts: Sequence[str],
        truncated: Sequence[bool],
        lengths: Sequence[int],
        token_ids: Sequence[Sequence[int]] | None = None,
    ) -> list[Score]:
        """One score per text, in order. Raises as what `submit` gives does.

        Args:
            problem: whose completions they are.
            texts: one per completion.
            truncated: whether the length limit ended it.
            lengths: tokens.
            token_ids: the tokens, where they are at hand: for rewards that ask for `completion_ids`.
        """
        return self.submit(problem, texts, truncated, lengths, token_ids)()

    def submit(
        self,
        problem: Problem,
        texts: Sequence[str],
        truncated: Sequence[bool],
        lengths: Sequence[int],
        token_ids: Sequence[Sequence[int]] | None = None,
    ) -> Callable[[], list[Score]]:
        """Begin to score a group; what it gives waits for the scores. Arguments as for `score`.

        Raises:
            RewardError: here or from what it gives: a function can't be bound or loaded, returns the wrong number of
                values, fails where its policy is to stop, or fails too often.
        """
        group = Completions(texts, truncated, lengths, token_ids)
        nothing: list[Outcome] = [None] * len(texts)
        pending = [
            dispatch.begin(problem, group) if reward.is_for(problem) else lambda: nothing
            for reward, dispatch in zip(self.rewards, self._dispatch)
        ]
        return lambda: self._scores(problem, [wait() for wait in pending])

    def notes(self) -> list[str]:
        """What is worth a warning and was not said yet: rewards that take long."""
        found = {
            reward.name: f"reward '{reward.name}' takes {seconds:.1f} s a completion: it may hold up the run. Make it "
            "quicker, or cheaper checks its gate"
            for reward, dispatch in zip(self.rewards, self._dispatch)
            if (seconds := dispatch.slow_seconds) is not None and reward.name not in self._noted
        }
        self._noted |= found.keys()
        return list(found.values())

    def _scores(self, problem: Problem, columns: Sequence[Sequence[Outcome]]) -> list[Score]:
        """The scores of a group from the outcomes of each reward."""
        for reward, bound, budget, column in zip(self.rewards, self._bound, self._budgets, columns):
            failures = [outcome for outcome in column if isinstance(outcome, Failure)]
            for failure in failures:
                if failure.fatal or reward.on_error == "stop":
                    text = f"reward '{bound.name}' ({bound.place}) {failure.told(problem.id)}"
                    raise RewardError(text) from failure.cause
            budget.count(problem, sum(outcome is not None for outcome in column), failures)
        return self.combine(problem, columns)

    def combine(self, problem: Problem, columns: Sequence[Sequence[Outcome]]) -> list[Score]:
        """The scores of a group from the outcomes of each reward, in their order; a failure is worth 0 here, and
        neither raises nor is counted."""
        decider = self.decider(problem)
        counted = self._counted(columns)
        scores = [
            self._total([column[index] for column in columns], [column[index] for column in counted], decider)
            for index in range(len(columns[0]))
        ]
        return self._without_skipped(scores)

    def _counted(self, columns: Sequence[Sequence[Outcome]]) -> list[list[float | None]]:
        """What each reward adds, unweighted: a failure 0, then the gate, then the group's mean and spread."""
        plain = [[0.0 if isinstance(outcome, Failure) else outcome for outcome in column] for column in columns]
        values = [[None if value is None else float(value) for value in column] for column in plain]
        place = {reward.name: index for index, reward in enumerate(self.rewards)}
        counted: list[list[float | None]] = []
        for reward, column in zip(self.rewards, values):
            if reward.gate is not None:
                gate = place[reward.gate]
                column = gated(column, values[gate], self.rewards[gate].full_scale)
            counted.append(normalize_group(column) if reward.normalize else column)
        return counted

    def _without_skipped(self, scores: list[Score]) -> list[Score]:
        """Completions that are to be skipped get the mean of the others' rewards, and so no advantage."""
        skipping = {reward.name for reward in self.rewards if reward.on_error == "skip"}
        kept = [score.reward for score in scores if not skipping & score.errors.keys()]
        if len(kept) == len(scores):
            return scores
        mean = sum(kept) / len(kept) if kept else 0.0
        return [replace(score, reward=mean) if skipping & score.errors.keys() else score for score in scores]

    def decider(self, problem: Problem) -> str | None:
        """The name of the reward that says whether completions of the problem pass; None: none does, nor do they."""
        if any(reward.is_for(problem) for reward in self.rewards if reward.name == self.success):
            return self.success
        pairs = zip(self.rewards, self._bound)
        return next((reward.name for reward, bound in pairs if reward.is_for(problem) and bound.applies(problem)), None)

    def _total(self, outcomes: Sequence[Outcome], counted: Sequence[float | None], decider: str | None) -> Score:
        """The score of one completion: the outcomes of all rewards, and what each of them adds."""
        total, passed = 0.0, False
        parts: dict[str, float | None] = {}
        reasons: dict[str, str] = {}
        errors: dict[str, str] = {}
        for reward, outcome, value in zip(self.rewards, outcomes, counted):
            if isinstance(outcome, Failure):
                errors[reward.name] = outcome.told("it")
                outcome = RewardResult(0.0, reason=errors[reward.name])
            parts[reward.name] = None if outcome is None else outcome.value
            if outcome is None:
                continue
            total += reward.weight * (value or 0.0)
            parts |= {f"{reward.name}/{part}": number for part, number in outcome.parts.items()}
            if outcome.reason:
                reasons[reward.name] = outcome.reason
            if reward.name == decider:
                passed = outcome >= PASS_SHARE * reward.full_scale and reward.name not in errors
        return Score(self.reward_scale * total, parts, passed, reasons, errors)


class _ErrorBudget:
    """How many calls of a reward failed; raises once that is too many to go on."""

    def __init__(self, bound: BoundFunction) -> None:
        self._bound = bound
        self._calls = 0
        self._errors: Counter[str] = Counter()

    def count(self, problem: Problem, calls: int, failures: Sequence[Failure]) -> None:
        """Take in a group's calls. Raises RewardError where all failed so far, or too many, naming the last."""
        self._calls += calls
        self._errors.update(failure.kind for failure in failures)
        errors = self._errors.total()
        if failures and (1 < errors == self._calls or errors > max(_FEW_ERRORS, MOST_ERRORS * self._calls)):
            kinds = ", ".join(f"{number} {kind}" for kind, number in self._errors.most_common())
            raise RewardError(
                f"reward '{self._bound.name}' ({self._bound.place}) failed on {errors} of {self._calls} completions "
                f"({kinds}), more than {MOST_ERRORS:.0%}; the last one {failures[-1].told(problem.id)}. Mend the "
                "function and give the same command again: the run goes on from its last step."
            )
