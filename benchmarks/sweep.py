"""How gruppo's cost grows with group, prompt, completion and vocabulary, one at a time, on 1 and 2 cores.

    python benchmarks/sweep.py [--axes group,prompt,completion,vocabulary] [--threads 1,2] [--steps 2]
    python benchmarks/sweep.py --axes long   # only the long prompt: trees and slots against padding and waves, and TRL
    python benchmarks/sweep.py --render      # only benchmarks/speed.md, from what is stored

Base: 3.5M parameters (hidden size 256, 4 layers), vocabulary 4,096, 4 prompts of 256 tokens x 8 completions of exactly
128, float32. Every point is a process of its own; its first step warms up, the medians of the others are kept.
Figures are kept in benchmarks/results/sweep.json and rendered to benchmarks/speed.md.
"""

import argparse
import os
import statistics
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from contestants import Job, Step, pin
from duel import in_turns
from shapes import SHAPES, Shape
from speed import trl_best
from speed_page import keep, render

BASE = replace(SHAPES["g"], prompts=4, group_size=8, prompt_length=256, new_tokens=128)
AXES = {
    "group": (4, 8, 16, 32, 64),
    "prompt": (16, 64, 256, 1024, 2048),
    "completion": (64, 128, 256, 512, 1024, 2048),
    "vocabulary": (512, 4096, 32_768, 151_936),
}
FIELDS = {"group": "group_size", "prompt": "prompt_length", "completion": "new_tokens"}
LONG = replace(BASE, prompts=2, group_size=16, prompt_length=2048, new_tokens=64)
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "trees, slots": ("gruppo", {}),
    "padded, waves": ("gruppo", {"plain": True}),
    "TRL": ("trl", {"trl": trl_best("b", "float32")}),
}


def main() -> None:
    """Measure, print, store and render."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--axes", default=f"{','.join(AXES)},long")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--steps", type=int, default=2, help="steps of a point that are counted")
    parser.add_argument("--render", action="store_true", help="only render the page")
    asked = parser.parse_args()
    for threads in [] if asked.render else map(int, asked.threads.split(",")):
        for axis in asked.axes.split(","):
            command = f"python benchmarks/sweep.py --axes {axis} --threads {threads} --steps {asked.steps}"
            if axis == "long":
                long_prompt(threads, asked.steps, command)
            else:
                along(axis, threads, asked.steps, command)
    render()


def point(axis: str, value: int) -> Shape:
    """The base with one number changed."""
    if axis == "vocabulary":
        return replace(BASE, model={**BASE.model, "vocab_size": value})
    return replace(BASE, **{FIELDS[axis]: value})


def along(axis: str, threads: int, steps: int, command: str) -> None:
    """One axis; tells what each point costs, and how that compares with the point before."""
    before: dict[str, Any] | None = None
    for value in AXES[axis]:
        shape = point(axis, value)
        row = measured(shape, [("gruppo", Job(asdict(shape), threads=threads))], threads, steps)[0]
        row = {"axis": axis, "value": value, "way": "trees, slots", "threads": threads, **row}
        growth = "" if before is None else f"; {row['seconds'] / before['seconds']:.2f} times the one before"
        print(f"{axis} {value:,}, {threads} threads: {row['seconds']:.2f} s{growth}", flush=True)
        keep("sweep", row, ("axis", "value", "way", "threads"), command)
        before = row


def long_prompt(threads: int, steps: int, command: str) -> None:
    """A prompt of 2,048, group 16, completions of 64, in turns: each prompt once, against repeated."""
    contestants = [(name, Job(asdict(LONG), threads=threads, **extra)) for name, extra in WAYS.values()]
    for way, row in zip(WAYS, measured(LONG, contestants, threads, steps), strict=True):
        row = {"axis": "long", "value": LONG.prompt_length, "way": way, "threads": threads, **row}
        keep("sweep", row, ("axis", "value", "way", "threads"), command)


def measured(shape: Shape, jobs: list[tuple[str, Job]], threads: int, steps: int) -> list[dict[str, Any]]:
    """The medians of each job, in turns."""
    cores, load = os.sched_getaffinity(0), round(os.getloadavg()[0], 1)
    with tempfile.TemporaryDirectory() as folder:
        shape.save(Path(folder))
        pin(threads)
        try:
            found = in_turns(jobs, Path(folder), steps)
        finally:
            os.sched_setaffinity(0, cores)
    return [{**medians(taken), "load": load} for taken in found]


def medians(steps: list[Step]) -> dict[str, float]:
    """A point's figures."""
    parts = ("seconds", "cpu_seconds", "rollout", "reward", "update")
    return {
        **{part: statistics.median(getattr(step, part) for step in steps) for part in parts},
        "tokens": steps[0].tokens,
        "peak_mib": max(step.peak_mib for step in steps),
        "rest_mib": steps[0].rest_mib,
    }


if __name__ == "__main__":
    main()
