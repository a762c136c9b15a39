"""Weights laid out for few rows: on a CPU, products with packed weights take a third to two thirds of the time.

torch keeps a linear layer's weight row by row, and its products sort it anew each time. A layout made once after each
update spares that. Two of them:

1. That of a kernel of our own (`rollout.layers`), where it is there and the processor made for it.
2. Else oneDNN's. torch has it as internal operators, so what they do is checked once per process and kind of number,
   and without them the layers compute as always.

Limits:
1. Only `torch.nn.Linear` itself, in float32 and bfloat16, on the CPU; the adapters of LoRA are too small to gain.
2. A second copy of these weights is held while completions are drawn, and no longer.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from gruppo.rollout.layers import linear_product, takes_linear

SMALLEST = 2**16
"""Weights of fewer numbers gain nothing with oneDNN: its product costs about 10 microseconds to begin."""
SMALLEST_OWN = 2**10
"""The same with our own kernel."""
DTYPES = (torch.float32, torch.bfloat16)

Product = Callable[[Tensor], Tensor]
Packer = Callable[[Tensor, Tensor | None], Product]


@functools.cache
def available(dtype: torch.dtype) -> bool:
    """Whether this torch packs weights of this kind, and multiplies as it should."""
    if dtype not in DTYPES:
        return False
    generator = torch.Generator().manual_seed(0)
    weight, bias, rows = (torch.randn(*shape, generator=generator).to(dtype) for shape in ((96, 64), (96,), (5, 64)))
    try:
        with torch.inference_mode():
            found = packed_product(weight, bias)(rows)
    except Exception:  # internal operators: absent, or with other arguments, in other versions
        return False
    return torch.allclose(found.float(), linear(rows.float(), weight.float(), bias.float()), atol=0.2, rtol=0.02)


def packed_product(weight: Tensor, bias: Tensor | None) -> Product:
    """x -> x @ weight.T + bias, on a packed copy of the weight."""
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), None)
    multiply = torch.ops.mkldnn._linear_pointwise

    def product(rows: Tensor) -> Tensor:
        return multiply(rows, packed, bias, "none", [], "")

    return product


class PackedWeights:
    """The packed copies of a model's linear layers."""

    def __init__(self, model: nn.Module) -> None:
        packers = {part: packer for part in model.modules() if (packer := _packer(part))}
        self._layers: list[Any] = list(packers)
        self._packers = list(packers.values())
        self._products: list[Product] = []

    @property
    def any(self) -> bool:
        """Whether there are layers to copy."""
        return bool(self._layers)

    @property
    def held(self) -> bool:
        """Whether there are copies."""
        return bool(self._products)

    def pack(self) -> None:
        """Copy the weights as they are now."""
        self.release()
        with torch.inference_mode():
            self._products = [
                pack(layer.weight, layer.bias) for pack, layer in zip(self._packers, self._layers, strict=True)
            ]

    def release(self) -> None:
        """Give the copies back."""
        self._products = []

    def enter(self) -> None:
        """The layers multiply with the copies, if there are any, until `leave`."""
        for layer, product in zip(self._layers, self._products, strict=False):
            layer.__dict__["forward"] = product

    def leave(self) -> None:
        """The layers are their own again."""
        for layer in self._layers:
            layer.__dict__.pop("forward", None)


def _packer(part: nn.Module) -> Packer | None:
    """How a layer is packed, where that pays: a linear layer and no subclass of it, with its own forward."""
    if type(part) is not nn.Linear or "forward" in vars(part):
        return None
    weight = part.weight
    if weight.numel() >= SMALLEST_OWN and takes_linear(weight, part.bias):
        return linear_product
    gains = weight.device.type == "cpu" and weight.numel() >= SMALLEST and available(weight.dtype)
    return packed_product if gains else None
