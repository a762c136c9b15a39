"""What the numbers of engine and update have against a run."""

import math
from collections.abc import Iterator
from typing import Any

import torch

from gruppo.config.schema import Config
from gruppo.planner.measured import Measured
from gruppo.preflight.memory import Need, needed
from gruppo.preflight.numerics import EngineCheck, UpdateCheck
from gruppo.preflight.outputs import Outputs
from gruppo.preflight.reasons import Cure, Reason
from gruppo.preflight.subject import Subject

STALE = 0.05
"""Nats per token by which engine and trainer differ in the mean, above which they hold other weights."""
ALLOWED = {"float32": 0.01, "bfloat16": 0.05}
"""Nats by which a token's log-prob may differ, as the diagnosis of a run has it for the largest of a step."""
FAR = 0.5
"""Nats per token that one update moves the policy, above which the rate is too high."""
GOOD = 0.02
"""What a lower rate is looked for to reach."""


def of_engine(subject: Subject, found: EngineCheck) -> Iterator[Reason]:
    """Engine and trainer that disagree on the same tokens."""
    if found.mean > STALE:
        yield Reason(
            "stale_weights",
            "stop",
            "the engine does not hold the trainer's weights: log-probs of the same tokens differ by "
            f"{found.mean:.2g} nats in the mean",
            (f"{found.completions} completions; the largest difference is {found.most:.2g}",),
            (
                Cure(
                    "Give the engine the model that is trained: the same folder, the same precision, the same adapter."
                ),
            ),
        )
    elif found.most > 10 * ALLOWED[subject.config.precision]:
        yield Reason(
            "engine",
            "note",
            f"engine and trainer differ by up to {found.most:.2g} nats on a token, {found.mean:.2g} in the mean",
            (),
            (Cure("Weigh tokens by how much they differ:", {"sampler_correction": "token_truncate"}),),
        )


