"""The forecast of `gruppo plan` against what a run takes: memory, and seconds of a step after a short trial.

    python benchmarks/planning.py                 # every shape, one after another, each in a process of its own
    python benchmarks/planning.py 12M-V32k-G64     # one of them
    python benchmarks/planning.py --markdown       # the tables of docs/planning.md, from results/planning.json

A shape's process loads a model of random weights, makes a trial on one prompt as the check before a run would, then
two steps of the real trainer, of which the quicker counts. Seconds are CPU seconds of the process, one thread, so that
other work on the machine matters little. Memory is the process's largest resident size above what
it held before the model was loaded, in each half of a step; the trial's own is not looked at.
"""

import gc
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from results import origin

RESULTS = Path(__file__).with_name("results") / "planning.json"
LIMIT = 1200
"""Seconds of the clock that a shape may take."""
STEPS = 2


@dataclass(frozen=True)
class Load:
    """A model and what is done with it."""

    vocabulary: int
    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    prompts: int
    group_size: int
    prompt_length: int
    new_tokens: int
    trial_prompts: int
    settings: dict[str, Any] = field(default_factory=dict)
    """Options beside the sizes."""


_TINY = Load(64, 16, 32, 1, 2, 2, 1, 4, 8, 4, 1)
_SMALL = (16_384, 512, 1536, 6, 8, 2)
_MIDDLE = (50_304, 768, 2048, 12, 12, 12)
_LARGE = (151_936, 896, 4864, 24, 14, 2)
LOADS = {
    "1M-V1k-G64": Load(1_024, 128, 384, 4, 4, 2, 2, 64, 32, 32, 1),
    "12M-V32k-G64": Load(32_000, 256, 768, 6, 8, 4, 2, 64, 32, 16, 1),
    "26M-V16k-G8": Load(*_SMALL, 4, 8, 128, 64, 1),
    "26M-V16k-G16-bf16": Load(*_SMALL, 2, 16, 64, 48, 1, {"precision": "bfloat16"}),
    "26M-V16k-G8-KL-recompute": Load(*_SMALL, 4, 8, 128, 64, 1, {"beta": 0.04, "gradient_checkpointing": True}),
    "124M-V50k-G8": Load(*_MIDDLE, 2, 8, 64, 24, 1),
    "124M-V50k-G8-lora": Load(*_MIDDLE, 2, 8, 64, 24, 1, {"lora_rank": 16}),
    "206M-V152k-G4-bf16": Load(151_936, 896, 2432, 8, 14, 2, 2, 4, 64, 24, 1, {"precision": "bfloat16"}),
    "494M-V152k-G4-lora": Load(*_LARGE, 2, 4, 32, 8, 1, {"lora_rank": 8}),
    "494M-V152k-G4-bf16": Load(*_LARGE, 2, 4, 32, 8, 1, {"precision": "bfloat16"}),
    "494M-V152k-G4": Load(*_LARGE, 2, 4, 16, 8, 1),
}


@dataclass(frozen=True)
class Taken:
    """What a run took."""

    measured: dict[str, Any]
    """The trial's figures."""
    base_bytes: int
    """What the process held before it loaded the model."""
    sampling_bytes: int
    update_bytes: int
    collect_seconds: float
    """Sampling and scoring."""
    update_seconds: float
    step_seconds: float
    all_seconds: float


# ---- the process of a shape


