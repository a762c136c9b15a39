"""Attention by the tree in one fused kernel: torch's flex attention under a block mask.

Legend: L tokens of a row, P the same filled up, H query heads, K key heads, D head size.

Every token has a segment (its prompt or its completion), a home (its prompt's segment) and a depth (tokens from the
root). A token attends to an earlier one of its own segment or of its home, less than a window away in depth. The
kernel skips blocks of 128 by 128 scores in which nobody attends to anybody, so packed trees cost what they cost alone.

1. A row is filled up to a power of two, at least 128: the kernel is compiled for each length, and in a length that
   128 does not divide torch's gradients were wrong (https://github.com/pytorch/pytorch/issues/153799). What fills up
   attends to itself alone and is cut off.
2. The block mask is counted strip by strip; torch's own way holds [L, L] at once. It is made once a row and window.
3. Whether the kernel does a kind of layer is found by trying, forward and backward, on a small row: head sizes that no
   block fits, versions and cards that do not compile it, products in TF32 that are off. `usable` says no then.

On a CPU torch has no gradient of it, so it is for CUDA. Tests run its uncompiled form on a CPU, gradients included. The
compiled kernel itself was never run: no GPU was at hand.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from gruppo.training.tree_layout import Layout, Span

DEVICES = {"cuda"}
BLOCK = 128
STRIP = 1024
"""Queries whose scores are counted at a time."""
COMPILED_FOR = 64
"""Kernels that may be compiled: kinds of layers times lengths, with gradient and without. torch stops at 8."""
OFF = {torch.float64: 1e-9, torch.float32: 1e-4}
"""Largest difference in a trial, by the largest number expected. What is not listed has 0.03: uncompiled, in bfloat16,
the kernel is off by up to 0.01 of the probabilities written out."""

Attention = Callable[..., Tensor]
"""(q, k, v, layout, scale, window, cap) -> [L, H, D], as `attend`."""


class Kind(NamedTuple):
    """What a kernel is compiled for, but for the length."""

    device: torch.device
    dtype: torch.dtype
    heads: int
    key_heads: int
    size: int
    value_size: int
    cap: float | None
    windowed: bool
    """Whether the layer has a window; in a short row it is not felt."""

    @classmethod
    def of(cls, q: Tensor, k: Tensor, v: Tensor, cap: float | None, *, windowed: bool) -> "Kind":
        """That of q [L, H, D], k and v [L, K, D]."""
        return cls(q.device, q.dtype, q.shape[1], k.shape[1], q.shape[2], v.shape[2], cap, windowed)


why_not: dict[Kind, str] = {}
"""Of each kind that was tried, why the kernel does not do it; empty where it does."""


def usable(kind: Kind, plain: Attention) -> bool:
    """Whether the kernel does layers of a kind; tried once, on CUDA.

    Args:
        kind: of the layer.
        plain: what it is held to.
    """
    if kind.device.type not in DEVICES:
        return False
    if kind not in why_not:
        why_not[kind] = _tried(kind, plain)
    return not why_not[kind]


def _tried(kind: Kind, plain: Attention) -> str:
    try:
        # With its window and without it, at the first row: a later one may stand inside recomputed layers, where
        # a gradient on the way would recompute them.
        off = max(_difference(kind, plain, window) for window in ((None, 7) if kind.windowed else (None,)))
    except Exception as error:  # the compiler may fail in any way
        return (str(error).strip() or type(error).__name__).splitlines()[0]
    allowed = OFF.get(kind.dtype, 0.03)
    return "" if off <= allowed else f"it is off by {off:.1g}"


@torch.inference_mode(False)
@torch.enable_grad()
def _difference(kind: Kind, plain: Attention, window: int | None) -> float:
    """Largest difference of output and gradients to the plain way, each by its largest number."""
    layout = Layout((Span(0, 9, (30, 0, 21)), Span(60, 1, (5,)), Span(66, 12, (4, 17))))
    generator = torch.Generator().manual_seed(0)

    def drawn(heads: int, size: int) -> Tensor:
        return torch.randn(layout.spans[-1].end, heads, size, generator=generator).to(kind.device, kind.dtype)

    inputs = [drawn(kind.heads, kind.size), drawn(kind.key_heads, kind.size), drawn(kind.key_heads, kind.value_size)]
    pull, found = drawn(kind.heads, kind.value_size), list[list[Tensor]]()
    for attention in (attend, plain):
        q, k, v = (each.clone().requires_grad_() for each in inputs)
        out = attention(q, k, v, layout, kind.size**-0.5, window, kind.cap)
        found.append([out.detach(), *torch.autograd.grad(out, (q, k, v), pull)])
    pairs = zip(*found, strict=True)
    return max(float((one - other).abs().max() / other.abs().max()) for one, other in pairs)


def attend(
    q: Tensor, k: Tensor, v: Tensor, layout: Layout, scale: float, window: int | None, cap: float | None
) -> Tensor:
    """Attention [L, H, D] of q [L, H, D] to k and v [L, K, D].

    Args:
        q: queries.
        k: keys.
        v: values; their size may be another.
        layout: of the row.
        scale: of the products.
        window: a token looks less than so many tokens back; None: at all.
        cap: scores are capped at plus and minus it; None: not.
    """
    length = filled_up(q.shape[0])
    fill = length - q.shape[0]
    # Contiguous also where nothing is filled up: other strides would be compiled for anew.
    inputs = [F.pad(each.transpose(0, 1), (0, 0, 0, fill)).contiguous()[None] for each in (q, k, v)]
    mask = block_mask(layout, window, q.device)
    capped = None if cap is None else capped_at(float(cap))
    grouped = q.shape[1] != k.shape[1]
    with torch._dynamo.config.patch(recompile_limit=COMPILED_FOR):  # pyright: ignore[reportPrivateUsage]
        out = kernel()(*inputs, score_mod=capped, block_mask=mask, scale=scale, enable_gqa=grouped)
    return out[0, :, : q.shape[0]].transpose(0, 1)


@cache
def kernel() -> Callable[..., Any]:
    """Flex attention, compiled for each length apart; rather an error than the way that writes all scores out."""
    return torch.compile(flex_attention, fullgraph=True, dynamic=False)


def filled_up(length: int) -> int:
    """P, the next power of two."""
    return max(BLOCK, 1 << (length - 1).bit_length())


@cache
def capped_at(cap: float) -> Callable[..., Tensor]:
    """What makes a score a capped one."""

    def capped(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return cap * torch.tanh(score / cap)

    return capped


def block_mask(layout: Layout, window: int | None, device: torch.device) -> BlockMask:
    """The block mask of a row; made once, for all layers with the same window."""
    if window not in layout.blocks:
        length = filled_up(layout.spans[-1].end)
        sees = visible(*_places(layout, length, device), window)
        counts = _counted(sees, length, device)
        part, full = (counts > 0) & (counts < BLOCK * BLOCK), counts == BLOCK * BLOCK
        layout.blocks[window] = BlockMask.from_kv_blocks(
            *_ordered(part), *_ordered(full), BLOCK_SIZE=BLOCK, mask_mod=sees, seq_lengths=(length, length)
        )
    return layout.blocks[window]


def visible(segment: Tensor, home: Tensor, depth: Tensor, window: int | None) -> Callable[..., Tensor]:
    """Whether a query attends to a key; see `_places`."""

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        theirs = segment[key]
        return (query >= key) & ((theirs == segment[query]) | (theirs == home[query]))

    if window is None:
        return sees
    reach = window

    def sees_near(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return sees(batch, head, query, key) & (depth[query] - depth[key] < reach)

    return sees_near


def _places(layout: Layout, length: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Segment, home and depth of each token, [P] each; what fills up has a segment of its own a token."""
    lengths, homes, starts = list[int](), list[int](), list[int]()
    for span in layout.spans:
        root = len(lengths)
        for count, start in ((span.prompt, 0), *((branch, span.prompt) for branch in span.branches)):
            lengths.append(count)
            homes.append(root)
            starts.append(start)
    fill = length - sum(lengths)
    homes += range(len(homes), len(homes) + fill)
    lengths, starts = lengths + [1] * fill, starts + [0] * fill
    counts = torch.tensor(lengths)
    segment = torch.arange(len(lengths)).repeat_interleave(counts)
    depth = torch.arange(length) - (counts.cumsum(0) - counts - torch.tensor(starts))[segment]
    columns = torch.stack([segment, torch.tensor(homes)[segment], depth]).int().to(device)
    segment, home, depth = columns.unbind()
    return segment, home, depth


def _counted(sees: Callable[..., Tensor], length: int, device: torch.device) -> Tensor:
    """[P / 128, P / 128], in each block of queries by keys how many of its scores count."""
    places = torch.arange(length, device=device)
    none = places.new_zeros(())

    def strip(queries: Tensor) -> Tensor:
        return sees(none, none, queries[:, None], places).view(-1, BLOCK, length // BLOCK, BLOCK).sum((1, 3))

    return torch.cat([strip(queries) for queries in places.split(STRIP)])


def _ordered(wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Of each row of blocks how many are wanted [1, 1, n], and all its blocks, the wanted ones first [1, 1, n, n]."""
    order = torch.argsort(wanted.int(), dim=-1, descending=True, stable=True)
    return wanted.sum(-1).int()[None, None], order.int()[None, None]
