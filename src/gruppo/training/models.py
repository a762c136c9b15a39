"""Models: loading a folder or hub name with its tokenizer, LoRA around it, saving what transformers loads."""

import copy
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, HFValidationError, RepositoryNotFoundError
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from gruppo.errors import ConfigError, ModelError, nearest
from gruppo.training.quantization import dequantized, four_bit_layers, four_bit_settings, keep_differentiable, size_of

transformers_logging.disable_progress_bar()  # its bars for loading weights would break into ours

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "spiece.model")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in evaluation mode (dropout off) and what belongs to it."""

    model: PreTrainedModel | PeftModel
    tokenizer: PreTrainedTokenizerBase
    eos_token_ids: tuple[int, ...]
    """The stop tokens of its generation config."""
    context_length: int | None
    """Positions it can take, tokens; None where its config doesn't say."""
    vocabulary: int

    @property
    def trainable_parameters(self) -> int:
        """Parameters that training moves."""
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)


def choose_device(name: str) -> torch.device:
    """The device of a config.

    Raises:
        ConfigError: no such device here.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name):
        raise ConfigError(f"device: there is no device '{name}'; say auto, cpu, cuda, cuda:N or mps")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        message = str(error).split("\n")[0]
        raise ConfigError(
            f"device: '{name}' can't be used here ({message}); say auto, cpu, cuda, cuda:N or mps"
        ) from error
    return device


def load_model(name: str, precision: str, device: torch.device, *, four_bit: bool = False) -> LoadedModel:
    """A causal language model and its tokenizer.

    Args:
        name: a folder (a model, or a LoRA adapter that names its base) or a hub name.
        precision: float32 or bfloat16.
        device: where to.
        four_bit: the weights of the layers' linear maps in 4 bits, to train an adapter over.

    Raises:
        ModelError: no such folder, no causal model in it, no tokenizer, or a tokenizer of another vocabulary.
    """
    _check_place(name)
    adapter = _adapter_base(name)
    tokenizer = load_tokenizer(name if adapter is None or _has_tokenizer(Path(name)) else adapter)
    try:
        model = _load_base(adapter or name, DTYPES[precision], device, four_bit)
        if adapter is not None:
            model = PeftModel.from_pretrained(model, name, is_trainable=True)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise ModelError(f"model: '{name}' can't be loaded as a causal language model: {_first_line(error)}") from error
    model.eval()
    vocabulary = int(model.get_input_embeddings().weight.shape[0])  # pyright: ignore
    if len(tokenizer) > vocabulary:
        raise ModelError(
            f"model: the tokenizer of '{name}' has {len(tokenizer)} tokens, the model's embedding only {vocabulary}; "
            "they do not belong together"
        )
    eos = model.generation_config.eos_token_id if model.generation_config else None
    text_config = model.config.get_text_config()
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        eos_token_ids=tuple(eos) if isinstance(eos, Sequence) else (() if eos is None else (eos,)),
        context_length=getattr(text_config, "max_position_embeddings", None),
        vocabulary=vocabulary,
    )


def _load_base(name: str, dtype: torch.dtype, device: torch.device, four_bit: bool) -> PreTrainedModel:
    if not four_bit:
        return AutoModelForCausalLM.from_pretrained(name, dtype=dtype).to(device)  # pyright: ignore[reportArgumentType]
    settings = four_bit_settings(dtype)
    model = AutoModelForCausalLM.from_pretrained(
        name, dtype=dtype, quantization_config=settings, device_map={"": device}
    )
    keep_differentiable(model)
    return model


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder or hub name.

    Raises:
        ModelError: there is none.
    """
    _check_place(name)
    if Path(name).is_dir() and not _has_tokenizer(Path(name)):
        raise ModelError(
            f"model: the folder '{name}' has no tokenizer ({', '.join(TOKENIZER_FILES[:3])}); copy the "
            "tokenizer's files of the model it was made from into it"
        )
    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"model: the tokenizer of '{name}' can't be loaded: {_first_line(error)}") from error


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / file).exists() for file in TOKENIZER_FILES)


