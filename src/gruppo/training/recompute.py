"""Gradient checkpointing: activations inside the layers are dropped, and recomputed in the backward pass.

transformers recomputes a layer only in training mode, where it also takes the KV cache away. Models here are in
evaluation mode, for no dropout, and the local engine samples from the same model with a cache. So before each
forward pass the layers themselves, and none of their parts, are put into training mode if gradients are being
recorded, and out of it if not.
"""

from collections.abc import Sequence

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from gruppo.errors import ModelError


def recompute_activations(model: PreTrainedModel | PeftModel) -> None:
    """Turn gradient checkpointing on, for forward passes that record gradients.

    Adapters over a frozen base need no more: embeddings whose output has no gradient are a trouble of reentrant
    checkpointing, which this is not.

    Raises:
        ModelError: the model's class can't.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    assert isinstance(base, PreTrainedModel)
    layers = [part for part in base.modules() if isinstance(part, GradientCheckpointingLayer)]
    if not layers or not base.supports_gradient_checkpointing:
        raise ModelError(f"gradient_checkpointing: {type(base).__name__} can't recompute its layers; say false")
    base.gradient_checkpointing_enable({"use_reentrant": False})
    base.disable_input_require_grads()
    for layer in layers:
        _forbid_dropout(layer)
    base.register_forward_pre_hook(_RecomputeWithGradients(layers))


class _RecomputeWithGradients:
    """Before a forward pass: the layers recompute if gradients are recorded. An object, so that copies follow."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        self._layers = list(layers)

    def __call__(self, module: nn.Module, inputs: tuple[object, ...]) -> None:
        recompute = torch.is_grad_enabled()
        for layer in self._layers:
            layer.training = recompute


def _forbid_dropout(layer: nn.Module) -> None:
    """Some layers drop by their own mode and rate, not through a part that stays in evaluation mode."""
    for name, value in vars(layer).items():
        if "dropout" in name and isinstance(value, float):
            setattr(layer, name, 0.0)
