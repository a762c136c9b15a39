"""Attention by the tree: exact, through transformers' own attention interface.

Legend: L tokens of a row, H heads, D their size, K key heads.

A token attends to its prompt up to itself, and if it stands in a branch, to its whole prompt and to its branch up to
itself. Five forms give the same numbers:

1. `tree_kernel.tree_attention`, on a CPU with a C compiler: each token over what it sees, windows included.
2. `tree_blocks.attend`, on CUDA: one fused kernel for the row, which skips blocks that nobody attends to; windows and
   capped scores included. A kind of layer is tried once, and where the kernel fails or is off, forms 4 and 5 do it.
3. `_PartsAttention`, on a CPU where the kernel is absent or not made for the numbers: causal attention inside every
   prompt and every branch, full attention of the branches to their prompt, and the two merged by their log-sum-exps.
   The backward pass of a part, given the merged output and log-sum-exp, gives exactly that part's share of the
   gradient, so nothing is computed that the tree has not.
4. `_masked`, elsewhere or where a window is active: torch's attention of each tree under its mask.
5. `_explicit`, where scores are capped (not on CUDA) or a layer has sinks: the probabilities written out.

A model takes part by `set_attn_implementation(NAME)`; for a name that its mask registry does not know transformers
builds no mask. Outside `attending_by_trees` the model is as it was: sampling and evaluation never come here.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from gruppo.training import tree_blocks, tree_kernel
from gruppo.training.products import usual_products
from gruppo.training.tree_blocks import Kind
from gruppo.training.tree_layout import Layout, Part

NAME = "gruppo_tree"
KEYWORD = "gruppo_tree"
"""The keyword that carries a row's layout through a model's forward to its attention."""
AS_SDPA = "gruppo_tree_as_sdpa"
"""The name for a model on transformers' own `sdpa`, which leaves score caps and sinks out without a word. So do the
trees then: the update has to be of the model that samples."""
HEEDED = frozenset({"sliding_window", "softcap", "s_aux"})
IDLE = frozenset(
    {
        "is_causal",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "position_ids",
        "return_dict",
        "use_cache",
    }
)
"""Keywords that models hand to their attention though they say nothing of its result."""
RAN: Counter[str] = Counter()
"""How often each form has been taken in this process: kernel, blocks, parts, masked, explicit."""


def _gathered(values: Tensor, places: Tensor | slice) -> Tensor:
    """[B, H, Q, D] of values [L, H, D]."""
    picked = values[places]
    return (picked[None] if isinstance(places, slice) else picked).transpose(1, 2)


class _PartsAttention(torch.autograd.Function):
    """Attention of a row by parts; q [L, H, D], k and v [L, K, D]."""

    @staticmethod
    @usual_products()
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, layout: Layout, scale: float) -> Tensor:  # pyright: ignore
        out = torch.empty_like(q, memory_format=torch.contiguous_format)
        lse = q.new_empty(q.shape[:2], dtype=torch.promote_types(q.dtype, torch.float32))
        for part in layout.own:
            out[part.places], lse[part.places] = _forward(part, q, k, v, scale)
        for part in layout.to_prompts:
            root, root_lse = _forward(part, q, k, v, scale)
            branch, branch_lse = out[part.places], lse[part.places]
            merged = torch.logaddexp(root_lse, branch_lse)
            share = torch.exp(branch_lse - merged)[..., None]
            out[part.places] = torch.lerp(root.to(share.dtype), branch.to(share.dtype), share).to(out.dtype)
            lse[part.places] = merged
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.layout, ctx.scale = layout, scale
        return out

    @staticmethod
    @usual_products()
    def backward(ctx: Any, grad: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        q, k, v, out, lse = ctx.saved_tensors
        totals = [torch.zeros_like(each, memory_format=torch.contiguous_format) for each in (q, k, v)]
        for part in (*ctx.layout.own, *ctx.layout.to_prompts):
            found = _backward(part, grad, q, k, v, out, lse, ctx.scale)
            for total, share, places in zip(totals, found, (part.queries, part.keys, part.keys), strict=True):
                share = share.transpose(1, 2)
                if isinstance(places, slice):
                    total[places] += share[0]
                else:
                    total.index_add_(0, places.flatten(), share.flatten(0, 1))
        return *totals, None, None


def _forward(part: Part, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Output [n, H, D] and log-sum-exp [n, H] of a part's queries."""
    inputs = (_gathered(q, part.queries), _gathered(k, part.keys), _gathered(v, part.keys))
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*inputs, 0.0, part.causal, scale=scale)
    return out.transpose(1, 2).flatten(0, 1)[part.kept], lse.transpose(1, 2).flatten(0, 1)[part.kept]


def _backward(
    part: Part, grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """A part's share of the gradients of its queries, keys and values."""
    inputs = (_gathered(q, part.queries), _gathered(k, part.keys), _gathered(v, part.keys))
    wanted = _gathered(grad, part.queries)
    if not isinstance(part.queries, slice):  # a filled-up query is nobody's: its gradient is nothing
        flat = wanted.new_zeros(part.queries.numel(), *grad.shape[1:])
        flat[part.kept] = grad[part.places]
        wanted = flat.view(*part.queries.shape, *grad.shape[1:]).transpose(1, 2)
    merged = _gathered(out, part.queries)
    sums = _gathered(lse[..., None], part.queries)[..., 0]
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        wanted, *inputs, merged, sums, 0.0, part.causal, scale=scale
    )


