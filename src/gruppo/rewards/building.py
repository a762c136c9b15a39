"""From the rewards of a config to a rubric: built-in ones by name, the user's own by file or as objects."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from gruppo.config.rewards import (
    REWARDS,
    CodeReward,
    FormatReward,
    ModelReward,
    OverlongReward,
    ReflectionReward,
    RewardConfig,
)
from gruppo.errors import RewardError, nearest
from gruppo.rewards.binding import function_name
from gruppo.rewards.code import default_sandbox
from gruppo.rewards.dispatch import Place, is_async
from gruppo.rewards.format import demands
from gruppo.rewards.loading import load_function
from gruppo.rewards.process import Portable
from gruppo.rewards.rubric import TIME_LIMIT, Reward, Rubric
from gruppo.rewards.sandbox.sandbox import Sandbox
from gruppo.rewards.workers import WorkerPool, by_value

ENTRY_POINTS = "gruppo.rewards"
"""The group under which an installed package registers rewards by name."""


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """Where a built-in reward is, and where its calls run."""

    function: str
    """`module:function`, below this package."""
    place: Place = "here"
    fast: str = ""
    """`module:function` that decides most calls at once."""
    unlimited: str = ""
    """`module:function` that a worker calls, where the function has no limits of its own, or in its place."""
    warm: str = ""
    """Module that a worker imports before its first call, whose limit is for the call alone."""
    time_limit: float = TIME_LIMIT


BUILT_IN: dict[str, BuiltIn] = {
    "math": BuiltIn(
        "math:math_reward",
        "process",
        "math:math_fast",
        "math:math_unlimited",
        "gruppo.rewards.math_symbolic",
        time_limit=2.0,
    ),
    "format": BuiltIn("format:format_reward", "process", unlimited="format:format_reward", time_limit=2.0),
    "overlong": BuiltIn("overlong:overlong_reward"),
    "model": BuiltIn("reward_model:reward_model_function", "thread"),
    "length": BuiltIn("length:length_reward"),
    "language": BuiltIn("language:language_reward"),
    "repetition": BuiltIn("text:repetition_reward"),
    "reflection": BuiltIn("text:reflection_reward"),
    "keywords": BuiltIn("text:keywords_reward"),
    "qa": BuiltIn("qa:qa_reward"),
    "logic": BuiltIn("logic:logic_reward"),
    "code": BuiltIn("code:code_reward", "thread"),
    "reasoning_gym": BuiltIn(
        "reasoning_gym:reasoning_gym_reward",
        "process",
        unlimited="reasoning_gym:reasoning_gym_reward",
        warm="reasoning_gym",
    ),
}
"""The built-in rewards by the names of `gruppo.config.rewards.REWARDS`."""


def build_rubric(
    configs: Sequence[RewardConfig],
    extra: Sequence[Reward | Callable[..., Any]] = (),
    success: str | None = None,
    reward_scale: float = 1.0,
    max_completion_length: int = 1,
    pool: WorkerPool | None = None,
) -> Rubric:
    """The rubric of a config, with functions given in Python behind it.

    A function of a file is named by the function alone where that is unique (`my.py:brevity` is `brevity`);
    `success` may be either name.

    Args:
        configs: the items of `rewards:`.
        extra: rewards and functions.
        success: which says whether a completion passes; None: the first.
        reward_scale: factor of the sum.
        max_completion_length: tokens; the limit that `overlong` looks at.
        pool: where calls run that are not known to be safe; None: all of them run here, without limits.

    Raises:
        RewardError: no such function, or what `Rubric` refuses.
        ConfigError: a format that is none.
    """
    full_names = [config.name for config in configs]
    short_names = _short_names(full_names)
    brief = dict(zip(full_names, short_names))
    rewards = [
        replace(reward_of(config, max_completion_length), name=brief[config.name], gate=brief.get(config.gate or ""))
        for config in configs
    ]
    for item in extra:
        reward = item if isinstance(item, Reward) else Reward(function_name(item), item)
        rewards.append(reward if isinstance(item, Reward) else _renamed(reward, rewards))
    return Rubric(rewards, brief.get(success or "", success), reward_scale, pool)


def reward_of(
    config: RewardConfig, max_completion_length: int = 1, function: Callable[..., Any] | None = None
) -> Reward:
    """One reward of a config. function: the object that the config's name stands for, in place of a file's."""
    built_in = BUILT_IN.get(config.name) if function is None else None
    reward = Reward(
        config.name,
        function or (_built_in(config, max_completion_length) if built_in else load_function(_place_of(config.name))),
        weight=config.weight,
        full_scale=config.full_scale,
        data=config.data,
        gate=config.gate,
        on_error=config.on_error,
        time_limit=config.time_limit or (built_in.time_limit if built_in else TIME_LIMIT),
        place="here" if config.isolation == "inline" else built_in.place if built_in else "process",
    )
    if function is not None:
        return reward
    if built_in is None:
        place = _absolute(_place_of(config.name))
        return replace(reward, portable=Portable(config.name, place, waits=is_async(reward.function)))
    if config.name == "format" and isinstance(config, FormatReward) and not (config.pattern or config.json_schema):
        return replace(reward, place="here")
    if built_in.unlimited:
        sent = partial(_home(built_in.unlimited), **config.own_options)
        portable = by_value(config.name, sent, forks=True, warm=built_in.warm or None)
        reward = replace(reward, portable=portable)
    fast = partial(_home(built_in.fast), **config.own_options) if built_in.fast else None
    return replace(reward, fast=fast, normalize=isinstance(config, ModelReward) and config.normalize == "group")


def _built_in(config: RewardConfig, max_completion_length: int) -> Callable[..., Any]:
    options = config.own_options
    function = _home(BUILT_IN[config.name].function)
    match config:
        case OverlongReward():
            options["limit"] = max_completion_length
        case ModelReward():
            del options["normalize"]
            return function(**options)
        case FormatReward(pattern=pattern, tags=tags, json_schema=schema, opened=opened):
            demands(pattern, tags, schema, opened)
        case CodeReward():
            options["seconds"] = config.time_limit or TIME_LIMIT
            options["sandbox"] = sandbox_of(config)
        case ReflectionReward(phrases=()):
            del options["phrases"]
        case _:
            pass
    return partial(function, **options)


def sandbox_of(config: CodeReward) -> Sandbox:
    """The sandbox that the process shares; without walls where there are none and the config says so.

    Raises:
        SandboxError: there are no walls to be had here, and the config doesn't say that it does without.
    """
    return default_sandbox(unsafe=config.isolation == "unsafe")


def _home(reference: str) -> Callable[..., Any]:
    module, _, name = reference.partition(":")
    return getattr(import_module(f"gruppo.rewards.{module}"), name)


def _place_of(name: str) -> str:
    """`file.py:function` or `module:function` of the user's reward; a lone name is that of an entry point.

    Raises:
        RewardError: there is no built-in reward and no entry point of this name.
    """
    if ":" in name:
        return name
    registered = {entry.name: entry.value for entry in entry_points(group=ENTRY_POINTS)}
    if name not in registered:
        known = [*REWARDS, *registered]
        raise RewardError(
            f"rewards: no built-in reward '{name}', only {', '.join(known)}.{nearest(name, known)} "
            "Your own is file.py:function or module:function."
        )
    return registered[name]


def _absolute(name: str) -> str:
    """A function's name as a process with another working folder would find it."""
    place, _, function = name.rpartition(":")
    return f"{Path(place).expanduser().resolve()}:{function}" if place.endswith(".py") else name


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
