"""The reference policy: the weights that the KL penalty holds the policy to."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class ReferencePolicy:
    """The trainable weights as they were at the start of GRPO, swapped in while reference log-probs are taken.

    Whatever is frozen is shared with the policy: a fresh LoRA adapter costs its own size (it then is the base
    model, since an adapter starts at zero), an adapter that SFT has trained is kept as it came, full fine-tuning
    keeps a second set of weights.
    """

    def __init__(self, model: nn.Module) -> None:
        self._trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._frozen = {name: p.detach().clone() for name, p in self._trainable.items()}

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """The model is the reference policy inside the block."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, parameter in self._trainable.items():
            parameter.data, self._frozen[name] = self._frozen[name], parameter.data

    @torch.no_grad()
    def refresh(self, decay: float) -> None:
        """Move the reference to the policy: decay x reference + (1 - decay) x policy; 0 copies the policy."""
        for name, parameter in self._trainable.items():
            if decay == 0.0:
                self._frozen[name].copy_(parameter)
            else:
                self._frozen[name].lerp_(parameter, 1.0 - decay)

    def state_dict(self) -> dict[str, Tensor]:
        """The frozen weights."""
        return dict(self._frozen)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take frozen weights from a checkpoint."""
        for name, tensor in state.items():
            self._frozen[name].copy_(tensor)
