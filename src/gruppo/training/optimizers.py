"""Optimizers: AdamW, AdamW with 8-bit moments, Muon on the matrices of the layers; float32 masters under bfloat16."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer
from torch.utils.hooks import RemovableHandle

from gruppo.config.schema import OptimizerFields
from gruppo.training.quantization import import_bitsandbytes

ADAM_EPSILON = 1e-8
"""Added to the root of the second moment; said, since libraries may change their defaults."""


PIECE = 2**16
"""Numbers of a gradient that are cast at a time on a CPU, where they stay in its cache."""


class MasterWeights:
    """float32 copies of the trainable parameters of a model that computes in less.

    The optimizer steps on the copies. Gradients are added up in float32 as they come, micro-batch by micro-batch,
    and the model's own are dropped at once; after a step the copies are rounded into the model. Parameters that are
    float32 (or float64) already are their own masters.
    """

    def __init__(self, model: nn.Module) -> None:
        self._pairs: list[tuple[nn.Parameter, nn.Parameter]] = []
        self.named: list[tuple[str, nn.Parameter]] = []
        self._hooks: list[RemovableHandle] = []
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            if torch.finfo(parameter.dtype).bits >= 32:
                self.named.append((name, parameter))
                continue
            master = nn.Parameter(parameter.detach().float())
            self._hooks.append(parameter.register_post_accumulate_grad_hook(self._collector(master)))
            self._pairs.append((parameter, master))
            self.named.append((name, master))

    @staticmethod
    def _collector(master: nn.Parameter) -> Callable[[Tensor], None]:
        def collect(parameter: Tensor) -> None:
            assert parameter.grad is not None
            if master.grad is None:
                master.grad = parameter.grad.float()
            else:
                _add(master.grad, parameter.grad)
            parameter.grad = None

        return collect

    def release(self) -> None:
        """Leave the model's gradients to others; the copies are of no use afterwards."""
        for hook in self._hooks:
            hook.remove()

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


def _add(total: Tensor, more: Tensor) -> None:
    """total += more, of another precision, a piece at a time: torch casts the whole first, into fresh memory."""
    if total.device.type != "cpu" or not (total.is_contiguous() and more.is_contiguous()):
        total.add_(more)
        return
    for part, piece in zip(total.view(-1).split(PIECE), more.view(-1).split(PIECE), strict=True):
        part.add_(piece)


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


def build_optimizers(model: nn.Module, fields: OptimizerFields, learning_rate: float) -> OptimizerSet:
    """The optimizers that a stage asks for, over the trainable parameters of the model.

    Args:
        model: trainable parameters marked by requires_grad.
        fields: the stage's own.
        learning_rate: its peak rate; Muon has its own in `fields`.

    Raises:
        ConfigError: adamw_8bit without the package that it needs.
    """
    match fields.optimizer:
        case "adamw":
            return adamw(model, fields, learning_rate)
        case "adamw_8bit":
            return adamw_8bit(model, fields, learning_rate)
        case "muon":
            return muon(model, fields, learning_rate)


def adamw(model: nn.Module, fields: OptimizerFields, learning_rate: float) -> OptimizerSet:
    """AdamW on every trainable parameter (https://arxiv.org/abs/1711.05101); vectors are not decayed."""
    masters = MasterWeights(model)
    optimizer = _adamw([parameter for _, parameter in masters.named], fields, learning_rate)
    return OptimizerSet(masters, [(optimizer, learning_rate)], fields.max_grad_norm)


def adamw_8bit(model: nn.Module, fields: OptimizerFields, learning_rate: float) -> OptimizerSet:
    """AdamW whose moments are kept in 8 bits (https://arxiv.org/abs/2110.02861), through bitsandbytes.

    Each block of 256 values of a moment has a scale of its own, so a moment takes 1.016 bytes a weight in place of 4.
    Tensors below 4,096 values keep float32 moments. Master weights stay as they are with AdamW.

    Raises:
        ConfigError: bitsandbytes isn't installed.
    """
    bitsandbytes = import_bitsandbytes("optimizer: adamw_8bit")
    masters = MasterWeights(model)
    groups = _groups([parameter for _, parameter in masters.named], fields)
    betas = (fields.adam_beta1, fields.adam_beta2)
    optimizer = bitsandbytes.optim.AdamW8bit(groups, lr=learning_rate, betas=betas, eps=ADAM_EPSILON)
    return OptimizerSet(masters, [(optimizer, learning_rate)], fields.max_grad_norm)


def muon(model: nn.Module, fields: OptimizerFields, learning_rate: float) -> OptimizerSet:
    """torch's Muon on the matrices of the layers, AdamW on embeddings, head and vectors.

    Muon: https://kellerjordan.github.io/posts/muon/, its update scaled to AdamW's RMS as in
    https://arxiv.org/abs/2502.16982, so that both rates mean the same.
    """
    masters = MasterWeights(model)
    outer = set(_embedding_names(model))
    matrices = [parameter for name, parameter in masters.named if parameter.dim() == 2 and name not in outer]
    rest = [parameter for name, parameter in masters.named if parameter.dim() != 2 or name in outer]
    peak = fields.muon_learning_rate
    optimizers: list[tuple[Optimizer, float]] = []
    if matrices:
        layers = Muon(matrices, lr=peak, weight_decay=fields.weight_decay, adjust_lr_fn="match_rms_adamw")
        optimizers.append((layers, peak))
    if rest:
        optimizers.append((_adamw(rest, fields, learning_rate), learning_rate))
    return OptimizerSet(masters, optimizers, fields.max_grad_norm)


def _adamw(parameters: list[nn.Parameter], fields: OptimizerFields, learning_rate: float) -> AdamW:
    betas = (fields.adam_beta1, fields.adam_beta2)
    return AdamW(_groups(parameters, fields), lr=learning_rate, betas=betas, eps=ADAM_EPSILON)


def _groups(parameters: list[nn.Parameter], fields: OptimizerFields) -> list[dict[str, Any]]:
    """Matrices, which are decayed, and vectors, which are not; without the group that is empty."""
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": fields.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _embedding_names(model: nn.Module) -> Iterator[str]:
    """Names of the weights of embeddings and of everything directly under the root, which is the head."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) or (isinstance(module, nn.Linear) and "." not in name):
            yield f"{name}.weight"
