"""Memory: what a process has taken at most, and the least that a run needs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch

from gruppo.config.model_shape import read_shape
from gruppo.config.schema import Config
from gruppo.planner.devices import Device
from gruppo.planner.memory import FEWEST, KEPT, forecast_memory
from gruppo.planner.workload import Workload

FORECAST_OFF = 1.25
"""A forecast is called beyond the memory where it is so many times what there is."""
SPARE = 0.8
"""A cure's forecast may take so much of it."""
CERTAIN = frozenset(
    {"weights", "adapters", "master weights", "optimizer", "reference policy", "gradients", "rollout copy"}
)
"""Parts that every step has, to the byte."""


@dataclass
class PeakMemory:
    """The most memory inside the block: of a GPU's allocator, or of the process above a baseline; None: not known."""

    device: torch.device
    baseline: int | None
    bytes: int | None = None

    def __enter__(self) -> Self:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            _reset_peak()
        return self

    def __exit__(self, *_: object) -> None:
        if self.device.type == "cuda":
            self.bytes = torch.cuda.max_memory_allocated(self.device)
            return
        peak = _status("VmHWM")
        if peak is not None and self.baseline is not None and self.device.type == "cpu":
            self.bytes = max(0, peak - self.baseline)


def resident_bytes() -> int | None:
    """What the process holds in memory; None where the system doesn't say."""
    return _status("VmRSS")


@dataclass(frozen=True, slots=True)
class Need:
    """Memory that a run will want at its worst moment, as `gruppo.planner.memory` counts it."""

    peak: float
    """Bytes, what a process holds before the model left out."""
    certain: float
    """Of them, those that stand beside each other in every step: weights, moments, gradients and the like."""
    parts: tuple[tuple[str, float], ...]
    """The largest first."""

    def beyond(self, available: float) -> bool:
        """Whether it is more than there is, by more than a forecast is known to be off (docs/planning.md)."""
        return self.certain > available or self.peak > FORECAST_OFF * available

    def within(self, available: float) -> bool:
        """Whether it fits with room to spare."""
        return self.peak <= SPARE * available


def needed(config: Config, device: str, memory: float, completion: int) -> Need | None:
    """What a run can't do without, where the longest completion has so many tokens.

    Of what the config leaves open, as a run does that finds little memory: the smallest micro-batches, few completions
    at a time. Prompts are not counted, since they aren't known yet, nor what an allocator keeps for itself.

    Args:
        config: of the run.
        device: its kind: cpu or cuda.
        memory: bytes that the device has.
        completion: tokens.

    Returns:
        None where the model's sizes aren't known.
    """
    shape = read_shape(config.model)
    if shape is None:
        return None
    least = {
        "micro_batch_tokens": config.micro_batch_tokens or FEWEST,
        "max_live_completions": config.max_live_completions or 1,
    }
    work = Workload(config.prompts_per_step, config.group_size, 1, completion, completion)
    made = forecast_memory(config.model_copy(update=least), shape, work, Device(device, device, memory, {}, 0.0))
    halves = [{name: value for name, value in half.items() if name != KEPT} for half in (made.sampling, made.update)]
    worst = max(halves, key=lambda half: sum(half.values()))
    certain = sum(value for name, value in made.update.items() if name in CERTAIN)
    parts = sorted(((name, value) for name, value in worst.items() if value), key=lambda part: -part[1])
    return Need(sum(worst.values()), certain, tuple(parts))


def _status(name: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None)


def _reset_peak() -> None:
    """Begin the process's peak anew; where that isn't allowed, the peak is that of its whole life."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return
