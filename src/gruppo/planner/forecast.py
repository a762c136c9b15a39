"""A run's forecast: memory, time and money together, and everything that was assumed."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gruppo.config.model_shape import ModelShape, read_shape
from gruppo.config.rewards import ModelReward
from gruppo.config.schema import Config
from gruppo.errors import ConfigError
from gruppo.planner.devices import FLAVOURS, GB, Device, named_device, this_device
from gruppo.planner.measured import Measured
from gruppo.planner.memory import Memory, forecast_memory, trainable_parameters
from gruppo.planner.models import find_shape
from gruppo.planner.prices import Price, PriceList
from gruppo.planner.rollouts import VLLM_SHARE, starts_vllm
from gruppo.planner.seconds import Corrections, Seconds, corrections, forecast_seconds
from gruppo.planner.workload import Workload, trial_of, workload_of

CONTEXT = 0.7e9
"""Bytes that a program takes of a GPU before it has put anything there."""
PROCESS = 0.6e9
"""Bytes of a process that has loaded torch and transformers, and no model."""
FRAGMENTS = 1.05
"""What a GPU's allocator takes over what is asked of it."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked beside the config."""

    gpu: str | None = None
    """A GPU's or flavour's name. None: the device of the config, on this machine."""
    gpus: int | None = None
    model_size: str | None = None
    measured: Measured | None = None
    prompt_tokens: float | None = None
    completion_tokens: float | None = None
    prices: PriceList = field(default_factory=PriceList)


@dataclass(frozen=True, slots=True)
class Setting:
    """What stays as it is whatever the config's options are: model, device, price, data."""

    request: Request
    shape: ModelShape
    device: Device
    price: Price | None
    machines: float
    """How many times the price is paid: GPUs, or flavours."""
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a run will take."""

    config: Config
    setting: Setting
    work: Workload
    memory: Memory
    """Of one device, as computed."""
    seconds: Seconds
    known: Corrections
    memory_factor: float
    """What a trial held over what it is computed to hold; 1 where nothing was measured."""
    assumed: tuple[str, ...]

    @property
    def device(self) -> Device:
        """Where it runs."""
        return self.setting.device

    @property
    def needed(self) -> float:
        """Bytes of one device that have to be there: the peak, and what a process takes beside it."""
        peak = self.memory.peak * self.memory_factor
        return peak + PROCESS if self.device.is_cpu else peak * FRAGMENTS + CONTEXT

    @property
    def fits(self) -> bool:
        """Whether one device has that."""
        return self.needed <= self.device.memory

    @property
    def hours(self) -> float:
        """All GRPO steps."""
        return self.config.steps * self.seconds.step / 3600

    @property
    def usd(self) -> float | None:
        """What they cost; None: no price is known."""
        price = self.setting.price
        return None if price is None else self.hours * price.usd * self.setting.machines

    @property
    def trainable(self) -> int:
        """Parameters that training moves."""
        return trainable_parameters(self.config, self.setting.shape)


def settle(config: Config, request: Request) -> Setting:
    """Find out about model, device and price.

    Raises:
        ConfigError: an unknown model or GPU, or a trial on another kind of device.
    """
    shape, note = find_shape(config.model, request.model_size)
    if request.gpu is not None:
        device, flavour = named_device(request.gpu, request.gpus)
    else:
        device = this_device(config.device, config.threads)
        device = replace(device, count=request.gpus or 1)
        flavour = device.name
        if device.is_cpu and device.count > 1:
            raise ConfigError(f"--gpus {device.count}: no GPU is found here; say which ones are meant: --gpu a100-80")
    _same_kind(device, request.measured)
    price = request.prices.of(flavour, device.name)
    machines = device.count / (1 if price is None or price.per_gpu else FLAVOURS[flavour][1])
    noted = request.measured is None if device.is_cpu else config.precision == "bfloat16"
    notes = filter(None, (note, device.note if noted else ""))
    return Setting(request, shape, device, price, machines, tuple(notes))


def _same_kind(device: Device, measured: Measured | None) -> None:
    if measured is not None and (measured.device == "cpu") != device.is_cpu:
        where = "a CPU" if measured.device == "cpu" else measured.device
        raise ConfigError(
            f"--measured: the figures are of {where} and say nothing of {device.title}; leave them out, or let the "
            "check run there"
        )


def forecast(config: Config, request: Request) -> Forecast:
    """A config's forecast.

    Raises:
        ConfigError: an unknown model or GPU, or a trial on another kind of device.
    """
    return forecast_in(config, settle(config, request))


def forecast_in(config: Config, setting: Setting, known: tuple[Corrections, float] | None = None) -> Forecast:
    """A forecast in a setting that is found out already.

    Args:
        config: of the run.
        setting: its model, device and price.
        known: what a trial of another config, with the same model, corrects; None: compute it.
    """
    request, shape, device = setting.request, setting.shape, setting.device
    work, assumed = workload_of(config, request.measured, request.prompt_tokens, request.completion_tokens)
    correct, factor = known or corrections_of(config, setting, work)
    judges = list(_judges(config, device))
    memory = replace(
        forecast_memory(config, shape, work, device), reward_models=sum(each.bytes_there for each in judges)
    )
    seconds = forecast_seconds(config, shape, work, device, correct, sum(each.parameters for each in judges))
    return Forecast(config, setting, work, memory, seconds, correct, factor, tuple(assumed))


def corrections_of(config: Config, setting: Setting, work: Workload) -> tuple[Corrections, float]:
    """What a trial says of times, and of memory: only that it takes more than computed, never less."""
    measured, shape, device = setting.request.measured, setting.shape, setting.device
    if measured is None:
        return Corrections(), 1.0
    factor = 1.0
    if measured.memory_bytes is not None:
        factor = max(1.0, measured.memory_bytes / forecast_memory(config, shape, trial_of(work, measured), device).peak)
    return corrections(config, shape, work, device, measured), factor


@dataclass(frozen=True, slots=True)
class _Judge:
    """A reward model beside the policy."""

    parameters: int
    bytes_there: float
    """On the policy's device."""


