"""Memory of the rollouts, by engine: the local one on the trainer's weights or on a copy, or vLLM beside the trainer.

Where vLLM has a url of its own, it is another's machine or another's business, and nothing of it is counted here.

Legend: V vocabulary.
"""

from gruppo.config.model_shape import ModelShape
from gruppo.config.schema import Config
from gruppo.planner.devices import GIB, Device
from gruppo.planner.models import SIZES, embedding, linear_layers
from gruppo.planner.workload import Workload

PACK_FROM = 16
"""Longest completion, tokens, from which a CPU packs weights (`gruppo.rollout.continuous`)."""
PACKED_FROM = 2**10
"""Weights of a linear map from which it does for our own kernel (`gruppo.rollout.packed_weights`)."""
FIRST = 192
"""Positions that a row has from the start, where completions may become so long (`gruppo.rollout.continuous`)."""
SHARED_TOKENS = 64
SHARED_ROWS = 4
"""A prompt of more tokens than these, of a group of so many, is kept once (`gruppo.rollout.shared_prompts`)."""
WINDOWED = ("gemma2", "gemma3", "gpt_oss")
"""Families whose layers attend in windows, with caps or sinks: their prompts are kept in every row."""
MOST_LIVE = 256
"""Completions decoded at a time where the config leaves it open and memory is not short."""
SAMPLING_CHUNK = 2**22
"""Logits that the sampler works on at a time (`gruppo.rollout.sampling`)."""
VLLM_SHARE = 0.4
"""Of a GPU, for the weights and the KV cache of a vLLM that the run starts (`gruppo.rollout.vllm.settings`)."""
VLLM_CPU_GIB = 1.0
"""Of KV cache on a CPU."""


def rollout_precision(config: Config) -> str:
    """The arithmetic that rollouts are computed in."""
    return config.rollout_precision or config.precision


def starts_vllm(config: Config) -> bool:
    """Whether the run has a vLLM of its own on this machine."""
    return config.engine == "vllm" and config.vllm_url in (None, "launch")


def held_by_engine(config: Config, shape: ModelShape, device: Device) -> dict[str, float]:
    """What an engine holds beside the trainer in both halves of a step; of one device."""
    if config.engine == "local":
        copied = shape.parameters * SIZES[rollout_precision(config)] if config.rollouts_differ else 0
        return {"rollout copy": copied / device.count}
    return {} if _sleeps(config, device) else _vllm(config, shape, device)


def while_sampling(config: Config, shape: ModelShape, work: Workload, device: Device) -> dict[str, float]:
    """What is there only while completions are drawn; of one device."""
    if config.engine == "vllm":
        return _vllm(config, shape, device) if _sleeps(config, device) else {}
    size = SIZES[rollout_precision(config)]
    rows = live_rows(config, work)
    packs = device.is_cpu and work.longest_completion >= PACK_FROM
    cache = cached_tokens(config, shape, work, device) * token_bytes(shape, size)
    logits = rows * shape.vocabulary * size + 3 * 4 * min(
        rows * shape.vocabulary, max(SAMPLING_CHUNK, shape.vocabulary)
    )
    gathered = 0.0 if device.count == 1 else shape.parameters * size * (1 - 1 / device.count)
    return {
        "packed weights": packed_weights(shape) * size if packs else 0,
        "gathered weights": gathered,
        "KV cache": cache + cache / shape.layers,  # one layer is copied while the cache grows
        "logits": logits,
        "activations": _prefill(shape, work, size),
    }


def _sleeps(config: Config, device: Device) -> bool:
    """vLLM in the trainer's process gives its memory of a GPU back for the update; a server of its own keeps it."""
    return starts_vllm(config) and config.vllm_url is None and not device.is_cpu


def _vllm(config: Config, shape: ModelShape, device: Device) -> dict[str, float]:
    """A second copy of the weights and vLLM's KV cache; beside a server on a CPU, the files that weights go by."""
    if not starts_vllm(config):
        return {}
    weights = shape.parameters * SIZES[rollout_precision(config)] / device.count
    if not device.is_cpu:
        share = (config.engine_memory or VLLM_SHARE) * device.memory
        return {"vLLM's weights": weights, "vLLM's KV cache": max(0.0, share - weights)}
    cache = max(1, round(config.engine_memory or VLLM_CPU_GIB)) * GIB
    files = 2 * shape.parameters * SIZES[config.precision] if config.vllm_url == "launch" else 0
    return {"vLLM's weights": weights, "vLLM's KV cache": cache, "weights on their way to vLLM": files}


# ---- the local engine's cache


def live_rows(config: Config, work: Workload) -> int:
    """Slots of the cache: a multiple of 4. Where the memory is short a run finds fewer by itself; not foreseen here."""
    return -(-min(config.max_live_completions or MOST_LIVE, work.completions) // 4) * 4


def token_bytes(shape: ModelShape, size: int) -> int:
    """Keys and values of a token in all layers."""
    return shape.layers * 2 * shape.kv_heads * shape.head_size * size


def cached_tokens(config: Config, shape: ModelShape, work: Workload, device: Device) -> int:
    """Tokens that the cache has room for: those of each row, and on a CPU prompts kept once for the rows of a group.

    On a GPU decode steps are captured, which wants prompts in their rows (`gruppo.rollout.graphs`).
    """
    rows, prompt = live_rows(config, work), round(work.prompt_tokens)
    plainly = device.is_cpu and not config.plain and not shape.family.startswith(WINDOWED)
    if not (plainly and prompt > SHARED_TOKENS and work.group_size >= SHARED_ROWS):
        return rows * slot_width(prompt - 1, work.longest_completion)
    groups = min(work.prompts, -(-rows // work.group_size))
    return rows * slot_width(0, work.longest_completion) + groups * (prompt - 1)


def slot_width(before: int, completion: int) -> int:
    """Positions of a row in the end, as the cache grows by half at a time, from `FIRST` on.

    Args:
        before: tokens of its prompt that stand in the row, its last one left out.
        completion: the longest, tokens.
    """
    last, most = round_up(before + completion), round_up(before + 1 + completion)
    width = min(most, round_up(max(before + 1, FIRST)))
    while width < last:
        width = min(most, round_up(max(width + 1, width * 3 // 2)))
    return width


def round_up(positions: int) -> int:
    """As `gruppo.rollout.slots` rounds the width of its cache."""
    width = -(-positions // 64) * 64
    return 384 if 192 < width < 384 else width


def packed_weights(shape: ModelShape) -> int:
    """Numbers in the packed copies of a model's linear maps, output layer included; GPT-2's are of another kind."""
    maps = {} if shape.family == "gpt2" else linear_layers(shape)
    layers = shape.layers * sum(a * b for a, b in maps.values() if a * b >= PACKED_FROM)
    return layers + (embedding(shape) if embedding(shape) >= PACKED_FROM else 0)


def _prefill(shape: ModelShape, work: Workload, size: int) -> float:
    """A prompt on its way through a layer: residual stream, its float32 copy, the MLP's three."""
    return work.prompt_tokens * (3 * shape.inner * size + shape.hidden * (3 * size + 4))