def _adapter_base(name: str) -> str | None:
    """The base model of a folder that holds a LoRA adapter alone; None for anything else."""
    settings = Path(name) / "adapter_config.json"
    if not settings.is_file() or (Path(name) / "config.json").exists():
        return None
    base = json.loads(settings.read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not base:
        raise ModelError(f"model: the adapter in '{name}' names no base model (base_model_name_or_path)")
    _check_place(base)
    return base


def _check_place(name: str) -> None:
    """Tell a folder that isn't there, or isn't a model's, before transformers takes it for a hub name."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").exists() and not (folder / "adapter_config.json").exists():
            run = f"; it is a run, whose model is '{folder / 'model'}'" if (folder / "model").is_dir() else ""
            raise ModelError(f"model: the folder '{name}' holds no model (no config.json){run}")
    elif folder.exists():
        raise ModelError(f"model: '{name}' is a file; give the folder that it stands in")
    elif name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelError(f"model: there is no folder '{name}'; give a model folder or a hub name such as org/name")
    else:
        _check_hub(name)


def _check_hub(name: str) -> None:
    """Ask the hub once whether it has the model: transformers would ask for most of a minute where it is away."""
    try:
        if isinstance(try_to_load_from_cache(name, "config.json"), str):
            return
        get_hf_file_metadata(hf_hub_url(name, "config.json"))
    except EntryNotFoundError:
        return  # an adapter has no config.json
    except GatedRepoError as error:
        raise ModelError(f"model: '{name}' is gated; accept its terms on the hub and log in (hf auth login)") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise ModelError(f"model: '{name}' is no folder here and no model on the hub; check the name") from error
    except Exception as error:  # the network raises classes of its own
        raise ModelError(
            f"model: '{name}' is no folder here, and the hub can't be asked for it ({_first_line(error)}); check the "
            "name and the network, or give a model folder"
        ) from error


def add_lora(
    loaded: LoadedModel, rank: int, alpha: float, targets: Sequence[str], seed: int, *, rslora: bool = False
) -> LoadedModel:
    """The model with fresh LoRA adapters (https://arxiv.org/abs/2106.09685); only they are trainable.

    A model that came with an adapter keeps training that one.

    Args:
        loaded: the model; its base may be in 4 bits.
        rank: of the adapters.
        alpha: an adapter is added times alpha / rank.
        targets: names of modules, or all-linear.
        seed: of the adapters' first factors; the second ones are zero.
        rslora: times alpha / sqrt(rank) instead (https://arxiv.org/abs/2312.03732).

    Raises:
        ModelError: a target that the model doesn't have; an adapter of another rank or scale.
    """
    if isinstance(loaded.model, PeftModel):
        _check_own_adapter(loaded.model, rank, rslora)
        return loaded
    settings = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # pyright: ignore[reportArgumentType]  peft takes any number here
        target_modules="all-linear" if tuple(targets) == ("all-linear",) else list(targets),
        lora_dropout=0.0,
        use_rslora=rslora,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed % 2**63)
        try:
            model = get_peft_model(loaded.model, settings)  # pyright: ignore[reportArgumentType]
        except ValueError as error:
            linear = {
                path.rpartition(".")[2] for path, part in loaded.model.named_modules() if isinstance(part, nn.Linear)
            }
            near = nearest(targets[0], sorted(linear)) if targets else ""
            raise ModelError(
                f"lora_targets: {list(targets)} can't be adapted; the model's linear layers are "
                f"{', '.join(sorted(linear))}.{near} Or say all-linear. ({_first_line(error)})"
            ) from error
    model.eval()
    return replace(loaded, model=model)  # pyright: ignore[reportArgumentType]


def _check_own_adapter(model: PeftModel, rank: int, rslora: bool) -> None:
    """The adapter that a model came with is the one that the config asks for."""
    own = model.active_peft_config
    if not isinstance(own, LoraConfig):
        return
    if own.r != rank:
        raise ModelError(f"lora_rank: {rank}, the adapter in the model's folder has {own.r}; say that")
    if own.use_rslora != rslora:
        has = str(own.use_rslora).lower()
        raise ModelError(f"rslora: {str(rslora).lower()}, the adapter in the model's folder has {has}; say that")
    if own.use_dora and four_bit_layers(model):
        raise ModelError("quantize: 4bit can't merge the adapter in the model's folder, which is DoRA; say none")


def merge_lora(loaded: LoadedModel) -> LoadedModel:
    """The model with an adapter that it came with merged in, every parameter trainable."""
    if not isinstance(loaded.model, PeftModel):
        return loaded
    return replace(loaded, model=loaded.model.merge_and_unload().requires_grad_(True).eval())  # pyright: ignore


def save_model(loaded: LoadedModel, folder: Path) -> None:
    """Write the model and its tokenizer as a folder that transformers loads, aside and renamed.

    LoRA adapters are merged in, and also kept by themselves in `adapter/` beside the folder. A base in 4 bits is
    written in the model's precision as what the adapter was trained over: the dequantized weights.
    """
    aside = folder.with_name(f"{folder.name}.writing")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    model = loaded.model
    if isinstance(model, PeftModel):
        model.save_pretrained(str(folder.with_name("adapter")))
        if four_bit_layers(model):
            _save_dequantized(model, aside)
        else:
            _save_merged(model, aside)
    else:
        model.save_pretrained(aside)
    loaded.tokenizer.save_pretrained(aside)
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)


def save_outline(loaded: LoadedModel, folder: Path) -> None:
    """Write config and tokenizer without weights: all that an engine needs to which weights are handed later."""
    base = loaded.model.get_base_model() if isinstance(loaded.model, PeftModel) else loaded.model
    base.config.save_pretrained(folder)  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]
    loaded.tokenizer.save_pretrained(folder)


def _save_merged(model: PeftModel, folder: Path) -> None:
    """Save base weights with the adapters added, and take the adapters out again."""
    model.merge_adapter()
    base = model.get_base_model()
    weights = {
        name.replace(".base_layer.", "."): tensor for name, tensor in base.state_dict().items() if ".lora_" not in name
    }
    base.save_pretrained(folder, state_dict=_without_tied(base, weights))  # pyright: ignore[reportCallIssue]
    model.unmerge_adapter()


def _save_dequantized(model: PeftModel, folder: Path) -> None:
    """Save a 4-bit base with the adapters added as a plain model; the model at hand is only read.

    peft's own merging would round the sum to 4 bits again.
    """
    base = model.get_base_model()
    assert isinstance(base, PreTrainedModel)
    settings = copy.deepcopy(base.config)
    del settings.quantization_config  # pyright: ignore[reportAttributeAccessIssue]
    with torch.device("meta"):
        plain = type(base)(settings)
    plain.load_state_dict(_merged_weights(base), assign=True)
    plain.tie_weights()
    plain.generation_config = base.generation_config
    plain.save_pretrained(folder)


@torch.no_grad()
def _merged_weights(base: nn.Module) -> dict[str, Tensor]:
    """Weights of a 4-bit base under their plain names: dequantized, the adapters added in float32, on the CPU."""
    layers = four_bit_layers(base)
    weights = {
        name.replace(".base_layer.", "."): tensor.cpu()
        for name, tensor in base.state_dict().items()
        if ".lora_" not in name and name.partition(".weight")[0] not in layers
    }
    for name, layer in layers.items():
        weights[f"{name.removesuffix('.base_layer')}.weight"] = dequantized(layer).cpu()
    for name, part in base.named_modules():
        if isinstance(part, LoraLayer):
            weight = weights[f"{name}.weight"]
            for adapter in part.active_adapters:
                weight = weight.float() + part.get_delta_weight(adapter).float().cpu()  # pyright: ignore
            weights[f"{name}.weight"] = weight.to(weights[f"{name}.weight"].dtype)
    return weights


def _without_tied(model: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Leave out weights that are another's by tying, as safetensors keeps each once."""
    seen: dict[int, str] = {}
    kept: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if tensor.data_ptr() not in seen:
            kept[name] = tensor
            seen[tensor.data_ptr()] = name
    return kept


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).split("\n")[0]


def describe(loaded: LoadedModel, device: torch.device) -> dict[str, Any]:
    """Facts about a loaded model, for environment.json and the first lines of a run."""
    parameters = sum(map(size_of, loaded.model.parameters()))
    return {
        "parameters": parameters,
        "trainable_parameters": loaded.trainable_parameters,
        "dtype": str(next(loaded.model.parameters()).dtype).removeprefix("torch."),
        "device": str(device),
        "context_length": loaded.context_length,
        "vocabulary": loaded.vocabulary,
    }
