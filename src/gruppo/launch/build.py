"""Config to objects: model, renderer, engine, rubric, streams, trainers. Nothing is run here."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from gruppo.algorithm.losses import ClipRange
from gruppo.config.schedules import Curriculum, lr_factor
from gruppo.config.schema import Config, DataFields, EvalConfig, SFTConfig
from gruppo.data.chat import ChatRenderer
from gruppo.data.problems import load_demonstrations, load_problems
from gruppo.data.readers import Purpose
from gruppo.errors import ConfigError, DataError
from gruppo.evaluation.evaluate import Evaluator, Label
from gruppo.launch.engines import build_engine, check_engine
from gruppo.launch.memory import Memory
from gruppo.launch.rollouts import separate_engine
from gruppo.launch.streams import load_limits, problem_stream
from gruppo.monitor.mirrors import open_mirrors
from gruppo.monitor.recorder import Recorder
from gruppo.monitor.run_folder import RunFolder
from gruppo.monitor.writer import BackgroundWriter
from gruppo.rewards.building import build_rubric, reward_of
from gruppo.rewards.rubric import Rubric
from gruppo.rewards.workers import WorkerPool, default_pool
from gruppo.rollout.collect import Collector
from gruppo.rollout.draws import derive_seed
from gruppo.rollout.engine import RolloutEngine
from gruppo.training.checkpoint import Checkpoints
from gruppo.training.controls import Controls, ControlSettings
from gruppo.training.losses import LossSettings
from gruppo.training.models import LoadedModel, add_lora, choose_device, load_model, merge_lora
from gruppo.training.optimizers import OptimizerSet, build_optimizers
from gruppo.training.packing import Row
from gruppo.training.passes import passes_of
from gruppo.training.policy import LocalPolicy
from gruppo.training.quantization import import_bitsandbytes
from gruppo.training.recompute import recompute_activations
from gruppo.training.sft import Demonstrations, DemonstrationStream, SFTTrainer, demonstration_row, steps_of
from gruppo.training.trainer import BatchSettings, Trainer
from gruppo.training.weight_sync import LIMITS
from gruppo.types import Problem, ProgressObserver, SamplingParams

RewardFunction = Callable[..., Any]


@dataclass(frozen=True)
class Workbench:
    """A loaded model with everything that a stage needs around it.

    Args:
        config: the resolved config.
        model_name: the folder or hub name to load; a stage before may have made it.
        functions: rewards given as Python objects, by name.
        observer: who is told of notes and progress.
        pool: the processes in which rewards run; None: those of all calls outside a run.
        folder: the run's, which keeps what was found from memory, and an engine's log; None: there is none.
    """

    config: Config
    model_name: str
    functions: dict[str, RewardFunction]
    observer: ProgressObserver
    pool: WorkerPool | None = None
    folder: Path | None = None
    _prompt_lengths: list[int] = field(default_factory=list[int], init=False)

    @cached_property
    def loaded(self) -> LoadedModel:
        """The model, with LoRA around it if the config says so."""
        if self.config.threads is not None:
            torch.set_num_threads(self.config.threads)
        four_bit = self.config.quantize == "4bit"
        loaded = load_model(self.model_name, self.config.precision, self.device, four_bit=four_bit)
        loaded = merge_lora(loaded) if self.config.lora_rank == 0 else self._adapted(loaded)
        if self.config.gradient_checkpointing:
            recompute_activations(loaded.model)
        return loaded

    def _adapted(self, loaded: LoadedModel) -> LoadedModel:
        config = self.config
        return add_lora(
            loaded,
            config.lora_rank,
            config.lora_scale_alpha,
            config.lora_targets,
            derive_seed(config.seed, "lora"),
            rslora=config.rslora,
        )

    @cached_property
    def device(self) -> torch.device:
        """Where the model lives."""
        return choose_device(self.config.device)

    @cached_property
    def renderer(self) -> ChatRenderer:
        """Problems to tokens, completions to text."""
        return ChatRenderer(self.loaded.tokenizer, self.config.prompt_template, self.config.system_prompt)

    @cached_property
    def rubric(self) -> Rubric:
        """The rewards."""
        config = self.config
        named = [reward for reward in config.rewards if reward.name not in self.functions]
        given = [
            reward_of(reward, function=self.functions[reward.name])
            for reward in config.rewards
            if reward.name in self.functions
        ]
        limit = config.max_completion_length
        pool = self.pool or default_pool()
        return build_rubric(named, given, config.success_name, config.reward_scale, limit, pool)

    @cached_property
    def engine(self) -> RolloutEngine:
        """The engine with the model's weights, which evaluations ask."""
        note = self.observer.note
        return build_engine(self.config, self.loaded, self.device, self.renderer, self.max_live, note, self.folder)

    def close(self) -> None:
        """End the engine, if there is one."""
        if "engine" in vars(self):
            self.engine.close()

    @cached_property
    def rollout_engine(self) -> RolloutEngine:
        """The engine that training samples from: that one, or one on a copy in `rollout_precision`."""
        if self.config.engine != "local" or not self.config.rollouts_differ:
            return self.engine
        return separate_engine(self.config, self.loaded, self.renderer, self.max_live, self.observer.note)

    @cached_property
    def token_budget(self) -> int:
        """Tokens of a micro-batch."""
        longest = max(self._prompt_lengths, default=self.config.max_prompt_length or 0)
        return self.config.micro_batch_tokens or self._memory.token_budget(longest)

    @cached_property
    def max_live(self) -> int:
        """Completions decoded at a time."""
        limit = self.config.max_prompt_length or self.loaded.context_length or 0
        longest = max(self._prompt_lengths, default=limit)
        return self.config.max_live_completions or self._memory.live_rows(longest)

    @property
    def _memory(self) -> Memory:
        return Memory(self.config, self.loaded, self.device, self.folder, self.observer.note)

    @property
    def packing(self) -> str:
        """How completions stand in a pass."""
        return "padded" if self.config.plain else "trees"

    def sampling(self, temperature: float, max_completion_length: int) -> SamplingParams:
        """How to draw, with the model's stop tokens."""
        return SamplingParams(
            temperature=temperature,
            max_completion_length=max_completion_length,
            top_k=self.config.top_k,
            top_p=self.config.top_p,
            stop_token_ids=self.renderer.stop_token_ids(self.loaded.eos_token_ids),
            stop=self.config.stop,
        )

    @cached_property
    def collector(self) -> Collector:
        """Sampling and scoring as the GRPO stage does it."""
        return self._collector(self.rollout_engine)

    def _collector(self, engine: RolloutEngine) -> Collector:
        sampling = self.sampling(self.config.temperature, self.config.max_completion_length)
        return Collector(engine, self.rubric, self.renderer, sampling, self.config.group_size)

    def problems(self, sources: Sequence[str], fields: DataFields, split: Purpose, room: int) -> list[Problem]:
        """Problems with their prompts as tokens; tells the mapping, and what was left out.

        Args:
            sources: files, folders, hub names.
            fields: templates and limits; the config itself for the training problems, whose difficulties count.
            split: train or test; which split of a hub data set is meant by default.
            room: tokens to keep free for the completion.
        """
        limits = load_limits(self.config) if fields is self.config else None
        found = load_problems(sources, fields, split=split, limits=limits)
        for line in found.notes:
            self.observer.note(line)
        limit = self._prompt_limit(room)
        kept, dropped = self.renderer.encode_problems(found.problems, limit, self.config.long_prompts)
        if dropped:
            self.observer.note(
                f"{dropped} of {len(found.problems)} prompts are longer than {limit} tokens and left out "
                "(long_prompts: skip)"
            )
        self.rubric.check(kept)
        self._prompt_lengths.extend(len(problem.prompt_ids) for problem in kept)
        return kept

    def _prompt_limit(self, room: int) -> int | None:
        context, limit = self.loaded.context_length, self.config.max_prompt_length
        if context is None:
            return limit
        if room >= context:
            raise ConfigError(
                f"max_completion_length: {room} leaves no room for a prompt in the model's context of "
                f"{context} tokens; lower it"
            )
        return context - room if limit is None else min(limit, context - room)

    def look_ahead(self) -> None:
        """Raise now what the data or the rewards of a later stage would raise hours from here."""
        config = self.config
        self._prompt_limit(config.longest_completion)
        limits = load_limits(config)
        self.rubric.check(load_problems(config.data_paths, config, split="train", limits=limits).problems)
        if config.eval is not None:
            self.rubric.check(load_problems(config.eval.data, config.eval, split="test").problems)

    def trainer(self, folder: RunFolder, problems: Sequence[Problem]) -> Trainer:
        """The GRPO stage, at its newest checkpoint if it has one."""
        config = self.config
        stream = problem_stream(config, problems, self.observer.note)
        optimizers = build_optimizers(self.loaded.model, config, config.learning_rate)
        policy = self.policy(optimizers)
        controls = Controls(config.steps, ControlSettings(config.target_kl, config.reference_refresh_every))
        curriculum = Curriculum(config)
        demonstrations = self._demonstrations_beside()
        parts = {"policy": policy, "stream": stream, "controls": controls, "curriculum": curriculum}
        if demonstrations is not None:
            parts["demonstrations"] = demonstrations
        writer = BackgroundWriter()
        checkpoints = Checkpoints(
            folder.path / "checkpoints", parts, config.checkpoint_every, config.keep_checkpoints, writer
        )
        recorder = self._resumed_recorder(folder, checkpoints, writer, stage="grpo")
        return Trainer(
            stream=stream,
            collector=self.collector,
            policy=policy,
            recorder=recorder,
            controls=controls,
            curriculum=curriculum,
            loss=loss_settings(config),
            seed=config.seed,
            settings=BatchSettings(
                advantage_scale=config.advantage_scale,
                advantage_clip=config.advantage_clip,
                truncated=config.truncated,
                max_sampling_factor=config.max_sampling_factor,
                reference_decay=config.reference_decay,
                parity_limit=LIMITS[config.precision],
            ),
            demonstrations=demonstrations,
            checkpoints=checkpoints,
            save_rollouts_every=config.save_rollouts_every,
        )

    def policy(self, optimizers: OptimizerSet) -> LocalPolicy:
        """The policy; tells why its update goes a slower way where trees were asked for."""
        policy = LocalPolicy(
            self.loaded.model,
            optimizers,
            self.token_budget,
            reference=self.config.wants_reference,
            packing=self.packing,
        )
        for why in policy.slower if self.packing == "trees" else ():
            self.observer.note(why)
        return policy

    def _demonstrations_beside(self) -> Demonstrations | None:
        """Demonstrations for the SFT term of GRPO, if the config has them."""
        config = self.config
        if not config.demonstrations:
            return None
        rows = self.demonstrations(SFTConfig(data=config.demonstrations))
        return Demonstrations(rows, config.prompts_per_step, derive_seed(config.seed, "demonstrations"))

    def sft_trainer(self, folder: RunFolder, sft: SFTConfig, rows: Sequence[Row]) -> SFTTrainer:
        """The SFT stage, at its newest checkpoint if it has one."""
        model = self.loaded.model
        optimizers = build_optimizers(model, sft, sft.learning_rate)
        steps = sft.steps or steps_of(len(rows), sft.batch_size, sft.epochs)
        stream = DemonstrationStream(len(rows), sft.batch_size, derive_seed(self.config.seed, "sft"), sft.shuffle)
        controls = Controls(steps)
        writer = BackgroundWriter()
        checkpoints = Checkpoints(
            folder.path / "checkpoints",
            {"optimizers": optimizers, "stream": stream, "controls": controls},
            max(self.config.checkpoint_every, steps // 4),
            1,
            writer,
        )
        recorder = self._resumed_recorder(folder, checkpoints, writer, stage="sft")
        return SFTTrainer(
            model=model,
            optimizers=optimizers,
            rows=rows,
            stream=stream,
            batch_size=sft.batch_size,
            recorder=recorder,
            controls=controls,
            learning_rate=sft.learning_rate,
            lr_factor=partial(lr_factor, steps=steps, fields=sft),
            passes=passes_of(model, self.token_budget, self.packing)[0],
            checkpoints=checkpoints,
        )

    def demonstrations(self, sft: SFTConfig) -> list[Row]:
        """The rows of the SFT stage; tells the mapping, and how many were too long."""
        found = load_demonstrations(sft.data, sft)
        for line in found.notes:
            self.observer.note(f"sft: {line}")
        limit = min(sft.max_length, self.loaded.context_length or sft.max_length)
        encoded = [self.renderer.encode_demonstration(d.problem, d.completion) for d in found.demonstrations]
        rows = [demonstration_row(*pair) for pair in encoded]
        kept = [row for row in rows if len(row) <= limit]
        if not kept:
            raise DataError(
                f"sft.data: all {len(rows)} demonstrations are longer than {limit} tokens (the shortest has "
                f"{min(map(len, rows))}); raise sft.max_length"
            )
        if len(kept) < len(rows):
            self.observer.note(f"sft: {len(rows) - len(kept)} of {len(rows)} demonstrations exceed {limit} tokens")
        return kept

    def evaluator(self, settings: EvalConfig, problems: Sequence[Problem], label: Label | None) -> Evaluator:
        """The evaluation of the trained weights in their own precision, without top-k and top-p."""
        length = settings.max_completion_length or self.config.max_completion_length
        sampling = replace(self.sampling(settings.temperature, length), top_k=0, top_p=1.0)
        return Evaluator(
            collector=self._collector(self.engine),
            problems=problems,
            sampling=sampling,
            samples=settings.samples,
            greedy=settings.greedy,
            seed=self.config.seed,
            label=label,
            observer=self.observer,
        )

    def _resumed_recorder(
        self, folder: RunFolder, checkpoints: Checkpoints, writer: BackgroundWriter, stage: str
    ) -> Recorder:
        """Load the newest checkpoint, cut what was recorded after it, and record from there."""
        step, complaints = checkpoints.resume()
        for complaint in complaints:
            folder.append_event("checkpoint_damaged", text=complaint)
            self.observer.note(complaint)
        if folder.read_metrics():
            folder.truncate_after(step)
        if step:
            self.observer.note(f"{stage}: goes on after step {step}")
        config = self.config.model_dump(mode="json")
        mirrors = open_mirrors(self.config.report_to, folder.path, config, resumed_at=step)
        precision = "mixed" if self.config.rollouts_differ and stage == "grpo" else self.config.precision
        return Recorder(folder, self.observer, mirrors, stage=stage, precision=precision, writer=writer)


def check_packages(config: Config) -> None:
    """Refuse, before anything is loaded, what needs a package that isn't installed.

    Raises:
        ConfigError: with the command that installs it.
    """
    check_engine(config)
    if config.quantize != "none":
        import_bitsandbytes(f"quantize: {config.quantize}")
    for prefix, stage in (("", config), ("sft.", config.sft)):
        if stage is not None and stage.optimizer == "adamw_8bit":
            import_bitsandbytes(f"{prefix}optimizer: adamw_8bit")


def loss_settings(config: Config) -> LossSettings:
    """The loss that a config asks for, at the numbers of its top level."""
    return LossSettings(
        temperature=config.temperature,
        loss=config.loss,
        aggregation=config.loss_aggregation,
        max_length=config.max_completion_length,
        clip=ClipRange(config.epsilon, config.clip_high, config.dual_clip),
        updates_per_batch=config.updates_per_batch,
        minibatches=config.minibatches,
        no_signal_groups=config.no_signal_groups,
        sampler_correction=config.sampler_correction,
        sampler_correction_max=config.sampler_correction_max,
        beta=config.beta,
        kl_estimator=config.kl_estimator,
        kl_in=config.kl_in,
        demonstrations_weight=config.demonstrations_weight,
    )


def is_model_folder(path: Path) -> bool:
    """Whether a saved model stands there."""
    return (path / "config.json").exists()
