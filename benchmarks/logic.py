"""Knights and knaves with 3 people: what the numbers of the task preset `logic` do, one at a time.

    python benchmarks/logic.py --data DIR [--steps 40] [--out DIR]

The model of `benchmarks/knights.py`, taught 1,600 steps: at first every demonstration is worked, in the last quarter
about two thirds are bare answers, which it can hardly give. GRPO on the data's puzzles teaches it to work them out, and
to work better; the first hundred puzzles are held out. Every arm is one run of 32 x 8 completions a step, from that one
model; the base is run with several seeds.
"""

import argparse
from pathlib import Path
from typing import Any

from curriculum import arm
from knights import Start, start
from results import ROOT, render, store

TAUGHT = Start(people=(3,), steps=1600, share_of_4=0.0, bare_from=0.75, bare_share=0.65)
ARMS: dict[str, dict[str, Any]] = {
    "base: rate 5e-4, group 8, temperature 1, beta 0": {},
    "base, seed 1": {"seed": 1},
    "base, seed 2": {"seed": 2},
    "base, seed 3": {"seed": 3},
    "rate 2e-4": {"learning_rate": 2e-4},
    "rate 1e-3": {"learning_rate": 1e-3},
    "group 16, 16 problems": {"group_size": 16, "prompts_per_step": 16},
    "temperature 0.8": {"temperature": 0.8},
    "temperature 1.2": {"temperature": 1.2},
    "beta 0.001": {"beta": 0.001},
    "beta 0.04": {"beta": 0.04},
    "4 updates, epsilon 0.2": {"updates_per_batch": 4},
    "4 updates, epsilon 10": {"updates_per_batch": 4, "epsilon": 10.0},
}


def main() -> None:
    """Make the model and run what is not there yet, then store and render."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the puzzles")
    parser.add_argument("--steps", type=int, default=40, help="optimizer steps of each arm")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "logic", help="where the runs go")
    arguments = parser.parse_args()
    base = start(TAUGHT, arguments.data, arguments.out, arguments.steps)
    rows: list[dict[str, Any]] = []
    (arguments.out / "arms").mkdir(exist_ok=True)
    for name, values in ARMS.items():
        shared = {"prompts_per_step": 32, "group_size": 8, "lr_schedule": "linear", "seed": 0}
        own = base.model_copy(update={**shared, "output_dir": str(arguments.out / "arms" / "any")})
        rows.append({"arm": name, **arm(own, name, values, 1)})
        print(f"{name}: {rows[-1]['before']} -> {rows[-1]['after']}", flush=True)
    store("logic", f"python benchmarks/logic.py --data DIR --steps {arguments.steps}", rows)
    render()


if __name__ == "__main__":
    main()
