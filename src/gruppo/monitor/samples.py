"""Which completions the report shows: the same problems early and late where the run met them twice, best and worst."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gruppo.monitor.rollout_table import read_rollout_table
from gruppo.monitor.run_folder import RunFolder

_COLUMNS = ("problem_id", "prompt_text", "completion", "answer", "reward", "passed", "finish_reason", "reasons")
SEARCHED = 20
"""Early steps that are searched for the problems of the last one."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One completion."""

    text: str
    reward: float
    passed: bool
    truncated: bool
    reasons: str
    """Why, as the rewards said it: `math: no number found`."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A group of one step: its best and its worst completion, or one where all are equal."""

    step: int
    prompt: str
    answer: str | None
    passes: int
    size: int
    samples: tuple[Sample, ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """A problem early and late; one of them may be missing."""

    early: Shown | None
    late: Shown | None


def pick_samples(run: RunFolder, count: int = 4) -> list[Pair]:
    """Up to `count` problems from a run's rollouts; none where no rollouts were saved.

    Problems that stand both in an early step and in the last come first, as pairs. Where there are none, problems of
    the first step and of the last stand by themselves.
    """
    steps = run.rollout_steps()
    if not steps:
        return []
    late = _groups(run, steps[-1])
    pairs: list[Pair] = []
    for step in steps[: min(SEARCHED, len(steps) - 1)]:
        early = _groups(run, step)
        for name in [name for name in late if name in early]:
            pairs.append(Pair(_shown(step, early[name]), _shown(steps[-1], late.pop(name))))
            if len(pairs) == count:
                return pairs
    if pairs:
        return pairs
    alone = [Pair(None, _shown(steps[-1], rows)) for rows in _telling(late, count)]
    if len(steps) > 1:
        alone = [Pair(_shown(steps[0], rows), None) for rows in _telling(_groups(run, steps[0]), count)] + alone
    return alone


def _groups(run: RunFolder, step: int) -> dict[str, list[dict[str, Any]]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in read_rollout_table(run.rollouts_path(step), _COLUMNS):
        groups.setdefault(row["problem_id"], []).append(row)
    return groups


def _telling(groups: dict[str, list[dict[str, Any]]], count: int) -> list[list[dict[str, Any]]]:
    """Half of `count`, those whose rewards differ first: they show what the step could learn from."""
    ordered = sorted(groups.values(), key=lambda rows: len({row["reward"] for row in rows}) == 1)
    return ordered[: max(1, count // 2)]


def _shown(step: int, rows: Sequence[dict[str, Any]]) -> Shown:
    best, worst = max(rows, key=lambda row: row["reward"]), min(rows, key=lambda row: row["reward"])
    chosen = [best] if best["reward"] == worst["reward"] else [best, worst]
    passes = sum(bool(row["passed"]) for row in rows)
    samples = tuple(
        Sample(row["completion"], row["reward"], row["passed"], row["finish_reason"] == "length", _reasons(row))
        for row in chosen
    )
    return Shown(step, best["prompt_text"], best["answer"], passes, len(rows), samples)


def _reasons(row: dict[str, Any]) -> str:
    return "; ".join(f"{name}: {reason}" for name, reason in json.loads(row["reasons"]).items())
