"""What a run may be on: GPUs by name, the flavours they are rented as, and the machine at hand.

Peak rates are the makers', dense, without sparsity. What of them is reached is in `gruppo.planner.seconds`.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from gruppo.errors import ConfigError, nearest

GB = 1e9
GIB = 2**30


@dataclass(frozen=True, slots=True)
class Device:
    """One kind of processor, and how many of it."""

    name: str
    title: str
    memory: float
    """Bytes of one of them."""
    flops: Mapping[str, float]
    """Operations a second of matrix products, by precision."""
    bandwidth: float
    """Bytes a second between its memory and its processors."""
    count: int = 1
    note: str = ""
    threads: int = 1
    """Of a CPU: threads that compute."""

    @property
    def is_cpu(self) -> bool:
        """Whether it is the CPU."""
        return self.name == "cpu"


def _gpu(name: str, title: str, gib: float, single: float, half: float, gb_per_second: float, note: str = "") -> Device:
    flops = {"float32": single * 1e12, "bfloat16": half * 1e12}
    return Device(name, title, gib * GIB, flops, gb_per_second * GB, note=note)


_T4 = "a T4 has no bfloat16 units: bfloat16 is computed as float32; say precision: float32, or take an L4"

DEVICES: Mapping[str, Device] = {
    device.name: device
    for device in (
        _gpu("t4", "NVIDIA T4 16 GB", 15, 8.1, 8.1, 320, _T4),
        _gpu("l4", "NVIDIA L4 24 GB", 22.5, 30.3, 121, 300),
        _gpu("a10g", "NVIDIA A10G 24 GB", 22.5, 31.2, 70, 600),
        _gpu("rtx-3090", "NVIDIA RTX 3090 24 GB", 24, 35.6, 71, 936),
        _gpu("rtx-4090", "NVIDIA RTX 4090 24 GB", 24, 82.6, 165, 1008),
        _gpu("l40s", "NVIDIA L40S 48 GB", 44.7, 91.6, 362, 864),
        _gpu("a100-40", "NVIDIA A100 40 GB", 40, 19.5, 312, 1555),
        _gpu("a100-80", "NVIDIA A100 80 GB", 80, 19.5, 312, 2039),
        _gpu("h100", "NVIDIA H100 80 GB", 80, 67, 989, 3350),
        _gpu("h200", "NVIDIA H200 141 GB", 141, 67, 989, 4800),
        _gpu("b200", "NVIDIA B200 192 GB", 180, 75, 2250, 8000),
    )
}
"""By name. The memory is what a program can have: L4, A10G, L40S and T4 keep some of it for error correction."""

FLAVOURS: Mapping[str, tuple[str, int]] = {
    "t4-small": ("t4", 1),
    "t4-medium": ("t4", 1),
    "l4x1": ("l4", 1),
    "l4x4": ("l4", 4),
    "a10g-small": ("a10g", 1),
    "a10g-large": ("a10g", 1),
    "a10g-largex2": ("a10g", 2),
    "a10g-largex4": ("a10g", 4),
    "l40sx1": ("l40s", 1),
    "l40sx4": ("l40s", 4),
    "l40sx8": ("l40s", 8),
    "a100-large": ("a100-80", 1),
    "a100x4": ("a100-80", 4),
    "a100x8": ("a100-80", 8),
    "h200x2": ("h200", 2),
    "h200x4": ("h200", 4),
    "h200x8": ("h200", 8),
}
"""Names under which machines with GPUs are rented: which GPU, how many."""

_ALSO = {"a100": "a100-80", "h100-80": "h100", "h200-141": "h200", "4090": "rtx-4090", "3090": "rtx-3090"}
_COUNTED = re.compile(r"(?:(\d+)x)?([a-z][a-z0-9-]*?|\d{4})(?:[x:*](\d+))?")


def named_device(text: str, count: int | None = None) -> tuple[Device, str]:
    """A device by its name or a flavour's, with a count (`a100-80`, `4xa100-80`, `a100-80:4`, `a100x4`).

    Returns:
        The device, and the name that prices are looked up by: the flavour's, or its own.

    Raises:
        ConfigError: no such name, or two counts that differ.
    """
    wanted = text.strip().lower().replace("_", "-").replace(" ", "-").removeprefix("nvidia-")
    flavour = wanted
    if wanted in FLAVOURS:
        name, own = FLAVOURS[wanted]
    else:
        parts = _COUNTED.fullmatch(wanted)
        name = parts[2] if parts else wanted
        own = int((parts and (parts[1] or parts[3])) or 1)
        name = flavour = _ALSO.get(name, name)
        if name in FLAVOURS:
            name, each = FLAVOURS[name]
            own *= each
    if name not in DEVICES:
        known = [*DEVICES, *FLAVOURS]
        raise ConfigError(f"--gpu: there is no '{text}', only {', '.join(known)}.{nearest(wanted, known)}")
    if own < 1 or (count is not None and own not in (1, count)):
        raise ConfigError(f"--gpu {text} is {own} GPUs, --gpus says {count}; keep one of them")
    return replace(DEVICES[name], count=count or own), flavour


def this_device(device: str, threads: int | None) -> Device:
    """The device that a config's `device` means on this machine, without asking torch.

    A GPU is found through its driver's own program. Where that is absent, or `device` says so, it is the CPU.
    """
    if not device.startswith("cuda") and device != "auto":
        return cpu(threads)
    found = _own_gpu(device)
    if found is None and device.startswith("cuda"):
        raise ConfigError(f"device: '{device}', but no GPU is found here; say which one is meant: --gpu a100-80")
    return found or cpu(threads)


def _own_gpu(device: str) -> Device | None:
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    command = [program, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        number = int(device.partition(":")[2] or 0)
        name, mebibytes = done.stdout.strip().splitlines()[number].rsplit(",", 1)
        return recognised(name.strip(), float(mebibytes) * 2**20)
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def recognised(title: str, memory: float) -> Device:
    """A GPU by its driver's name and the memory that the driver tells.

    Raises:
        ConfigError: one that is not in the table.
    """
    words = set(re.findall(r"[a-z0-9]+", title.lower()))
    fitting = [
        device
        for device in DEVICES.values()
        if device.name.removeprefix("rtx-").split("-")[0] in words and 0.85 < memory / device.memory < 1.15
    ]
    if not fitting:
        raise ConfigError(f"the GPU '{title}' is not in the table of the forecast; name one like it: --gpu a100-80")
    return replace(fitting[0], title=title, memory=memory)


CPU_FLOPS = {"float32": 60e9, "bfloat16": 100e9}
"""A second and a thread: what one core of an AMD EPYC of 2023 reaches in torch's products."""
CPU_BANDWIDTH = 12e9


def cpu(threads: int | None) -> Device:
    """This machine's CPU with so many threads; unset: all processors that this process may use."""
    count = threads or _processors()
    flops = {precision: rate * count for precision, rate in CPU_FLOPS.items()}
    bandwidth = CPU_BANDWIDTH * min(count, 8)
    note = "a CPU's speed is a rough guess without --measured"
    return Device("cpu", f"CPU, {count} thread{'s' * (count > 1)}", _memory(), flops, bandwidth, 1, note, count)


def _processors() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        return os.cpu_count() or 1


def _memory() -> float:
    """Bytes that this process may have: the machine's, or the limit that a container is given."""
    own = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    try:
        limit = float(Path("/sys/fs/cgroup/memory.max").read_text())
    except (OSError, ValueError):
        return own
    return min(own, limit)
