"""How much memory a reward model's weights take, from its folder alone: no framework is loaded.

1. Weights only. Scoring adds the activations of one micro-batch, which `token_budget` bounds.
2. Exact where the folder has safetensors: their headers say how many numbers there are. Else from config.json's
   sizes, as `gruppo.config.model_shape` has it, which counts an output layer that a reward model lacks.
"""

import json
import math
from pathlib import Path
from typing import Any

from gruppo.config.model_shape import read_shape

_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
_HEADER_LIMIT = 100 * 2**20


def reward_model_memory(folder: str | Path, precision: str = "auto") -> int | None:
    """Bytes that the weights take once loaded; None where the folder does not say.

    Args:
        folder: of the model. A hub name that is no folder gives None.
        precision: as of the reward: `auto` is the model's own.
    """
    folder = Path(folder)
    parameters = _counted(folder)
    if parameters is None:
        shape = read_shape(folder)
        parameters = None if shape is None else shape.parameters
    size = _BYTES.get(_dtype(folder) if precision == "auto" else precision, 4)
    return None if parameters is None else parameters * size


def _counted(folder: Path) -> int | None:
    """Numbers in all safetensors of the folder; None where there are none that can be read."""
    try:
        counts = [_numbers_in(path) for path in sorted(folder.glob("*.safetensors"))]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return sum(counts) or None


def _numbers_in(path: Path) -> int:
    """How many numbers a file holds: its header is JSON behind eight bytes that give its length."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > _HEADER_LIMIT:
            raise ValueError(f"{path}: no safetensors header")
        header: dict[str, Any] = json.loads(file.read(length))
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")


def _dtype(folder: Path) -> str:
    """What config.json says that the weights are; float32 where it says nothing."""
    try:
        values: Any = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return str(values.get("dtype") or values.get("torch_dtype") or "float32")
    except (OSError, ValueError, AttributeError):
        return "float32"
