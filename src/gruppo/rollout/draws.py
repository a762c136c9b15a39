"""Random numbers keyed by what they are for, and the drawing of tokens with them.

A draw depends on (seed, problem, sample, position) alone, so a completion does not depend on what else is in the
batch, and an engine has no random state to save.
"""

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_BITS = 24
"""Bits of a draw: as many as float32 holds exactly."""


def derive_seed(*parts: object) -> int:
    """A 63-bit seed from anything that prints the same every time."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def uniforms(seed: int, problem_id: str, sample: int, length: int) -> NDArray[np.float32]:
    """Uniform numbers in [0, 1) for positions 0 to length - 1 of one sample: [length].

    SplitMix64 (Steele, Lea, Flood 2014, https://doi.org/10.1145/2714064.2660195) over position, started at a hash
    of the other three.
    """
    key = np.uint64(derive_seed(seed, problem_id, sample))
    with np.errstate(over="ignore"):
        state = key + np.arange(1, length + 1, dtype=np.uint64) * _GOLDEN
        state = (state ^ (state >> np.uint64(30))) * _MIX_1
        state = (state ^ (state >> np.uint64(27))) * _MIX_2
        state = state ^ (state >> np.uint64(31))
    return ((state >> np.uint64(64 - _BITS)).astype(np.float64) / 2**_BITS).astype(np.float32)


def restrict(probs: Tensor, top_k: int, top_p: float) -> Tensor:
    """Probabilities [N, V] with all but the allowed tokens at 0 (not renormalised).

    Args:
        probs: [N, V], each row sums to 1.
        top_k: keep the k likeliest; 0: all.
        top_p: keep the fewest likeliest tokens that together hold at least this probability; 1: all.
    """
    if top_k == 0 and top_p >= 1.0:
        return probs
    ordered, indices = probs.sort(dim=-1, descending=True)
    if top_k > 0:
        ordered[:, top_k:] = 0.0
    if top_p < 1.0:
        before = ordered.cumsum(dim=-1) - ordered
        ordered = ordered.masked_fill(before >= top_p, 0.0)
    return torch.zeros_like(probs).scatter_(1, indices, ordered)


def draw(weights: Tensor, uniform: Tensor) -> Tensor:
    """Token ids [N] by inversion of the cumulative weights [N, V] at the uniform numbers [N].

    Weights need not sum to 1. A token of weight 0 is never drawn. Rows that are not finite give some token.
    """
    cumulative = weights.cumsum(dim=-1)
    total = cumulative[:, -1:]
    below_total = torch.nextafter(total, torch.zeros_like(total))
    target = torch.minimum(uniform[:, None] * total, below_total)
    return torch.searchsorted(cumulative, target, right=True).squeeze(1).clamp_max(weights.shape[1] - 1)
