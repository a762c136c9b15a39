"""One GRPO step end to end, gruppo against TRL's GRPOTrainer with transformers' generation, in turns (A B A B).

    taskset -c 0 python benchmarks/speed.py [--shapes a,b] [--precision float32,bfloat16] [--threads 1] [--pairs 5]
    python benchmarks/speed.py --only gruppo       # a quick look; nothing is stored
    python benchmarks/speed.py --tune --shapes b   # TRL's settings one after another, two steps each
    python benchmarks/speed.py --render            # only benchmarks/speed.md, from what is stored

Each contestant lives in one process of its own from first step to last and does nothing but steps, so that its peak
memory is its own; the first step warms up and is not counted. Both load the same folder of weights and get the same
prompts in the same order, group size, limits, end tokens, reward (`shapes.token_reward`, in process), AdamW, rate and
threads. They draw by themselves, so the tokens of a step differ a little: what is compared is generated tokens a second
of the whole step (rollout, reward, update, and what stands between two steps).

gruppo is `Workbench.trainer` with the defaults of its config; rollouts and metrics are written to disk as in any run.
TRL is as quick as it was found to be on a CPU (`TRL_BEST`): no gradient checkpointing, and in bfloat16 a bfloat16 model
in place of autocast. Its bfloat16 weights are rounded at every optimizer step; gruppo keeps float32 masters.

The limit is what the machine does at best, measured before and after the steps: `benchmarks/limits.py`.
Figures are kept in benchmarks/results/speed.json and rendered to benchmarks/speed.md.
"""

import argparse
import os
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from contestants import Contestant, Job, Step, pin
from limits import Machine, measure, shares
from shapes import SHAPES
from speed_page import keep, render

_PLAIN = {"bf16": False, "gradient_checkpointing": False}
TRL_BEST: dict[str, dict[str, Any]] = {"float32": _PLAIN, "bfloat16": _PLAIN}
"""TRL's quickest settings by precision of the model."""
TRL_TRIED: dict[str, dict[str, Any]] = {
    "defaults: float32 under autocast, checkpointing": {"dtype": "float32"},
    "float32": {"dtype": "float32", **_PLAIN},
    "float32, checkpointing": {"dtype": "float32", "bf16": False},
    "float32 under autocast": {"dtype": "float32", **_PLAIN, "bf16": True},
    "float32, a quarter of the rows at a time": {"dtype": "float32", **_PLAIN, "parts": 4},
    "float32, eager attention": {"dtype": "float32", **_PLAIN, "attn_implementation": "eager"},
    "float32, static cache": {"dtype": "float32", **_PLAIN, "cache_implementation": "static"},
    "bfloat16": {"dtype": "bfloat16", **_PLAIN},
    "bfloat16 under autocast": {"dtype": "bfloat16", **_PLAIN, "bf16": True},
    "bfloat16, a quarter of the rows at a time": {"dtype": "bfloat16", **_PLAIN, "parts": 4},
    "bfloat16, eager attention": {"dtype": "bfloat16", **_PLAIN, "attn_implementation": "eager"},
}


