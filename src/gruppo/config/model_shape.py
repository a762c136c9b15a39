"""How large a model is, from its folder's config.json alone: no framework is loaded.

Exact for the dense decoders that gruppo is tested with (GPT-2, Llama, Mistral, Qwen2, Qwen3); close for others of the
same build (Gemma, Phi), whose norms and biases differ; rough for mixtures of experts, of which all are counted.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

_TIED = frozenset({"gemma", "gemma2", "gemma3", "gemma3_text"})
"""Families whose output layer is the embedding unless they say otherwise."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What sizes are judged by."""

    family: str
    """transformers' model_type."""
    parameters: int
    layers: int
    hidden: int
    vocabulary: int
    heads: int
    kv_heads: int
    """Heads of keys and values, shared by the query heads."""
    head_size: int
    inner: int
    """Width of the MLP; of one expert's where there are several."""
    tied: bool
    """The output layer is the embedding."""
    context: int | None = None
    """Positions it can take, tokens."""


def read_shape(folder: str | Path) -> ModelShape | None:
    """The shape of the model in a folder; None where there is no config.json, or one of another kind."""
    try:
        read: Any = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
        return shape_of(read)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError):
        return None


def shape_of(values: Mapping[str, Any]) -> ModelShape:
    """The shape that a config.json describes.

    Raises:
        KeyError: it lacks a size.
    """
    if isinstance(values.get("text_config"), dict):
        outer = {name: values[name] for name in ("tie_word_embeddings",) if name in values}
        values = {**outer, **cast(dict[str, Any], values["text_config"])}
    family = str(values.get("model_type", ""))
    return _gpt2(values) if family == "gpt2" else _decoder(values, family)


def _gpt2(values: Mapping[str, Any]) -> ModelShape:
    width, layers, words = int(values["n_embd"]), int(values["n_layer"]), int(values["vocab_size"])
    inner = int(values.get("n_inner") or 4 * width)
    attention = 4 * width * width + 4 * width
    mlp = 2 * width * inner + inner + width
    norms = 4 * width
    tables = (words + int(values["n_positions"])) * width
    tied = bool(values.get("tie_word_embeddings", True))
    head, heads = 0 if tied else words * width, int(values["n_head"])
    return ModelShape(
        family="gpt2",
        parameters=tables + layers * (attention + mlp + norms) + 2 * width + head,
        layers=layers,
        hidden=width,
        vocabulary=words,
        heads=heads,
        kv_heads=heads,
        head_size=width // heads,
        inner=inner,
        tied=tied,
        context=int(values["n_positions"]),
    )


def _decoder(values: Mapping[str, Any], family: str) -> ModelShape:
    """Pre-norm layers of attention with shared keys and a gated MLP."""
    width, layers, words = int(values["hidden_size"]), int(values["num_hidden_layers"]), int(values["vocab_size"])
    layer = _attention(values, family, width) + _mlp(values, width) + 2 * width
    tied = bool(values.get("tie_word_embeddings", family in _TIED))
    embeddings = words * width * (1 if tied else 2)
    heads, shared, size = _heads(values, width)
    context = values.get("max_position_embeddings")
    return ModelShape(
        family=family,
        parameters=embeddings + layers * layer + width,
        layers=layers,
        hidden=width,
        vocabulary=words,
        heads=heads,
        kv_heads=shared,
        head_size=size,
        inner=_inner(values),
        tied=tied,
        context=None if context is None else int(context),
    )


def _heads(values: Mapping[str, Any], width: int) -> tuple[int, int, int]:
    """Query heads, heads of keys, and the size of one."""
    heads = int(values["num_attention_heads"])
    shared = int(values.get("num_key_value_heads") or heads)
    return heads, shared, int(values.get("head_dim") or width // heads)


def _attention(values: Mapping[str, Any], family: str, width: int) -> int:
    heads, shared, size = _heads(values, width)
    queries, keys = heads * size, shared * size
    weights = 2 * width * queries + 2 * width * keys
    if family in ("qwen2", "qwen2_moe"):
        return weights + queries + 2 * keys
    biases = queries + 2 * keys + width if values.get("attention_bias", False) else 0
    norms = 2 * size if family.startswith("qwen3") else 0
    return weights + biases + norms


def _experts(values: Mapping[str, Any]) -> int:
    return int(values.get("num_experts") or values.get("num_local_experts") or 0)


def _inner(values: Mapping[str, Any]) -> int:
    inner = int(values["intermediate_size"])
    return int(values.get("moe_intermediate_size") or inner) if _experts(values) else inner


def _mlp(values: Mapping[str, Any], width: int) -> int:
    experts, inner = _experts(values), _inner(values)
    if experts:
        return experts * 3 * width * inner + width * experts
    biases = 2 * inner + width if values.get("mlp_bias", False) else 0
    return 3 * width * inner + biases
