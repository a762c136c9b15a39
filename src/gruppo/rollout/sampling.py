"""From logits to tokens and their log-probs, a few rows and a part of the vocabulary at a time.

Legend: N rows, V vocabulary, C parts of the vocabulary.

One softmax gives both. The inversion sums the probabilities by parts of the vocabulary first and looks only into the
part where the random number falls: a running sum over a large vocabulary costs several times the softmax, and loses
digits on its way. On a CPU with a C compiler `rollout.sample_kernel` does the same where neither top-k nor top-p is on.
"""

import torch
from torch import Tensor

from gruppo.rollout.draws import draw, restrict
from gruppo.rollout.sample_kernel import sample, takes

PART = 128
"""Tokens of a part of the vocabulary."""
VECTOR = 32
"""A multiple of the numbers that a processor works on at a time."""
CHUNK = 2**22
"""Logits that are worked on at a time: bounds the memory, and stays in the processor's cache."""


@torch.inference_mode()
def sample_tokens(
    logits: Tensor, temperature: float, uniform: Tensor, top_k: int = 0, top_p: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Token ids [N] and their log-probs [N] at logits / temperature over the whole vocabulary.

    Args:
        logits: [N, V].
        temperature: 0 takes the likeliest token; its log-probs are then those at 1.
        uniform: [N], in [0, 1).
        top_k: as in `restrict`.
        top_p: as in `restrict`.
    """
    if takes(logits, temperature, top_k, top_p):
        return sample(logits, temperature, uniform)
    rows = max(1, CHUNK // logits.shape[1])
    parts = [
        _sample(part, temperature, numbers, top_k, top_p)
        for part, numbers in zip(logits.split(rows), uniform.split(rows), strict=True)
    ]
    if len(parts) == 1:
        return parts[0]
    return torch.cat([tokens for tokens, _ in parts]), torch.cat([logprobs for _, logprobs in parts])


def _sample(logits: Tensor, temperature: float, uniform: Tensor, top_k: int, top_p: float) -> tuple[Tensor, Tensor]:
    scaled = logits.float()
    if temperature not in (0.0, 1.0):
        scaled = scaled / temperature
    probs = torch.softmax(scaled, dim=-1)
    if temperature == 0:
        tokens = scaled.argmax(dim=-1)
    elif top_k == 0 and top_p >= 1.0:
        tokens = draw_by_parts(probs, uniform)
    else:
        tokens = draw(restrict(probs, top_k, top_p), uniform)
    return tokens, _log(probs.gather(1, tokens[:, None]))


def _log(column: Tensor) -> Tensor:
    """[N] logs of [N, 1]. Each is taken in a full vector: the last few of an array may come out a bit different."""
    return column.expand(-1, VECTOR).contiguous().log()[:, 0]


def draw_by_parts(weights: Tensor, uniform: Tensor) -> Tensor:
    """As `draw`, by parts of the vocabulary; equal to it but where rounding moves a border."""
    rows, vocabulary = weights.shape
    if vocabulary <= 4 * PART:
        return draw(weights, uniform)
    whole = vocabulary // PART * PART
    sums = weights[:, :whole].view(rows, -1, PART).sum(dim=-1)
    if whole < vocabulary:
        sums = torch.cat([sums, weights[:, whole:].sum(dim=-1, keepdim=True)], dim=1)
    reach = sums.cumsum(dim=-1)
    total = reach[:, -1:]
    target = torch.minimum(uniform[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    part = torch.searchsorted(reach, target, right=True).clamp_max(sums.shape[1] - 1)
    # The part's own weights; behind the vocabulary's end there is nothing.
    places = part * PART + torch.arange(PART, device=weights.device)
    inside = weights.gather(1, places.clamp_max(vocabulary - 1)).masked_fill_(places >= vocabulary, 0.0)
    within = inside.cumsum(dim=-1)
    rest = (target - (reach.gather(1, part) - sums.gather(1, part))).clamp_min_(0.0)
    # Rounding may push the rest over the part's own sum: the last token with weight is meant then.
    last = within[:, -1:]
    rest = torch.minimum(rest, torch.nextafter(last, torch.zeros_like(last)))
    token = part * PART + torch.searchsorted(within, rest, right=True).clamp_max(PART - 1)
    return token.squeeze(1).clamp_max(vocabulary - 1)