def main() -> None:
    """Measure, print, store and render."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="a,b", help=f"of {', '.join(SHAPES)}")
    parser.add_argument("--precision", default="float32,bfloat16")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--only", choices=["gruppo", "trl"], help="measure one alone and store nothing")
    parser.add_argument("--tune", action="store_true", help="TRL's settings one after another; stores nothing")
    parser.add_argument("--render", action="store_true", help="only render the page")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    pin(asked.threads)
    for shape in () if asked.render else asked.shapes.split(","):
        with tempfile.TemporaryDirectory() as folder:
            SHAPES[shape].save(Path(folder))
            if asked.tune:
                tune(shape, Path(folder), asked.threads)
                continue
            for precision in asked.precision.split(","):
                row = compared(shape, precision, Path(folder), asked)
                if not asked.only:
                    command = f"python benchmarks/speed.py --shapes {shape} --precision {precision} --threads "
                    command += f"{asked.threads} --pairs {asked.pairs}"
                    keep("speed", row, ("shape", "precision", "threads"), command)
    if not (asked.tune or asked.only):
        render()


def compared(shape: str, precision: str, folder: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """The row of one shape and precision."""
    job = Job(asdict(SHAPES[shape]), precision, asked.threads, trl=TRL_BEST[precision])
    load, before = os.getloadavg()[0], measure(SHAPES[shape], precision)
    names = [asked.only] if asked.only else ["gruppo", "trl"]
    steps: dict[str, list[Step]] = {name: [] for name in names}
    contestants = [Contestant(name, folder, job) for name in names]
    try:
        for pair in range(asked.pairs + 1):
            for contestant in contestants:
                step = contestant.step()
                print(f"  {shape} {precision} {contestant.name}: {told(step)}" + " (warm-up)" * (pair == 0), flush=True)
                if pair:
                    steps[contestant.name].append(step)
    finally:
        for contestant in contestants:
            contestant.close()
    after = measure(SHAPES[shape], precision)
    machine = Machine(max(before.gflops, after.gflops), max(before.gbytes, after.gbytes))
    row: dict[str, Any] = {
        "shape": shape,
        "precision": precision,
        "threads": asked.threads,
        "pairs": asked.pairs,
        "load": round(load, 1),
        **{name: summary(found) for name, found in steps.items()},
    }
    if "gruppo" in steps:
        row["limit"] = shares(SHAPES[shape], precision, machine, steps["gruppo"])
    if not asked.only:
        ratios = [ours.rate / theirs.rate for ours, theirs in zip(steps["gruppo"], steps["trl"], strict=True)]
        row["ratio"] = {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}
        row["ratio"]["together"] = row["gruppo"]["rate_together"] / row["trl"]["rate_together"]
        row["ratio"]["cpu"] = row["gruppo"]["cpu_rate"] / row["trl"]["cpu_rate"]
    print_row(row)
    return row


def summary(steps: Sequence[Step]) -> dict[str, float]:
    """A contestant's medians, its rate over all steps together, and its memory."""
    median = statistics.median
    return {
        "rate": median(step.rate for step in steps),
        "rate_together": sum(step.tokens for step in steps) / sum(step.seconds for step in steps),
        "cpu_rate": sum(step.tokens for step in steps) / sum(step.cpu_seconds for step in steps),
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


def print_row(row: dict[str, Any]) -> None:
    """The gist of a row."""
    if "ratio" in row:
        ratio = row["ratio"]
        print(
            f"{row['shape']} {row['precision']}: {ratio['median']:.2f}x TRL ({ratio['least']:.2f} to "
            f"{ratio['most']:.2f}; {ratio['together']:.2f} together, {ratio['cpu']:.2f} by CPU seconds), peak memory "
            f"{row['trl']['peak_mib'] / row['gruppo']['peak_mib']:.2f}x less"
        )
    if "limit" in row:
        limit = row["limit"]
        print(
            f"{row['shape']} {row['precision']}: share of the limit {limit['rollout']:.0%} of generation, "
            f"{limit['update']:.0%} of the update ({limit['gflops']:.0f} GFLOP/s, {limit['gbytes']:.1f} GB/s)"
        )


def tune(shape: str, folder: Path, threads: int) -> None:
    """TRL's settings that were tried: the second step of each."""
    for title, settings in TRL_TRIED.items():
        contestant = Contestant("trl", folder, Job(asdict(SHAPES[shape]), settings["dtype"], threads, trl=settings))
        try:
            contestant.step()
            print(f"  {shape} {title}: {told(contestant.step())}", flush=True)
        except RuntimeError as error:
            print(f"  {shape} {title}: {str(error).strip().splitlines()[-1]}", flush=True)
        finally:
            contestant.close()


if __name__ == "__main__":
    main()
