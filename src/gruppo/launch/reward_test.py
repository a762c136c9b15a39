"""A config's rewards and data, put to the test without a model."""

from collections.abc import Callable

from gruppo.config.schema import Config
from gruppo.data.problems import load_problems
from gruppo.launch.rewards import sandboxes, with_default_rewards
from gruppo.launch.streams import load_limits
from gruppo.preflight.examples import read_examples
from gruppo.preflight.reward_test import PROBLEMS, SECONDS, RewardTest, try_rubric
from gruppo.rewards.building import build_rubric
from gruppo.rewards.workers import WorkerPool


def try_config(
    config: Config, *, most: int = PROBLEMS, examples: str | None = None, note: Callable[[str], None] = print
) -> RewardTest:
    """Put the rewards of a config to the test on its training problems, as a run would call them.

    Args:
        config: its model is not looked at.
        most: how many problems to try, evenly over the data.
        examples: a file of the user's own completions.
        note: who is told of the columns found, the rewards chosen, the sandbox.

    Raises:
        GruppoError: what would stop a run at its start: data, columns, rewards, the sandbox.
    """
    config = with_default_rewards(config, config.data_paths, config, note)
    found = load_problems(config.data_paths, config, split="train", limits=load_limits(config))
    for line in found.notes:
        note(line)
    own = read_examples(examples, found.problems) if examples is not None else []
    for line, _ in sandboxes(config):
        note(line)
    count = min(most, len(found.problems))
    note(f"trying the rewards on {count} problems, twice, for {SECONDS:g} s each at most; lengths are counted in words")
    limit = config.max_completion_length
    with WorkerPool() as pool:
        rubric = build_rubric(config.rewards, (), config.success_name, config.reward_scale, limit, pool)
        return try_rubric(rubric, found.problems, most=most, examples=own)
