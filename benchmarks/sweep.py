"""How gruppo's cost grows with group, prompt, completion and vocabulary, one at a time, on 1 and 2 cores.

    python benchmarks/sweep.py [--axes long,group,prompt,completion,vocabulary] [--threads 1,2] [--steps 2]
        [--limit 240]
    python benchmarks/sweep.py --axes long   # only the long prompt: trees and slots against padding and waves, and TRL
    python benchmarks/sweep.py --render      # only benchmarks/speed.md, from what is stored

Base: 3.5M parameters (hidden size 256, 4 layers), vocabulary 4,096, 4 prompts of 256 tokens x 8 completions of exactly
128, float32. Every point is a process of its own; its first step warms up, the medians of the others are kept.

A point may take --limit seconds. Where that is too little for all its steps it has fewer; where the first step leaves
no room for another, that one is its figure (`steps` 0: nothing was warmed up); where even the first takes longer, the
point is left out, and so are the larger ones behind it. Each is stored as soon as it is measured, in
benchmarks/results/sweep.json, and rendered to benchmarks/speed.md: a run that is cut short loses one point.
"""

import argparse
import os
import statistics
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from contestants import Contestant, Job, Step, pin
from duel import told
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


Row = dict[str, Any]
KEY = ("axis", "value", "way", "threads")


def main() -> None:
    """Measure, print, store and render."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--axes", default=f"long,{','.join(AXES)}")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--steps", type=int, default=2, help="steps of a point that are counted")
    parser.add_argument("--limit", type=float, default=240, help="seconds that a point may take")
    parser.add_argument("--ways", default="", metavar="TEXT", help="of the long prompt, those with TEXT in their name")
    parser.add_argument("--render", action="store_true", help="only render the page")
    asked = parser.parse_args()
    for threads in [] if asked.render else map(int, asked.threads.split(",")):
        for axis in asked.axes.split(","):
            command = f"python benchmarks/sweep.py --axes {axis} --threads {threads} --steps {asked.steps} "
            command += f"--limit {asked.limit:.0f}"
            if axis == "long":
                command += f" --ways {asked.ways}" if asked.ways else ""
                long_prompt([way for way in WAYS if asked.ways in way], threads, asked.steps, asked.limit, command)
            else:
                along(axis, threads, asked.steps, asked.limit, command)
    render()


def point(axis: str, value: int) -> Shape:
    """The base with one number changed."""
    if axis == "vocabulary":
        return replace(BASE, model={**BASE.model, "vocab_size": value})
    return replace(BASE, **{FIELDS[axis]: value})


def along(axis: str, threads: int, steps: int, limit: float, command: str) -> None:
    """One axis; tells what each point costs, and how that compares with the point before."""
    before: Row | None = None
    for value in AXES[axis]:
        shape = point(axis, value)
        row = measured(shape, [("gruppo", Job(asdict(shape), threads=threads))], threads, steps, limit)[0]
        if row is None:
            print(f"{axis} {value:,}, {threads} threads: left out, a step takes more than {limit:.0f} s", flush=True)
            return
        row = {"axis": axis, "value": value, "way": "trees, slots", "threads": threads, **row}
        growth = "" if before is None else f"; {row['cpu_seconds'] / before['cpu_seconds']:.2f} times the one before"
        print(f"{axis} {value:,}, {threads} threads: {row['cpu_seconds']:.2f} CPU seconds{growth}", flush=True)
        keep("sweep", row, KEY, command)
        before = row


def long_prompt(ways: list[str], threads: int, steps: int, limit: float, command: str) -> None:
    """A prompt of 2,048, group 16, completions of 64, in turns: each prompt once, against repeated."""
    contestants = [(WAYS[way][0], Job(asdict(LONG), threads=threads, **WAYS[way][1])) for way in ways]
    for way, row in zip(ways, measured(LONG, contestants, threads, steps, limit), strict=True):
        if row is None:
            print(f"long, {way}, {threads} threads: left out, a step takes more than {limit:.0f} s", flush=True)
            continue
        row = {"axis": "long", "value": LONG.prompt_length, "way": way, "threads": threads, **row}
        print(f"long, {way}, {threads} threads: {row['cpu_seconds']:.2f} CPU seconds", flush=True)
        keep("sweep", row, KEY, command)


def measured(shape: Shape, jobs: list[tuple[str, Job]], threads: int, steps: int, limit: float) -> list[Row | None]:
    """The medians of each job, in turns; None where one step is too long for the limit."""
    cores, load = os.sched_getaffinity(0), round(os.getloadavg()[0], 1)
    with tempfile.TemporaryDirectory() as folder:
        shape.save(Path(folder))
        pin(threads)
        try:
            found = in_turns_within(jobs, Path(folder), steps, limit)
        finally:
            os.sched_setaffinity(0, cores)
    # The first step is the figure where there is no other.
    return [
        {**medians(taken[1:] or taken), "steps": len(taken) - 1, "load": load} if taken else None for taken in found
    ]


def in_turns_within(jobs: list[tuple[str, Job]], folder: Path, rounds: int, limit: float) -> list[list[Step]]:
    """As `duel.in_turns`, each job in `limit` seconds at most, its first step (which warms up) with its start.

    Returns all steps, the first one too; none where it took too long.
    """
    contestants = [Contestant(name, folder, job) for name, job in jobs]
    found: list[list[Step]] = [[] for _ in jobs]
    left = [limit] * len(jobs)
    try:
        for number in range(rounds + 1):
            for index, (contestant, steps) in enumerate(zip(contestants, found, strict=True)):
                # A further step is begun only where one as long as the first would end in time.
                if number and (not steps or steps[0].seconds > left[index]):
                    continue
                begun = time.perf_counter()
                try:
                    steps.append(contestant.step(left[index] if number == 0 else limit))
                except TimeoutError:
                    steps.clear()
                    continue
                left[index] -= time.perf_counter() - begun
                print(f"  {contestant.name}: {told(steps[-1])}" + " (warm-up)" * (number == 0), flush=True)
    finally:
        for contestant in contestants:
            contestant.close()
    return found


def medians(steps: list[Step]) -> Row:
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
