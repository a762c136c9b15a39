"""Prompts whose keys and values are kept once, and the attention of all their rows to them.

Legend: n live rows, H query heads, K key heads, G = H / K queries of a key head, D head size, P tokens of a prompt.

A decode step reads all keys and values, and with long prompts most of them are the same for the rows of a group. Two
ways to attend to them:

1. On a CPU with a C compiler, `rollout.decode_attention` is told of each row where its prompt lies; the rows of a group
   follow each other, so that what one has read is in the processor's cache for the next.
2. Elsewhere a prompt is read once a step for all of its rows: their queries stand side by side in one product, and the
   result is merged with the attention of each row to its own tokens by their log-sum-exps.

In the second way the queries of a product are filled up to a multiple of BLOCK and split at MOST, so that torch's
kernel on a CPU works on blocks of the same shape whatever the number of rows: a row's bits do not depend on how many of
its group are left.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from gruppo.rollout.decode_attention import RowPrompts

SHARED_TOKENS = 64
SHARED_ROWS = 4
"""Tokens of a prompt and rows of its group from which keeping it once pays: it costs a call a layer and step."""
BLOCK = 32
"""Queries that torch's kernel on a CPU works on at a time where there are fewer than 192."""
MOST = 160
"""Queries of one call."""

PromptKey = tuple[int, tuple[int, ...]]
"""Version of the weights, and the prompt: what makes the keys and values of two rows equal."""