def of_update(subject: Subject, found: UpdateCheck) -> Iterator[Reason]:
    """An update that fails, is not finite, or goes too far."""
    config = subject.config
    if found.failure:
        changes: dict[str, Any] = {"micro_batch_tokens": max(256, subject.token_budget // 4)}
        if not config.gradient_checkpointing:
            changes["gradient_checkpointing"] = True
        device, full = subject.device.type, config.longest_completion
        cures = (Cure("Take it in smaller pieces:", changes), *memory_cures(config, device, None, full))
        yield Reason("memory", "stop", "an update does not fit into memory", (found.failure[:160],), cures)
        return
    if not found.finite:
        changes = {"precision": "float32"} if config.precision != "float32" else {}
        told = f"loss {found.loss}, gradient norm {found.grad_norm}"
        yield Reason("not_finite", "stop", "loss or gradient of an update is not finite", (told,), (Cure("", changes),))
        return
    if found.kl is None or found.kl > FAR:
        rate = lower_rate(config.learning_rate, found.kl)
        moved = "beyond all numbers" if found.kl is None else f"by {found.kl:.3g} nats per token"
        yield Reason(
            "learning_rate",
            "stop",
            f"one update at learning_rate {config.learning_rate:g} moves the policy {moved}: it forgets what it can do",
            (f"healthy is below {FAR:g}, usual below {GOOD:g}",),
            (Cure("Lower the rate:", {"learning_rate": rate}),),
        )


def lower_rate(rate: float, kl: float | None) -> float:
    """A rate that moves the policy about as far as is usual, as KL grows with the rate's square; one digit."""
    factor = 0.01 if kl is None else max(0.003, min(0.3, math.sqrt(GOOD / kl)))
    return float(f"{rate * factor:.0e}")


def measured(subject: Subject, outputs: Outputs, update: UpdateCheck) -> Measured | None:
    """What a forecast may take from it; None where no update was made.

    The forecast's trial is P problems of G completions, all of them updated on; the update may have had fewer, and its
    seconds are scaled to all.
    """
    if update.failure or update.seconds <= 0:
        return None
    count = len(outputs.rollouts)
    device = subject.device
    return Measured(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        problems=len(outputs.groups),
        group_size=outputs.samples,
        prompt_tokens=sum(len(g.problem.prompt_ids) for g in outputs.groups) / len(outputs.groups),
        completion_tokens=float(outputs.lengths.mean()),
        longest_completion=int(outputs.lengths.max()),
        rollout_seconds=outputs.seconds_rollout,
        reward_seconds=outputs.seconds_reward,
        update_seconds=update.seconds * count / update.completions,
        memory_bytes=update.memory_bytes,
    )


SHORT = 16
"""Tokens of a completion with which a run has to fit at the very least."""


def too_large(config: Config, device: str, available: int | None) -> Reason | None:
    """A run that doesn't fit into the memory that there is, by the planner's count.

    It stops the run where not even short completions fit. Where only those of full length don't, it is a matter of
    what the model says: the run ends when the first of them comes.

    Args:
        config: of the run.
        device: its kind.
        available: bytes that are free before anything is loaded; None: nobody says.
    """
    if available is None:
        return None
    full = config.longest_completion
    short = min(SHORT, full)
    for length in (short, full):
        need = needed(config, device, available, length)
        if need is not None and need.beyond(available):
            ways = tuple(memory_cures(config, device, available, full))
            ways = ways or tuple(memory_cures(config, device, available, length))
            return _does_not_fit(need, available, None if length == short else full, ways)
    return None


def _does_not_fit(need: Need, available: int, length: int | None, ways: tuple[Cure, ...]) -> Reason:
    when = "" if length is None else f" once a completion has {length:,} tokens"
    parts = ", ".join(f"{name} {_size(value)}" for name, value in need.parts[:4])
    return Reason(
        "memory",
        "stop" if length is None else "slow",
        f"the run does not fit into memory{when}: it needs {_size(need.peak)} at least, and there are "
        f"{_size(available)}",
        (
            f"the largest parts: {parts}",
            "counted with the smallest micro-batches that the config allows; prompts come on top",
        ),
        ways or (Cure("Take a smaller model, or a larger device."),),
    )


def _size(value: float) -> str:
    """Bytes as a person reads them."""
    return f"{value / 1e9:.3g} GB" if value >= 1e9 else f"{value / 1e6:.3g} MB"


def memory_cures(config: Config, device: str, available: int | None, completion: int) -> Iterator[Cure]:
    """Ways to need less, the least intrusive first; only those that fit, where it is known what there is."""
    for text, changes in _ways(config, device, completion):
        if available is None:
            yield Cure(text, changes)
            continue
        length = min(completion, changes.get("max_completion_length", completion))
        need = needed(config.model_copy(update=changes), device, available, length)
        if need is not None and need.within(available):
            yield Cure(text, changes)


def _ways(config: Config, device: str, completion: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """What may be changed, each way by itself and then together."""
    pieces: dict[str, Any] = {}
    if (config.micro_batch_tokens or 0) > 256:
        pieces["micro_batch_tokens"] = 256
    if (config.max_live_completions or 0) > 4:
        pieces["max_live_completions"] = 4
    if pieces:
        yield "Take it in smaller pieces:", pieces
    again = {} if config.gradient_checkpointing else {**pieces, "gradient_checkpointing": True}
    if again:
        yield "Compute activations anew in the backward pass:", again
    lora = {"lora_rank": 16, "learning_rate": min(1.0, 10 * config.learning_rate)} if config.lora_rank == 0 else {}
    half = {"precision": "bfloat16"} if config.precision == "float32" else {}
    if half:
        yield "Compute in bfloat16:", {**pieces, **half}
    if half and again:
        yield "Compute in bfloat16, and activations anew in the backward pass:", {**again, **half}
    if lora:
        yield "Train adapters in place of all weights:", {**pieces, **lora}
    if lora and half:
        yield "Train adapters, and compute in bfloat16:", {**pieces, **lora, **half}
    if sum(map(bool, (lora, half, again))) > 1:
        yield "All of these together:", {**again, **lora, **half}
    if device == "cuda" and config.quantize == "none" and config.engine == "local" and not config.rollouts_differ:
        yield "Train adapters over a base in 4 bits:", {**again, **lora, **half, "quantize": "4bit"}
    if not config.curriculum and completion == config.max_completion_length >= 128:
        yield "Allow shorter completions:", {**pieces, "max_completion_length": completion // 4}
