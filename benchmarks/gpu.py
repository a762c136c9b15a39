"""One GRPO step on a GPU, gruppo against TRL with transformers' generation, in turns (A B A B).

    python benchmarks/gpu.py [--shapes 0.5b,1.5b] [--pairs 3] [--only gruppo]
    python benchmarks/gpu.py --toy      # the same script on a CPU, at a size of seconds; nothing it prints is a result

Not measured yet: no GPU was at hand. Random weights of Qwen2.5's shapes in bfloat16, 16 prompts of 256 tokens x 16
completions of exactly 512. Prints the ratio, gruppo's share of the measured matrix rate in the update and of the
measured bandwidth in decoding, the peak of the allocator, and which ways ran: the forms of attention by trees (`blocks`
is the fused one), decode steps replayed as CUDA graphs. Keeps them in benchmarks/results/gpu.json. What each side
does is said in benchmarks/speed.py; TRL begins with all completions in one pass and halves the rows until they fit.
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from contestants import Job
from duel import compared
from shapes import SHAPES, Shape, qwen2
from speed import TRL_PLAIN
from speed_page import keep

LOAD = {"prompts": 16, "group_size": 16, "prompt_length": 256, "new_tokens": 512}
GPU_SHAPES = {
    "0.5b": Shape(qwen2(151_936, 896, 4864, 24, 14, 2), **LOAD),
    "1.5b": Shape(qwen2(151_936, 1536, 8960, 28, 12, 2), **LOAD),
}
TOY = {"toy": replace(SHAPES["a"], prompts=2, group_size=2, prompt_length=8, new_tokens=8)}


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Measure, print and store; gives the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default=",".join(GPU_SHAPES))
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--only", choices=["gruppo", "trl"], help="measure one alone and store nothing")
    parser.add_argument("--toy", action="store_true", help="on the CPU, a tiny model; stores nothing")
    asked = parser.parse_args(arguments)
    if not asked.toy and not torch.cuda.is_available():
        parser.error("no CUDA device here; --toy tries the script on the CPU")
    shapes = TOY if asked.toy else {name: GPU_SHAPES[name] for name in asked.shapes.split(",")}
    names = (asked.only,) if asked.only else ("gruppo", "trl")
    rows: list[dict[str, Any]] = []
    for name, shape in shapes.items():
        row = {"shape": name, **measured(name, shape, "cpu" if asked.toy else "cuda", asked.pairs, names)}
        print(f"{name}: {row['limit']['bandwidth']:.0%} of the bandwidth in decoding" if "limit" in row else "")
        print(f"{name}: " + ", ".join(f"{count} {way}" for way, count in row["ways"].items()) if "ways" in row else "")
        rows.append(row)
        if not asked.toy and not asked.only:
            row["card"] = torch.cuda.get_device_name()
            keep("gpu", row, ("shape",), f"python benchmarks/gpu.py --shapes {name} --pairs {asked.pairs}")
    return rows


def measured(title: str, shape: Shape, device: str, pairs: int, names: Sequence[str]) -> dict[str, Any]:
    """The row of a shape, with as many rows in each of TRL's passes as fit."""
    parts = 1
    with tempfile.TemporaryDirectory() as folder:
        shape.save(Path(folder))
        while True:
            job = Job(asdict(shape), "bfloat16", device=device, trl={**TRL_PLAIN, "parts": parts})
            try:
                return compared(title, job, Path(folder), pairs, names)
            except RuntimeError as error:
                memory = str(error).startswith("trl") and "out of memory" in str(error)
                if not memory or parts == shape.completions:
                    raise
            parts *= 2
            print(f"{title}: out of memory; TRL's update in {parts} parts", flush=True)


if __name__ == "__main__":
    main()
