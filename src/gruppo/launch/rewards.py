"""Which rewards a run has where its config names none, and the walls that its programs run behind."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from gruppo.config.rewards import REWARDS, CodeReward
from gruppo.config.schema import Config, DataFields
from gruppo.data.gold import default_reward
from gruppo.data.problems import load_problems
from gruppo.rewards.building import sandbox_of
from gruppo.rewards.sandbox.probe import probe

_LOOKED_AT = 200
"""Problems by which the reward is chosen."""


def with_default_rewards(
    config: Config, sources: Sequence[str], fields: DataFields, note: Callable[[str], None]
) -> Config:
    """The config with the reward that fits its data, where it names none: tests ask for `code`, and so on.

    Raises:
        DataError: the data can't be read.
    """
    if "rewards" in config.model_fields_set:
        return config
    few = fields.model_copy(update={"max_problems": min(_LOOKED_AT, fields.max_problems or _LOOKED_AT)})
    name = default_reward(load_problems(sources, few, split="train").problems)
    if name is None or name == "math":
        return config
    note(f"rewards: {name}, by the form of the data; name others under `rewards:`")
    return config.model_copy(update={"rewards": (REWARDS[name].model_validate({"name": name}),)})


def sandboxes(config: Config) -> Iterator[tuple[str, dict[str, Any]]]:
    """For a reward that runs programs: the level of isolation in a line, and as environment.json has it.

    Raises:
        SandboxError: there is none here, and the config doesn't say that it does without.
    """
    for reward in config.rewards:
        if isinstance(reward, CodeReward):
            level = sandbox_of(reward).level
            found = "namespaces" if level == "namespaces" else str(probe())
            yield f"programs run in the sandbox at the level {found}", {"level": level, "found": found}
