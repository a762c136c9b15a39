"""Seconds of one update, trees against padded rows, in turns (A B A B), on random rollouts.

    python benchmarks/update.py              # both shapes, float32
    python benchmarks/update.py b bfloat16   # one of them

CPU seconds of this process, one thread; every pair updates the same model by the same completions. Shapes:
    demo: the demo's model, 32 prompts x 8, prompts of 8 to 16 tokens, up to 48 new.
    b: that of benchmarks/shapes.py, its completions of 16 to 256 tokens.
"""

import statistics
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from shapes import SHAPES
from torch import nn
from transformers import AutoModelForCausalLM

from gruppo.config.schema import OptimizerFields
from gruppo.demo.model import build_model
from gruppo.training.losses import LossSettings
from gruppo.training.optimizers import adamw
from gruppo.training.packing import Batch, Row, default_token_budget
from gruppo.training.policy import LocalPolicy

LOADS: dict[str, dict[str, Any]] = {
    "demo": {"prompts": 32, "group": 8, "prompt": (8, 17), "completion": (4, 49), "pairs": 7},
    "b": {"prompts": 4, "group": 8, "prompt": (256, 257), "completion": (16, 257), "pairs": 3},
}


def model_of(shape: str, precision: str) -> nn.Module:
    """The same weights at every call."""
    dtype = getattr(torch, precision)
    if shape in SHAPES:
        return SHAPES[shape].build(dtype)
    with TemporaryDirectory() as folder:
        build_model(Path(folder), seed=0)
        return AutoModelForCausalLM.from_pretrained(folder).to(dtype).eval()


def rows_of(shape: str, vocabulary: int) -> list[Row]:
    """Random completions, lengths spread evenly."""
    wanted, generator = LOADS[shape], np.random.default_rng(0)
    rows: list[Row] = []
    for _ in range(wanted["prompts"]):
        prompt = tuple(generator.integers(0, vocabulary, generator.integers(*wanted["prompt"])).tolist())
        for _ in range(wanted["group"]):
            length = int(generator.integers(*wanted["completion"]))
            ids, mask = generator.integers(0, vocabulary, length), np.ones(length, dtype=np.bool_)
            rows.append(Row(prompt, ids, mask, np.zeros(length, dtype=np.float32), float(generator.normal())))
    return rows


def main(shapes: list[str], precision: str) -> None:
    """Print a line per shape."""
    torch.set_num_threads(1)
    for shape in shapes:
        seconds: dict[str, list[float]] = {"padded": [], "trees": []}
        policies: dict[str, LocalPolicy] = {}
        vocabulary = model_of(shape, precision).get_input_embeddings().num_embeddings  # pyright: ignore
        for packing in seconds:
            model = model_of(shape, precision)
            optimizers = adamw(model, OptimizerFields(), 1e-6)
            budget = default_token_budget(vocabulary, torch.device("cpu"))
            policies[packing] = LocalPolicy(model, optimizers, budget, packing=packing)
        batch = Batch(tuple(rows_of(shape, vocabulary)))
        for _ in range(LOADS[shape]["pairs"] + 1):
            for packing, policy in policies.items():
                start = time.process_time()
                policy.update(batch, LossSettings(), 1.0)
                seconds[packing].append(time.process_time() - start)
            print(f"  {shape}: " + ", ".join(f"{name} {each[-1]:.3f} s" for name, each in seconds.items()), flush=True)
        pairs = list(zip(seconds["padded"], seconds["trees"], strict=True))[1:]  # the first pair warms up
        padded, trees = (statistics.median(each) for each in zip(*pairs, strict=True))
        ratio = statistics.median(a / b for a, b in pairs)
        tokens = sum(len(row.token_ids) for row in batch.rows)
        print(
            f"{shape} {precision}: padded {padded:.3f} s, trees {trees:.3f} s, ratio {ratio:.2f} "
            f"({min(a / b for a, b in pairs):.2f} to {max(a / b for a, b in pairs):.2f}, {len(pairs)} pairs, "
            f"{tokens} completion tokens)"
        )


if __name__ == "__main__":
    chosen = [each for each in sys.argv[1:] if each in LOADS] or list(LOADS)
    main(chosen, "bfloat16" if "bfloat16" in sys.argv else "float32")
