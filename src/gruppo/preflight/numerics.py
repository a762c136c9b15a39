"""The numbers of a run before it: engine against trainer on the same tokens, and an update that is taken back.

1. The update is made on the model itself, at the peak rate, by the run's own optimizer and loss. The trainable weights
   are kept aside and put back, bit for bit; a second model would not fit where the first one just does.
2. How far it moves the policy is the KL of the sampled tokens, k3 (http://joschu.net/blog/kl-approx.html), from the
   policy before to the policy after. The rate of Adam's first step is as large as any: each weight moves by it.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from gruppo.algorithm.advantages import group_advantages
from gruppo.errors import TrainingError
from gruppo.preflight.memory import PeakMemory
from gruppo.preflight.outputs import Outputs
from gruppo.preflight.subject import Budget, Subject
from gruppo.training.losses import LossSettings, UpdateStats
from gruppo.training.optimizers import build_optimizers
from gruppo.training.packing import Batch, Row, build_batch
from gruppo.training.passes import passes_of
from gruppo.training.policy import LocalPolicy
from gruppo.types import Group

Result = TypeVar("Result")

COMPARED = 64
"""Completions whose log-probs are compared."""
UPDATE_SHARE = 0.85
"""Of the budget that may be spent once the update is made, as far as can be told before."""


@dataclass(frozen=True, slots=True)
class EngineCheck:
    """The engine's log-probs against the trainer's, nats per token."""

    completions: int
    mean: float
    most: float


@dataclass(frozen=True, slots=True)
class UpdateCheck:
    """An update at the peak rate, and what it took."""

    completions: int
    real: bool
    """Whether the advantages were the rewards' own; else, for want of a signal, plus and minus one by turns."""
    loss: float | None
    grad_norm: float | None
    finite: bool
    kl: float | None
    """Nats per token, from before the update to after it; None: beyond all numbers."""
    seconds: float
    memory_bytes: int | None
    """The peak, as `Measured.memory_bytes`."""
    failure: str = ""
    """Why it could not be made."""


def rows_of(groups: Sequence[Group], subject: Subject, *, real: bool) -> list[Row]:
    """The groups as the run would train on them; not `real`: with advantages of plus and minus one."""
    rewards = torch.tensor(np.stack([group.rewards for group in groups]))
    if real:
        advantages = group_advantages(rewards, subject.config.advantage_scale, clip=subject.config.advantage_clip)
    else:
        advantages = torch.ones_like(rewards)
        advantages[:, 1::2] = -1.0
    return list(build_batch(groups, advantages, mask_truncated=subject.config.truncated == "mask").rows)


