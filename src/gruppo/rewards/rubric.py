"""The rubric: a list of rewards whose weighted sum is the reward of a completion.

    reward = reward_scale * sum over rewards that apply of weight_i * value_i

A completion passes where the reward named `success`, unweighted, is at least 0.99 of its full scale.

1. A reward with `data` is only for problems of those data sets; to all others it does not apply, and its part is None.
2. For a problem of a data set that `success` is not for, the first reward that applies says whether it passes. (One
   that is for the data set but has nothing to say of a completion is not replaced: that completion does not pass.)
"""

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gruppo.config.schema import RewardConfig
from gruppo.errors import RewardError, nearest
from gruppo.rewards.binding import Completions, bind, function_name
from gruppo.rewards.calling import evaluate
from gruppo.rewards.format import demands, format_reward
from gruppo.rewards.loading import load_function
from gruppo.rewards.math import math_reward
from gruppo.rewards.overlong import overlong_reward
from gruppo.rewards.result import RewardResult
from gruppo.types import PASS_SHARE, Problem, Score

BUILT_IN = ("math", "format", "overlong")


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

    def is_for(self, problem: Problem) -> bool:
        """Whether the problem is of a data set that the reward is for."""
        return not self.data or problem.source in self.data


class Rubric:
    """Scores completions by several rewards; implements `gruppo.types.Scorer`.

    Raises RewardError for no reward, two of one name, an unknown `success`, or a function that can't be
    bound.
    """

    def __init__(self, rewards: Sequence[Reward], success: str | None = None, reward_scale: float = 1.0) -> None:
        names = [reward.name for reward in rewards]
        if not names:
            raise RewardError("rewards: a rubric needs at least one reward.")
        if len(set(names)) < len(names):
            raise RewardError(f"rewards: each name may stand once, got {names}; give each Reward its own name.")
        if success is not None and success not in names:
            raise RewardError(f"success: '{success}' is none of the rewards {names}.{nearest(success, names)}")
        self.rewards = tuple(rewards)
        self.success = names[0] if success is None else success
        self.reward_scale = reward_scale
        self._bound = tuple(bind(reward.name, reward.function) for reward in rewards)

    def check(self, problems: Sequence[Problem]) -> None:
        """Bind every reward to every problem that it is for, calling none.

        Raises RewardError for a parameter that is no column, for a reward that needs the answer where no problem
        has one, and for a problem of a data set that no reward is for.
        """
        for reward, bound in zip(self.rewards, self._bound):
            meant = [problem for problem in problems if reward.is_for(problem)]
            applicable = [problem for problem in meant if bound.applies(problem)]
            for problem in applicable:
                bound.arguments(problem, Completions([""], [False], [0]))
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
        self, problem: Problem, texts: Sequence[str], truncated: Sequence[bool], lengths: Sequence[int]
    ) -> list[Score]:
        """One score per text, in order. Raises RewardError where a function breaks its contract.

        Args:
            problem: whose completions they are.
            texts: one per completion.
            truncated: whether the length limit ended it.
            lengths: tokens.
        """
        group = Completions(texts, truncated, lengths)
        results = [
            evaluate(bound, problem, group) if reward.is_for(problem) else [None] * len(texts)
            for reward, bound in zip(self.rewards, self._bound)
        ]
        decider = self._decider(problem)
        return [self._total([column[index] for column in results], decider) for index in range(len(texts))]

    def _decider(self, problem: Problem) -> str | None:
        """The name of the reward that says whether completions of the problem pass; None: none does, nor do they."""
        if any(reward.is_for(problem) for reward in self.rewards if reward.name == self.success):
            return self.success
        pairs = zip(self.rewards, self._bound)
        return next((reward.name for reward, bound in pairs if reward.is_for(problem) and bound.applies(problem)), None)

    def _total(self, results: Sequence[RewardResult | None], decider: str | None) -> Score:
        """The score of one completion from the results of all rewards."""
        total, passed = 0.0, False
        parts: dict[str, float | None] = {}
        reasons: dict[str, str] = {}
        for reward, result in zip(self.rewards, results):
            parts[reward.name] = None if result is None else result.value
            if result is None:
                continue
            total += reward.weight * result.value
            parts |= {f"{reward.name}/{part}": value for part, value in result.parts.items()}
            if result.reason:
                reasons[reward.name] = result.reason
            if reward.name == decider:
                passed = result.value >= PASS_SHARE * reward.full_scale
        return Score(self.reward_scale * total, parts, passed, reasons)


def build_rubric(
    configs: Sequence[RewardConfig],
    extra: Sequence[Reward | Callable[..., Any]] = (),
    success: str | None = None,
    reward_scale: float = 1.0,
    max_completion_length: int = 1,
) -> Rubric:
    """The rubric of a config, with functions given in Python behind it.

    `max_completion_length`, in tokens, is the limit that the reward `overlong` looks at.

    A function of a file is named by the function alone where that is unique (`my.py:brevity` is `brevity`);
    `success` may be either name. Raises RewardError, ConfigError as `Rubric`, `load_function` and
    `format_reward` do.
    """
    full_names = [config.name for config in configs]
    short_names = _short_names(full_names)
    rewards = [
        Reward(short, _function(config, max_completion_length), config.weight, config.full_scale, config.data)
        for short, config in zip(short_names, configs)
    ]
    for item in extra:
        reward = item if isinstance(item, Reward) else Reward(function_name(item), item)
        rewards.append(reward if isinstance(item, Reward) else _renamed(reward, rewards))
    if success in full_names:
        success = short_names[full_names.index(success)]
    return Rubric(rewards, success, reward_scale)


def _function(config: RewardConfig, max_completion_length: int) -> Callable[..., Any]:
    if config.name == "math":
        return math_reward
    if config.name == "format":
        demands(pattern=config.pattern)
        return functools.partial(format_reward, pattern=config.pattern)
    if config.name == "overlong":
        return functools.partial(overlong_reward, limit=max_completion_length, buffer=config.buffer or 1)
    if ":" not in config.name:
        raise RewardError(
            f"rewards: no built-in reward '{config.name}', only {', '.join(BUILT_IN)}."
            f"{nearest(config.name, list(BUILT_IN))} Your own is file.py:function or module:function."
        )
    return load_function(config.name)


def _short_names(names: Sequence[str]) -> list[str]:
    short = [name.rpartition(":")[2] for name in names]
    count = Counter(short)
    return [brief if count[brief] == 1 else full for brief, full in zip(short, names)]


def _renamed(reward: Reward, others: Sequence[Reward]) -> Reward:
    """The reward under a name that the others leave free: lambda, lambda_2, ..."""
    taken = {other.name for other in others}
    name, number = reward.name, 2
    while name in taken:
        name, number = f"{reward.name}_{number}", number + 1
    return replace(reward, name=name)
