"""Tokens a second of the local engine: slots against waves, in turns in one process.

    python benchmarks/decode.py [--shape small|medium] [--precision float32|bfloat16] [--pairs 3] [--threads 1]
        [--ways waves slots] [--clock wall|cpu]

The ways: waves, slots, and loose: slots without batch invariance. CPU time is the steadier clock of one thread on a
machine that does other work beside.

Random weights; the lengths of the medium shape are spread by several end tokens. Prints the median of each way, the
median of the ratios by pair, and how many steps each token took.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from gruppo.rollout.local import LocalEngine
from gruppo.types import GroupRequest, SamplingParams


class NoText:
    """No stop strings here, so nothing is ever decoded."""

    def decode(self, token_ids: object) -> str:
        """Not called."""
        raise NotImplementedError


@dataclass(frozen=True)
class Shape:
    """A model and what is asked of it."""

    model: dict[str, int]
    prompts: int
    group_size: int
    prompt_length: int
    new_tokens: int
    ends: int
    """Tokens that end a completion."""

    def build(self, dtype: torch.dtype) -> PreTrainedModel:
        """The model, always the same weights."""
        torch.manual_seed(0)
        config = Qwen2Config(**self.model, max_position_embeddings=4096, tie_word_embeddings=True)  # pyright: ignore
        return Qwen2ForCausalLM(config).to(dtype).eval()  # pyright: ignore

    def requests(self, seed: int) -> list[GroupRequest]:
        """Prompts of about the length, groups, limits."""
        generator = np.random.default_rng(seed)
        vocabulary = self.model["vocab_size"]
        stops = tuple(range(self.ends))
        sampling = SamplingParams(max_completion_length=self.new_tokens, stop_token_ids=stops)
        found: list[GroupRequest] = []
        for index in range(self.prompts):
            length = int(generator.integers(self.prompt_length * 3 // 4, self.prompt_length + 1))
            prompt = tuple(int(t) for t in generator.integers(0, vocabulary, length))
            found.append(GroupRequest(index, f"p{index}", prompt, self.group_size, sampling, seed))
        return found


SHAPES = {
    "small": Shape(
        {
            "vocab_size": 512,
            "hidden_size": 64,
            "intermediate_size": 160,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
        },
        prompts=8,
        group_size=16,
        prompt_length=16,
        new_tokens=128,
        ends=0,
    ),
    "medium": Shape(
        {
            "vocab_size": 16_384,
            "hidden_size": 512,
            "intermediate_size": 1376,
            "num_hidden_layers": 6,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
        },
        prompts=4,
        group_size=8,
        prompt_length=256,
        new_tokens=256,
        ends=120,
    ),
}


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
WAYS: dict[str, dict[str, bool]] = {"waves": {"plain": True}, "slots": {}, "loose": {"batch_invariant": False}}


def rate(engine: LocalEngine, requests: list[GroupRequest], clock: Callable[[], float]) -> tuple[float, int]:
    """Tokens a second of one batch, and the tokens."""
    start = clock()
    tokens = sum(len(completion) for group in engine.generate(requests) for completion in group)
    return tokens / (clock() - start), tokens


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--max-live", type=int, default=256)
    parser.add_argument("--ways", nargs=2, choices=WAYS, default=["waves", "slots"])
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    shape = SHAPES[asked.shape]
    model = shape.build(getattr(torch, asked.precision))
    print(f"{asked.shape}: {sum(p.numel() for p in model.parameters()) / 1e6:.2f}M parameters, {asked.precision}")
    clock = CLOCKS[asked.clock]
    engines = {way: LocalEngine(model, NoText(), asked.max_live, **WAYS[way]) for way in asked.ways}
    for engine in engines.values():
        rate(engine, [*shape.requests(99)][:1], clock)
    rates: dict[str, list[float]] = {name: [] for name in engines}
    for pair in range(asked.pairs):
        for name, engine in engines.items():
            found, tokens = rate(engine, shape.requests(pair), clock)
            rates[name].append(found)
            print(f"  {name}: {found:,.0f} tokens/s ({tokens:,} tokens)", flush=True)
    first, second = asked.ways
    ratios = [theirs / ours for ours, theirs in zip(rates[first], rates[second], strict=True)]
    medians = ", ".join(f"{name} {statistics.median(found):,.0f}" for name, found in rates.items())
    each = " ".join(f"{ratio:.3f}" for ratio in ratios)
    print(f"median tokens/s: {medians}; {second} to {first} {statistics.median(ratios):.3f}x ({each})")
    print(engines[second].stats)


if __name__ == "__main__":
    main()