def compare_engine(subject: Subject, outputs: Outputs) -> EngineCheck:
    """Some of the completions, scored by the trainer at the temperature that the engine drew them with."""
    count = max(1, COMPARED // outputs.samples)
    rows = [replace(row, mask=np.ones_like(row.mask)) for row in rows_of(outputs.groups[:count], subject, real=False)]
    passes, _ = passes_of(subject.loaded.model, subject.token_budget, subject.packing)
    with passes.ready():
        gaps = [
            (passes.logprobs(micro, outputs.temperature) - micro.loss_tokens.sampler_logprobs).abs().float()
            for micro in passes.cut(rows)
        ]
    together = torch.cat(gaps)
    return EngineCheck(len(rows), float(together.mean()), float(together.max()))


def try_update(subject: Subject, outputs: Outputs, loss: LossSettings, budget: Budget) -> UpdateCheck:
    """Make an update on some of these groups, look, and take it back.

    Args:
        subject: whose model is updated.
        outputs: completions of that model.
        loss: the run's, at the numbers of its first step.
        budget: how many groups are taken, and whether a second update is timed, is for it to say.
    """
    groups, real = _chosen(subject, outputs)
    with PeakMemory(subject.device, subject.baseline_bytes) as peak, _kept(subject) as kept_bytes:
        optimizers = build_optimizers(subject.loaded.model, subject.config, subject.config.learning_rate)
        try:
            policy = LocalPolicy(
                subject.loaded.model,
                optimizers,
                subject.token_budget,
                reference=subject.config.wants_reference,
                packing=subject.packing,
            )
            logprobs = _logprobs_of(subject, loss.temperature)
            groups = _affordable(logprobs, groups, subject, budget)
            rows = rows_of(groups, subject, real=real)
            before = logprobs(rows)
            stats, seconds = _timed(lambda: policy.update(Batch(tuple(rows)), loss, 1.0), subject)
            kl = _moved(before, logprobs(rows)) if stats.stepped else 0.0
            if budget.thorough and stats.stepped and budget.left() > 2 * seconds:
                seconds = min(seconds, _timed(lambda: policy.update(Batch(tuple(rows)), loss, 1.0), subject)[1])
        except (torch.OutOfMemoryError, MemoryError, RuntimeError, TrainingError) as error:
            if not isinstance(error, MemoryError) and "memory" not in str(error):
                raise
            told = str(error).strip().split("\n")[0]
            return UpdateCheck(len(groups) * outputs.samples, real, None, None, False, None, 0.0, None, told)
        finally:
            optimizers.zero_grad()
            optimizers.masters.release()
    memory = None if peak.bytes is None else max(0, peak.bytes - kept_bytes)
    return UpdateCheck(len(rows), real, stats.loss, stats.grad_norm, _finite(stats), kl, seconds, memory)


def _chosen(subject: Subject, outputs: Outputs) -> tuple[list[Group], bool]:
    """As many groups as a step has, those with a signal first; and whether any has."""
    ordered = sorted(outputs.groups, key=lambda group: not group.has_signal)
    count = subject.config.prompts_per_step
    return ordered[:count], ordered[0].has_signal


def _logprobs_of(subject: Subject, temperature: float) -> Callable[[Sequence[Row]], Tensor]:
    """What gives the policy's log-probs of all tokens of some rows, in an order that depends on the rows alone."""
    passes, _ = passes_of(subject.loaded.model, subject.token_budget, subject.packing)

    def logprobs(rows: Sequence[Row]) -> Tensor:
        trained = [row for row in rows if row.mask.any()]
        if not trained:
            return torch.zeros(0)
        with passes.ready():
            return torch.cat([passes.logprobs(micro, temperature) for micro in passes.cut(trained)])

    return logprobs


def _affordable(
    logprobs: Callable[[Sequence[Row]], Tensor], groups: list[Group], subject: Subject, budget: Budget
) -> list[Group]:
    """Fewer groups where the budget has no time for all: an update is about four forward passes."""
    _, seconds = _timed(lambda: logprobs(rows_of(groups[:1], subject, real=False)), subject)
    passes = 8 if budget.thorough else 6
    return groups[: max(1, int(budget.left(UPDATE_SHARE) / max(1e-6, passes * seconds)))]


def _timed(call: Callable[[], Result], subject: Subject) -> tuple[Result, float]:
    start = time.perf_counter()
    result = call()
    if subject.device.type == "cuda":
        torch.cuda.synchronize(subject.device)
    return result, time.perf_counter() - start


def _moved(before: Tensor, after: Tensor) -> float | None:
    """The mean of k3 over tokens [N]; None where it isn't finite."""
    gap = after.double() - before.double()
    kl = float((torch.expm1(gap) - gap).mean())
    return kl if math.isfinite(kl) else None


def _finite(stats: UpdateStats) -> bool:
    values = [value for value in (stats.loss, stats.grad_norm) if value is not None]
    return stats.skipped_optimizer_steps == 0 and all(map(math.isfinite, values))


@contextmanager
def _kept(subject: Subject) -> Iterator[int]:
    """The trainable weights as they are now, put back at the end; gives what the copy takes on the device's side."""
    parameters = [parameter for parameter in subject.loaded.model.parameters() if parameter.requires_grad]
    copies = [parameter.detach().to("cpu", copy=True) for parameter in parameters]
    on_cpu = subject.device.type == "cpu"
    try:
        yield sum(copy.numel() * copy.element_size() for copy in copies) if on_cpu else 0
    finally:
        with torch.no_grad():
            for parameter, copy in zip(parameters, copies, strict=True):
                parameter.copy_(copy)
                parameter.grad = None
