"""What autograd keeps of a token and layer until the backward pass, tensor by tensor.

Legend: D hidden size, H query heads, K key heads, d their size, I width of the MLP, r rank; all in numbers per token.

A tensor that several operations save is counted once: an RMS norm's output is the input of the maps behind it. The
names are those of transformers' Qwen2 and Llama; GPT-2 has its own list. What differs between precisions and between
full fine-tuning and LoRA:
1. A norm computes in float32: under bfloat16 it saves a float32 copy of its input, in float32 the input itself.
2. A map whose weight is frozen saves nothing. An adapter saves its map's input, in float32, since adapters are: under
   bfloat16 each of them makes a copy of its own.
3. A norm's weight, where it is trained, wants the normalised input too.
4. By the kernels (`gruppo.rollout.parts`), on a CPU, a norm saves its input as it is, and its roots; a gated MLP saves
   gate and up, and not silu(gate). Rotary embedding saves the angles, which all layers share, with them and without.
"""

from collections.abc import Mapping

from gruppo.config.model_shape import ModelShape
from gruppo.planner.models import adapted

FLOAT32 = 4
LANES = 16
"""Norms of so many numbers, or a multiple, are computed by the kernel."""
OTHER_MLPS = ("gemma", "phi", "mixtral")
"""Families whose MLPs the kernel does not take: another activation, gate and up in one map, or experts."""


def saved_bytes(
    shape: ModelShape, size: int, lora_rank: int, targets: tuple[str, ...], *, kernels: bool = False
) -> Mapping[str, float]:
    """Bytes that one layer saves of one token, by tensor.

    Args:
        shape: the model.
        size: bytes of a number in the model's precision.
        lora_rank: 0: every weight is trained.
        targets: what LoRA adapts.
        kernels: norms and gated MLPs go by the kernels, where those take them.
    """
    if shape.family == "gpt2":
        return _gpt2(shape, size)
    maps = adapted(shape, targets) if lora_rank else {}
    return {
        **_norms(shape, size, lora_rank, maps, kernels),
        **_attention(shape, size),
        **_mlp(shape, size, lora_rank, maps, kernels),
    } | (_adapters(size, lora_rank, maps) if lora_rank else {})


def _norms(shape: ModelShape, size: int, rank: int, maps: Mapping[str, object], kernels: bool) -> dict[str, float]:
    """Two norms by D, and those of queries and keys where the family has them."""
    count = 4 if shape.family.startswith(("gemma2", "gemma3")) else 2
    width = shape.hidden
    kernels = kernels and not shape.family.startswith("gemma")  # whose norms multiply by 1 + weight
    whole = kernels and width % LANES == 0
    found = {"norm inputs": float(count * width * (size if whole else FLOAT32)), "norms' roots": count * FLOAT32}
    if not rank:
        found["normalised, before the norm's weight"] = 0 if whole else count * width * size
        found["norm outputs = inputs of q, k, v, gate, up"] = 2 * width * size
    elif size == FLOAT32:
        readers = [{"q_proj", "k_proj", "v_proj"}, {"gate_proj", "up_proj"}]
        found["norm outputs = inputs of adapters"] = sum(width * size for names in readers if names & set(maps))
    if shape.family.startswith("qwen3"):
        heads = shape.heads + shape.kv_heads
        both, whole = heads * shape.head_size, kernels and shape.head_size % LANES == 0
        found["q and k norm inputs, roots"] = both * (size if whole else FLOAT32) + heads * FLOAT32
        found["q and k normalised"] = 0 if rank or whole else both * size
    return found


def _attention(shape: ModelShape, size: int) -> dict[str, float]:
    queries, keys = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    return {
        "queries after rotation": queries * size,
        "keys after rotation, values": 2 * keys * size,
        "attention output = input of o": queries * size,
        "log-sum-exps": shape.heads * FLOAT32,
    }


def _mlp(shape: ModelShape, size: int, rank: int, maps: Mapping[str, object], kernels: bool) -> dict[str, float]:
    taken = kernels and not shape.family.startswith(OTHER_MLPS) and "moe" not in shape.family
    found: dict[str, float] = {"gate, its activation if kept, up": (2 if taken else 3) * shape.inner * size}
    if not rank or (size == FLOAT32 and "down_proj" in maps):
        found["product = input of down"] = shape.inner * size
    return found


def _adapters(size: int, rank: int, maps: Mapping[str, tuple[int, int]]) -> dict[str, float]:
    found: dict[str, float] = {"between the adapters' factors": len(maps) * rank * FLOAT32}
    if size != FLOAT32:
        found["adapters' inputs, a float32 copy each"] = sum(inputs for inputs, _ in maps.values()) * FLOAT32
    return found


def _gpt2(shape: ModelShape, size: int) -> dict[str, float]:
    width, inner = shape.hidden, shape.inner
    return {
        "norm inputs": 2 * width * size,
        "norm outputs = inputs of c_attn, c_fc": 2 * width * size,
        "queries, keys, values": 3 * width * size,
        "attention output = input of c_proj": width * size,
        "log-sum-exps": shape.heads * FLOAT32,
        "c_fc, its activation and what that keeps": 5 * inner * size,
    }


def masked_attention_bytes(shape: ModelShape, size: int, tree: float) -> float:
    """What attention on a GPU saves of a token and layer beside the above: keys and values repeated for every query
    head, the output before it is joined, and the row of its mask over the `tree` tokens of its tree."""
    queries, keys = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    repeated = 2 * (queries - keys) * size if shape.kv_heads < shape.heads else 0
    return repeated + queries * size + tree * size


def in_flight_bytes(shape: ModelShape, size: int) -> float:
    """Gradients of one token alive while the backward pass goes through an MLP: of product, up and activation, of
    the residual stream and of the norm's input in float32."""
    return 3 * shape.inner * size + shape.hidden * (2 * size + FLOAT32)