def attention_and_sums(
    query: Tensor, key: Tensor, value: Tensor, scaling: float, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Attention [B, heads, queries, D] and the log-sum-exps of its scores [B, heads, queries], in float32.

    Args:
        query: [B, heads, queries, D].
        key: [B, heads, keys, D].
        value: as key.
        scaling: of the products.
        bias: [B, 1, 1, keys], added to the scores; None: nothing is hidden.
    """
    if query.device.type == "cpu":
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, False, attn_mask=bias, scale=scaling
        )
    scores = torch.matmul(query * scaling, key.transpose(-1, -2)).float()
    scores = scores if bias is None else scores + bias
    sums = torch.logsumexp(scores, dim=-1)
    return torch.matmul(torch.exp(scores - sums[..., None]).to(value.dtype), value), sums


@dataclass(frozen=True, slots=True)
class _Plan:
    """How the rows of a step are put into calls."""

    rows: Tensor
    """Rows by prompt, some again to fill a block up."""
    calls: tuple[tuple[PromptKey, slice], ...]
    """Which of `rows` are asked of which prompt."""
    back: Tensor
    """[n], where in `rows` each row is; behind the last where it has no prompt here."""


class SharedPrompts:
    """Keys and values by layer and prompt, and which rows of a step belong to which.

    Args:
        block: queries are filled up to a multiple of it.
    """

    def __init__(self, block: int = BLOCK) -> None:
        self._block = block
        self._kept: dict[PromptKey, dict[int, tuple[Tensor, Tensor]]] = {}
        self._asked: tuple[PromptKey | None, ...] | None = None
        """Of each row of the step its prompt; None where it is to be found anew."""
        self._members: dict[PromptKey, list[int]] = {}
        self._plans: dict[int, _Plan] = {}
        self.merges = False
        """Whether torch has attended to a prompt, by calls that depend on who is live."""
        self._most = 0
        self._places: dict[int, RowPrompts] = {}
        """By layer, refilled in their place: captured steps read them."""

    @property
    def bytes(self) -> int:
        """Bytes of all keys and values."""
        return sum(t.nbytes for layers in self._kept.values() for pair in layers.values() for t in pair)

    @property
    def asked(self) -> bool:
        """Whether rows of the step have such a prompt."""
        return bool(self._members)

    def __contains__(self, key: PromptKey) -> bool:
        return key in self._kept

    def put(self, layer: int, key: PromptKey, keys: Tensor, values: Tensor) -> None:
        """Keep a prompt's keys and values [1, K, P, D]."""
        self._kept.setdefault(key, {})[layer] = (keys.contiguous(), values.contiguous())
        self._asked = None

    def keep(self, wanted: set[PromptKey]) -> None:
        """Drop all others."""
        for key in self._kept.keys() - wanted:
            del self._kept[key]

    def begin(self, prompts: Sequence[PromptKey | None], rows: int, most: int) -> None:
        """A step of so many rows, each with its prompt; rows behind the last have none.

        Args:
            prompts: of each row.
            rows: of the step.
            most: rows that any step may have, as long as the slots are where they are.
        """
        asked = (*prompts, *[None] * (rows - len(prompts)))
        if asked == self._asked:
            return
        self._asked, self._members, self._plans = asked, {}, {}
        for row, key in enumerate(asked):
            if key is not None:
                self._members.setdefault(key, []).append(row)
        if any(len(places.lengths) != most for places in self._places.values()):
            self._places = {}
        self._most = most
        for layer in self._places if self._members else ():
            self._fill(layer)

    def of_rows(self, layer: int) -> RowPrompts:
        """Where each row's prompt has its keys and values in a layer."""
        if layer not in self._places:
            self._places[layer] = RowPrompts(*(np.zeros(self._most, dtype=np.int64) for _ in range(3)))
            self._fill(layer)
        return self._places[layer]

    def _fill(self, layer: int) -> None:
        places = self._places[layer]
        places.lengths[:] = 0
        for key, own in self._members.items():
            kept = self._kept[key][layer]
            places.keys[own], places.values[own] = (each.data_ptr() for each in kept)
            places.lengths[own] = kept[0].shape[2]

    def _plan(self, group: int, device: torch.device) -> _Plan:
        """For G queries of a key head; the same for every layer of a step."""
        self.merges = True
        if group not in self._plans:
            together = self._block // math.gcd(self._block, group)
            rows, calls, back = list[int](), list[tuple[PromptKey, slice]](), np.full(len(self._asked or ()), -1)
            for key, own in self._members.items():
                start = len(rows)
                back[own] = np.arange(start, start + len(own))
                rows += own + own[-1:] * (-len(own) % together)
                calls.append((key, slice(start, len(rows))))
            back[back < 0] = len(rows)
            places = torch.tensor(rows, device=device)
            self._plans[group] = _Plan(places, tuple(calls), torch.from_numpy(back).to(device))
        return self._plans[group]

    def merged(self, layer: int, query: Tensor, own: Tensor, own_sums: Tensor, scaling: float) -> Tensor:
        """Attention [n, K, G, D] to prompts and own tokens.

        Args:
            layer: whose keys and values.
            query: [n, K, G, D].
            own: [n, K, G, D], attention to the rows' own tokens.
            own_sums: [n, K, G], its log-sum-exps.
            scaling: of the products.
        """
        heads, group, size = query.shape[1:]
        plan = self._plan(group, query.device)
        gathered = query.transpose(0, 1).index_select(1, plan.rows).flatten(1, 2)[None]
        found: list[tuple[Tensor, Tensor]] = []
        for key, within in plan.calls:
            keys, values = self._kept[key][layer]
            for start in range(within.start * group, within.stop * group, MOST):
                queries = gathered[:, :, start : min(start + MOST, within.stop * group)]
                found.append(attention_and_sums(queries, keys, values, scaling, None))
        out, sums = (torch.cat(each, dim=2)[0] for each in zip(*found, strict=True))
        # Rows without such a prompt get a part of no weight, which stands behind the others.
        out = pad(out.view(heads, -1, group, size), (0, 0, 0, 0, 0, 1)).index_select(1, plan.back).transpose(0, 1)
        sums = pad(sums.view(heads, -1, group), (0, 0, 0, 1), value=float("-inf"))
        sums = sums.index_select(1, plan.back).transpose(0, 1)
        share = torch.exp(own_sums - torch.logaddexp(sums, own_sums))[..., None]
        return torch.lerp(out.to(share.dtype), own.to(share.dtype), share).to(own.dtype)
