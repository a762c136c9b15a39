"""Seconds of one step: G x generate + G x reward + update.

Legend: P prompts, G completions each, T tokens that an update reads, N tokens that carry a loss, n rows of a decode
step, V vocabulary, D hidden size.

Every part is counted as operations over a rate plus bytes over a bandwidth plus calls, and a trial on the machine
(`--measured`) corrects each part by what it took over what it is computed to take. Without a trial the shares below
say how much of a device's peak is reached; those of GPUs are assumptions and not measured, and a factor of two off is
no surprise.
"""

from dataclasses import dataclass, replace

from gruppo.config.model_shape import ModelShape
from gruppo.config.schema import Config
from gruppo.planner.activations import saved_bytes
from gruppo.planner.devices import Device
from gruppo.planner.measured import Measured
from gruppo.planner.memory import token_budget, trainable_parameters
from gruppo.planner.models import SIZES, embedding, layer_parameters
from gruppo.planner.rollouts import live_rows, rollout_precision
from gruppo.planner.workload import Workload, largest_micro_batch, trial_of

GPU_PRODUCTS = 0.4
"""Share of a GPU's peak that the update's products reach."""
GPU_DECODE = 0.5
"""Share of it that a decode step's products reach, where they and not the weights' way are the limit."""
GPU_BANDWIDTH = 0.7
LAYER_CALL = {True: 3e-4, False: 5e-4}
"""Seconds that a layer takes at the least to be called (Python, launches): on a CPU, and on a GPU."""
ADAPTED_CALL = 1.7
"""Times as long with adapters beside its maps."""
BACKWARD_CALLS = 3
"""Calls of a layer's forward pass that its forward and backward pass take."""
ADAM_BYTES = 56
"""Bytes that a step of AdamW moves for each weight: gradient, both moments and the weight, several times over."""
SOFTMAX_PASSES = 8
"""Times that an update goes over its logits in float32."""
ELEMENTWISE_PASSES = 4
"""Times that an update goes over what it saves for the backward pass: written, read, its gradient written and read."""
SAMPLING_PASSES = 4
"""Times that the sampler goes over a step's logits in float32."""
REWARD_SECONDS = 0.002
"""Of one completion, where nothing was measured: a verifier in a worker process."""
TOGETHER = 0.85
"""Share of a GPU's speed that is left where several work together."""


@dataclass(frozen=True, slots=True)
class Seconds:
    """One step, and a step of plain SFT on demonstrations of the same length."""

    sampling: float
    reward: float
    update: float
    sft: float
    """On as many demonstrations as there are completions, each with a prompt of its own."""
    sft_of_prompts: float
    """On one demonstration a prompt."""

    @property
    def step(self) -> float:
        """All of a GRPO step."""
        return self.sampling + self.reward + self.update

    @property
    def over_sft(self) -> float:
        """How many times an SFT step on as many demonstrations it takes."""
        return self.step / self.sft


@dataclass(frozen=True, slots=True)
class Corrections:
    """What a trial took over what it is computed to take."""

    sampling: float = 1.0
    update: float = 1.0
    reward_seconds: float | None = None
    """Of one completion."""


def corrections(config: Config, shape: ModelShape, work: Workload, device: Device, measured: Measured) -> Corrections:
    """Compute the very trial, and compare."""
    trial = trial_of(work, measured)
    return Corrections(
        sampling=measured.rollout_seconds / sampling_seconds(config, shape, trial, device),
        update=measured.update_seconds / update_seconds(config, shape, trial, device),
        reward_seconds=measured.reward_seconds / measured.completions,
    )


def forecast_seconds(
    config: Config, shape: ModelShape, work: Workload, device: Device, known: Corrections, judges: float = 0.0
) -> Seconds:
    """A step on all of a device's `count`.

    Args:
        config: of the run.
        shape: of its model.
        work: of a step.
        device: where it runs.
        known: from a trial.
        judges: parameters of reward models.
    """
    alone = replace(work, group_size=1)
    rate = device.count * (TOGETHER if device.count > 1 else 1.0)
    if known.reward_seconds is not None:
        reward = known.reward_seconds * work.completions
    else:
        reward = REWARD_SECONDS * work.completions
        read = work.completions * (work.prompt_tokens + work.completion_tokens)
        reward += 2 * judges * read / (_products(device, "bfloat16") * rate)
    return Seconds(
        sampling=known.sampling * sampling_seconds(config, shape, work, device) / rate,
        reward=reward,
        update=known.update * update_seconds(config, shape, work, device) / rate,
        sft=known.update * update_seconds(config, shape, work, device, sft=True) / rate,
        sft_of_prompts=known.update * update_seconds(config, shape, alone, device, sft=True) / rate,
    )


