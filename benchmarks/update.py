"""Seconds of one update, way by way, in turns (A B A B), on random rollouts.

    taskset -c 0 python benchmarks/update.py [--shapes a,b,demo] [--precision float32,bfloat16] [--pairs 5] [--store]

CPU seconds of this process, one thread; all ways update equal models by the same completions. Ways:
    ours: as a run does it.
    torch attention: the trees' attention by torch's kernel, in parts.
    torch log-probs: log-probs, entropies and gradients by torch's operators.
    usual products: float32 products by the library that torch takes by itself.
    torch norms, rotary, MLPs: those parts of the model by its own code.
    all of these: as it was before them.
    padded: each completion a row with its prompt.
Shapes: a and b of benchmarks/shapes.py (the completions of b have 16 to 256 tokens here), demo: the demo's model,
32 prompts x 8, prompts of 8 to 16 tokens, up to 48 new.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from contestants import pin
from shapes import SHAPES
from speed_page import keep, render
from torch import nn
from transformers import AutoModelForCausalLM

from gruppo.config.schema import OptimizerFields
from gruppo.demo.model import build_model
from gruppo.rollout.parts import KernelParts
from gruppo.training import logprob_kernel, products, tree_kernel
from gruppo.training.losses import LossSettings
from gruppo.training.optimizers import adamw
from gruppo.training.packing import Batch, Row, default_token_budget
from gruppo.training.policy import LocalPolicy

LOADS: dict[str, dict[str, Any]] = {
    "a": {"prompts": 8, "group": 16, "prompt": (16, 17), "completion": (128, 129)},
    "b": {"prompts": 4, "group": 8, "prompt": (256, 257), "completion": (16, 257)},
    "demo": {"prompts": 32, "group": 8, "prompt": (8, 17), "completion": (4, 49)},
}
SWITCHES: dict[str, Callable[[], Any]] = {
    "torch attention": lambda: patch.object(tree_kernel, "available", lambda dtype: False),
    "torch log-probs": lambda: patch.object(logprob_kernel, "available", lambda dtype: False),
    "torch norms, rotary, MLPs": lambda: patch.multiple(KernelParts, enter=lambda _: None, leave=lambda _: None),
    "usual products": lambda: patch.object(products, "available", lambda: False),
}
WAYS: dict[str, tuple[str, ...]] = {
    "ours": (),
    **{name: (name,) for name in SWITCHES},
    "all of these": tuple(SWITCHES),
    "padded": (),
}


@contextmanager
def taken(way: str) -> Iterator[None]:
    """Inside, an update goes this way."""
    with ExitStack() as stack:
        for name in WAYS[way]:
            stack.enter_context(SWITCHES[name]())
        yield


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


def measured(shape: str, precision: str, pairs: int) -> dict[str, list[float]]:
    """CPU seconds of each way's updates, after a first one that warms up."""
    table = model_of(shape, precision).get_input_embeddings()
    budget = default_token_budget(table.num_embeddings, torch.device("cpu"), hidden=table.embedding_dim)  # pyright: ignore
    policies: dict[str, LocalPolicy] = {}
    for way in WAYS:
        model = model_of(shape, precision)
        packing = "padded" if way == "padded" else "trees"
        policies[way] = LocalPolicy(model, adamw(model, OptimizerFields(), 1e-6), budget, packing=packing)
    batch = Batch(tuple(rows_of(shape, table.num_embeddings)))
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(pairs + 1):
        for way, policy in policies.items():
            with taken(way):
                start = time.process_time()
                policy.update(batch, LossSettings(), 1.0)
                seconds[way].append(time.process_time() - start)
        print(f"  {shape}: " + ", ".join(f"{way} {each[-1]:.3f} s" for way, each in seconds.items()), flush=True)
    return {way: each[1:] for way, each in seconds.items()}


def main() -> None:
    """Measure, print, store and render."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="a,b,demo")
    parser.add_argument("--precision", default="float32,bfloat16")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--store", action="store_true", help="keep the figures and render the page")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    pin(1)
    for shape in asked.shapes.split(","):
        for precision in asked.precision.split(","):
            load = round(os.getloadavg()[0], 1)
            seconds = measured(shape, precision, asked.pairs)
            for way, each in seconds.items():
                ratios = [a / b for a, b in zip(each, seconds["ours"], strict=True)]
                row = {"shape": shape, "precision": precision, "way": way, "load": load, "pairs": asked.pairs}
                row |= {"seconds": statistics.median(each), "ratio": statistics.median(ratios)}
                row |= {"least": min(ratios), "most": max(ratios)}
                print(f"{shape} {precision} {way}: {row['seconds']:.3f} s, {row['ratio']:.2f} times ours")
                if asked.store:
                    command = f"python benchmarks/update.py --shapes {shape} --precision {precision} --pairs "
                    keep("update", row, ("shape", "precision", "way"), f"{command}{asked.pairs} --store")
    if asked.store:
        render()


if __name__ == "__main__":
    main()
