"""A curriculum of rising length against none at equal compute, on the demo's arithmetic: held-out pass@1 by length.

    python benchmarks/curriculum.py [--seeds 0-2] [--steps 60] [--out DIR] [--only NAME ...]

A seed's model is made once, by SFT on worked demonstrations of which three in a hundred have three digits; each arm
goes on from it with the same number of steps, problems and completions, on the same data, and differs in nothing but
which difficulty it takes when. The learning rate is constant after the warm-up: were it to fall, the curriculum would
meet the long problems when least is learnt from them. Figures are kept in benchmarks/results/curriculum.json and
rendered into docs/results.md by benchmarks/results.py.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from results import ROOT, numbers, render, store

from gruppo.config.schema import Config, EvalConfig, SFTConfig
from gruppo.demo.model import build_model
from gruppo.demo.task import ArithmeticProblem, make_problem
from gruppo.evaluation.evaluate import Evaluation
from gruppo.launch.pipeline import evaluate, run
from gruppo.monitor.progress import SilentProgress

LENGTHS = (1, 2, 3)
"""Digits of the numbers, which are the difficulty."""
SFT_SHARES = (0.40, 0.57, 0.03)
SFT_STEPS, SFT_BATCH = 500, 32
"""With 800 steps four fifths of the groups have no signal."""
HELD_OUT = 100
"""Problems of each length."""
MIXED = "all lengths mixed"


def arms(steps: int) -> dict[str, dict[str, Any]]:
    """What each arm says about difficulty."""
    first, second, third = steps // 6, steps // 2, steps // 3
    return {
        MIXED: {},
        "in order: 1, then 2, then 3": {
            "curriculum": tuple(
                {"steps": f"{third * i + 1}-{third * (i + 1) if i < 2 else ''}", **_length(i + 1)} for i in range(3)
            )
        },
        "spans: 1, up to 2, up to 3": {
            "curriculum": (
                {"steps": f"1-{first}", "max_difficulty": 1},
                {"steps": f"{first + 1}-{second}", "max_difficulty": 2},
                {"steps": f"{second + 1}-", "max_difficulty": 3},
            )
        },
        "promoted at 0.9: up to 2, then 3": {
            "curriculum": (
                {"steps": f"1-{second}", "max_difficulty": 2, "promote_at": 0.9},
                {"steps": f"{second + 1}-", "min_difficulty": 3},
            )
        },
        "3 digits alone": {"min_difficulty": 3},
    }


def _length(digits: int) -> dict[str, int]:
    return {"min_difficulty": digits, "max_difficulty": digits}


def main() -> None:
    """Run what is not there yet, then store and render."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0-2", help="such as 0-2 or 0,3")
    parser.add_argument("--steps", type=int, default=60, help="optimizer steps of each arm")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "curriculum", help="where the runs go")
    parser.add_argument("--only", nargs="+", help="these arms alone; nothing is stored")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for seed in numbers(arguments.seeds):
        base = start(seed, arguments.steps, arguments.out / f"seed-{seed}")
        for name, values in arms(arguments.steps).items():
            if arguments.only and name not in arguments.only:
                continue
            rows.append({"arm": name, "seed": seed, **arm(base, name, values)})
            print(f"{name}, seed {seed}: {rows[-1]['before']} -> {rows[-1]['after']}", flush=True)
    if not arguments.only:
        store("curriculum", f"python benchmarks/curriculum.py --steps {arguments.steps}", rows)
        render()


def start(seed: int, steps: int, out: Path) -> Config:
    """The model and data of one seed, and what its arms have in common; made once per folder."""
    prepare(seed, steps, out)
    sft = SFTConfig(
        data=(str(out / "sft.jsonl"),),
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
    )
    config = Config(
        model=str(out / "start-model"),
        data=(str(out / "train.jsonl"),),
        output_dir=str(out / "sft"),
        seed=seed,
        threads=1,
        steps=steps,
        prompts_per_step=32,
        group_size=8,
        max_completion_length=48,
        rewards=({"name": "math", "strict": True},),
        learning_rate=5e-4,
        adam_beta2=0.95,
        warmup_steps=3,
        lr_schedule="constant",
        save_rollouts_every=0,
        sft=sft,
        eval=EvalConfig(data=(str(out / "test.jsonl"),), samples=8, before=False),
    )
    made = run(config, observer=SilentProgress(), stages=("sft",))
    return config.model_copy(update={"model": str(made.model), "sft": None})


def prepare(seed: int, steps: int, out: Path) -> None:
    """Write `sft.jsonl`, `train.jsonl`, `test.jsonl` and the untrained `start-model/`."""
    if (out / "start-model" / "config.json").exists():
        return
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng((seed, 10))
    lengths = rng.choice(LENGTHS, SFT_STEPS * SFT_BATCH, p=SFT_SHARES)
    drawn = (make_problem(rng, (int(length), int(length)), held_out=False) for length in lengths)
    write(out / "sft.jsonl", [{"question": p.question, "completion": p.worked} for p in drawn])
    for name, held_out, count in (("train", False, 32 * steps), ("test", True, HELD_OUT)):
        rows = [row for length in LENGTHS for row in problems(rng, length, held_out, count)]
        write(out / f"{name}.jsonl", rows)
    build_model(out / "start-model", seed)


def problems(rng: np.random.Generator, length: int, held_out: bool, count: int) -> list[dict[str, Any]]:
    """Problems of one length, no question twice."""
    found: dict[str, ArithmeticProblem] = {}
    while len(found) < count:
        problem = make_problem(rng, (length, length), held_out)
        found.setdefault(problem.question, problem)
    return [{"question": p.question, "answer": p.answer, "difficulty": length} for p in found.values()]


def arm(base: Config, name: str, values: dict[str, Any], parts: int = len(LENGTHS)) -> dict[str, Any]:
    """One arm from the model of one seed; parts: difficulties that are evaluated, each with as many problems."""
    folder = Path(base.output_dir).parent
    where = folder / "".join(letter if letter.isalnum() else "-" for letter in name)
    plain = {field: getattr(base, field) for field in base.model_fields_set}
    config = Config.model_validate({**plain, **values, "output_dir": str(where)})
    result = run(config, observer=SilentProgress())
    assert result.after is not None
    metrics = result.metrics
    spans = [row["span"] for row in metrics]
    return {
        "values": values,
        "before": by_part(before(base, folder), parts),
        "after": by_part(result.after, parts),
        "tokens": sum(row["generated_tokens"] for row in metrics),
        "no_signal_share": round(sum(row["no_signal_share"] for row in metrics) / len(metrics), 4),
        "skipped": sum(row["optimizer_step"] == 0 for row in metrics),
        "span_starts": [spans.index(span) + 1 for span in dict.fromkeys(spans) if span is not None],
        "seconds": round(result.seconds["grpo"], 1),
    }


def before(base: Config, folder: Path) -> Evaluation:
    """How the model of a seed does before GRPO; measured once."""
    kept = folder / "before.json"
    if not kept.exists():
        assert base.eval is not None
        kept.write_text(json.dumps(evaluate(base, base.eval).to_json()))
    return Evaluation.from_json(json.loads(kept.read_text()))


def by_part(evaluation: Evaluation, parts: int) -> list[float]:
    """Sampled pass@1 of each difficulty; the problems stand in the file's order, the easy ones first."""
    return [round(float(part.mean()), 4) for part in np.split(evaluation.values(1), parts)]


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()
