"""Tokens a second of generation with log-probs, in turns: the local engine, transformers' `generate`, vLLM.

    python benchmarks/decode.py [--shape a|b|g] [--precision float32|bfloat16] [--pairs 3] [--threads 1]
        [--ways slots waves ...] [--clock wall|cpu] [--vllm-python PYTHON]

Ways, all on the same random weights and prompts; the first is what the others are compared with:
    slots          the local engine
    loose          without batch invariance
    torch          with torch's operators in place of our kernels (on a CPU)
    waves          its plain path
    generate       transformers' `generate` and `compute_transition_scores`
    generate_bare  without log-probs
    vllm           vLLM on the CPU, in the environment of --vllm-python; its seconds are its own, without the pipe

CPU time is the steadier clock of one thread on a machine that does other work beside. Shape b's lengths are spread by
end tokens, so its ways draw different numbers of tokens. What is printed: the median of each way, the median of the
ratios by pair. --store keeps them in benchmarks/results/decode.json, for benchmarks/speed.md.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from contestants import pin
from shapes import SHAPES, Shape
from speed_page import keep, render
from transformers import PreTrainedModel
from worker import Worker

from gruppo.rollout.local import LocalEngine
from gruppo.types import GroupRequest

Batch = Callable[[list[GroupRequest]], tuple[float, int]]
"""Generates for the requests; gives the seconds and the tokens."""
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
ENGINES: dict[str, dict[str, bool]] = {"slots": {}, "loose": {"batch_invariant": False}, "waves": {"plain": True}}
WAYS = (*ENGINES, "torch", "generate", "generate_bare", "vllm")


class NoText:
    """No stop strings here, so nothing is ever decoded."""

    def decode(self, token_ids: object) -> str:
        """Not called."""
        raise NotImplementedError


def timed(call: Callable[[list[GroupRequest]], int], clock: str) -> Batch:
    """The call with its seconds."""

    def batch(requests: list[GroupRequest]) -> tuple[float, int]:
        start = CLOCKS[clock]()
        tokens = call(requests)
        return CLOCKS[clock]() - start, tokens

    return batch


def engine(model: PreTrainedModel, max_live: int, **settings: Any) -> Callable[[list[GroupRequest]], int]:
    """The local engine."""
    local = LocalEngine(model, NoText(), max_live, **settings)
    return lambda requests: sum(len(completion) for group in local.generate(requests) for completion in group)


def by_torch(call: Callable[[list[GroupRequest]], int]) -> Callable[[list[GroupRequest]], int]:
    """The call without our kernels; the engine finds out at its first call what it has."""
    kernels = ("slots.takes", "sampling.takes", "packed_weights.takes_linear", "layers._epsilon", "parts.available")

    def batch(requests: list[GroupRequest]) -> int:
        with ExitStack() as stack:
            for name in kernels:
                stack.enter_context(patch(f"gruppo.rollout.{name}", lambda *_: None))
            return call(requests)

    return batch


def generate(model: PreTrainedModel, shape: Shape, *, logprobs: bool) -> Callable[[list[GroupRequest]], int]:
    """transformers' own, all rows at once; prompts are of one length, so nothing is padded."""

    @torch.inference_mode()
    def batch(requests: list[GroupRequest]) -> int:
        prompts = torch.tensor([request.prompt_ids for request in requests])
        found = model.generate(  # pyright: ignore
            prompts,
            attention_mask=torch.ones_like(prompts),
            do_sample=True,
            top_k=0,
            num_return_sequences=shape.group_size,
            max_new_tokens=shape.new_tokens,
            eos_token_id=list(shape.stop_token_ids),
            pad_token_id=0,
            output_scores=logprobs,
            return_dict_in_generate=True,
        )
        if logprobs:
            model.compute_transition_scores(found.sequences, found.scores, normalize_logits=True)
        drawn = found.sequences[:, shape.prompt_length :]
        ended = torch.isin(drawn, torch.tensor(shape.stop_token_ids)).cumsum(1)
        return int((ended == 0).sum() + (ended > 0).any(1).sum())

    return batch


