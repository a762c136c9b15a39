"""GRPO: the loop on one screen.

How this differs from the paper (DeepSeekMath, https://arxiv.org/abs/2402.03300, algorithm 1):
1. The reference policy is the weights at the start of GRPO for the whole run, unless refreshes are asked for.
2. A step whose groups all have equal rewards makes no optimizer step: Adam's momentum alone would move the weights.
3. The learning rate follows a schedule over all steps of the stage.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from gruppo.algorithm.advantages import group_advantages
from gruppo.config.schedules import Curriculum, StepNumbers
from gruppo.data.difficulty import difficulty_slice
from gruppo.data.stream import ProblemStream
from gruppo.monitor.garbage import present_objects_spared
from gruppo.monitor.recorder import Recorder
from gruppo.rollout.collect import Collected, Collector
from gruppo.rollout.draws import derive_seed
from gruppo.training.checkpoint import Checkpoints
from gruppo.training.controls import BETA_FACTOR_RANGE, Controls
from gruppo.training.losses import LossSettings, UpdateStats
from gruppo.training.packing import Batch, build_batch
from gruppo.training.policy import Policy
from gruppo.training.sft import Demonstrations
from gruppo.training.weight_sync import LIMITS, ParityRule, Published, publish
from gruppo.types import Group


@dataclass(frozen=True, slots=True)
class BatchSettings:
    """How scored groups become a batch; the words are those of the options."""

    advantage_scale: str = "std"
    advantage_clip: float | None = None
    truncated: str = "score"
    max_sampling_factor: float = 1.0
    reference_decay: float = 0.0
    parity_limit: float = LIMITS["float32"]
    """How far an engine's log-probs may be from the trainer's, nats."""


@dataclass
class Trainer:
    """The parts of a GRPO run, put together; `run` is the algorithm.

    `Workbench.trainer` builds one from a config; examples/parts.py builds one from parts of its own.
    """

    stream: ProblemStream
    collector: Collector
    policy: Policy
    recorder: Recorder
    controls: Controls
    curriculum: Curriculum
    loss: LossSettings
    """The temperature, the clip range and beta are overruled by those of the step in hand (`curriculum`)."""
    seed: int
    settings: BatchSettings = field(default_factory=BatchSettings)
    demonstrations: Demonstrations | None = None
    checkpoints: Checkpoints | None = None
    save_rollouts_every: int = 1

    def run(self) -> None:
        """Make all steps that are left. SIGINT and SIGTERM end it after the step in hand, with a checkpoint.

        Rollouts and checkpoints are written in the background; all of it is on the disk when this returns or raises.

        Raises:
            GruppoError: a reward broke its contract, the gradient stayed not finite, or the disk refuses.
        """
        self._publish(self._loss_of(self.curriculum.at(min(self.controls.step, self.controls.steps - 1))))
        with self.controls.stopping_on_signals(), self.recorder.writer, present_objects_spared():
            while not self.controls.done:
                clock = _Clock()
                numbers = self.curriculum.at(self.controls.step)
                loss = self._loss_of(numbers)
                collected = self._collect(numbers)
                clock.began_update()
                self.collector.engine.sleep()
                advantages, penalties = self._advantages(collected.groups, loss)
                update = self.policy.update(self._batch(collected.groups, advantages), loss, numbers.lr_factor)
                published = self._publish(loss)
                self.controls.advance(poisoned=update.skipped_optimizer_steps > 0 and not update.stepped)
                kl = update.kl_to_reference if penalties is None else float(penalties.mean())
                self._record(
                    collected, advantages, replace(update, kl_to_reference=kl), numbers, loss, published, clock
                )
                self._follow_up(collected.all_groups, kl)
                with self._nothing_lost():
                    self.controls.give_up_if_poisoned()
                if self.checkpoints is not None:
                    self.checkpoints.save_if_due(self.controls.step, last=self.controls.done)

    def _loss_of(self, numbers: StepNumbers) -> LossSettings:
        """The loss with the numbers of a step."""
        return replace(
            self.loss,
            temperature=numbers.temperature,
            clip=replace(self.loss.clip, low=numbers.epsilon, high=numbers.epsilon_high),
            beta=numbers.beta * self.controls.beta_factor,
        )

    def _publish(self, loss: LossSettings) -> Published:
        """The weights to the engine; before a step uses them, it is known that the engine computes with them."""
        rule = ParityRule(loss.temperature, self.settings.parity_limit, loss.sampler_correction != "none")
        return publish(self.policy, self.collector.engine, rule)

    def _collect(self, numbers: StepNumbers) -> Collected:
        """Sample and score the step's groups; the sampling is the step's."""
        sampling = replace(
            self.collector.sampling,
            temperature=numbers.temperature,
            max_completion_length=numbers.max_completion_length,
        )
        collector = replace(self.collector, sampling=sampling, group_size=numbers.group_size)
        slice = difficulty_slice(numbers.min_difficulty, numbers.max_difficulty)
        seed = derive_seed(self.seed, "rollout", self.controls.step)
        with self._nothing_lost():
            return collector.collect_informative(
                lambda n: self.stream.take(n, slice), numbers.prompts_per_step, self.settings.max_sampling_factor, seed
            )

    def _advantages(self, groups: Sequence[Group], loss: LossSettings) -> tuple[Tensor, Tensor | None]:
        """[P, G] advantages; and the KL of each completion, where it is subtracted from the reward."""
        rewards = torch.tensor(np.stack([group.rewards for group in groups]))
        penalties = None
        if loss.beta > 0 and loss.kl_in == "reward":
            rows = build_batch(groups, torch.zeros_like(rewards)).rows
            penalties = rewards.new_tensor(self.policy.kl_to_reference(rows, loss)).reshape(rewards.shape)
            rewards = rewards - loss.beta * penalties
        scale, clip = self.settings.advantage_scale, self.settings.advantage_clip
        return group_advantages(rewards, scale, clip=clip), penalties

    def _batch(self, groups: Sequence[Group], advantages: Tensor) -> Batch:
        batch = build_batch(groups, advantages, mask_truncated=self.settings.truncated == "mask")
        return batch if self.demonstrations is None else replace(batch, demonstrations=self.demonstrations.take())

    def _follow_up(self, groups: Sequence[Group], kl: float | None) -> None:
        """What a step's numbers lead to: beta, the reference policy, the curriculum. Each is an event."""
        step, controls = self.controls.step, self.controls
        if controls.adapt_beta(kl):
            text = f"KL {kl:.3g} nats per token: beta is {controls.beta_factor:.3g} times what was set from here"
            at_bound = controls.beta_factor in BETA_FACTOR_RANGE
            self.recorder.event("beta", step, text + ", its bound" * at_bound, tell=at_bound)
        if controls.refresh_due:
            decay = self.settings.reference_decay
            self.policy.refresh_reference(decay)
            text = f"the reference policy is refreshed: {decay:g} of it stays, {1 - decay:g} is the policy as it is now"
            self.recorder.event("reference_refreshed", step, text)
        self.stream.observe(groups)
        passed = float(np.mean([[rollout.score.passed for rollout in group.rollouts] for group in groups]))
        left = self.curriculum.observe(step - 1, passed)
        if left is not None:
            self.recorder.event("span_left", step, f"span {left} left early: its pass rate reached promote_at")

    def _record(
        self,
        collected: Collected,
        advantages: Tensor,
        update: UpdateStats,
        numbers: StepNumbers,
        loss: LossSettings,
        published: Published,
        clock: "_Clock",
    ) -> None:
        """Metrics, rollouts and findings of a step."""
        step = self.controls.step
        stats = asdict(update)
        stats["optimizer_step"] = int(stats.pop("stepped"))
        metrics = self.recorder.record(
            step,
            {
                **stats,
                "advantage_variance": float(advantages.double().var(correction=0)),
                "learning_rate": numbers.learning_rate,
                "temperature": loss.temperature,
                "beta": loss.beta,
                "span": numbers.span,
                "sampled_groups": collected.sampled_groups,
                "generated_tokens": collected.generated_tokens,
                **self.stream.report(),
                "policy_version": published.version,
                "parity_difference_max": published.difference,
                "epoch": self.stream.epoch,
                "seconds_rollout": collected.seconds_rollout,
                "seconds_reward": collected.seconds_reward,
                "seconds_update": clock.update_seconds,
                "seconds_step": clock.seconds,
            },
            collected.groups,
        )
        self.recorder.reward_errors(step, collected.all_groups)
        for note in self.collector.scorer.notes():
            self.recorder.event("reward_slow", step, note)
        if self.save_rollouts_every and step % self.save_rollouts_every == 0:
            self.recorder.record_rollouts(step, collected.groups, advantages.tolist())
        self.recorder.report(self.recorder.diagnose(metrics))

    @contextmanager
    def _nothing_lost(self) -> Iterator[None]:
        """Where the block fails (a reward breaks its contract), save the steps made so far, to go on from there."""
        before = self.stream.state_dict()
        try:
            yield
        except Exception:
            self.stream.load_state_dict(before)
            if self.checkpoints is not None and self.controls.step > 0:
                self.checkpoints.save(self.controls.step)
            raise


class _Clock:
    """Wall-clock seconds of a step so far, and of its update."""

    def __init__(self) -> None:
        self._start = self._update = time.perf_counter()

    def began_update(self) -> None:
        self._update = time.perf_counter()

    @property
    def update_seconds(self) -> float:
        return time.perf_counter() - self._update

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._start
