"""Every preset, and the choices on which sources disagree, on the demo's task: held-out pass@1 before and after.

    python benchmarks/variants.py [--seeds 0-2] [--steps 50] [--out DIR] [--only NAME ...]

A seed's model is made once, by the demo's own SFT; each variant goes on from it for so many steps of 32 problems x 8
completions. A preset's own sizes and lengths are left out (they are for large models), and its rate is scaled to the
tiny model: 5e-4 over the square root of the optimizer steps per batch. Figures are kept in
benchmarks/results/variants.json and rendered into docs/results.md by benchmarks/results.py.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from results import ROOT, numbers, render, store

import gruppo
from gruppo.config.presets import PRESETS
from gruppo.demo.run import WORKED, demo_config, prepare
from gruppo.launch.pipeline import run
from gruppo.monitor.progress import SilentProgress

RATE = 5e-4
SIZES = ("group_size", "prompts_per_step", "max_completion_length", "temperature", "learning_rate")
CHOICES: dict[str, dict[str, Any]] = {
    "default": {},
    "epsilon 10, 1 update": {"epsilon": 10.0},
    "epsilon 0.2, 4 updates": {"updates_per_batch": 4},
    "epsilon 10, 4 updates": {"updates_per_batch": 4, "epsilon": 10.0},
    "beta 0.001": {"beta": 0.001},
    "beta 0.04": {"beta": 0.04},
    "without std": {"advantage_scale": "none"},
}


def main() -> None:
    """Run what is not there yet, then store and render."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0-2", help="such as 0-2 or 0,3")
    parser.add_argument("--steps", type=int, default=50, help="optimizer steps of each variant")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "variants", help="where the runs go")
    parser.add_argument("--only", nargs="+", help="these variants alone")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name, values in variants():
        if arguments.only and name not in arguments.only:
            continue
        for seed in numbers(arguments.seeds):
            row = variant(name, values, seed, arguments.steps, arguments.out)
            rows.append(row)
            print(f"{name}, seed {seed}: {row['before']:.3f} -> {row['after']:.3f}", flush=True)
    store("variants", f"python benchmarks/variants.py --steps {arguments.steps}", rows)
    render()


def variants() -> Iterator[tuple[str, dict[str, Any]]]:
    """Names and options: the choices, then every preset without its sizes."""
    yield from CHOICES.items()
    for name, preset in PRESETS.items():
        yield name, {option: value for option, value in preset.values.items() if option not in SIZES}


def variant(name: str, values: dict[str, Any], seed: int, steps: int, out: Path) -> dict[str, Any]:
    """One variant from the model of one seed."""
    start = out / f"seed-{seed}"
    prepare(seed, start)
    base = demo_config(seed, start)
    observer = SilentProgress()
    sft = run(base.model_copy(update={"output_dir": str(start / "sft")}), observer=observer, stages=("sft",))
    shared = {
        "model": str(sft.model),
        "steps": steps,
        "sft": None,
        "learning_rate": RATE / (values.get("updates_per_batch", 1) * values.get("minibatches", 1)) ** 0.5,
        "save_rollouts_every": 0,
    }
    plain = {name: getattr(base, name) for name in base.model_fields_set}
    where = {"output_dir": str(start / name.replace(" ", "-").replace(",", ""))}
    result = run(gruppo.Config.model_validate({**plain, **shared, **values, **where}), observer=observer, label=WORKED)
    assert result.before is not None
    assert result.after is not None
    metrics = result.metrics
    return {
        "variant": name,
        "seed": seed,
        "values": values,
        "before": result.before.pass_at_1.value,
        "after": result.after.pass_at_1.value,
        "reward": [sum(row["reward_mean"] for row in part) / 5 for part in (metrics[:5], metrics[-5:])],
        "clipped_share": max(row["clipped_share"] or 0.0 for row in metrics),
        "skipped": sum(row["optimizer_step"] == 0 for row in metrics),
    }


if __name__ == "__main__":
    main()
