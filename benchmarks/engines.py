"""The engines side by side: tokens a second with log-probs, seconds of a weight update, memory. In turns.

    python benchmarks/engines.py [--shape demo|small|medium] [--rounds 3] [--precision float32|bfloat16]

Run it in an environment that has vLLM (`make test-vllm` makes one), on one core. Each engine lives in a process of its
own, and they take turns: one round is one batch of each. `generate` is transformers' own, with its scores kept, as a
trainer without an engine would call it. A busy machine shows in tokens a second, hardly in tokens per CPU second, which
counts the processes of a server too. Memory is the proportional set size of the process and all below it.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

FORMS = ("local", "colocated", "server", "generate")


@dataclass(frozen=True)
class Shape:
    """A model and what is asked of it."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    prompts: int
    group_size: int
    prompt_length: int
    new_tokens: int


SHAPES = {
    "demo": Shape(64, 256, 2, 4, 2, 32, 456, 32, 8, 24, 48),
    "small": Shape(256, 704, 4, 8, 4, 32, 1024, 8, 8, 16, 128),
    "medium": Shape(512, 1376, 6, 8, 2, 64, 16384, 4, 8, 256, 256),
}


def build(shape: Shape, precision: str, folder: Path) -> None:
    """A llama of random weights, always the same, with the demo's tokenizer (no text is made of its tokens)."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from gruppo.demo.tokenizer import build_tokenizer

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).to(getattr(torch, precision)).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)


def batch(shape: Shape, seed: int) -> list[list[int]]:
    """Prompts of one length: `generate` would have to pad others."""
    generator = np.random.default_rng(seed)
    return generator.integers(2, shape.vocabulary, (shape.prompts, shape.prompt_length)).tolist()


class Generate:
    """transformers' generate, with the scores of every step, from which log-probs are taken."""

    def __init__(self, model: Any) -> None:
        self._model = model

    @torch.inference_mode()
    def sample(self, shape: Shape, seed: int) -> int:
        prompts = torch.tensor(batch(shape, seed)).repeat_interleave(shape.group_size, 0)
        torch.manual_seed(seed)
        out = self._model.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            do_sample=True,
            top_k=0,
            max_new_tokens=shape.new_tokens,
            min_new_tokens=shape.new_tokens,
            output_logits=True,
            return_dict_in_generate=True,
        )
        drawn = out.sequences[:, prompts.shape[1] :]
        for step, logits in enumerate(out.logits):
            logits.float().log_softmax(-1).gather(1, drawn[:, step : step + 1])
        return drawn.numel()


class Engine:
    """An engine of ours."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine

    def sample(self, shape: Shape, seed: int) -> int:
        from gruppo.types import GroupRequest, SamplingParams

        sampling = SamplingParams(max_completion_length=shape.new_tokens)
        prompts = enumerate(batch(shape, seed))
        asked = [GroupRequest(i, f"p{i}", tuple(ids), shape.group_size, sampling, seed) for i, ids in prompts]
        return sum(len(c) for group in self.engine.generate(asked) for c in group)


def work(form: str, shape: Shape, precision: str, folder: Path) -> None:
    """A process of one engine: a line in is a seed, a line out what its batch took."""
    import gruppo
    from gruppo.data.chat import ChatRenderer
    from gruppo.launch.engines import build_engine
    from gruppo.training.export import exported_weights
    from gruppo.training.models import load_model

    torch.set_num_threads(1)
    device = torch.device("cpu")
    loaded = load_model(str(folder), precision, device)
    start = time.perf_counter()
    side: Any = Generate(loaded.model)
    if form != "generate":
        words = {"local": {}, "colocated": {"engine": "vllm"}, "server": {"engine": "vllm", "vllm_url": "launch"}}[form]
        config = gruppo.Config(model=str(folder), data="none", precision=precision, **words)  # pyright: ignore
        renderer = ChatRenderer(loaded.tokenizer)
        side = Engine(build_engine(config, loaded, device, renderer, 256, print, folder.parent / form))
    say({"start": time.perf_counter() - start})
    version = 0
    for line in sys.stdin:
        start, before = time.perf_counter(), cpu_seconds(os.getpid())
        tokens = side.sample(shape, int(line))
        rate, update = tokens / (time.perf_counter() - start), 0.0
        per_cpu = tokens / (cpu_seconds(os.getpid()) - before)
        if form != "generate":
            version += 1
            weights = loaded.model.named_parameters() if form == "local" else exported_weights(loaded.model)
            start = time.perf_counter()
            side.engine.load_weights(weights, version)
            update = time.perf_counter() - start
        say({"rate": rate, "per_cpu": per_cpu, "update": update, "memory": memory(os.getpid())})
    if form != "generate":
        side.engine.close()


def say(what: dict[str, float]) -> None:
    """A line to the one who asks."""
    print(f"@{json.dumps(what)}", flush=True)


def below(pid: int) -> list[int]:
    """A process and all below it."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [pid, *(each for task in tasks for child in task.read_text().split() for each in below(int(child)))]


def cpu_seconds(pid: int) -> float:
    """What a process and all below it have computed so far."""
    ticks = 0
    for each in below(pid):
        fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> float:
    """MiB that a process and all below it hold, what they share counted once."""
    texts = [Path(f"/proc/{each}/smaps_rollup").read_text() for each in below(pid)]
    lines = [line for text in texts for line in text.splitlines() if line.startswith("Pss:")]
    return sum(int(line.split()[1]) for line in lines) / 1024


class Worker:
    """The asking side of `work`."""

    def __init__(self, form: str, arguments: Sequence[str]) -> None:
        command = [sys.executable, __file__, "--work", form, *arguments]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.start = self._answer()["start"]

    def ask(self, seed: int) -> dict[str, float]:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{seed}\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, float]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("@"):
                return json.loads(line[1:])
        raise RuntimeError("an engine's process ended")

    def close(self) -> None:
        self._process.communicate(timeout=60)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="demo")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", choices=FORMS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    shape = SHAPES[asked.shape]
    if asked.work:
        work(asked.work, shape, asked.precision, asked.folder)
        return
    with tempfile.TemporaryDirectory() as folder:
        build(shape, asked.precision, Path(folder) / "model")
        common = ["--shape", asked.shape, "--precision", asked.precision, "--folder", f"{folder}/model"]
        workers = {form: Worker(form, common) for form in FORMS}
        found: dict[str, list[dict[str, float]]] = {form: [] for form in FORMS}
        for seed in range(asked.rounds + 1):
            for form, worker in workers.items():
                found[form].append(worker.ask(seed))
        for worker in workers.values():
            worker.close()
    print(f"{asked.shape}, {asked.precision}, {shape.prompts} x {shape.group_size}, load {os.getloadavg()[0]:.1f}")
    print(
        "| engine | tokens/s | tokens per CPU second | update, s | memory, MiB | start, s |\n|---|---|---|---|---|---|"
    )
    for form, rows in found.items():
        names = ("rate", "per_cpu", "update", "memory")
        rate, per_cpu, update, held = (statistics.median(row[name] for row in rows[1:]) for name in names)
        start = workers[form].start
        print(f"| {form} | {rate:,.0f} | {per_cpu:,.0f} | {update:.3f} | {held:,.0f} | {start:.0f} |")


if __name__ == "__main__":
    main()
