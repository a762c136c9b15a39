"""GRPO: the loop on one screen.

How this differs from the paper (DeepSeekMath, https://arxiv.org/abs/2402.03300, algorithm 1):
1. The reference policy is the weights at the start of GRPO for the whole run.
2. A step whose groups all have equal rewards makes no optimizer step: Adam's momentum alone would move the weights.
3. The learning rate follows a schedule over all steps of the stage.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import numpy as np
import torch

from gruppo.algorithm.advantages import group_advantages
from gruppo.data.stream import ProblemStream
from gruppo.monitor.recorder import Recorder
from gruppo.rollout.collect import Collected, Collector
from gruppo.rollout.draws import derive_seed
from gruppo.training.checkpoint import Checkpoints
from gruppo.training.controls import Controls
from gruppo.training.packing import build_batch
from gruppo.training.policy import Policy, UpdateStats
from gruppo.training.weight_sync import publish


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
    learning_rate: float
    lr_factor: Callable[[int], float]
    prompts_per_step: int
    seed: int
    checkpoints: Checkpoints | None = None
    save_rollouts_every: int = 1

    def run(self) -> None:
        """Make all steps that are left. SIGINT and SIGTERM end it after the step in hand, with a checkpoint.

        Raises:
            GruppoError: a reward broke its contract, or the gradient stayed not finite.
        """
        publish(self.policy, self.collector.engine)
        with self.controls.stopping_on_signals():
            while not self.controls.done:
                start, step = time.perf_counter(), self.controls.step
                with self._nothing_lost():
                    problems = self.stream.take(self.prompts_per_step)
                    collected = self.collector.collect(problems, derive_seed(self.seed, "rollout", step))
                advantages = group_advantages(torch.tensor(np.stack([group.rewards for group in collected.groups])))
                batch = build_batch(collected.groups, advantages)
                began_update = time.perf_counter()
                update = self.policy.update(batch, self.lr_factor(step))
                version = publish(self.policy, self.collector.engine)
                self.controls.advance(update.grad_norm)
                seconds = Seconds(update=time.perf_counter() - began_update, step=time.perf_counter() - start)
                self._record(collected, advantages, update, version, seconds)
                if self.checkpoints is not None:
                    self.checkpoints.save_if_due(self.controls.step, last=self.controls.done)

    @contextmanager
    def _nothing_lost(self) -> Iterator[None]:
        """Where collecting fails (a reward breaks its contract), save the steps made so far, to go on before it."""
        before = self.stream.state_dict()
        try:
            yield
        except Exception:
            self.stream.load_state_dict(before)
            if self.checkpoints is not None and self.controls.step > 0:
                self.checkpoints.save(self.controls.step)
            raise

    def _record(
        self,
        collected: Collected,
        advantages: torch.Tensor,
        update: UpdateStats,
        version: int,
        seconds: "Seconds",
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
                "learning_rate": self.learning_rate * self.lr_factor(step - 1),
                "policy_version": version,
                "epoch": self.stream.epoch,
                "seconds_rollout": collected.seconds_rollout,
                "seconds_reward": collected.seconds_reward,
                "seconds_update": seconds.update,
                "seconds_step": seconds.step,
            },
            collected.groups,
        )
        if self.save_rollouts_every and step % self.save_rollouts_every == 0:
            self.recorder.record_rollouts(step, collected.groups, advantages.tolist())
        self.recorder.report(self.recorder.diagnose(metrics))


@dataclass(frozen=True, slots=True)
class Seconds:
    """Wall-clock seconds of a step's update, and of the whole step."""

    update: float
    step: float
