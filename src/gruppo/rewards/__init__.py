"""Reward functions, their rubric, the built-in verifiers, and the processes in which they run.

Names are imported when they are asked for, so that a worker process comes up quickly.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gruppo.rewards.building import build_rubric
    from gruppo.rewards.code import code_reward
    from gruppo.rewards.format import format_reward
    from gruppo.rewards.language import language_reward
    from gruppo.rewards.length import length_reward
    from gruppo.rewards.loading import load_function
    from gruppo.rewards.logic import logic_reward
    from gruppo.rewards.math import math_reward
    from gruppo.rewards.overlong import overlong_reward
    from gruppo.rewards.qa import qa_reward
    from gruppo.rewards.result import RewardResult
    from gruppo.rewards.rubric import Reward, Rubric
    from gruppo.rewards.text import keywords_reward, reflection_reward, repetition_reward

__all__ = [
    "Reward",
    "RewardResult",
    "Rubric",
    "build_rubric",
    "code_reward",
    "format_reward",
    "keywords_reward",
    "language_reward",
    "length_reward",
    "load_function",
    "logic_reward",
    "math_reward",
    "overlong_reward",
    "qa_reward",
    "reflection_reward",
    "repetition_reward",
]

_HOMES = {
    "building": ("build_rubric",),
    "code": ("code_reward",),
    "format": ("format_reward",),
    "language": ("language_reward",),
    "length": ("length_reward",),
    "loading": ("load_function",),
    "logic": ("logic_reward",),
    "math": ("math_reward",),
    "overlong": ("overlong_reward",),
    "qa": ("qa_reward",),
    "text": ("keywords_reward", "reflection_reward", "repetition_reward"),
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
