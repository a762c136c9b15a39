"""A copy of the trained model in another precision, for rollouts beside a training in float32 (or the reverse)."""

import copy

import torch
from peft import LoraConfig, PeftModel
from transformers import PreTrainedModel
from transformers.initialization import no_init_weights

from gruppo.errors import ModelError
from gruppo.training.export import exported_weights


def rollout_copy(model: PreTrainedModel | PeftModel, dtype: torch.dtype) -> PreTrainedModel:
    """The plain model, adapters merged in, with weights of its own in `dtype`.

    It is built anew from the config and not cast, since casting would also round what models keep in float32 whatever
    their precision (the frequencies of rotary positions).

    Raises:
        ModelError: an adapter whose merging is not a sum (DoRA).
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    assert isinstance(base, PreTrainedModel)
    adapter = model.active_peft_config if isinstance(model, PeftModel) else None
    if isinstance(adapter, LoraConfig) and adapter.use_dora:
        raise ModelError("rollout_precision: the adapter in the model's folder is DoRA; leave rollout_precision unset")
    with no_init_weights():
        made = type(base)._from_config(copy.deepcopy(base.config), dtype=dtype)
    made.tie_weights()
    made.to(base.device)  # pyright: ignore[reportArgumentType]
    made.eval().requires_grad_(False)
    with torch.no_grad():
        own = dict(made.named_parameters(remove_duplicate=False))
        for name, weight in exported_weights(model):
            own[name].copy_(weight)
    return made
