"""Four bits: the frozen base of QLoRA (https://arxiv.org/abs/2305.14314), and the package that holds 8-bit moments too.

The weights of the layers' linear maps are rounded to NF4, 64 to a block, the blocks' scales to 8 bits; embeddings,
head and vectors stay in the model's precision. What the adapter is trained over is the rounded base, so that is also
what it is merged into: `dequantized` gives the very numbers that the forward pass multiplies with.
"""

import importlib
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig

from gruppo.errors import ConfigError


def import_bitsandbytes(wish: str) -> Any:
    """The package bitsandbytes.

    Args:
        wish: field and value that need it, for the message.

    Raises:
        ConfigError: it isn't installed.
    """
    try:
        return importlib.import_module("bitsandbytes")
    except ImportError as error:
        raise ConfigError(
            f"{wish} needs the package bitsandbytes, which can't be imported ({error}); "
            "install it: `pip install 'gruppo[quant]'`"
        ) from error


def four_bit_settings(dtype: torch.dtype) -> BitsAndBytesConfig:
    """How transformers is to load the base; every choice is said, since defaults differ (FP4, single quantization)."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_quant_storage=torch.uint8,
    )


def four_bit_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """The layers whose weights are in 4 bits, by name; none in a plain model."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and _state_of(module.weight) is not None
    }


def keep_differentiable(model: nn.Module) -> None:
    """Forbid the layout for inference that bitsandbytes puts weights into on CPUs with AVX512-BF16.

    It does so at the first forward without gradient in evaluation mode, which here is the first rollout. From then on
    the layer has no backward, silently, and computes in bfloat16 whatever the precision.
    """
    for layer in four_bit_layers(model).values():
        layer.support_avx512bf16_for_cpu = False  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]


def dequantized(layer: nn.Linear) -> Tensor:
    """[out, in] weights of a 4-bit layer, in the precision that it computes in."""
    functional = import_bitsandbytes("quantize: 4bit").functional
    return functional.dequantize_4bit(layer.weight.data, _state_of(layer.weight))


def size_of(parameter: Tensor) -> int:
    """Weights in a parameter; one in 4 bits is stored as half as many bytes."""
    state = _state_of(parameter)
    return parameter.numel() if state is None else int(state.shape.numel())


def _state_of(parameter: Tensor) -> Any:
    """Scales and shape that bitsandbytes keeps at a parameter in 4 bits; None at a plain one."""
    return getattr(parameter, "quant_state", None)