def resident(name: str) -> int:
    """VmRSS (now) or VmHWM (the largest since the last `forget`), bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {name}")


def forget() -> None:
    """The largest size begins anew."""
    Path("/proc/self/clear_refs").write_text("5")


def config_of(load: Load, folder: Path) -> Any:
    from gruppo.config.schema import Config

    return Config(
        model=str(folder),
        data="none.jsonl",
        steps=STEPS,
        checkpoint_every=1_000_000,
        prompts_per_step=load.prompts,
        group_size=load.group_size,
        max_completion_length=load.new_tokens,
        learning_rate=1e-6,
        device="cpu",
        threads=1,
        prompt_template="{prompt}",
        **load.settings,
    )


def shape_of(load: Load) -> Any:
    from shapes import Shape

    model = {
        "vocab_size": load.vocabulary,
        "hidden_size": load.hidden,
        "intermediate_size": load.inner,
        "num_hidden_layers": load.layers,
        "num_attention_heads": load.heads,
        "num_key_value_heads": load.kv_heads,
    }
    return Shape(model, load.prompts, load.group_size, load.prompt_length, load.new_tokens)


def child(name: str, folder: Path, answer: Path) -> None:
    """Load, make the trial, run the trainer; writes a `Taken`."""
    started = time.process_time()
    load = LOADS[name]
    with trainer_of(replace(_TINY, settings=load.settings), folder / "tiny") as trainer:
        trainer.run()  # what is imported and set up once is no part of a model's memory
    gc.collect()
    base = resident("VmRSS")
    with trainer_of(load, folder / "model") as trainer:
        measured = trial(trainer, load.trial_prompts)
        collect, update = Watched(trainer._collect, base), Watched(trainer.policy.update, base)
        object.__setattr__(trainer, "_collect", collect)
        object.__setattr__(trainer.policy, "update", update)
        trainer.run()
        began = [*trainer.stream.began, time.process_time()]
    taken = Taken(
        measured=measured,
        base_bytes=base,
        sampling_bytes=max(collect.peaks),
        update_bytes=max(update.peaks),
        collect_seconds=min(collect.seconds),
        update_seconds=min(update.seconds),
        step_seconds=min(end - start for start, end in itertools.pairwise(began)),
        all_seconds=time.process_time() - started,
    )
    answer.write_text(json.dumps(asdict(taken)))


@contextmanager
def trainer_of(load: Load, folder: Path) -> Iterator[Any]:
    """The trainer of a load; without checkpoints, its stream notes when steps begin."""
    from shapes import token_reward

    from gruppo.data.stream import ProblemStream
    from gruppo.launch.build import Workbench
    from gruppo.monitor.progress import SilentProgress
    from gruppo.monitor.run_folder import RunFolder
    from gruppo.rewards import Reward, Rubric
    from gruppo.rollout.collect import Collector
    from gruppo.types import SamplingParams

    class Marked(ProblemStream):
        """Notes when a step begins."""

        def __init__(self, *given: Any, **named: Any) -> None:
            super().__init__(*given, **named)
            self.began: list[float] = []

        def take(self, *given: Any, **named: Any) -> Any:
            self.began.append(time.process_time())
            return super().take(*given, **named)

    shape, config = shape_of(load), config_of(load, folder)
    problems = shape.problems(load.prompts * (STEPS + 1))
    bench = Workbench(config, str(folder), {}, SilentProgress())
    with tempfile.TemporaryDirectory() as out, RunFolder.open(out, config.model_dump(mode="json")) as run:
        trainer = bench.trainer(run, problems)
        sampling = SamplingParams(max_completion_length=shape.new_tokens, stop_token_ids=shape.stop_token_ids)
        rubric = Rubric([Reward("tokens", token_reward)])
        trainer.collector = Collector(bench.engine, rubric, bench.renderer, sampling, shape.group_size)
        trainer.checkpoints = None
        trainer.stream = Marked(problems, seed=0)
        yield trainer


class Watched:
    """The same function, its CPU seconds and its largest resident size above `base` noted."""

    def __init__(self, function: Callable[..., Any], base: int) -> None:
        self._function = function
        self._base = base
        self.peaks: list[int] = []
        self.seconds: list[float] = []

    def __call__(self, *given: Any, **named: Any) -> Any:
        forget()
        start = time.process_time()
        found = self._function(*given, **named)
        self.seconds.append(time.process_time() - start)
        self.peaks.append(resident("VmHWM") - self._base)
        return found


def trial(trainer: Any, prompts: int) -> dict[str, Any]:
    """What the check before a run does: sample, score, update (twice, the second counts), on the weights at hand."""
    import torch

    from gruppo.algorithm.advantages import group_advantages
    from gruppo.planner.measured import Measured
    from gruppo.training.packing import build_batch

    problems = trainer.stream.take(prompts)
    trainer.stream.began.clear()
    found = []
    for _ in range(3):
        start = time.process_time()
        collected = trainer.collector.collect(problems, seed=1)
        middle = time.process_time()
        rewards = torch.tensor([group.rewards.tolist() for group in collected.groups])
        batch = build_batch(collected.groups, group_advantages(rewards, "std"))
        trainer.policy.update(batch, trainer.loss, 1.0)
        found.append((middle - start, time.process_time() - middle))
    sampling, update = map(min, zip(*found, strict=True))
    completions = [rollout.completion for group in collected.groups for rollout in group.rollouts]
    return asdict(
        Measured(
            device="cpu",
            problems=len(problems),
            group_size=trainer.collector.group_size,
            prompt_tokens=statistics.mean(len(problem.prompt_ids) for problem in problems),
            completion_tokens=statistics.mean(map(len, completions)),
            longest_completion=max(map(len, completions)),
            rollout_seconds=sampling,
            reward_seconds=0.0,
            update_seconds=update,
        )
    )


# ---- the process that asks


def take(name: str) -> Taken:
    """Run a shape in a process of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        for what in ("save", "run"):
            answer = Path(folder) / "answer.json"
            command = [sys.executable, __file__, f"--{what}", name, folder, str(answer)]
            done = subprocess.run(command, env=environment, timeout=LIMIT, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"{name} ended with code {done.returncode}:\n{done.stderr[-3000:]}")
        return Taken(**json.loads(answer.read_text()))


