"""Whether a model fits the slots: found by running it, since some architectures are wrong there without an error.

A model fits where every layer asks the slots' attention once, with the window that its config names, and where two
rows of different lengths get the logits of the model's own forward, with prompts in their slots and kept once beside
them. The others decode in waves.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gruppo.rollout.slot_model import Prompt, SlotModel
from gruppo.rollout.slots import round_up

TOLERANCE = 1e-4
"""Difference of logits in float32, times the largest logit where that is above 1."""
TOLERANCE_HALF = 0.1
"""The same in bfloat16 and float16."""
LENGTHS = (3, 6)
"""Prompts of the check; two more tokens each are decoded."""


def misfit(model: nn.Module) -> str | None:
    """Why a model can't decode in slots, or None where it can. Costs a few short forwards."""
    try:
        return _layers_misfit(model) or _logits_misfit(model)
    except Exception as error:  # any architecture may come here, and fail in any way
        text = str(error).strip()
        return f"{type(error).__name__}: {text.splitlines()[0] if text else 'without a message'}"


def _windows(model: nn.Module) -> list[int | None] | str:
    """The window of each layer by the config, or why slots can't do what it names."""
    config: Any = model.config
    config = config.get_text_config()
    layers = config.num_hidden_layers
    window = getattr(config, "sliding_window", None)
    types = getattr(config, "layer_types", None)
    if types is None:
        if getattr(config, "attention_chunk_size", None) is not None:
            return "attention in chunks"
        return [window] * layers
    other = sorted(set(types) - {"full_attention", "sliding_attention"})
    if other:
        return f"layers of kind {other[0]}"
    return [window if kind == "sliding_attention" else None for kind in types]


def _layers_misfit(model: nn.Module) -> str | None:
    if not getattr(model, "_supports_attention_backend", True):
        return "the architecture has attention of its own"
    windows = _windows(model)
    return windows if isinstance(windows, str) else None


def _logits_misfit(model: nn.Module) -> str | None:
    config: Any = model.config
    generator = np.random.default_rng(0)
    vocabulary = config.get_text_config().vocab_size
    sequences = [generator.integers(0, vocabulary, length + 2) for length in LENGTHS]
    decoder = SlotModel(model)
    own = _own_logits(model, sequences, decoder.device)
    for shared in (False, True) if decoder.can_share else (False,):
        found, seen = _decoded(decoder, sequences, shared)
        if any(windows != _windows(model) for windows in seen):
            return f"its layers attended {len(seen[0])} times with windows {sorted(set(map(str, seen[0])))}"
        reason = _difference(found, own)
        if reason is not None:
            return reason
    return None


def _decoded(decoder: SlotModel, sequences: list[np.ndarray], shared: bool) -> tuple[Tensor, list[list[int | None]]]:
    """[sequences, 2, V] logits of the last two tokens of each, and the windows of every call."""
    cache = decoder.new_cache()
    cache.reserve(decoder.rows_step, round_up(max(LENGTHS) + 2))
    keys = [(0, tuple(ids[: length + 1].tolist())) if shared else None for ids, length in zip(sequences, LENGTHS)]
    prompts = [
        Prompt(ids[:length].tolist(), () if shared else (row,), keys[row])
        for row, (ids, length) in enumerate(zip(sequences, LENGTHS, strict=True))
    ]
    decoder.prefill(cache, prompts)
    seen = [[form.window for form in cache.forms_seen]]
    lengths = np.zeros(len(LENGTHS), dtype=np.int64) if shared else np.array(LENGTHS)
    found: list[Tensor] = []
    for step in range(2):
        tokens = np.array([ids[length + step] for ids, length in zip(sequences, LENGTHS, strict=True)])
        width = round_up(int(lengths.max()) + step + 1)
        found.append(decoder.decode(cache, tokens, lengths + step, width, keys if shared else ()))
        seen.append([form.window for form in cache.forms_seen])
    return torch.stack(found, dim=1), seen


@torch.inference_mode()
def _own_logits(model: nn.Module, sequences: list[np.ndarray], device: torch.device) -> Tensor:
    """[sequences, 2, V], one sequence at a time through the model as it is."""
    inputs = [torch.from_numpy(ids)[None].to(device) for ids in sequences]
    return torch.cat([model(input_ids=ids, use_cache=False).logits[:, -2:] for ids in inputs])


def _difference(found: Tensor, own: Tensor) -> str | None:
    allowed = TOLERANCE if own.dtype == torch.float32 else TOLERANCE_HALF
    allowed *= max(1.0, float(own.abs().max()))
    off = float((found.float() - own.float()).abs().max())
    if off <= allowed or not bool(torch.isfinite(own).all()):
        return None  # weights that are not finite are named when a token is drawn
    return f"its logits are off by {off:.1e}"
