"""Rewards of other shapes: TRL's batch signature, an async function, and a number with named parts and a reason.

python examples/custom_reward.py MODEL_FOLDER PROBLEMS OUT_FOLDER
"""

import asyncio
import sys

import gruppo

model, problems, out = sys.argv[1:]


def close(completions: list[str], answer: list[str], **columns: list[str]) -> list[float]:
    """All completions of a group at once, and a list per column of the data, as in TRL."""
    return [float(expected in completion) for completion, expected in zip(completions, answer, strict=True)]


async def judged(completion: str) -> float:
    """Awaited for all completions of a group together: here a server would be asked."""
    await asyncio.sleep(0.001)
    return min(1.0, len(completion) / 20)


def tidy(completion: str, truncated: bool) -> gruppo.RewardResult:
    """A value, its parts for the metrics, and a reason that stands in the table of rollouts."""
    plain = sum(letter.isascii() for letter in completion) / max(1, len(completion))
    ended = 0.0 if truncated else 1.0
    return gruppo.RewardResult(
        (plain + ended) / 2,
        parts={"plain": plain, "ended": ended},
        reason="cut off" if truncated else "came to an end",
    )


config = gruppo.Config(
    model=model,
    data=problems,
    output_dir=out,
    steps=2,
    prompts_per_step=4,
    group_size=4,
    max_completion_length=8,
    threads=1,
    success="close",
    rewards=[
        gruppo.RewardConfig(name="close"),
        gruppo.RewardConfig(name="judged", weight=0.5),
        gruppo.RewardConfig(name="tidy", weight=0.1),
    ],
)
result = gruppo.train(config, rewards=[close, judged, tidy])

first = result.metrics[0]
for name in ("reward_mean", "reward/close", "reward/judged", "reward/tidy", "reward/tidy/plain", "reward/tidy/ended"):
    print(f"{name:<18} {first[name]:.4f}")