def vllm(python: str, folder: Path, vocabulary: int, precision: str, clock: str) -> tuple[Batch, Callable[[], None]]:
    """vLLM in a process of its own, on the same cores; and what ends it."""
    cores = sorted(os.sched_getaffinity(0))
    environment = {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores)),
        "VLLM_LOGGING_LEVEL": "WARNING",
        "HF_HUB_OFFLINE": "1",
    }
    script = str(Path(__file__).with_name("vllm_worker.py"))
    worker = Worker("vllm", [python, script, str(folder), precision], environment)
    worker.ask()  # it answers once the model is loaded

    def batch(requests: list[GroupRequest]) -> tuple[float, int]:
        answer = worker.ask(
            {
                "prompts": [request.prompt_ids for request in requests],
                "n": requests[0].group_size,
                "new_tokens": requests[0].sampling.max_completion_length,
                "stop": [token for token in requests[0].sampling.stop_token_ids if token < vocabulary],
                "seed": requests[0].seed,
            }
        )
        return answer["seconds" if clock == "wall" else "cpu_seconds"], answer["tokens"]

    return batch, worker.close


def measured(shape: Shape, asked: argparse.Namespace, folder: Path) -> dict[str, list[float]]:
    """Tokens a second of every way, pair by pair."""
    model = shape.build(getattr(torch, asked.precision))
    batches: dict[str, Batch] = {}
    ends: list[Callable[[], None]] = []
    for way in asked.ways:
        if way in ENGINES:
            batches[way] = timed(engine(model, asked.max_live, **ENGINES[way]), asked.clock)
        elif way == "torch":
            batches[way] = timed(by_torch(engine(model, asked.max_live)), asked.clock)
        elif way == "vllm":
            shape.save(folder)
            batches[way], end = vllm(asked.vllm_python, folder, shape.vocabulary, asked.precision, asked.clock)
            ends.append(end)
        else:
            batches[way] = timed(generate(model, shape, logprobs=way == "generate"), asked.clock)
    rates: dict[str, list[float]] = {way: [] for way in batches}
    try:
        for pair in range(-1, asked.pairs):
            for way, batch in batches.items():
                seconds, tokens = batch(shape.requests(pair + 100))
                print(
                    f"  {way}: {tokens / seconds:,.0f} tokens/s ({tokens:,} tokens)", "" if pair >= 0 else "(warm-up)"
                )
                if pair >= 0:
                    rates[way].append(tokens / seconds)
    finally:
        for end in ends:
            end()
    return rates


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="a")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--max-live", type=int, default=256)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["slots", "waves", "generate"])
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--vllm-python", metavar="PYTHON", help="of an environment with vLLM; adds the way vllm")
    parser.add_argument("--store", action="store_true", help="keep the figures and render benchmarks/speed.md")
    asked = parser.parse_args()
    if asked.vllm_python and "vllm" not in asked.ways:
        asked.ways.append("vllm")
    if "vllm" in asked.ways and not asked.vllm_python:
        parser.error("the way vllm needs --vllm-python")
    pin(asked.threads)
    torch.set_num_threads(asked.threads)
    load = round(os.getloadavg()[0], 1)
    with tempfile.TemporaryDirectory() as folder:
        rates = measured(SHAPES[asked.shape], asked, Path(folder))
    rows = compared(rates)
    for row in rows:
        against = (
            ""
            if row["ratio"] == 1
            else f"; {asked.ways[0]} to it {row['ratio']:.2f}x ({row['least']:.2f} to {row['most']:.2f})"
        )
        print(f"{row['way']}: median {row['rate']:,.0f} tokens/s{against}")
    if asked.store:
        shared = {"shape": asked.shape, "precision": asked.precision, "threads": asked.threads, "pairs": asked.pairs}
        command = f"python benchmarks/decode.py --shape {asked.shape} --precision {asked.precision} --pairs "
        command += (
            f"{asked.pairs} --threads {asked.threads} --ways {' '.join(asked.ways)} --clock {asked.clock} --store"
        )
        for row in rows:
            row = {**shared, **row, "clock": asked.clock, "load": load}
            keep("decode", row, ("shape", "precision", "threads", "way"), command)
        render()


def compared(rates: dict[str, list[float]]) -> list[dict[str, Any]]:
    """A row per way; `ratio`: the first way's rate over this one's."""
    first = next(iter(rates.values()))
    rows: list[dict[str, Any]] = []
    for way, found in rates.items():
        ratios = [ours / theirs for ours, theirs in zip(first, found, strict=True)]
        ratio = statistics.median(ratios)
        rows.append(
            {"way": way, "rate": statistics.median(found), "ratio": ratio, "least": min(ratios), "most": max(ratios)}
        )
    return rows


if __name__ == "__main__":
    main()
