"""Those who are measured, each alone in a process that makes one GRPO step whenever it is asked to.

    python benchmarks/contestants.py gruppo|trl MODEL_FOLDER JOB

It is started by `Contestant`, JOB being a `Job` as JSON, and answers every line on its standard input with one line of
JSON: the seconds of the step and of its parts, the lengths of the completions, and the largest memory that the process
has had so far. Both sides are the library's own loop, held up where it takes its next prompts. So everything between
two steps counts.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from worker import LIMIT, Pipe, Worker

LEARNING_RATE = 1e-6


@dataclass(frozen=True)
class Job:
    """What a contestant is asked to do."""

    shape: dict[str, Any]
    """A `shapes.Shape` as a dictionary."""
    precision: str = "float32"
    threads: int = 1
    device: str = "cpu"
    plain: bool = False
    """gruppo's option `plain`: decoding in waves, padded rows."""
    gruppo: dict[str, Any] = field(default_factory=dict)
    """Options of gruppo's config beside those of the shape."""
    trl: dict[str, Any] = field(default_factory=dict)
    """Settings of TRL's GRPOConfig beside those of the shape; `dtype` and `attn_implementation` are the model's,
    `parts` is how many forward and backward passes an update has."""


@dataclass(frozen=True)
class Step:
    """What one step took."""

    seconds: float
    """By the clock."""
    cpu_seconds: float
    """Of all threads of the process; less than `seconds` where another process had the core."""
    rollout: float
    reward: float
    update: float
    lengths: list[int]
    peak_mib: float
    """The process's largest resident memory so far; on CUDA the allocator's largest."""
    rest_mib: float
    """Its resident memory before the first step."""
    ways: dict[str, int] = field(default_factory=dict)
    """How often so far gruppo took each form of attention by trees, and captured and replayed decode steps."""

    @property
    def tokens(self) -> int:
        """Generated tokens."""
        return sum(self.lengths)

    @property
    def rate(self) -> float:
        """Generated tokens a second of the whole step."""
        return self.tokens / self.seconds

    @property
    def cpu_rate(self) -> float:
        """The same by CPU seconds."""
        return self.tokens / self.cpu_seconds


class Contestant:
    """A process of its own, asked for one step at a time."""

    def __init__(self, name: str, folder: Path, job: Job) -> None:
        self.name = name
        threads = str(job.threads)
        environment = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "HF_HUB_OFFLINE": "1"}
        self._worker = Worker(name, [sys.executable, __file__, name, str(folder), json.dumps(asdict(job))], environment)
        self.close = self._worker.close

    def step(self, limit: float = LIMIT) -> Step:
        """One step, in so many seconds at most. Raises what `Worker.ask` does."""
        return Step(**self._worker.ask(limit=limit))


def pin(threads: int) -> None:
    """Keep this process, and those it starts, to as many of its cores, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


class Asker:
    """The contestant's end of the pipe. A loop calls `next` wherever it would begin its next step."""

    def __init__(self, device: str) -> None:
        self._pipe = Pipe()
        self._device = device
        self._began: float | None = None
        self._began_cpu = 0.0
        self._rest = 0.0
        self.rollout = self.reward = 0.0
        self.lengths: list[int] = []
        self.ways: dict[str, int] = {}

    def next(self) -> None:
        """Answer for the step that has ended, wait to be asked for the next; ends the process with the pipe."""
        if self._device == "cuda":
            torch.cuda.synchronize()
        if self._began is None:
            self._rest = resident_mib("VmRSS")
        else:
            seconds = time.perf_counter() - self._began
            update = seconds - self.rollout - self.reward
            cpu_seconds = time.process_time() - self._began_cpu
            parts = (seconds, cpu_seconds, self.rollout, self.reward, update)
            self._pipe.answer(asdict(Step(*parts, self.lengths, self._peak(), self._rest, self.ways)))
        if self._device == "cuda":
            torch.cuda.empty_cache()  # the other contestant is on the same card
        self._pipe.question()
        self.rollout = self.reward = 0.0
        self._began, self._began_cpu = time.perf_counter(), time.process_time()

    def _peak(self) -> float:
        if self._device == "cuda":
            return torch.cuda.max_memory_allocated() / 2**20
        return resident_mib("VmHWM")


