"""Loading a sequence-classification model, with one clear message for each way in which it may be none.

1. A model without a head of its own is refused: transformers would give it one of random weights, and say so in a
   warning that nobody reads.
2. Code that comes with a model is never run.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gruppo.errors import RewardError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PRECISIONS = ("auto", "float32", "bfloat16")
DEFAULT_LENGTH = 4096
"""Tokens, for a model that does not say how many it takes."""
SHORTEST_LENGTH = 8


def choose_device(name: str) -> "torch.device":
    """The device of a reward model. Raises RewardError where there is no such device here."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    wanted = "say auto, cpu, cuda, cuda:N or mps"
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name):
        raise RewardError(f"device: there is no device '{name}' for a reward model; {wanted}")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise RewardError(f"device: '{name}' can't be used here ({first_line(error)}); {wanted}") from error
    return device


def load(path: str, precision: str, device: "torch.device") -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    """The model on the CPU, in evaluation mode, and its tokenizer; torch's random state stays as it was.

    Args:
        path: a folder or a hub name.
        precision: auto, float32 or bfloat16.
        device: that it will score on.

    Raises:
        RewardError: it can't be loaded, or is no model that gives one score.
    """
    if precision not in PRECISIONS:
        raise RewardError(f"precision: got '{precision}' for a reward model, wanted {', '.join(PRECISIONS)}")
    _check_place(path)
    import torch
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    try:
        config = AutoConfig.from_pretrained(path)
        _check_head(path, config)
        with _quiet(), torch.random.fork_rng(devices=[]):
            dtype = "auto" if precision == "auto" else getattr(torch, precision)
            model, report = AutoModelForSequenceClassification.from_pretrained(
                path, dtype=dtype, output_loading_info=True
            )
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, SafetensorError) as error:
        raise RewardError(f"reward model: '{path}' can't be loaded: {first_line(error)}") from error
    if report["missing_keys"]:
        raise _headless(path, f"its weights lack {', '.join(sorted(report['missing_keys'])[:3])}")
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        raise RewardError(
            f"reward model: the tokenizer of '{path}' has {len(tokenizer)} tokens, the model's embedding only "
            f"{model.get_input_embeddings().weight.shape[0]}; they do not belong together."
        )
    if device.type == "cpu" and model.dtype == torch.float16:
        model = model.float()  # a CPU computes float16 slowly and badly
    return model.eval().requires_grad_(False), tokenizer


def padding(path: str, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> int:
    """The token that pads; the model's config knows it afterwards, where decoders look for a text's end by it.

    Raises:
        RewardError: neither the model nor the tokenizer has one.
    """
    config = model.config.get_text_config()
    pad: Any = config.pad_token_id if config.pad_token_id is not None else tokenizer.pad_token_id
    if pad is None:
        raise RewardError(
            f"reward model: '{path}' has no padding token, so texts of different lengths can't be scored together; "
            "set pad_token_id in its config.json, or pad_token in its tokenizer_config.json."
        )
    config.pad_token_id = pad
    return int(pad)


def longest(path: str, wanted: int | None, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> int:
    """Tokens of prompt and completion together: what is wanted, else as many as the model takes.

    Raises:
        RewardError: more are wanted than the model takes, or hardly any.
    """
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    # A tokenizer that does not know says a number with thirty digits.
    known = [limit for limit in (positions, tokenizer.model_max_length) if limit is not None and 0 < limit < 10**8]
    most = min(known) if known else None
    if wanted is None:
        return int(most or DEFAULT_LENGTH)
    if wanted < SHORTEST_LENGTH:
        raise RewardError(f"max_length: got {wanted} tokens for a reward model, wanted at least {SHORTEST_LENGTH}")
    if most is not None and wanted > most:
        raise RewardError(
            f"max_length: got {wanted}, but the reward model '{path}' takes {most} tokens; say at most that"
        )
    return wanted


def first_line(error: BaseException) -> str:
    """An error's message, its first line alone."""
    return (str(error).strip() or type(error).__name__).split("\n")[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers' bars and reports of loading would break into ours; what matters in them is an error here."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _check_head(path: str, config: Any) -> None:
    """Whether the config is that of a model with one score, asked before the weights are read."""
    built = config.architectures or []
    if built and not any("SequenceClassification" in name for name in built):
        raise _headless(path, f"it is a {built[0]}")
    if config.num_labels != 1:
        names = ", ".join(map(str, list(config.id2label.values())[:4]))
        raise RewardError(
            f"reward model: '{path}' gives {config.num_labels} labels ({names}{', ...' * (config.num_labels > 4)}), a "
            "reward is one number; take a model trained with num_labels=1."
        )


def _headless(path: str, found: str) -> RewardError:
    return RewardError(
        f"reward model: '{path}' has no classification head ({found}); take a sequence-classification model with one "
        "label (AutoModelForSequenceClassification, num_labels=1), such as trl's RewardTrainer saves."
    )


def _check_place(path: str) -> None:
    """Tell what is no model before transformers takes it for a hub name and asks the network for minutes."""
    folder = Path(path).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").exists():
            raise RewardError(f"reward model: the folder '{path}' holds no model (no config.json).")
        return
    if folder.exists():
        raise RewardError(f"reward model: '{path}' is a file; give the folder that it stands in.")
    if path.startswith((".", "/", "~")) or path.count("/") > 1:
        raise RewardError(
            f"reward model: there is no folder '{path}'; give a model folder or a hub name like org/name."
        )
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache

    try:
        if not isinstance(try_to_load_from_cache(path, "config.json"), str):
            get_hf_file_metadata(hf_hub_url(path, "config.json"))
    except Exception as error:  # the network raises classes of its own
        raise RewardError(
            f"reward model: '{path}' is no folder here, and the hub does not give it ({first_line(error)}); check the "
            "name, the network and your login (hf auth login)."
        ) from error
