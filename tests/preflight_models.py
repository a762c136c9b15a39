"""A small model taught in seconds to answer five kinds of question, each with a pass rate of its own.

| level | question | what it answers | pass rate |
|---|---|---|---|
| 1 | Say 7!!! | 7 | nearly all |
| 2 | Which of 3 and 4? | 3 (right) or 4 | half |
| 3 | Last: 3, 4. | 4, rarely 3 (right) | a few per cent |
| 4 | Guess 34. | a number of three digits | none |
| 5 | Anna has 3 or 4. How many? | 3 (right) or 4; without its first sentence a number of three digits | half |
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gruppo.config.rewards import MathReward
from gruppo.config.schema import Config, SFTConfig
from gruppo.launch.pipeline import run
from gruppo.monitor.progress import SilentProgress

Row = dict[str, Any]
STEPS, BATCH = 160, 32
KINDS = (1, 1, 1, 2, 2, 3, 3, 4, 5, 5, 6)
"""How often each is taught; 6 is 5 without its first sentence."""
RARE = 0.02


def rows_of(level: int, seed: int = 0) -> list[Row]:
    """Rows of one kind of question, in an order of the seed."""
    pairs = [(a, b) for a in range(1, 10) for b in range(1, 10) if a != b]
    order = np.random.default_rng(seed).permutation(len(pairs))
    return [_row(level, *pairs[place]) for place in order]


def _row(level: int, a: int, b: int) -> Row:
    texts = {
        1: f"Say {a}{'!' * b}",
        2: f"Which of {a} and {b}?",
        3: f"Last: {a}, {b}.",
        4: f"Guess {a}{b}.",
        5: f"How many does Anna have ({a + b})?",
    }
    row: Row = {"question": texts[level], "answer": str(a), "level": level}
    return {"story": f"Anna has {a} or {b} of them.", **row} if level == 5 else row


def demonstrations(count: int) -> Iterator[Row]:
    rng = np.random.default_rng(0)
    for _ in range(count):
        level = KINDS[rng.integers(len(KINDS))]
        a, b = (int(n) for n in rng.choice(np.arange(1, 10), 2, replace=False))
        row = _row(min(level, 5), a, b)
        question = row["question"]
        right = {1: 1.0, 2: 0.5, 3: RARE, 4: 0.0, 5: 0.5, 6: 0.0}[level]
        wrong = str(b) if level in (2, 3, 5) else str(rng.integers(100, 1000))
        if level == 5:
            question = f"{row['story']} {question}"
        yield {"question": question, "completion": f"#### {row['answer'] if rng.random() < right else wrong}"}


@dataclass(frozen=True)
class World:
    """The model, and configs and data around it."""

    model: Path
    folder: Path

    def data(self, name: str, rows: Sequence[Row]) -> str:
        path = self.folder / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    def config(self, rows: Sequence[Row] | str, **changes: Any) -> Config:
        values: dict[str, Any] = {
            "model": str(self.model),
            "data": rows if isinstance(rows, str) else self.data("train.jsonl", rows),
            "output_dir": str(self.folder / "run"),
            "threads": 1,
            "max_completion_length": 16,
            "learning_rate": 5e-4,
            "rewards": (MathReward(strict=True),),
        }
        return Config.model_validate({**values, **changes})


def build(folder: Path) -> Path:
    """Train the model; some seconds."""
    from gruppo.demo.model import build_model

    build_model(folder / "start", 0)
    data = folder / "sft.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in demonstrations(STEPS * BATCH)))
    sft = SFTConfig(
        data=(str(data),),
        steps=STEPS,
        batch_size=BATCH,
        optimizer="muon",
        muon_learning_rate=0.01,
        learning_rate=0.01,
        adam_beta2=0.98,
        warmup_ratio=0.05,
        lr_schedule="linear",
    )
    config = Config(model=str(folder / "start"), data=(str(data),), output_dir=str(folder / "run"), threads=1, sft=sft)
    return run(config, observer=SilentProgress(), stages=("sft",)).model


Make = Callable[..., World]
