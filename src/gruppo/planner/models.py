"""A model's sizes without loading it: from its folder, the hub's cache on this machine, or a size in words.

Legend: D hidden size, H query heads, K key heads, d their size, I width of the MLP, V vocabulary.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gruppo.config.model_shape import ModelShape, read_shape, shape_of
from gruppo.config.ranges import parameters_of
from gruppo.errors import ConfigError

SIZES = {"float32": 4, "bfloat16": 2}
"""Bytes of a number by precision."""
_QWEN = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size")
_FAMILY: Mapping[str, tuple[int, ...]] = {
    "0.5B": (896, 24, 14, 2, 4864),
    "1.5B": (1536, 28, 12, 2, 8960),
    "3B": (2048, 36, 16, 2, 11008),
    "7B": (3584, 28, 28, 4, 18944),
    "14B": (5120, 48, 40, 8, 13824),
    "32B": (5120, 64, 40, 8, 27648),
    "72B": (8192, 80, 64, 8, 29568),
}
"""Qwen2.5, whose sizes stand for those of a model that is not at hand."""
_IN_NAME = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?[bm])(?![a-z0-9])", re.IGNORECASE)


def typical(size: str | float) -> tuple[ModelShape, str]:
    """A model of so many parameters, built as the Qwen2.5 model nearest to it; and which that is.

    Raises:
        ConfigError: no size.
    """
    parameters = parameters_of(size)
    shapes = {name: _qwen(name) for name in _FAMILY}
    distance = {name: max(s.parameters / parameters, parameters / s.parameters) for name, s in shapes.items()}
    name = min(distance, key=distance.__getitem__)
    shape = shapes[name]
    if distance[name] > 1.15:  # 0.5B has 0.494, 7B has 7.6
        layers = max(1, round(shape.layers * parameters / shape.parameters))
        shape = replace(shape, parameters=round(parameters), layers=layers)
    return shape, f"Qwen2.5-{name}"


def _qwen(name: str) -> ModelShape:
    small = name in ("0.5B", "1.5B", "3B")
    sizes: dict[str, Any] = dict(zip(_QWEN, _FAMILY[name], strict=True))
    words = {"vocab_size": 151_936 if small else 152_064, "tie_word_embeddings": small}
    return shape_of({"model_type": "qwen2", "max_position_embeddings": 32_768, **sizes, **words})


def find_shape(name: str, size: str | None = None) -> tuple[ModelShape, str]:
    """The sizes of a config's model, and a note on where they are from; empty: its own folder.

    Args:
        name: a folder or a hub name.
        size: parameters in words, over everything else.

    Raises:
        ConfigError: nothing tells its sizes.
    """
    if size is not None:
        shape, like = typical(size)
        return shape, f"a model of {shape.parameters:,} parameters, built as {like}"
    for folder in _folders(name):
        if (shape := read_shape(folder)) is not None:
            return shape, "" if str(folder) == name else f"the model's sizes are from {folder}"
    found = _IN_NAME.search(name.rsplit("/", 1)[-1])
    if found is None or Path(name).exists():
        raise ConfigError(f"model: '{name}' is no folder with a config.json here; say its size: --model-size 0.5B")
    shape, like = typical(found[1])
    return shape, f"'{name}' is not on this machine: taken as built like {like} ({shape.parameters:,} parameters)"


def _folders(name: str) -> Iterator[Path]:
    """Where a model's config.json may stand: its folder, its base's (an adapter), the hub's cache."""
    yield Path(name)
    base = _adapter_base(Path(name)) or name
    yield Path(base)
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    cache = Path(os.environ.get("HF_HUB_CACHE", home / "hub"))
    yield from sorted((cache / f"models--{base.replace('/', '--')}" / "snapshots").glob("*"))


def _adapter_base(folder: Path) -> str | None:
    try:
        base: Any = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        return str(base["base_model_name_or_path"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


# ---- parameters by part


def linear_layers(shape: ModelShape) -> dict[str, tuple[int, int]]:
    """A layer's linear maps with their inputs and outputs: what LoRA adapts, 4 bits take, a CPU packs."""
    queries, keys = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    if shape.family == "gpt2":
        attention = {"c_attn": (shape.hidden, 3 * queries), "attn.c_proj": (queries, shape.hidden)}
        return attention | {"c_fc": (shape.hidden, shape.inner), "mlp.c_proj": (shape.inner, shape.hidden)}
    return {
        "q_proj": (shape.hidden, queries),
        "k_proj": (shape.hidden, keys),
        "v_proj": (shape.hidden, keys),
        "o_proj": (queries, shape.hidden),
        "gate_proj": (shape.hidden, shape.inner),
        "up_proj": (shape.hidden, shape.inner),
        "down_proj": (shape.inner, shape.hidden),
    }


def adapted(shape: ModelShape, targets: tuple[str, ...]) -> dict[str, tuple[int, int]]:
    """Those of a layer's linear maps that get an adapter."""
    maps = linear_layers(shape)
    chosen = {name: sizes for name, sizes in maps.items() if name.rpartition(".")[2] in targets}
    return chosen or maps


def adapter_parameters(shape: ModelShape, rank: int, targets: tuple[str, ...]) -> int:
    """Parameters of LoRA's adapters: rank x (inputs + outputs) of each adapted map."""
    return shape.layers * rank * sum(map(sum, adapted(shape, targets).values()))


def embedding(shape: ModelShape) -> int:
    """Parameters of the embedding, and of the output layer: V x D."""
    return shape.vocabulary * shape.hidden


def layer_parameters(shape: ModelShape) -> int:
    """Parameters of all layers, without embedding and output layer."""
    return shape.parameters - embedding(shape) * (1 if shape.tied else 2)
