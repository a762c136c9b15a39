"""Peak memory of a run, part by part, as gruppo's own code holds it.

Legend: P prompts, G completions each, L tokens of the largest micro-batch, n tokens of a piece of logits, V vocabulary,
D hidden size.

Sampling and update take turns in one process and share the weights, so the peak is the larger of the two, and each
has moments of its own. What holds in both: weights, float32 masters (bfloat16 alone), the optimizer's moments, a
reference policy, a copy of the weights for rollouts. Gradients live from a backward pass to the optimizer's step.

Update (`gruppo.training`), moment by moment:
    head      activations of L tokens, logits of n, and the gradient of the output layer on its way
    backward  activations of L tokens, gradients in flight through a layer
    optimizer all gradients, and what the step computes on the way
Sampling (`gruppo.planner.rollouts`): keys and values, logits of a step, on a CPU a packed copy of the linear maps; or
what vLLM takes.

Limits: mixtures of experts and models that attend by waves or padded rows are rough; the memory of a process before
it has loaded a model is not counted, nor what an allocator loses between blocks.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from gruppo.config.model_shape import ModelShape
from gruppo.config.schema import Config
from gruppo.planner.activations import in_flight_bytes, masked_attention_bytes, saved_bytes
from gruppo.planner.devices import Device
from gruppo.planner.models import SIZES, adapter_parameters, embedding, linear_layers
from gruppo.planner.rollouts import held_by_engine, rollout_precision, while_sampling
from gruppo.planner.workload import Workload, largest_micro_batch

Parts = Mapping[str, float]
NF4 = 0.5 + 1 / 64 + 1 / 64 / 256 * 4
"""Bytes of a weight in 4 bits: a scale of 8 bits to 64 weights, and one of 32 bits to 256 of those."""
EIGHT_BIT = 1 + 4 / 256
"""Bytes of a moment in 8 bits: a scale to 256 of them."""
PIECE = {True: 2**22, False: 2**26}
"""Logits of a piece on a CPU, and elsewhere (`gruppo.training.head`)."""
FEWEST = 256
"""Tokens of a piece at the least."""
NARROW = 64
"""Width of a model whose micro-batches take twice the tokens on a CPU."""
PROMPTS = 2
"""Prompts whose tokens a micro-batch takes at the least."""
KEPT = "kept by malloc"
RETURNED = 32 * 2**20
"""Bytes from which glibc gives a block back."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on one device by part, at the worst moment of each half of a step."""

    sampling: Parts
    update: Parts
    reward_models: float = 0.0
    """Weights of reward models on the same device."""

    @property
    def sampling_peak(self) -> float:
        """The most while sampling."""
        return sum(self.sampling.values()) + self.reward_models

    @property
    def update_peak(self) -> float:
        """The most while updating."""
        return sum(self.update.values()) + self.reward_models

    @property
    def peak(self) -> float:
        """The most in all."""
        return max(self.sampling_peak, self.update_peak)


