"""Optimizers: AdamW, Muon on the matrices of the layers, and float32 master weights under a bfloat16 model."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer

from gruppo.config.schema import OptimizerFields

AdamSettings = OptimizerFields


class MasterWeights:
    """float32 copies of the trainable parameters of a model that computes in less.

    The optimizer steps on the copies. Gradients are added up in float32 as they come, micro-batch by micro-batch,
    and the model's own are dropped at once; after a step the copies are rounded into the model. Parameters that are
    float32 (or float64) already are their own masters.
    """

    def __init__(self, model: nn.Module) -> None:
        self._pairs: list[tuple[nn.Parameter, nn.Parameter]] = []
        self.named: list[tuple[str, nn.Parameter]] = []
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            if torch.finfo(parameter.dtype).bits >= 32:
                self.named.append((name, parameter))
                continue
            master = nn.Parameter(parameter.detach().float())
            parameter.register_post_accumulate_grad_hook(self._collector(master))
            self._pairs.append((parameter, master))
            self.named.append((name, master))

    @staticmethod
    def _collector(master: nn.Parameter) -> Callable[[Tensor], None]:
        def collect(parameter: Tensor) -> None:
            assert parameter.grad is not None
            gradient = parameter.grad.float()
            master.grad = gradient if master.grad is None else master.grad.add_(gradient)
            parameter.grad = None

        return collect

    @torch.no_grad()
    def publish(self) -> None:
        """Round the masters into the model."""
        for parameter, master in self._pairs:
            parameter.copy_(master)

    def state_dict(self) -> dict[str, Tensor]:
        """The float32 weights by parameter name."""
        return {name: parameter.detach() for name, parameter in self.named}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take float32 weights by parameter name, and round them into the model."""
        for name, parameter in self.named:
            parameter.copy_(state[name])
        self.publish()


@dataclass
class OptimizerSet:
    """The optimizers of a stage, stepped as one, each at its own peak rate times a common factor."""

    masters: MasterWeights
    optimizers: list[tuple[Optimizer, float]] = field(default_factory=list[tuple[Optimizer, float]])
    max_grad_norm: float = 1.0

    def step(self, factor: float, *, loss: float = 0.0) -> tuple[float, bool]:
        """Clip, step at `factor` times the peak rates, publish, and clear the gradients.

        Returns:
            The gradient norm before clipping, and whether a step was made: not with a norm or a loss that isn't
            finite, since one NaN would poison the weights for good.
        """
        parameters = [parameter for _, parameter in self.masters.named]
        norm = float(nn.utils.clip_grad_norm_(parameters, self.max_grad_norm))
        finite = math.isfinite(norm) and math.isfinite(loss)
        if finite:
            for optimizer, peak in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = peak * factor
                optimizer.step()
            self.masters.publish()
        self.zero_grad()
        return norm, finite

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for _, parameter in self.masters.named:
            parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        """float32 weights and every optimizer's state."""
        return {
            "weights": self.masters.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer, _ in self.optimizers],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave, in place."""
        self.masters.load_state_dict(state["weights"])
        for (optimizer, _), saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)


def adamw(model: nn.Module, settings: AdamSettings, learning_rate: float) -> OptimizerSet:
    """AdamW on every trainable parameter (https://arxiv.org/abs/1711.05101); vectors are not decayed."""
    masters = MasterWeights(model)
    optimizer = _adamw([parameter for _, parameter in masters.named], settings, learning_rate)
    return OptimizerSet(masters, [(optimizer, learning_rate)], settings.max_grad_norm)


def muon(model: nn.Module, settings: AdamSettings, learning_rate: float, muon_learning_rate: float) -> OptimizerSet:
    """torch's Muon on the matrices of the layers, AdamW on embeddings, head and vectors.

    Muon: https://kellerjordan.github.io/posts/muon/, its update scaled to AdamW's RMS as in
    https://arxiv.org/abs/2502.16982, so that both rates mean the same.
    """
    masters = MasterWeights(model)
    outer = set(_embedding_names(model))
    matrices = [parameter for name, parameter in masters.named if parameter.dim() == 2 and name not in outer]
    rest = [parameter for name, parameter in masters.named if parameter.dim() != 2 or name in outer]
    optimizers: list[tuple[Optimizer, float]] = [
        (
            Muon(
                matrices,
                lr=muon_learning_rate,
                weight_decay=settings.weight_decay,
                adjust_lr_fn="match_rms_adamw",
            ),
            muon_learning_rate,
        )
    ]
    if rest:
        optimizers.append((_adamw(rest, settings, learning_rate), learning_rate))
    return OptimizerSet(masters, optimizers, settings.max_grad_norm)


def _adamw(parameters: list[nn.Parameter], settings: AdamSettings, learning_rate: float) -> AdamW:
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    betas = (settings.adam_beta1, settings.adam_beta2)
    return AdamW([group for group in groups if group["params"]], lr=learning_rate, betas=betas)


def _embedding_names(model: nn.Module) -> Iterator[str]:
    """Names of the weights of embeddings and of everything directly under the root, which is the head."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) or (isinstance(module, nn.Linear) and "." not in name):
            yield f"{name}.weight"
