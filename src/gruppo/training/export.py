"""The weights of a model in training as a saved model has them, tensor by tensor."""

from collections.abc import Iterator

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn


@torch.no_grad()
def exported_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every weight under its plain name: adapters merged in, a tied weight under each of its names.

    A plain weight is the model's own tensor, not a copy. A merged one is rounded to the model's precision once, after
    the sum in float32.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    adapted = {f"{name}.weight": part for name, part in base.named_modules() if isinstance(part, LoraLayer)}
    for name, tensor in base.named_parameters(remove_duplicate=False):
        if ".lora_" in name:
            continue
        plain = name.replace(".base_layer.", ".")
        yield plain, _merged(tensor, adapted[plain]) if plain in adapted else tensor.detach()


def _merged(weight: Tensor, part: LoraLayer) -> Tensor:
    total = weight.float()
    for adapter in part.active_adapters:
        total = total + part.get_delta_weight(adapter).float()  # pyright: ignore[reportAttributeAccessIssue]
    return total.to(weight.dtype)