def _products(device: Device, precision: str) -> float:
    """Operations a second that products reach; a CPU's table has what is reached already."""
    return device.flops[precision] * (1.0 if device.is_cpu else GPU_PRODUCTS)


def _bandwidth(device: Device) -> float:
    return device.bandwidth * (1.0 if device.is_cpu else GPU_BANDWIDTH)


def _call(config: Config, device: Device) -> float:
    return LAYER_CALL[device.is_cpu] * (ADAPTED_CALL if config.lora_rank else 1.0)


def sampling_seconds(config: Config, shape: ModelShape, work: Workload, device: Device) -> float:
    """Prompts one by one, then a token of every live row at a time; a row that ends makes room for the next."""
    precision = rollout_precision(config)
    size, call = SIZES[precision], _call(config, device) * shape.layers
    flops = device.flops[precision] * (1.0 if device.is_cpu else GPU_DECODE)
    bandwidth = _bandwidth(device)
    live = min(live_rows(config, work), work.completions)
    steps = work.generated / live + (work.longest_completion - work.completion_tokens if work.varied else 0)
    rows = work.generated / steps
    multiplied = layer_parameters(shape) + embedding(shape)
    weights_once = multiplied * size / bandwidth
    seen = work.prompt_tokens + work.completion_tokens / 2
    keys = 2 * shape.kv_heads * shape.head_size * shape.layers * size * seen
    logits = shape.vocabulary * 4 * SAMPLING_PASSES
    step = call + max(weights_once, rows * 2 * multiplied / flops) + rows * (keys + logits) / bandwidth
    prefill = work.prompt_tokens * 2 * layer_parameters(shape) / _products(device, precision)
    prompt = call + max(weights_once, prefill)
    return steps * step + work.prompts * prompt


def update_seconds(config: Config, shape: ModelShape, work: Workload, device: Device, *, sft: bool = False) -> float:
    """Forward and backward passes and optimizer steps.

    Args:
        config: of the run.
        shape: of its model.
        work: of a step.
        device: where it runs.
        sft: as many demonstrations of the same length, each with a prompt of its own, in one optimizer step.
    """
    tokens = work.completions * (work.prompt_tokens + work.completion_tokens) if sft else _read(config, work)
    budget = token_budget(config, shape, device.is_cpu, work.prompt_tokens)
    micro_batches = max(1.0, tokens / max(1, min(budget, largest_micro_batch(work, budget)[0])))
    passes = _passes(config) if not sft else _Passes(_backward(config), 0.0, 1)
    size, call = SIZES[config.precision], _call(config, device) * shape.layers
    attention = 2 * shape.heads * shape.head_size * shape.layers * (work.prompt_tokens + work.completion_tokens / 2)
    of_layers = tokens * (2 * layer_parameters(shape) + attention)
    of_head = work.generated * 2 * embedding(shape)
    head_passes = passes.layers - (1.0 if config.gradient_checkpointing else 0.0) * passes.repeats
    products = (of_layers * passes.layers + of_head * head_passes) / _products(device, config.precision)
    kernels = device.is_cpu and not config.plain
    of_layer = saved_bytes(shape, size, config.lora_rank, config.lora_targets, kernels=kernels)
    saved = sum(of_layer.values()) * shape.layers
    moved = tokens * saved * ELEMENTWISE_PASSES + work.generated * shape.vocabulary * 4 * SOFTMAX_PASSES
    moved = moved * passes.repeats + passes.optimizer_steps * trainable_parameters(config, shape) * ADAM_BYTES
    calls = micro_batches * (BACKWARD_CALLS * passes.repeats + passes.forward_only) * call
    return products + moved / _bandwidth(device) + calls


def _read(config: Config, work: Workload) -> float:
    return work.padded_tokens() if config.plain else work.tree_tokens()


@dataclass(frozen=True, slots=True)
class _Passes:
    layers: float
    """Times that the operations of a forward pass are made."""
    forward_only: float
    """Forward passes without a backward pass."""
    optimizer_steps: int
    repeats: int = 1
    """Forward and backward passes over each token."""


def _backward(config: Config) -> float:
    """Forward passes' worth of operations in one forward and backward pass: a frozen weight wants no gradient."""
    return (2.0 if config.lora_rank else 3.0) + (1.0 if config.gradient_checkpointing else 0.0)


def _passes(config: Config) -> _Passes:
    """What an update makes of a batch: old log-probs where it makes several steps, and those of the reference."""
    old = 1.0 if config.optimizer_steps_per_batch > 1 else 0.0
    reference = 1.0 if config.wants_reference else 0.0
    layers = config.updates_per_batch * _backward(config) + old + reference
    return _Passes(layers, old + reference, config.optimizer_steps_per_batch, config.updates_per_batch)