def forecast_of(load: Load, measured: dict[str, Any] | None) -> Any:
    """What the planner says of a load, with a trial's figures or without."""
    from gruppo.config.model_shape import shape_of as sizes_of
    from gruppo.planner.devices import cpu
    from gruppo.planner.forecast import Request, Setting, forecast_in
    from gruppo.planner.measured import Measured

    sizes = {
        "model_type": "qwen2",
        "tie_word_embeddings": True,
        "vocab_size": load.vocabulary,
        "hidden_size": load.hidden,
        "intermediate_size": load.inner,
        "num_hidden_layers": load.layers,
        "num_attention_heads": load.heads,
        "num_key_value_heads": load.kv_heads,
    }
    trial_figures = None if measured is None else Measured(**measured)
    request = Request(measured=trial_figures, prompt_tokens=load.prompt_length, completion_tokens=load.new_tokens)
    config = config_of(load, Path("unnamed"))
    return forecast_in(config, Setting(request, sizes_of(sizes), cpu(1), None, 1, ()))


def as_markdown(found: dict[str, Taken]) -> str:
    """Predicted beside measured."""
    memory = ["| shape | memory predicted | measured | error |", "|---|---|---|---|"]
    seconds = ["| shape | step predicted | measured | error | without a trial |", "|---|---|---|---|---|"]
    for name, taken in found.items():
        made = forecast_of(LOADS[name], taken.measured)
        blind = forecast_of(LOADS[name], None).seconds.step
        peak = max(taken.sampling_bytes, taken.update_bytes)
        memory.append(
            f"| {name} | {made.memory.peak / 1e6:,.0f} MB | {peak / 1e6:,.0f} MB | {made.memory.peak / peak - 1:+.0%} |"
        )
        off = made.seconds.step / taken.step_seconds - 1
        seconds.append(
            f"| {name} | {made.seconds.step:.2f} s | {taken.step_seconds:.2f} s | {off:+.0%} | {blind:.2f} s |"
        )
    return "\n".join([*memory, "", *seconds])


def main() -> None:
    arguments = sys.argv[1:]
    if arguments[:1] == ["--save"]:
        shape_of(LOADS[arguments[1]]).save(Path(arguments[2]) / "model")
        shape_of(_TINY).save(Path(arguments[2]) / "tiny")
        return
    if arguments[:1] == ["--run"]:
        child(arguments[1], Path(arguments[2]), Path(arguments[3]))
        return
    rows = {row["shape"]: row for row in json.loads(RESULTS.read_text())["rows"]} if RESULTS.exists() else {}
    where = origin(" ".join(["python benchmarks/planning.py", *arguments]))
    for name in [] if arguments == ["--markdown"] else arguments or LOADS:
        load = round(os.getloadavg()[0], 1)
        rows[name] = {"shape": name, **where, "load": load, "taken": asdict(take(name))}
        RESULTS.write_text(json.dumps({"rows": list(rows.values())}, indent=1) + "\n")
        print(name, json.dumps(rows[name]["taken"]), flush=True)
    print(as_markdown({name: Taken(**row["taken"]) for name, row in rows.items()}))


if __name__ == "__main__":
    main()
