"""Contestants in turns (A B A B), and what is made of their steps."""

import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from contestants import Contestant, Job, Step
from limits import Machine, measure, shares
from shapes import Shape


def in_turns(jobs: Sequence[tuple[str, Job]], folder: Path, rounds: int) -> list[list[Step]]:
    """The steps of each contestant after a first one that warms up, all processes living side by side.

    Args:
        jobs: names as `contestants.py` has them, and what each is asked to do.
        folder: the model.
        rounds: steps of each.
    """
    contestants = [Contestant(name, folder, job) for name, job in jobs]
    found: list[list[Step]] = [[] for _ in jobs]
    try:
        for number in range(rounds + 1):
            for contestant, steps in zip(contestants, found, strict=True):
                steps.append(contestant.step())
                print(f"  {contestant.name}: {told(steps[-1])}" + " (warm-up)" * (number == 0), flush=True)
    finally:
        for contestant in contestants:
            contestant.close()
    return [steps[1:] for steps in found]


def compared(title: str, job: Job, folder: Path, pairs: int, names: Sequence[str]) -> dict[str, Any]:
    """The row of one job: gruppo's and TRL's figures, their ratio, gruppo's share of the limit. Prints the gist."""
    shape, load = Shape(**job.shape), round(os.getloadavg()[0], 1)
    before = measure(shape, job.precision, job.device)
    print(f"{title}:", flush=True)
    steps = dict(zip(names, in_turns([(name, job) for name in names], folder, pairs), strict=True))
    after = measure(shape, job.precision, job.device)
    machine = Machine(max(before.gflops, after.gflops), max(before.gbytes, after.gbytes))
    row: dict[str, Any] = {"precision": job.precision, "threads": job.threads, "pairs": pairs, "load": load}
    row |= {name: summary(found) for name, found in steps.items()}
    if "gruppo" in steps:
        row["limit"] = shares(shape, job.precision, machine, steps["gruppo"])
        row["ways"] = steps["gruppo"][-1].ways
    if len(steps) == 2:
        row["ratio"] = ratio(steps["gruppo"], steps["trl"])
    tell(title, row)
    return row


def ratio(ours: Sequence[Step], theirs: Sequence[Step]) -> dict[str, float]:
    """Our tokens a second over theirs: the median of the pairs, its bounds, all steps together, by CPU seconds."""
    pairs = [a.rate / b.rate for a, b in zip(ours, theirs, strict=True)]
    we, they = summary(ours), summary(theirs)
    return {
        "median": statistics.median(pairs),
        "least": min(pairs),
        "most": max(pairs),
        "together": we["rate_together"] / they["rate_together"],
        "cpu": we["cpu_rate"] / they["cpu_rate"],
    }


def summary(steps: Sequence[Step]) -> dict[str, float]:
    """A contestant's medians, its rates over all steps together, and its memory."""
    median = statistics.median
    tokens = sum(step.tokens for step in steps)
    return {
        "rate": median(step.rate for step in steps),
        "rate_together": tokens / sum(step.seconds for step in steps),
        "cpu_rate": tokens / sum(step.cpu_seconds for step in steps),
        "rollout_rate": median(step.tokens / step.rollout for step in steps),
        "update_rate": median(step.tokens / step.update for step in steps),
        "rollout_seconds": median(step.rollout for step in steps),
        "reward_seconds": median(step.reward for step in steps),
        "update_seconds": median(step.update for step in steps),
        "seconds": median(step.seconds for step in steps),
        "cpu_seconds": median(step.cpu_seconds for step in steps),
        "tokens": median(step.tokens for step in steps),
        "peak_mib": max(step.peak_mib for step in steps),
        "rest_mib": steps[0].rest_mib,
    }


def told(step: Step) -> str:
    """A step in a line."""
    return (
        f"{step.rate:,.0f} tokens/s, {step.tokens:,} tokens; {step.rollout:.2f} s rollout, {step.reward:.2f} reward, "
        f"{step.update:.2f} update, {step.cpu_seconds:.2f} of CPU; peak {step.peak_mib:,.0f} MiB "
        f"({step.rest_mib:,.0f} at rest)"
    )


def tell(title: str, row: dict[str, Any]) -> None:
    """The gist of a row."""
    if "ratio" in row:
        found = row["ratio"]
        print(
            f"{title}: {found['median']:.2f}x TRL ({found['least']:.2f} to {found['most']:.2f}; "
            f"{found['together']:.2f} together, {found['cpu']:.2f} by CPU seconds), peak memory "
            f"{row['trl']['peak_mib'] / row['gruppo']['peak_mib']:.2f}x less"
        )
    if "limit" in row:
        limit = row["limit"]
        print(
            f"{title}: share of the limit {limit['rollout']:.0%} of generation, {limit['update']:.0%} of the update "
            f"({limit['gflops']:.0f} GFLOP/s, {limit['gbytes']:.1f} GB/s)"
        )
