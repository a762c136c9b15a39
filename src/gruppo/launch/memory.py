"""How much fits: the tokens of a micro-batch and the completions decoded together, from the memory that is free.

Estimates for dense decoders, by plain arithmetic; what is not known (the free memory of MPS) leaves the defaults. The
update and the rollouts take turns, so each is given its share of all that is left beside the weights and what the
training will add to them. The estimate of activations is held to what autograd really keeps by a test; on a GPU nothing
of this was measured yet.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gruppo.config.schema import Config
from gruppo.monitor.environment import available_memory
from gruppo.monitor.run_folder import RunFolder
from gruppo.training.models import LoadedModel
from gruppo.training.packing import default_token_budget

ROLLOUT_SHARE = 0.4
"""Of the free memory, for the keys and values of live completions."""
MOST_ROWS = 256
"""Rows that decode together at the most: more are hardly quicker a token."""
MOMENTS = {"adamw": 8, "adamw_8bit": 2, "muon": 8}
"""Bytes a trained weight that an optimizer keeps (Muon: AdamW's, the most that it may be)."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """A model's sizes, as far as memory goes by them."""

    layers: int
    hidden: int
    inner: int
    """Width of the feed-forward layer."""
    kv: int
    """Numbers that a token leaves in a layer's cache: keys and values of all key heads."""
    vocabulary: int
    bytes: int
    """Of a number."""

    @classmethod
    def of(cls, model: nn.Module, vocabulary: int) -> "Sizes":
        """Those of a transformers model, under any family's names."""
        config: Any = model.config
        config = config.get_text_config()
        heads = config.num_attention_heads
        hidden = config.hidden_size
        head = getattr(config, "head_dim", None) or hidden // heads
        return cls(
            layers=config.num_hidden_layers,
            hidden=hidden,
            inner=getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * hidden,
            kv=2 * (getattr(config, "num_key_value_heads", None) or heads) * head,
            vocabulary=vocabulary,
            bytes=next(model.parameters()).element_size(),
        )


def activation_bytes(sizes: Sizes, *, recomputed: bool, all_logits: bool) -> int:
    """Bytes that a token keeps for the backward pass.

    A layer keeps about 8 arrays of the hidden width (norms, queries, attention, residual) and 4 of the inner one.

    Args:
        sizes: the model's.
        recomputed: layers keep their input alone, and one at a time all of it (`gradient_checkpointing`).
        all_logits: logits of every token are kept, in float32, with their gradient (`plain`).
    """
    layer = 8 * sizes.hidden + 4 * sizes.inner + sizes.kv
    numbers = sizes.layers * sizes.hidden + layer if recomputed else sizes.layers * layer
    return numbers * sizes.bytes + (3 * 4 * sizes.vocabulary if all_logits else 0)


def training_bytes(trained: int, precision: str, optimizer: str, *, reference: bool) -> int:
    """Bytes that a training adds to the model: gradients, masters, moments, the reference policy.

    Args:
        trained: trainable weights.
        precision: of the model.
        optimizer: adamw, adamw_8bit or muon.
        reference: whether a reference policy is kept.
    """
    size, masters = (4, 0) if precision == "float32" else (2, 4)
    return trained * (4 + masters + MOMENTS[optimizer] + (size if reference else 0))


def live_rows(free: int | None, sizes: Sizes, longest: int) -> int:
    """Completions to decode together, so that their keys and values take their share of the free memory.

    Args:
        free: bytes; None: not known.
        sizes: the model's.
        longest: tokens of the longest prompt and the longest completion together.
    """
    if free is None:
        return MOST_ROWS
    row = longest * sizes.layers * sizes.kv * sizes.bytes + 4 * 4 * sizes.vocabulary
    rows = min(MOST_ROWS, int(ROLLOUT_SHARE * free / row))
    return max(1, rows if rows < 8 else rows // 8 * 8)


def free_bytes(device: torch.device) -> int | None:
    """Bytes that may still be taken on a device; None where nobody says."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return available_memory() if device.type == "cpu" else None


@dataclass(frozen=True, slots=True)
class Memory:
    """What a run finds from the free memory, and says.

    Args:
        config: of the run.
        loaded: the model.
        device: where it is.
        folder: the run's, which keeps what was found; None: there is none.
        note: is told the numbers.
    """

    config: Config
    loaded: LoadedModel
    device: torch.device
    folder: Path | None
    note: Callable[[str], None]

    def token_budget(self, longest_prompt: int) -> int:
        """Tokens of a micro-batch."""
        config, free = self.config, self._free()
        token = activation_bytes(self._sizes, recomputed=config.gradient_checkpointing, all_logits=config.plain)
        found = default_token_budget(
            self.loaded.vocabulary, self.device, free, token, longest_prompt, hidden=self._sizes.hidden
        )
        return self._settled("micro_batch_tokens", found, free, f"{token / 1e6:.2g} MB a token")

    def live_rows(self, longest_prompt: int) -> int:
        """Completions decoded at a time."""
        longest, free = longest_prompt + self.config.longest_completion, self._free()
        found = live_rows(free, self._sizes, longest)
        return self._settled("max_live_completions", found, free, f"up to {longest} tokens each")

    @property
    def _sizes(self) -> Sizes:
        return Sizes.of(self.loaded.model, self.loaded.vocabulary)

    def _free(self) -> int | None:
        """Bytes left beside the weights once the training has its own."""
        config, free = self.config, free_bytes(self.device)
        trained = self.loaded.trainable_parameters
        own = training_bytes(trained, config.precision, config.optimizer, reference=config.wants_reference)
        return None if free is None else max(0, free - own)

    def _settled(self, name: str, found: int, free: int | None, each: str) -> int:
        number = settled(name, found, self.folder)
        memory = "how much memory is free is not known here" if free is None else f"{free / 1e9:.3g} GB are free"
        self.note(f"{name}: {number} ({memory}, {each})")
        return number


def settled(name: str, found: int, folder: Path | None) -> int:
    """The number that the run began with, where there is one and at least half of it fits now; else what was found.

    How the work is cut moves the last bits, and a run that goes on is to have those of one that was never cut short.
    """
    if folder is None:
        return found
    run = RunFolder(folder)
    facts = run.read_environment().get("memory", {})
    began = facts.get(name)
    if isinstance(began, int) and found >= began / 2:
        return began
    run.describe({"memory": {**facts, name: found}})
    return found