def token_budget(config: Config, shape: ModelShape, on_cpu: bool, prompt: float = 0) -> int:
    """Tokens of a micro-batch, as `gruppo.training.packing` has them with so long a prompt."""
    most = min((2_048 if shape.hidden > NARROW else 4_096) if on_cpu else 16_384, 2**27 // shape.vocabulary)
    return config.micro_batch_tokens or max(256, most, PROMPTS * round(prompt))


def trainable_parameters(config: Config, shape: ModelShape) -> int:
    """Parameters that training moves."""
    if config.lora_rank:
        return adapter_parameters(shape, config.lora_rank, config.lora_targets)
    return shape.parameters


def forecast_memory(config: Config, shape: ModelShape, work: Workload, device: Device) -> Memory:
    """Peak memory on one device of `device.count`, over which weights and what belongs to them are spread."""
    held = {name: value / device.count for name, value in _held(config, shape).items()}
    held |= held_by_engine(config, shape, device)
    share = _share(work, device.count)
    sampling, update = while_sampling(config, shape, share, device), _update(config, shape, share, device)
    if device.is_cpu and config.engine == "local":
        kept = _kept_by_malloc(shape, SIZES[rollout_precision(config)], sampling, update)
        sampling, update = sampling | {KEPT: kept[1]}, update | {KEPT: kept[0]}
    return Memory(sampling=held | sampling, update=held | update)


def _kept_by_malloc(shape: ModelShape, size: int, sampling: Parts, update: Parts) -> tuple[float, float]:
    """What stays resident of sampling while updating, and the other way round, though it is free.

    glibc gives a block back to the system at once if it has 32 MB or more; smaller ones leave holes, which the other
    half of a step, with blocks of other sizes, rarely fills. The output layer's blocks are left out as the largest.
    """
    packed = shape.hidden * shape.inner * size
    output = embedding(shape) * size
    small = sampling["KV cache"] + sampling["packed weights"] - (output if sampling["packed weights"] > output else 0.0)
    of_sampling = small if packed < RETURNED else sampling["KV cache"]
    of_update = update["activations"] + max(0.0, update["gradients"] - embedding(shape) * 4)
    return of_sampling, of_update if packed < RETURNED else 0.0


def _share(work: Workload, count: int) -> Workload:
    """What one of `count` devices does of a step."""
    return work if count == 1 else replace(work, prompts=max(1, -(-work.prompts // count)))


def _held(config: Config, shape: ModelShape) -> dict[str, float]:
    """What is there from the first step on."""
    size = SIZES[config.precision]
    trained = trainable_parameters(config, shape)
    adapters = trained if config.lora_rank else 0
    return {
        "weights": _weights(config, shape, size),
        "adapters": adapters * 4,
        "master weights": 0 if size == 4 or adapters else trained * 4,
        "optimizer": _moments(config, shape, trained),
        "reference policy": trained * (4 if adapters else size) if config.wants_reference else 0,
    }


def _weights(config: Config, shape: ModelShape, size: int) -> float:
    if config.quantize != "4bit":
        return shape.parameters * size
    maps = shape.layers * sum(a * b for a, b in linear_layers(shape).values())
    return maps * NF4 + (shape.parameters - maps) * size


def _moments(config: Config, shape: ModelShape, trained: int) -> float:
    match config.optimizer:
        case "adamw":
            return trained * 8
        case "adamw_8bit":
            return trained * 2 * EIGHT_BIT
        case "muon":
            maps = shape.layers * sum(a * b for a, b in linear_layers(shape).values())
            matrices = trained if config.lora_rank else maps
            return matrices * 4 + (trained - matrices) * 8


# ---- update


def _update(config: Config, shape: ModelShape, work: Workload, device: Device) -> dict[str, float]:
    """The moment with the most."""
    size = SIZES[config.precision]
    trained = trainable_parameters(config, shape) / device.count
    padded = config.plain
    budget = token_budget(config, shape, device.is_cpu, work.prompt_tokens)
    if padded:
        tokens = min(budget // work.longest or 1, work.completions) * work.longest
        micro_batches = -(-work.completions // max(1, budget // work.longest))
    else:
        tokens, micro_batches = largest_micro_batch(work, budget)
    # In the only micro-batch, gradients grow while activations shrink: at the peak there are those of the output layer.
    # On a CPU the room that shrinking leaves is not given back (`_kept_by_malloc`), so they come on top all the same.
    only = 0 if config.lora_rank else embedding(shape) * 4
    gradients = trained * 4 if micro_batches > 1 or device.is_cpu else only
    kept = _activations(config, shape, work, device, tokens, size)
    hidden = 2 * tokens * shape.hidden * size
    logits, beyond = _logits(config, shape, tokens, size, device, padded)
    gathered = 0.0 if device.count == 1 else 2 * shape.parameters / shape.layers * size
    in_flight = tokens * in_flight_bytes(shape, size)
    # glibc keeps small blocks of a backward pass, whose room the pieces' logits don't fill (`_kept_by_malloc`).
    beside = in_flight if device.is_cpu and tokens * shape.inner * size < RETURNED else 0.0
    moments = {
        "head": {
            "gradients": gradients,
            "activations": kept + hidden,
            "logits": logits,
            "on its way": beyond + gathered + beside,
        },
        "backward": {
            "gradients": gradients,
            "activations": kept + hidden,
            "logits": 0.0,
            "on its way": in_flight + gathered,
        },
        "optimizer": {
            "gradients": trained * 4,
            "activations": 0.0,
            "logits": 0.0,
            "on its way": _optimizer_step(config, shape, trained, device),
        },
    }
    return max(moments.values(), key=lambda parts: sum(parts.values()))


def _activations(config: Config, shape: ModelShape, work: Workload, device: Device, tokens: int, size: int) -> float:
    """What autograd keeps of a micro-batch: by layer, and of the last norm."""
    kernels = device.is_cpu and not config.plain
    each = sum(saved_bytes(shape, size, config.lora_rank, config.lora_targets, kernels=kernels).values())
    if not device.is_cpu:
        tree = min(tokens, work.prompt_tokens + work.group_size * work.completion_tokens)
        each += masked_attention_bytes(shape, size, tree)
    boundary = shape.hidden * size
    if config.gradient_checkpointing:
        return tokens * (shape.layers * boundary + each)
    last = shape.hidden * (2 * size if kernels else 4 + 2 * size)
    return tokens * (shape.layers * each + last)


def _logits(
    config: Config, shape: ModelShape, tokens: int, size: int, device: Device, padded: bool
) -> tuple[float, float]:
    """Logits of a piece with what is computed of them, and what the output layer's gradient takes beyond that.

    By the kernel on a CPU the logits are all there is: their gradient is written over them. Else the forward pass holds
    the logits, their log-softmax and the products of an entropy, in float32; under bfloat16 the logits themselves
    beside a float32 copy. The backward pass holds two thirds of that. The gradient [V, D] is there until it is added to
    the others. Padded rows have all their logits at once.
    """
    piece = tokens if padded else min(tokens, max(FEWEST, PIECE[device.is_cpu] // shape.vocabulary))
    copies = 3 + padded
    exact = config.wants_reference and config.kl_estimator in ("exact", "exact_forward")
    if exact:
        copies += 4
    each = piece * shape.vocabulary
    gradient = 0 if config.lora_rank else embedding(shape) * size
    if device.is_cpu and not padded and not exact:
        return each * size, gradient
    return each * (copies * 4 + (size if size == 2 else 0)), max(0.0, gradient - 8.0 * each)


def _optimizer_step(config: Config, shape: ModelShape, trained: float, device: Device) -> float:
    """On a GPU the roots of all second moments at once; on a CPU two numbers for each weight of the largest tensor."""
    if config.optimizer == "adamw_8bit":
        return 0.0
    if not device.is_cpu:
        return trained * 4
    largest = shape.inner * config.lora_rank if config.lora_rank else max(embedding(shape), shape.hidden * shape.inner)
    return 2 * 4 * largest