def _judges(config: Config, device: Device) -> Iterator[_Judge]:
    for reward in config.rewards:
        if not isinstance(reward, ModelReward) or reward.path is None:
            continue
        shape = read_shape(reward.path)
        if shape is None:
            continue
        beside = (reward.device == "cpu") == device.is_cpu or reward.device == "auto"
        there = beside and not (reward.offload and not device.is_cpu)
        size = 2 if (_dtype(reward.path) if reward.precision == "auto" else reward.precision) != "float32" else 4
        yield _Judge(shape.parameters, shape.parameters * size if there else 0.0)


def _dtype(folder: str) -> str:
    """What a model's config.json says that its weights are."""
    try:
        values: Any = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
        return str(values.get("dtype") or values.get("torch_dtype") or "float32")
    except (OSError, ValueError, AttributeError):
        return "float32"


def remarks(made: Forecast) -> list[str]:
    """What a reader has to know of a forecast beside its numbers."""
    config, device, setting = made.config, made.device, made.setting
    found = list(setting.notes)
    if device.count > 1:
        found.append(
            f"{device.count} GPUs: computed as if weights were spread over them and the step's problems dealt out; "
            "this version of gruppo trains on one"
        )
    unread = [
        each.path
        for each in config.rewards
        if isinstance(each, ModelReward) and each.path is not None and read_shape(each.path) is None
    ]
    found += [f"the reward model '{path}' is not on this machine, and not counted" for path in unread]
    if config.max_sampling_factor > 1:
        found.append(
            f"max_sampling_factor: sampling and scoring may take up to {config.max_sampling_factor:g} times as long"
        )
    if config.curriculum:
        found.append("curriculum: of its spans only max_completion_length is followed")
    stages = [name for name, stage in (("sft", config.sft), ("eval", config.eval)) if stage is not None]
    if stages:
        found.append(
            f"time and money are of GRPO alone, without the stage{'s' * (len(stages) > 1)} {' and '.join(stages)}"
        )
    found += _of_vllm(made)
    if made.memory_factor > 1:
        found.append(f"the trial held {made.memory_factor:.2f} times the memory computed for it; the total counts it")
    if setting.price is None and not device.is_cpu:
        found.append(f"no price is known of {device.name}; give one: --prices FILE with `{device.name}: 2.50`")
    return found


def _of_vllm(made: Forecast) -> Iterator[str]:
    config = made.config
    if config.engine == "vllm" and not starts_vllm(config):
        yield f"the vLLM at {config.vllm_url} has memory of its own, which is not counted"
    if not starts_vllm(config):
        return
    if made.device.is_cpu:
        yield "of vLLM its weights and its KV cache are counted, not what its process takes beside them"
    elif made.memory.sampling["vLLM's KV cache"] == 0:
        share = config.engine_memory or VLLM_SHARE
        yield f"engine_memory: {share:g} of the GPU does not hold vLLM's copy of the weights; raise it"


def as_json(made: Forecast) -> dict[str, Any]:
    """Everything as plain data: bytes, seconds, US dollars."""
    memory, seconds, price, work = made.memory, made.seconds, made.setting.price, made.work
    return {
        "model": {
            "name": made.config.model,
            "parameters": made.setting.shape.parameters,
            "trainable_parameters": made.trainable,
        },
        "device": {"name": made.device.title, "count": made.device.count, "memory_bytes": round(made.device.memory)},
        "step": {
            "prompts": work.prompts,
            "group_size": work.group_size,
            "prompt_tokens": work.prompt_tokens,
            "completion_tokens": work.completion_tokens,
            "longest_completion": work.longest_completion,
        },
        "memory": {
            "sampling": {name: round(value) for name, value in memory.sampling.items()},
            "update": {name: round(value) for name, value in memory.update.items()},
            "reward_models": round(memory.reward_models),
            "sampling_peak": round(memory.sampling_peak),
            "update_peak": round(memory.update_peak),
            "peak": round(memory.peak),
            "needed": round(made.needed),
            "fits": made.fits,
        },
        "seconds": {
            "sampling": seconds.sampling,
            "reward": seconds.reward,
            "update": seconds.update,
            "step": seconds.step,
            "sft_step": seconds.sft,
            "sft_step_one_demonstration_a_prompt": seconds.sft_of_prompts,
            "times_sft": seconds.over_sft,
        },
        "steps": made.config.steps,
        "hours": made.hours,
        "usd": made.usd,
        "price": None if price is None else {"usd": price.usd, "source": price.source, "date": price.date},
        "measured": made.setting.request.measured is not None,
        "assumed": list(made.assumed),
        "notes": remarks(made),
    }


def gigabytes(value: float) -> str:
    """Bytes as a person reads them: GB of 1e9."""
    return f"{value / GB:.2f} GB" if value >= 0.995e8 else f"{value / 1e6:.0f} MB"