def resident_mib(field: str) -> float:
    """VmRSS (now) or VmHWM (the largest so far) of this process.

    Linux's own account of this program alone; `ru_maxrss` would begin with what the parent had.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise OSError(f"/proc/self/status has no {field}")


def gruppo_trainer(job: Job, folder: Path, out: Path, began: Callable[[], None], lengths: list[int]) -> Any:
    """gruppo's trainer with the defaults of its config, the reward in this process.

    Args:
        job: what to do.
        folder: the model.
        out: the run folder.
        began: called before each step, and once more after the last.
        lengths: gets the lengths of a step's completions.
    """
    from shapes import Shape, token_reward

    from gruppo.config.schema import Config
    from gruppo.data.stream import ProblemStream
    from gruppo.launch.build import Workbench
    from gruppo.monitor.progress import SilentProgress
    from gruppo.monitor.run_folder import RunFolder
    from gruppo.rewards import Reward, Rubric
    from gruppo.rollout.collect import Collector
    from gruppo.types import Group, Problem, SamplingParams

    shape = Shape(**job.shape)
    problems = shape.problems(64 * shape.prompts)

    class Asked(ProblemStream):
        """Gives the problems in their order."""

        taken = 0

        def take(self, n: int, slice: object = None) -> list[Problem]:
            began()
            self.taken += n
            return [problems[number % len(problems)] for number in range(self.taken - n, self.taken)]

        def observe(self, groups: Sequence[Group]) -> None:
            lengths[:] = [len(rollout.completion) for group in groups for rollout in group.rollouts]

    config = Config(
        model=str(folder),
        data="none.jsonl",
        steps=1_000_000,
        checkpoint_every=1_000_000,
        prompts_per_step=shape.prompts,
        group_size=shape.group_size,
        max_prompt_length=shape.prompt_length,
        max_completion_length=shape.new_tokens,
        learning_rate=LEARNING_RATE,
        lr_schedule="constant",
        warmup_ratio=0.0,
        precision=job.precision,  # pyright: ignore
        device=job.device,
        threads=job.threads,
        lora_rank=shape.lora_rank,
        prompt_template="{prompt}",
        plain=job.plain,
        **job.gruppo,
    )
    bench = Workbench(config, str(folder), {}, SilentProgress())
    sampling = SamplingParams(max_completion_length=shape.new_tokens, stop_token_ids=shape.stop_token_ids)
    rubric = Rubric([Reward("tokens", token_reward)])
    trainer = bench.trainer(RunFolder.open(out, config.model_dump(mode="json")), problems)
    trainer.collector = Collector(bench.engine, rubric, bench.renderer, sampling, shape.group_size)
    trainer.stream = Asked(problems, seed=0)
    return trainer


def gruppo(folder: Path, job: Job, asker: Asker) -> None:
    """Steps of gruppo."""
    from gruppo.training.tree_attention import RAN

    def began() -> None:
        stats = trainer.collector.engine.stats
        asker.ways = {f"attention by {form}": count for form, count in RAN.items()}
        asker.ways |= {name: getattr(stats, name) for name in ("decode_steps", "captured_graphs", "replayed_steps")}
        metrics = trainer.recorder.folder.read_metrics()
        if metrics:
            asker.rollout, asker.reward = metrics[-1]["seconds_rollout"], metrics[-1]["seconds_reward"]
        asker.next()

    with tempfile.TemporaryDirectory() as out:
        trainer = gruppo_trainer(job, folder, Path(out), began, asker.lengths)
        trainer.run()


def trl(folder: Path, job: Job, asker: Asker) -> None:
    """TRL's GRPOTrainer; what is not said by the shape or by `job.trl` is its default."""
    from datasets import Dataset
    from shapes import Shape, token_reward
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    torch.set_num_threads(job.threads)
    shape, settings = Shape(**job.shape), dict(job.trl)
    parts = settings.pop("parts", 1)
    torch.set_float32_matmul_precision(settings.pop("matmul_precision", "highest"))
    dtype = getattr(torch, settings.pop("dtype", job.precision))
    attention = settings.pop("attn_implementation", "sdpa")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation=attention)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"eos_token": "0" if shape.ends else "<end>"})  # GRPOTrainer wants one

    class Asked(TrainerCallback):
        """Begins a step when asked to."""

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            asker.next()

    class Timed(GRPOTrainer):
        """Takes the time of the parts."""

        def _generate_single_turn(self, *given: Any, **named: Any) -> Any:
            start = time.perf_counter()
            found = super()._generate_single_turn(*given, **named)
            asker.rollout += time.perf_counter() - start
            asker.lengths[:] = [len(ids) for ids in found[0]]
            return found

        def _calculate_rewards(self, *given: Any, **named: Any) -> Any:
            start = time.perf_counter()
            found = super()._calculate_rewards(*given, **named)
            asker.reward += time.perf_counter() - start
            return found

    def tokens(completions: list[str], **_: Any) -> list[float]:
        return [token_reward(completion) for completion in completions]

    adapter = None
    if shape.lora_rank:
        from peft import LoraConfig

        rank = shape.lora_rank
        adapter = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
    with tempfile.TemporaryDirectory() as out:
        config = GRPOConfig(
            output_dir=out,
            use_cpu=job.device == "cpu",
            max_steps=1_000_000,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            num_generations=shape.group_size,
            per_device_train_batch_size=shape.completions // parts,
            gradient_accumulation_steps=parts,
            max_completion_length=shape.new_tokens,
            shuffle_dataset=False,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            **settings,
        )
        prompts = Dataset.from_list([{"prompt": each.prompt} for each in shape.problems(64 * shape.prompts)])
        trainer = Timed(
            model=model,
            reward_funcs=tokens,
            args=config,
            train_dataset=prompts,
            processing_class=tokenizer,
            callbacks=[Asked()],
            peft_config=adapter,
        )
        trainer.train()


def main() -> None:
    """Serve steps until the pipe closes."""
    name, folder, job = sys.argv[1], Path(sys.argv[2]), Job(**json.loads(sys.argv[3]))
    asker = Asker(job.device)
    {"gruppo": gruppo, "trl": trl}[name](folder, job, asker)


if __name__ == "__main__":
    main()
