"""Rollouts of short GRPO runs, recorded for `benchmarks/speculation.py`.

    python benchmarks/speculation_record.py [--out DIR] [--kk DIR] [--only demo|again|knights]

demo: the demo as it is, every step's rollouts kept; again: its GRPO stage over a tenth of its problems, so that each
comes ten times; knights: puzzles with 3 people and completions of up to 320 tokens (needs --kk, a folder with
3ppl_train.parquet), the model of `benchmarks/logic.py` taught half as long.
"""

import argparse
from pathlib import Path

from knights import Start, start
from results import ROOT

from gruppo.config.schema import Config
from gruppo.demo.run import PROMPTS_PER_STEP, STEPS, demo_config, prepare
from gruppo.launch.pipeline import run
from gruppo.monitor.progress import SilentProgress

EPOCHS = 10
"""How often each problem comes in the run `again`."""
KNIGHTS_STEPS = 24


def main() -> None:
    """Record what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "speculation")
    parser.add_argument("--kk", type=Path, help="folder of the puzzles; without it there is no run knights")
    parser.add_argument("--only", choices=["demo", "again", "knights"])
    asked = parser.parse_args()
    if asked.only != "knights":
        demos(asked.out, asked.only)
    if asked.kk and asked.only in (None, "knights"):
        knights(asked.out / "knights-files", asked.kk, asked.out / "knights")


def demos(out: Path, only: str | None) -> None:
    """The demo's SFT model, then GRPO over all problems and over a tenth of them."""
    prepare(0, out / "files")
    config = demo_config(0, out / "files").model_copy(update={"eval": None})
    made = run(config.model_copy(update={"output_dir": str(out / "sft")}), observer=SilentProgress(), stages=("sft",))
    few = out / "files" / "problems" / "few.jsonl"
    lines = (out / "files" / "problems" / "train.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    few.write_text("".join(lines[: PROMPTS_PER_STEP * STEPS // EPOCHS]), encoding="utf-8")
    for name, data in (("demo", config.data), ("again", (str(few),))):
        if only in (None, name):
            grpo(config.model_copy(update={"model": str(made.model), "data": data}), out / name)


def knights(files: Path, puzzles: Path, out: Path) -> None:
    """Puzzles, every eighth step of which is over the same ones."""
    taught = Start(people=(3,), steps=800, share_of_4=0.0, bare_from=0.75, bare_share=0.65)
    config = start(taught, puzzles, files, KNIGHTS_STEPS)
    few = files / "few.jsonl"
    lines = (files / "train.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    few.write_text("".join(lines[: config.prompts_per_step * KNIGHTS_STEPS // 3]), encoding="utf-8")
    grpo(config.model_copy(update={"data": (str(few),), "eval": None, "save_rollouts_every": 1}), out)


def grpo(config: Config, out: Path) -> None:
    """One GRPO stage alone."""
    place = {"output_dir": str(out), "sft": None}
    run(config.model_copy(update=place), observer=SilentProgress(), stages=("grpo",))


if __name__ == "__main__":
    main()