def _masked(q: Tensor, k: Tensor, v: Tensor, layout: Layout, scale: float, window: int | None) -> Tensor:
    """Torch's attention of each tree under its mask; q [L, H, D] and alike."""
    found: list[Tensor] = []
    for number, span in enumerate(layout.spans):
        here = slice(span.start, span.end)
        inputs = (_gathered(q, here), _repeated(_gathered(k, here), q), _repeated(_gathered(v, here), q))
        mask = layout.mask(number, window, q.device)
        found.append(F.scaled_dot_product_attention(*inputs, attn_mask=mask, scale=scale)[0])
    return torch.cat(found, dim=1).transpose(0, 1)


def _explicit(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: Layout,
    scale: float,
    window: int | None,
    cap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """The probabilities written out: scores capped at plus and minus `cap`; a sink [H] takes a share of them."""
    found: list[Tensor] = []
    for number, span in enumerate(layout.spans):
        here = slice(span.start, span.end)
        query, key, value = _gathered(q, here), _repeated(_gathered(k, here), q), _repeated(_gathered(v, here), q)
        scores = query @ key.transpose(2, 3) * scale
        scores = scores if cap is None else torch.tanh(scores / cap) * cap
        scores = scores.masked_fill(~layout.mask(number, window, q.device), float("-inf"))
        if sinks is not None:
            scores = torch.cat([scores, sinks.view(1, -1, 1, 1).expand(*scores.shape[:3], 1).to(scores)], dim=-1)
        shares = torch.softmax(scores, dim=-1, dtype=torch.promote_types(q.dtype, torch.float32)).to(q.dtype)
        shares = shares if sinks is None else shares[..., :-1]
        found.append((shares @ value)[0])
    return torch.cat(found, dim=1).transpose(0, 1)


_uncut = partial(_explicit, sinks=None)
"""What the fused kernel is held to when it is tried."""


def _repeated(values: Tensor, q: Tensor) -> Tensor:
    """[1, K, L, D] as [1, H, L, D]: each key head for its queries' heads."""
    return values.repeat_interleave(q.shape[1] // values.shape[1], dim=1)


def tree_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    as_sdpa: bool = False,
    **keywords: Any,
) -> tuple[Tensor, None]:
    """What a model's attention layers call: query [1, H, L, D], key and value [1, K, L, D]; gives [1, L, H, D].

    Raises:
        ValueError: without a layout, or with a mask, dropout or a cache: the gate lets no such model through.
    """
    layout = keywords.pop(KEYWORD, None)
    if not isinstance(layout, Layout) or attention_mask is not None or dropout or query.shape[2] != key.shape[2]:
        raise ValueError("attention by trees wants a row of trees, without mask, dropout and cache")
    layout.calls += 1
    layout.seen |= {name for name, each in keywords.items() if each is not None and name not in HEEDED | IDLE}
    q, k, v = (each.transpose(1, 2)[0] for each in (query, key, value))
    scale = q.shape[-1] ** -0.5 if scaling is None else scaling
    window = keywords.get("sliding_window")
    windowed = window is not None
    window = window if window is not None and window < layout.depth else None
    cap, sinks = (None, None) if as_sdpa else (keywords.get("softcap"), keywords.get("s_aux"))
    kind = Kind.of(q, k, v, cap, windowed=windowed)
    if sinks is None and tree_blocks.usable(kind, _uncut):
        form, out = "blocks", tree_blocks.attend(q, k, v, layout, scale, window, cap)
    elif cap is None and sinks is None and tree_kernel.takes(q, k, v):
        form, out = "kernel", tree_kernel.tree_attention(q, k, v, layout, scale, window)
    elif cap is not None or sinks is not None:
        form, out = "explicit", _explicit(q, k, v, layout, scale, window, cap, sinks)
    elif window is not None or q.device.type != "cpu" or q.shape[-1] != v.shape[-1]:
        form, out = "masked", _masked(q, k, v, layout, scale, window)
    else:
        form, out = "parts", _PartsAttention.apply(q, k, v, layout, scale)
    RAN[form] += 1
    return out[None], None  # pyright: ignore[reportOptionalSubscript]


AttentionInterface.register(NAME, tree_attention)
AttentionInterface.register(AS_SDPA, partial(tree_attention, as_sdpa=True))


@contextmanager
def attending_by_trees(model: nn.Module) -> Iterator[None]:
    """Inside, the model's forward wants `gruppo_tree=Layout`; before and after, it is as it came."""
    base = base_of(model)
    before = base.config._attn_implementation  # pyright: ignore[reportPrivateUsage]
    base.set_attn_implementation(AS_SDPA if before == "sdpa" else NAME)
    try:
        yield
    finally:
        base.set_attn_implementation(before or "eager")


def base_of(model: nn.Module) -> PreTrainedModel:
    """The model of transformers inside adapters."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    assert isinstance(base, PreTrainedModel)
    return base
