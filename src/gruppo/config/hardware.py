"""Machines by name: what a config says for them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gruppo.errors import ConfigError, nearest

GPUS: Mapping[str, float] = {
    "t4": 16,
    "v100": 16,
    "l4": 24,
    "a10g": 24,
    "a10": 24,
    "rtx3090": 24,
    "rtx4090": 24,
    "l40s": 48,
    "a6000": 48,
    "a100-40": 40,
    "a100-80": 80,
    "h100": 80,
    "h200": 141,
    "b200": 180,
}
"""GB of memory."""
_NO_BFLOAT16 = ("t4", "v100")
"""Without bfloat16 in hardware."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What a run is to be on."""

    name: str
    device: str
    gpu_memory: float | None = None
    """GB; None: not known, or no GPU."""
    bfloat16: bool = False
    """Whether it computes in bfloat16 by itself."""

    @property
    def gpus(self) -> int | None:
        """How many; None: none."""
        return 1 if self.device.startswith("cuda") else None


def gpu(name: str, memory: float | None = None) -> Machine | None:
    """A GPU by name, however it is spelled; None: not known. One of which there are two sizes has the smaller, unless
    the memory is said."""
    plain = "".join(re.findall("[a-z0-9]+", name.lower().removesuffix("gb")))
    wanted = (plain, f"{plain}{memory:g}") if memory else (plain, f"{plain}40")
    known = next((own for own in GPUS if own.replace("-", "") in wanted), None)
    if known is None:
        return None
    return Machine(known, "cuda", memory or GPUS[known], known not in _NO_BFLOAT16)


def unnamed(memory: float) -> Machine:
    """Some GPU of so many GB."""
    return Machine(f"a GPU of {memory:g} GB", "cuda", memory)


def machine(text: str) -> Machine:
    """What `--hardware` says: cpu, mps, a GPU's name, or its memory.

    Raises:
        ConfigError: it is none of these.
    """
    plain = text.strip().lower()
    if plain in ("cpu", "mps"):
        return Machine(plain, plain)
    if plain in ("gpu", "cuda"):
        return Machine("a GPU", "cuda")
    memory = re.fullmatch(r"(\d+(?:\.\d+)?) ?gb", plain)
    if memory and float(memory[1]) > 0:
        return unnamed(float(memory[1]))
    found = gpu(plain)
    if found is None:
        known = ["cpu", "mps", "gpu", *GPUS]
        raise ConfigError(
            f"--hardware: got '{text}', wanted cpu, mps, gpu, the memory of a GPU such as 24GB, or one of "
            f"{', '.join(GPUS)}.{nearest(plain, known)}"
        )
    return found


def fitted(
    found: Machine, presets: Sequence[str], own: Mapping[str, Any], model_size: float | str | None = None
) -> dict[str, tuple[Any, str]]:
    """What a machine and a model's size want changed, by option: the value, and why. Nothing of `own` is moved.

    Raises:
        ConfigError: fields of `own` are wrong.
    """
    from gruppo.config.configure import configure

    known = configure(presets, gpu_memory=found.gpu_memory, gpus=found.gpus, model_size=model_size, **own)
    moved = {
        name: (value, known.sources[name].why)
        for name, value in known.values.items()
        if known.sources[name].source in ("size", "hardware")
    }
    if found.bfloat16 and "precision" not in own:
        moved["precision"] = ("bfloat16", f"{found.name} computes in it; float32 master weights are kept")
    return moved
