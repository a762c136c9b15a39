"""Memory: what a process has taken at most, and the least that training a model needs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch

from gruppo.config.model_shape import read_shape
from gruppo.config.schema import Config

_PRECISION_BYTES = {"float32": 4, "bfloat16": 2}
_MOMENT_BYTES = {"adamw": 8, "adamw_8bit": 2, "muon": 4}
"""Of the optimizer's moments, per trainable weight."""


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


def least_needed(config: Config) -> tuple[int, int] | None:
    """Bytes of weights, gradients and optimizer, without which no step can be made; and the model's parameters.

    A bound from below: activations and the engine's cache come on top. None where the model's shape isn't known.
    """
    shape = read_shape(config.model)
    if shape is None:
        return None
    size = _PRECISION_BYTES[config.precision]
    base = shape.parameters * (0.6 if config.quantize == "4bit" else size)
    if config.lora_rank > 0:
        return round(base), shape.parameters  # adapters and their optimizer are small beside it
    master = 4 if size < 4 else 0
    gradients = 4
    return round(base + shape.parameters * (master + gradients + _MOMENT_BYTES[config.optimizer])), shape.parameters


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
