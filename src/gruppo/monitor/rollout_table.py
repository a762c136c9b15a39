"""A step's rollouts as a Parquet file, one row per completion. The columns are described in
docs/run-folder.md.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gruppo.monitor import files
from gruppo.monitor.metrics import REWARD_PREFIX
from gruppo.types import Group, Problem, Rollout

Advantages = NDArray[Any] | Sequence[Sequence[float]]
"""[P, G], in the order of the groups and their rollouts."""


def write_rollout_table(path: Path, step: int, groups: Sequence[Group], advantages: Advantages | None = None) -> None:
    """Write one row per rollout, aside and renamed.

    Raises ValueError when the advantages are not as many as the rollouts, RunFolderError when the disk
    refuses.
    """
    import pyarrow.parquet as parquet

    table = _table(step, groups, advantages)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        parquet.write_table(table, aside, compression="zstd")
        aside.replace(path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise files.unwritable(path, error) from error


def read_rollout_table(path: Path, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """The rows of a rollouts file as dictionaries, in the order written; `columns` limits what is read."""
    import pyarrow.parquet as parquet

    return parquet.ParquetFile(path).read(columns=None if columns is None else list(columns)).to_pylist()


def _table(step: int, groups: Sequence[Group], advantages: Advantages | None) -> Any:
    import pyarrow as pa

    rows = [(group.problem, rollout) for group in groups for rollout in group.rollouts]
    parts = list(dict.fromkeys(name for _, rollout in rows for name in rollout.score.parts))
    columns: dict[str, Any] = _columns(rows, pa)
    columns["step"] = pa.array([step] * len(rows), pa.int32())
    columns["advantage"] = pa.array(_flat(advantages, len(rows)), pa.float32())
    for name in parts:
        values = [rollout.score.parts.get(name) for _, rollout in rows]
        columns[f"{REWARD_PREFIX}{clean(name)}"] = pa.array(values, pa.float64())
    first = (
        "step",
        "problem_id",
        "sample",
        "prompt_text",
        "completion",
        "answer",
        "reward",
        "advantage",
        "passed",
    )
    return pa.table({name: columns[name] for name in [*first, *(n for n in columns if n not in first)]})


def _columns(rows: Sequence[tuple[Problem, Rollout]], pa: Any) -> dict[str, Any]:
    rollouts = [rollout for _, rollout in rows]
    completions = [rollout.completion for rollout in rollouts]
    answers = [None if problem.answer is None else clean(problem.answer) for problem, _ in rows]
    return {
        "problem_id": pa.array([clean(problem.id) for problem, _ in rows], pa.string()),
        "sample": pa.array([c.sample for c in completions], pa.int32()),
        "prompt_text": pa.array([clean(p.prompt_text or p.prompt) for p, _ in rows], pa.string()),
        "completion": pa.array([clean(rollout.text) for rollout in rollouts], pa.string()),
        "answer": pa.array(answers, pa.string()),
        "reward": pa.array([rollout.score.reward for rollout in rollouts], pa.float64()),
        "passed": pa.array([rollout.score.passed for rollout in rollouts], pa.bool_()),
        "finish_reason": pa.array([c.finish_reason for c in completions], pa.string()),
        "completion_length": pa.array([len(c) for c in completions], pa.int32()),
        "token_ids": pa.array([c.token_ids.astype(np.int32) for c in completions], pa.list_(pa.int32())),
        "sampler_logprobs": pa.array(
            [c.sampler_logprobs.astype(np.float32) for c in completions], pa.list_(pa.float32())
        ),
        "policy_version": pa.array([c.version for c in completions], pa.int32()),
        "reasons": pa.array([json.dumps(dict(r.score.reasons)) for r in rollouts], pa.string()),
    }


def _flat(advantages: Advantages | None, count: int) -> list[float | None]:
    if advantages is None:
        return [None] * count
    flat = [float(value) for row in advantages for value in np.ravel(row)]
    if len(flat) != count:
        raise ValueError(f"got {len(flat)} advantages for {count} rollouts")
    return list(flat)


def clean(text: str) -> str:
    """Text that UTF-8 can hold: lone surrogates, which JSON may bring in, become question marks."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
