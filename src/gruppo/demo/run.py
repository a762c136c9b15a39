"""The main job in small: build model and data, SFT until mediocre, GRPO, evaluation before and after.

Everything runs through the same pipeline as `gruppo train`; this module writes the files and the config for it.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gruppo.config.rewards import MathReward
from gruppo.config.schema import Config, EvalConfig, SFTConfig
from gruppo.demo.model import build_model
from gruppo.demo.task import held_out_problems, is_worked, sft_examples, training_problems
from gruppo.errors import RunFolderError
from gruppo.evaluation.evaluate import Evaluation, Label
from gruppo.launch.pipeline import run
from gruppo.types import ProgressObserver

SFT_STEPS = 1200
SFT_BATCH = 32
STEPS = 100
PROMPTS_PER_STEP = 32
HELD_OUT = 200

WORKED = Label("worked", is_worked, verb="work the answer out")


def demo_config(seed: int, out: Path) -> Config:
    """The demo's recipe, over the files that `prepare` writes into `out`."""
    return Config(
        model=str(out / "start-model"),
        data=(str(out / "problems" / "train.jsonl"),),
        output_dir=str(out / "run"),
        seed=seed,
        threads=1,
        steps=STEPS,
        prompts_per_step=PROMPTS_PER_STEP,
        group_size=8,
        max_completion_length=48,
        rewards=(MathReward(strict=True),),
        learning_rate=5e-4,
        adam_beta2=0.95,
        warmup_ratio=0.03,
        lr_schedule="linear",
        sft=SFTConfig(
            data=(str(out / "problems" / "sft.jsonl"),),
            steps=SFT_STEPS,
            batch_size=SFT_BATCH,
            shuffle=False,
            optimizer="muon",
            muon_learning_rate=0.01,
            learning_rate=0.01,
            adam_beta2=0.98,
            weight_decay=0.05,
            warmup_ratio=0.05,
            lr_schedule="linear",
            min_lr_ratio=0.05,
        ),
        eval=EvalConfig(data=(str(out / "problems" / "test.jsonl"),), samples=8),
    )


def prepare(seed: int, out: Path) -> None:
    """Write the demo's files: `problems/*.jsonl` and the untrained `start-model/`; done once per folder.

    Raises:
        RunFolderError: the folder can't be written.
    """
    problems = out / "problems"
    try:
        problems.mkdir(parents=True, exist_ok=True)
        if not (out / "start-model" / "config.json").exists():
            build_model(out / "start-model", seed)
            demonstrations = sft_examples(seed, SFT_STEPS, SFT_BATCH)
            _write(
                problems / "sft.jsonl", ({"question": d.question, "completion": d.completion} for d in demonstrations)
            )
            for name, drawn in (
                ("train", training_problems(seed, STEPS * PROMPTS_PER_STEP)),
                ("test", held_out_problems(seed, HELD_OUT)),
            ):
                rows = ({"question": p.question, "answer": f"{p.worked}"} for p in drawn)
                _write(problems / f"{name}.jsonl", rows)
    except OSError as error:
        raise RunFolderError(
            f"output_dir: '{out}' can't be written ({error.strerror}); choose another with --out"
        ) from error


def _write(path: Path, rows: Iterable[dict[str, str]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def run_demo(seed: int, out: Path, observer: ProgressObserver | None = None) -> dict[str, Any] | None:
    """Run the demo, or go on with it; returns what `gruppo demo --json` prints, None if it was stopped.

    Args:
        seed: of the model, the problems and every draw.
        out: folder of the demo; the run itself is in `run/` in it.
        observer: who is told of progress; None: the terminal.
    """
    prepare(seed, out)
    result = run(demo_config(seed, out), observer=observer, label=WORKED)
    if result.before is None or result.after is None or result.difference is None:
        return None
    return {
        "seed": seed,
        "before": _summary(result.before),
        "after": _summary(result.after),
        "difference": {name: {"value": d.value, "low": d.low, "high": d.high} for name, d in result.difference.items()},
        "learnt": json.loads((result.folder / "eval" / "summary.json").read_text())["learnt"],
        "seconds": result.seconds,
        "run_folder": str(result.folder),
        "report": str(result.folder / "report.html"),
    }


def _summary(evaluation: Evaluation) -> dict[str, Any]:
    data = evaluation.to_json()
    left_out = ("per_problem", "extra", "label", "seed")
    return {**{name: value for name, value in data.items() if name not in left_out}, **data["extra"]}


def table(result: dict[str, Any]) -> str:
    """The result of `run_demo` for people."""
    before, after = result["before"], result["after"]
    rows = [("held-out problems", "before GRPO", "after GRPO")]
    for name, key in (
        ("pass@1, sampled", "pass_at_1"),
        ("pass@1, greedy", "pass_at_1_greedy"),
        ("pass@8", "pass_at_8"),
    ):
        rows.append((name, _interval(before[key]), _interval(after[key])))
    for name, key in (("share worked out", "share_worked"), ("accuracy if worked", "accuracy_given_worked")):
        rows.append((name, _share(before[key]), _share(after[key])))
    lines = [f"{name:<20}{old:<24}{new}" for name, old, new in rows]
    seconds = "  ".join(f"{stage} {value:.0f} s" for stage, value in result["seconds"].items())
    return "\n".join(
        [*lines, "", *result["learnt"], "", seconds, f"run     {result['run_folder']}", f"report  {result['report']}"]
    )


def _interval(estimate: dict[str, float]) -> str:
    return f"{estimate['value']:.3f}  [{estimate['low']:.3f}, {estimate['high']:.3f}]"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
