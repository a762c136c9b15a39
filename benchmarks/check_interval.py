"""Does the share of groups with a signal in a run's first ten steps lie in the check's 95 % interval?

    python benchmarks/check_interval.py [--runs 20] [--out runs/check-interval]

One small model is taught five kinds of question (tests/preflight_models.py); each run has a mixture of them, a group
size, a temperature and a seed of its own. It is checked, then trained for ten steps at a rate of 1e-12, and the share
is counted in its metrics. The exit code is 1 where fewer than nine in ten lie inside.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tests")]

import numpy as np  # noqa: E402
from results import store  # noqa: E402

from gruppo.launch.check import check_config  # noqa: E402
from gruppo.launch.pipeline import run  # noqa: E402
from gruppo.monitor.progress import SilentProgress  # noqa: E402
from gruppo.preflight.signal import FIRST_STEPS  # noqa: E402
from preflight_models import World, build, rows_of  # noqa: E402

MIXTURES = ((2,), (1, 2), (2, 3), (3,), (2, 4), (3, 4), (1, 2, 3, 4), (1, 4))
GROUP_SIZES = (2, 4, 8, 16)
TEMPERATURES = (1.0, 0.7, 1.2)


def one(world: World, seed: int) -> dict:
    """A check and the ten steps after it."""
    levels, group_size = MIXTURES[seed % len(MIXTURES)], GROUP_SIZES[(seed // 2) % len(GROUP_SIZES)]
    temperature = TEMPERATURES[seed % len(TEMPERATURES)]
    config = world.config(
        [row for level in levels for row in rows_of(level, seed)],
        output_dir=str(world.folder / f"run-{seed}"),
        seed=seed,
        steps=FIRST_STEPS,
        prompts_per_step=32,
        group_size=group_size,
        temperature=temperature,
        learning_rate=1e-12,
        save_rollouts_every=0,
    )
    found = check_config(config, seconds=600)
    assert found.signal is not None
    metrics = run(config, observer=SilentProgress()).metrics
    seen = 1.0 - float(np.mean([row["no_signal_share"] for row in metrics]))
    interval = found.signal.share
    row = {
        "seed": seed,
        "levels": list(levels),
        "group_size": group_size,
        "temperature": temperature,
        "pass_at_1": found.signal.pass_at_1.value,
        "predicted": interval.value,
        "low": interval.low,
        "high": interval.high,
        "seen": seen,
        "inside": bool(interval.low <= seen <= interval.high),
    }
    print(row, flush=True)
    return row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "check-interval")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    model = arguments.out / "taught" / "run" / "model"
    if not (model / "config.json").exists():
        (arguments.out / "taught").mkdir(exist_ok=True)
        model = build(arguments.out / "taught")
    rows = [one(World(model, arguments.out), seed) for seed in range(arguments.runs)]
    store("check_interval", "python benchmarks/check_interval.py", rows)
    inside = sum(row["inside"] for row in rows)
    print(f"{inside} of {len(rows)} runs lie in the interval")
    return int(inside < 0.9 * len(rows))


if __name__ == "__main__":
    raise SystemExit(main())
