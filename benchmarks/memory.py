"""Peak memory of a GRPO step where logits are large: a vocabulary of 152k, gruppo beside TRL.

    taskset -c 0 python benchmarks/memory.py [--precision bfloat16] [--ways TEXT] [--limit 1800]

Shape c of benchmarks/shapes.py, with LoRA. One contestant after the other, each in a process of its own that makes one
step; its largest resident memory, and what it had at rest before. Memory hardly depends on what else is on the machine,
so nothing is done in turns; the seconds do, and are only told. The page of benchmarks/speed.py shows what is stored.
"""

import argparse
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from contestants import Contestant, Job, pin
from duel import told
from shapes import SHAPES
from speed_page import keep, render

RECOMPUTED = {"gradient_checkpointing": True}
NOTHING_MORE: dict[str, Any] = {"bf16": False, "gradient_checkpointing": False}
WAYS: dict[str, tuple[str, Mapping[str, Any]]] = {
    "gruppo": ("gruppo", {}),
    "gruppo, activations recomputed": ("gruppo", RECOMPUTED),
    "TRL, all completions at once, activations recomputed (its defaults)": ("trl", {**NOTHING_MORE, **RECOMPUTED}),
    "TRL, all completions at once": ("trl", NOTHING_MORE),
    "TRL, one completion at a time": ("trl", {**NOTHING_MORE, "parts": 8}),
    "TRL, one completion at a time, activations recomputed": ("trl", {**NOTHING_MORE, **RECOMPUTED, "parts": 8}),
}


def main() -> None:
    """Measure, print, store and render."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--ways", default="", metavar="TEXT", help="only those with TEXT in their name")
    parser.add_argument("--limit", type=float, default=1800, help="seconds of a step")
    asked = parser.parse_args()
    pin(1)
    with tempfile.TemporaryDirectory() as folder:
        SHAPES["c"].save(Path(folder))
        for way, (name, settings) in WAYS.items():
            if asked.ways not in way:
                continue
            job = Job(asdict(SHAPES["c"]), asked.precision, **{name: dict(settings)})
            load, contestant = round(os.getloadavg()[0], 1), Contestant(name, Path(folder), job)
            try:
                step = contestant.step(asked.limit)
            except (RuntimeError, TimeoutError) as error:
                print(f"  {way}: {str(error).strip().splitlines()[-1]}", flush=True)
                continue
            finally:
                contestant.close()
            print(f"  {way}: {told(step)}", flush=True)
            row = {"way": way, "precision": asked.precision, "peak_mib": step.peak_mib, "rest_mib": step.rest_mib}
            row |= {"cpu_seconds": step.cpu_seconds, "tokens": step.tokens, "load": load}
            command = f"python benchmarks/memory.py --precision {asked.precision} --ways '{way}'"
            keep("memory", row, ("way", "precision"), command)
    render()


if __name__ == "__main__":
    main()
