"""The engine that a config asks for."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from gruppo.config.schema import Config
from gruppo.errors import ConfigError
from gruppo.launch.rollouts import local_engine
from gruppo.rollout.engine import RolloutEngine
from gruppo.rollout.vllm.launcher import VLLMServer
from gruppo.rollout.vllm.server import ServerVLLM, weights_folder
from gruppo.rollout.vllm.settings import VLLMSettings, check_installed
from gruppo.rollout.vllm.weights import Held
from gruppo.training.export import exported_weights
from gruppo.training.models import LoadedModel, save_outline
from gruppo.types import TextDecoder

SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")


def build_engine(
    config: Config,
    loaded: LoadedModel,
    device: torch.device,
    decoder: TextDecoder,
    max_live: int,
    note: Callable[[str], None],
    folder: Path | None,
) -> RolloutEngine:
    """The engine, ready to sample from the model as it is.

    Args:
        config: `engine`, `vllm_url`, `engine_memory` and what they need.
        loaded: the trainer's model.
        device: where it is.
        decoder: turns tokens into text, for stop strings.
        max_live: completions decoded at a time.
        note: is told what a user should know.
        folder: for a server's log and files of weights; None: a temporary one.

    Raises:
        ConfigError: vLLM is not installed, or does not know the device.
        EngineError: vLLM does not start, the server is not there, or it has another model.
    """
    if config.engine == "local":
        return local_engine(config, loaded, decoder, max_live, note)
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"engine: vllm runs on cpu and cuda, not on {device.type}; take engine local")
    engine = _vllm(config, loaded, device, max_live, note, folder or Path(tempfile.mkdtemp(prefix="gruppo-vllm-")))
    try:
        engine.load_weights(exported_weights(loaded.model), version=0)
    except BaseException:
        engine.close()
        raise
    return engine


def _vllm(
    config: Config, loaded: LoadedModel, device: torch.device, live: int, note: Callable[[str], None], folder: Path
) -> RolloutEngine:
    """vLLM in one of its forms; it has no weights yet."""
    shape = loaded.model.config.get_text_config()
    url, precision = config.vllm_url, config.rollout_precision or config.precision
    held = Held({name: getattr(shape, name) for name in SIZES}, precision)
    size = sum(parameter.nbytes for parameter in loaded.model.parameters())
    if url is not None and url != "launch":
        place = weights_folder(url, size, (folder / "weights").resolve())
        return ServerVLLM(url, held, place, live, note)
    if device.type == "cuda" and (config.engine_memory or 0.0) > 1:
        raise ConfigError(f"engine_memory: got {config.engine_memory:g}, on a GPU wanted its share, 0 to 1")
    outline = folder / "vllm-model"
    save_outline(loaded, outline)
    settings = VLLMSettings(outline, precision, device.type, loaded.context_length, live, config.engine_memory)
    settings.check_model(shape)
    if url == "launch":
        place = weights_folder(None, size, (folder / "weights").resolve())
        return ServerVLLM(VLLMServer.of(settings, folder / "vllm.log", place), held, place, live, note)
    from gruppo.rollout.vllm.colocated import ColocatedVLLM

    return ColocatedVLLM(settings, held)


def check_engine(config: Config) -> None:
    """Refuse, before anything is loaded, an engine that isn't installed.

    Raises:
        ConfigError: with the command that installs it.
    """
    if config.engine == "vllm" and config.vllm_url in (None, "launch"):
        check_installed("engine: vllm")
