"""Reward functions, their rubric, the built-in verifiers, and the processes in which they run.

Names are imported when they are asked for, so that a worker process comes up quickly.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gruppo.rewards.building import build_rubric
    from gruppo.rewards.format import format_reward
    from gruppo.rewards.loading import load_function
    from gruppo.rewards.math import math_reward
    from gruppo.rewards.result import RewardResult
    from gruppo.rewards.rubric import Reward, Rubric

__all__ = ["Reward", "RewardResult", "Rubric", "build_rubric", "format_reward", "load_function", "math_reward"]

_HOMES = {
    "building": ("build_rubric",),
    "format": ("format_reward",),
    "loading": ("load_function",),
    "math": ("math_reward",),
    "result": ("RewardResult",),
    "rubric": ("Reward", "Rubric"),
}
_HOME_OF = {name: f"gruppo.rewards.{home}" for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'gruppo.rewards' has no attribute '{name}'")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return list(__all__)
