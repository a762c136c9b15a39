"""The attention of decode steps on a CPU, by a kernel of our own where the machine has a C compiler.

Legend: n live rows, R slots, K key heads, G queries of a key head, T positions of a slot, P tokens of a prompt, D head
size.

`decode_attention.c` says why torch's own is slow here. The kernel is compiled at its first use (`monitor.native`) and
checked against torch once per process and kind of number; where it is absent or differs, torch's attention does it.
"""

import ctypes
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gruppo.errors import EngineError
from gruppo.monitor import native
from gruppo.monitor.native import LANES

SOURCE = Path(__file__).with_suffix(".c")
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.02}


def takes(query: Tensor, keys: Tensor, values: Tensor) -> bool:
    """Whether the kernel is there and made for such queries [n, K, G, D] and slots [R, K, T, D]."""
    alike = keys.shape == values.shape and keys.is_contiguous() and values.is_contiguous()
    fits = query.device.type == "cpu" and query.dtype == keys.dtype == values.dtype and query.shape[3] % LANES == 0
    return alike and fits and available(query.dtype)


class _Call(ctypes.Structure):
    """As in the kernel's source."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("queries", "token_keys", "token_values", "keys", "values", "lengths")),
        *((name, ctypes.c_void_p) for name in ("prompt_keys", "prompt_values", "prompt_lengths")),
        *((name, ctypes.c_int64) for name in ("rows", "heads", "group", "size", "positions", "window")),
        ("scaling", ctypes.c_float),
        ("out", ctypes.c_void_p),
    )


@dataclass(frozen=True, slots=True)
class RowPrompts:
    """Of each row [n], int64: where the keys and the values [K, P, D] of its prompt begin, and P, 0 without one."""

    keys: NDArray[np.int64]
    values: NDArray[np.int64]
    lengths: NDArray[np.int64]


def decode_attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    lengths: Tensor,
    scaling: float,
    window: int | None = None,
    prompts: RowPrompts | None = None,
    token: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Attention [n, K, G, D] of each row to its prompt, if it has one here, and to its slot.

    Args:
        query: [n, K, G, D], of one token a row.
        keys: [R, K, T, D], those of the first n slots are looked at.
        values: as keys.
        lengths: [n], int64: positions of the slot before the token's own, which is looked at too.
        scaling: of the products.
        window: the last positions of the slot that are looked at; None: all.
        prompts: of the rows; None: no row has one beside its slot.
        token: the token's own key and value [n, K, 1, D], which are written to the slots first; None: they are there.

    Raises:
        EngineError: no memory is left for the scores.
    """
    kernel = _kernel(query.dtype)
    assert kernel is not None
    query, lengths = query.contiguous(), lengths.contiguous()
    rows, heads, group, size = query.shape
    assert rows <= keys.shape[0]
    assert lengths.dtype == torch.int64
    before: tuple[int | None, ...] = (None, None, None)
    if prompts is not None:
        before = tuple(each.ctypes.data for each in (prompts.keys, prompts.values, prompts.lengths))
    own: tuple[int | None, ...] = (None, None)
    if token is not None:
        assert all(each.shape == (rows, heads, 1, size) and each.dtype == query.dtype for each in token)
        token = token[0].contiguous(), token[1].contiguous()
        own = token[0].data_ptr(), token[1].data_ptr()
    out = torch.empty_like(query)
    call = _Call(
        *(query.data_ptr(), *own, keys.data_ptr(), values.data_ptr(), lengths.data_ptr()),
        *(*before, rows, heads, group, size, keys.shape[2], window or 0),
        *(scaling, out.data_ptr()),
    )
    if kernel(ctypes.byref(call), torch.get_num_threads()):
        raise EngineError("no memory for the scores of a decode step; lower max_live_completions")
    return out


@functools.cache
def _kernel(dtype: torch.dtype) -> Callable[..., int] | None:
    return native.function(SOURCE, dtype, "decode_attention", (ctypes.POINTER(_Call), ctypes.c_int))


@functools.cache
def available(dtype: torch.dtype) -> bool:
    """Whether the kernel is there for this kind of number, and gives what torch gives."""
    if _kernel(dtype) is None:
        return False
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        return all(_agrees(dtype, group, size, generator) for group, size in ((1, 16), (2, 32), (3, 64), (2, 80)))


def _agrees(dtype: torch.dtype, group: int, size: int, generator: torch.Generator) -> bool:
    """On rows of 1, 16 and 37 positions, the last with a prompt of 21 tokens before."""
    query = torch.randn(3, 2, group, size, generator=generator).to(dtype)
    keys, values = (torch.randn(3, 2, 40, size, generator=generator).to(dtype) for _ in range(2))
    before = [torch.randn(2, 21, size, generator=generator).to(dtype) for _ in range(2)]
    lengths = torch.tensor([0, 15, 36])
    prompts = RowPrompts(*(np.array([0, 0, number]) for number in (*(each.data_ptr() for each in before), 21)))
    found = decode_attention(query, keys, values, lengths, size**-0.5, None, prompts)
    for row, positions in enumerate(lengths + 1):
        own = [t[row, :, :positions] for t in (keys, values)]
        every = own if row < 2 else [torch.cat(pair, dim=1) for pair in zip(before, own, strict=True)]
        scores = query[row].float() @ every[0].float().transpose(-1, -2) * size**-0.5
        wanted = torch.softmax(scores, dim=-1) @ every[1].float()
        if not torch.allclose(found[row].float(), wanted, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype]):
            return False
    return True
