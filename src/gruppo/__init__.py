"""GRPO post-training for language models with verifiable rewards.

>>> import gruppo
>>> result = gruppo.train(gruppo.Config(model="my-model", data="problems.jsonl"))

Importing this is quick: torch and transformers come with the first name that needs them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gruppo.version import __version__

if TYPE_CHECKING:
    from gruppo.config.configure import configure
    from gruppo.config.load import load_config
    from gruppo.config.schema import Config, EvalConfig, RewardConfig, SFTConfig
    from gruppo.data.chat import ChatRenderer
    from gruppo.data.problems import load_problems
    from gruppo.errors import GruppoError
    from gruppo.evaluation.evaluate import Evaluation, Evaluator
    from gruppo.launch.build import Workbench
    from gruppo.launch.pipeline import RunResult, evaluate
    from gruppo.launch.pipeline import run as train
    from gruppo.rewards.result import RewardResult
    from gruppo.rewards.rubric import Rubric
    from gruppo.rollout.collect import Collector
    from gruppo.rollout.engine import RolloutEngine, ScriptedEngine
    from gruppo.rollout.local import LocalEngine
    from gruppo.training.policy import LocalPolicy
    from gruppo.training.trainer import Trainer
    from gruppo.types import Completion, Group, GroupRequest, Problem, Rollout, SamplingParams, Score

__all__ = [
    "ChatRenderer",
    "Collector",
    "Completion",
    "Config",
    "EvalConfig",
    "Evaluation",
    "Evaluator",
    "Group",
    "GroupRequest",
    "GruppoError",
    "LocalEngine",
    "LocalPolicy",
    "Problem",
    "RewardConfig",
    "RewardResult",
    "RolloutEngine",
    "Rollout",
    "Rubric",
    "RunResult",
    "SFTConfig",
    "SamplingParams",
    "Score",
    "ScriptedEngine",
    "Trainer",
    "Workbench",
    "__version__",
    "configure",
    "evaluate",
    "load_config",
    "load_problems",
    "train",
]

_HOMES = {
    "config.configure": ("configure",),
    "config.load": ("load_config",),
    "config.schema": ("Config", "EvalConfig", "RewardConfig", "SFTConfig"),
    "data.chat": ("ChatRenderer",),
    "data.problems": ("load_problems",),
    "errors": ("GruppoError",),
    "evaluation.evaluate": ("Evaluation", "Evaluator"),
    "launch.build": ("Workbench",),
    "launch.pipeline": ("RunResult", "evaluate"),
    "rewards.result": ("RewardResult",),
    "rewards.rubric": ("Rubric",),
    "rollout.collect": ("Collector",),
    "rollout.engine": ("RolloutEngine", "ScriptedEngine"),
    "rollout.local": ("LocalEngine",),
    "training.policy": ("LocalPolicy",),
    "training.trainer": ("Trainer",),
    "types": ("Completion", "Group", "GroupRequest", "Problem", "Rollout", "SamplingParams", "Score"),
}
_HOME_OF = {name: f"gruppo.{home}" for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name == "train":
        return import_module("gruppo.launch.pipeline").run
    if name not in _HOME_OF:
        raise AttributeError(f"module 'gruppo' has no attribute '{name}'")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return list(__all__)
