"""Which models may attend by trees: those that a small tree shows to give the same numbers as one row at a time.

Some models mix tokens outside the attention that they hand over (convolutions, recurrences, position biases of their
own), and would be silently wrong. A few stay out by what they say of themselves; the rest is tried: two small trees,
every layer's attention must have come by, with no keyword that is not heeded, and the logits must be those of each
completion alone. That costs a few forward passes of a dozen tokens, once.
"""

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from gruppo.training.head import Head
from gruppo.training.packing import Row
from gruppo.training.tree_attention import attending_by_trees, base_of
from gruppo.training.trees import tree_batches

LAYERS = frozenset({"full_attention", "sliding_attention"})
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}
"""Largest difference of a logit, in standard deviations of the logits; what is not listed has 0.15."""


def why_not_trees(model: nn.Module) -> str:
    """Why the model can't take trees; empty if it can."""
    base = getattr(model, "get_base_model", lambda: model)()
    if not isinstance(base, PreTrainedModel):
        return "it is no model of transformers"
    name = type(base).__name__
    if not base._supports_attention_backend:  # pyright: ignore[reportPrivateUsage]
        return f"{name} does not take its attention from transformers' interface"
    kinds = set(getattr(base.config.get_text_config(), "layer_types", None) or ()) - LAYERS
    if kinds:
        return f"{name} has layers of {', '.join(sorted(kinds))}"
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # it warns of what is refused here anyway
    try:
        return _tried(model, name)
    except Exception as error:  # whatever a model makes of a keyword that it does not know
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        return f"{name} does not take a tree ({first})"
    finally:
        transformers_logging.set_verbosity(before)


@torch.no_grad()
def _tried(model: nn.Module, name: str) -> str:
    """What two small trees say."""
    device, rows = next(model.parameters()).device, _rows(base_of(model).get_input_embeddings().num_embeddings)  # pyright: ignore
    (batch,) = tree_batches(rows, 1_000, device)
    head = Head(model)
    with attending_by_trees(model):
        found = head.logits(head.hidden(batch))
    expected = torch.cat([_alone(model, rows[number], device) for number in batch.numbers])
    layers = base_of(model).config.get_text_config().num_hidden_layers
    if batch.layout.calls != layers:
        return f"{name} hands over the attention of {batch.layout.calls} of its {layers} layers"
    if batch.layout.seen:
        return f"the attention of {name} asks for {', '.join(sorted(batch.layout.seen))}"
    if found.shape != expected.shape:
        return f"{name} does not give the logits that are asked for"
    allowed = TOLERANCE.get(found.dtype, 0.15) * float(expected.float().std())
    off = float((found - expected).abs().max())
    return "" if off <= allowed else f"{name} gives other logits for a tree (off by {off:.3g})"


def _rows(vocabulary: int) -> list[Row]:
    """Two prompts, of one and of five tokens, with completions of one to six; ids spread over the vocabulary."""
    generator = np.random.default_rng(0)

    def ids(length: int) -> np.ndarray:
        return generator.integers(0, vocabulary, length)

    prompts = [tuple(ids(length).tolist()) for length in (5, 1)]
    wanted = [(prompts[0], 6), (prompts[1], 2), (prompts[0], 1), (prompts[0], 4), (prompts[1], 5)]
    return [
        Row(prompt, ids(length), np.ones(length, dtype=np.bool_), np.zeros(length, dtype=np.float32), 1.0)
        for prompt, length in wanted
    ]


def _alone(model: nn.Module, row: Row, device: torch.device) -> Tensor:
    """[T, V] of one completion, the plain way."""
    ids = torch.tensor([[*row.prompt_ids, *row.token_ids.tolist()]], device=device)
    return model(input_ids=ids, use_cache=False).logits[0, len(row.prompt_ids) - 1 : -1]
