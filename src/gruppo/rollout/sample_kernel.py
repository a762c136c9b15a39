"""Sampling on a CPU by a kernel of our own where the machine has a C compiler: `sample.c` says how.

As torch's way in `rollout.sampling`, which does a softmax, two running sums and a dozen small operations, but reads the
logits twice and writes nothing. Compiled and checked as `rollout.decode_attention`.

Legend: N rows, V vocabulary.
"""

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from gruppo.monitor import native

SOURCE = Path(__file__).with_name("sample.c")
COLDEST = 1e-6
"""The lowest temperature, below which float32 has no room for its inverse times a logit."""


def takes(logits: Tensor, temperature: float, top_k: int, top_p: float) -> bool:
    """Whether the kernel is there and made for such logits [N, V] and such a draw."""
    plain = temperature >= COLDEST and top_k == 0 and top_p >= 1.0
    return plain and logits.device.type == "cpu" and logits.stride(1) == 1 and available(logits.dtype)


class _Call(ctypes.Structure):
    """As in the kernel's source."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("logits", "uniform")),
        *((name, ctypes.c_int64) for name in ("rows", "vocabulary", "stride")),
        ("temperature", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in ("tokens", "logprobs")),
    )


def sample(logits: Tensor, temperature: float, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Token ids [N] and their log-probs [N] at logits / temperature.

    Args:
        logits: [N, V].
        temperature: above 0.
        uniform: [N], in [0, 1).
    """
    kernel = _kernel(logits.dtype)
    assert kernel is not None
    rows, vocabulary = logits.shape
    uniform = uniform.float().contiguous()
    assert uniform.shape == (rows,)
    tokens, logprobs = torch.empty(rows, dtype=torch.int64), torch.empty(rows)
    call = _Call(
        *(each.data_ptr() for each in (logits, uniform)),
        *(rows, vocabulary, logits.stride(0), temperature),
        *(each.data_ptr() for each in (tokens, logprobs)),
    )
    kernel(ctypes.byref(call), torch.get_num_threads())
    return tokens, logprobs


@functools.cache
def _kernel(dtype: torch.dtype) -> Callable[..., None] | None:
    return native.function(SOURCE, dtype, "sample", (ctypes.POINTER(_Call), ctypes.c_int), None)


@functools.cache
def available(dtype: torch.dtype) -> bool:
    """Whether the kernel is there for this kind of number, and draws what the softmax says."""
    if _kernel(dtype) is None:
        return False
    generator = torch.Generator().manual_seed(0)
    return all(_agrees(dtype, vocabulary, generator) for vocabulary in (1, 61, 512, 4100))


def _agrees(dtype: torch.dtype, vocabulary: int, generator: torch.Generator) -> bool:
    """Each number falls within its token's share of the probability, and the log-prob is that share's."""
    logits = (3 * torch.randn(8, vocabulary, generator=generator)).to(dtype)
    uniform = torch.rand(8, generator=generator)
    tokens, logprobs = sample(logits, 0.7, uniform)
    if not bool(((tokens >= 0) & (tokens < vocabulary)).all()):
        return False
    probs = torch.softmax(logits.double() / 0.7, dim=-1)
    share, end = (each.gather(1, tokens[:, None])[:, 0] for each in (probs, probs.cumsum(dim=-1)))
    within = (uniform > end - share - 1e-5) & (uniform < end + 1e-5)
    return bool(within.all()) and torch.allclose(logprobs.double(), share.log(), atol=1e-5, rtol=0)
