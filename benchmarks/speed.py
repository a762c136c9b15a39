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
TRL is as quick as it was found to be on a CPU (`TRL_BEST`): no gradient checkpointing, in bfloat16 a bfloat16 model in
place of autocast, in float32 products by oneDNN. Its bfloat16 weights are rounded at every optimizer step; gruppo keeps
float32 masters.

The limit is what the machine does at best, measured before and after the steps: `benchmarks/limits.py`.
Figures are kept in benchmarks/results/speed.json and rendered to benchmarks/speed.md.
"""

import argparse
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from contestants import Contestant, Job, pin
from duel import compared, told
from shapes import SHAPES
from speed_page import keep, render

TRL_PLAIN: dict[str, Any] = {"bf16": False, "gradient_checkpointing": False}
_EAGER: dict[str, Any] = {**TRL_PLAIN, "attn_implementation": "eager"}
_MEDIUM: dict[str, Any] = {**_EAGER, "matmul_precision": "medium"}
TRL_BEST: dict[tuple[str, str], dict[str, Any]] = {
    ("a", "float32"): {**_MEDIUM, "parts": 4},
    ("a", "bfloat16"): {**_EAGER, "parts": 4},
    ("b", "float32"): {**_MEDIUM, "parts": 8},
    ("b", "bfloat16"): {**_EAGER, "parts": 8},
}
"""TRL's quickest settings by shape and precision, of those that were tried there (`TRL_TRIED`, not all at every shape),
by CPU seconds. "medium" lets float32 products run by oneDNN, as gruppo has them on AMD's processors
(`training/products.py`); TRL itself sets nothing of the kind. One step each on a machine in use, which tells 10 %
apart at best; another shape has `trl_best`'s."""


def trl_best(shape: str, precision: str) -> dict[str, Any]:
    """TRL's settings for a shape: those that were found, else those of b."""
    return TRL_BEST.get((shape, precision), TRL_BEST["b", precision])


TRL_TRIED: dict[str, dict[str, Any]] = {
    "defaults: float32 under autocast, checkpointing": {"dtype": "float32"},
    "float32, checkpointing": {"dtype": "float32", "bf16": False},
    "float32, static cache": {"dtype": "float32", **TRL_PLAIN, "parts": 8, "cache_implementation": "static"},
    "float32 under autocast, in 8 parts": {"dtype": "float32", **TRL_PLAIN, "parts": 8, "bf16": True},
    "bfloat16 under autocast, in 8 parts": {"dtype": "bfloat16", **TRL_PLAIN, "parts": 8, "bf16": True},
    **{
        f"float32, {attention}, in {parts} parts, medium products": {
            "dtype": "float32",
            **settings,
            "parts": parts,
            "matmul_precision": "medium",
        }
        for attention, settings in (("sdpa", TRL_PLAIN), ("eager", _EAGER))
        for parts in (4, 8)
    },
    **{
        f"{dtype}, {attention}, in {parts} parts": {"dtype": dtype, **settings, "parts": parts}
        for dtype in ("float32", "bfloat16")
        for attention, settings in (("sdpa", TRL_PLAIN), ("eager", _EAGER))
        for parts in (1, 4, 8, 16, 32)
    },
}


def main() -> None:
    """Measure, print, store and render."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="a,b", help=f"of {', '.join(SHAPES)}")
    parser.add_argument("--precision", default="float32,bfloat16")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--only", choices=["gruppo", "trl"], help="measure one alone and store nothing")
    parser.add_argument(
        "--tune",
        nargs="?",
        const="",
        metavar="TEXT",
        help="TRL's settings one after another, those with TEXT in their title; stores nothing",
    )
    parser.add_argument("--render", action="store_true", help="only render the page")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    pin(asked.threads)
    for shape in () if asked.render else asked.shapes.split(","):
        with tempfile.TemporaryDirectory() as folder:
            SHAPES[shape].save(Path(folder))
            if asked.tune is not None:
                tune(shape, Path(folder), asked)
                continue
            for precision in asked.precision.split(","):
                job = Job(asdict(SHAPES[shape]), precision, asked.threads, trl=trl_best(shape, precision))
                only = (asked.only,) if asked.only else ("gruppo", "trl")
                row = {"shape": shape, **compared(f"{shape} {precision}", job, Path(folder), asked.pairs, only)}
                if not asked.only:
                    command = f"python benchmarks/speed.py --shapes {shape} --precision {precision} --threads "
                    command += f"{asked.threads} --pairs {asked.pairs}"
                    keep("speed", row, ("shape", "precision", "threads"), command)
    if asked.tune is None and not asked.only:
        render()


def tune(shape: str, folder: Path, asked: argparse.Namespace) -> None:
    """TRL's settings that were tried: the second step of each."""
    for title, settings in TRL_TRIED.items():
        if asked.tune not in title:
            continue
        contestant = Contestant(
            "trl", folder, Job(asdict(SHAPES[shape]), settings["dtype"], asked.threads, trl=settings)
        )
        try:
            contestant.step()
            print(f"  {shape} {title}: {told(contestant.step())}", flush=True)
        except RuntimeError as error:
            print(f"  {shape} {title}: {str(error).strip().splitlines()[-1]}", flush=True)
        finally:
            contestant.close()


if __name__ == "__main__":
    main()
