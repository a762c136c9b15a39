import hashlib

import numpy as np
import pytest
import torch

from gruppo.rollout.draws import derive_seed, draw, restrict, uniforms

LARGEST = 1.0 - 2.0**-24
"""The largest uniform number that a draw can get."""


def test_uniforms_are_these_numbers():
    assert uniforms(0, "p", 0, 4).tolist() == [
        0.12214517593383789,
        0.7523942589759827,
        0.4576990604400635,
        0.9199135303497314,
    ]
    assert uniforms(1, "train.jsonl:17", 3, 2).tolist() == [0.37006378173828125, 0.6222084164619446]
    assert derive_seed(0, "rollout", 0) == 5737143590671578490


def splitmix64(seed: int, problem: str, sample: int, length: int) -> list[float]:
    """The same in Python's whole numbers."""
    digest = hashlib.blake2b(f"{seed}\x1f{problem}\x1f{sample}".encode(), digest_size=8).digest()
    state, drawn = int.from_bytes(digest, "little") >> 1, []
    for _ in range(length):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        z = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        drawn.append(((z ^ (z >> 31)) >> 40) / 2**24)
    return drawn


def test_uniforms_are_splitmix64():
    for key in ((0, "a", 0), (2**63 - 1, "Ünïcode:3", 4095), (7, "", 1)):
        assert uniforms(*key, 500).tolist() == splitmix64(*key, 500)


def test_a_longer_sequence_begins_as_a_shorter_one():
    assert uniforms(3, "p", 2, 10).tolist() == uniforms(3, "p", 2, 300)[:10].tolist()


def test_every_part_of_the_key_counts():
    base = uniforms(0, "p1", 2, 64)
    for other in ((1, "p1", 2), (0, "p2", 2), (0, "p1", 3), (0, "p12", 0), (0, "p", 12)):
        assert not np.any(uniforms(*other, 64) == base)


def test_uniforms_are_uniform_and_uncorrelated():
    drawn = np.concatenate([uniforms(0, f"p{p}", s, 50) for p in range(50) for s in range(8)])
    counts = np.histogram(drawn, bins=100, range=(0, 1))[0]
    expected = len(drawn) / 100
    assert float(((counts - expected) ** 2 / expected).sum()) < 148.2  # chi-square of 99 degrees at 0.999
    assert drawn.min() >= 0.0
    assert drawn.max() < 1.0
    starts = np.array([uniforms(0, "p", s, 2) for s in range(4000)])
    assert abs(np.corrcoef(starts[:, 0], starts[:, 1])[0, 1]) < 0.05  # next positions
    assert abs(np.corrcoef(starts[:-1, 0], starts[1:, 0])[0, 1]) < 0.05  # next samples


def test_restrict_to_the_likeliest():
    probs = torch.tensor([[0.1, 0.4, 0.2, 0.3], [0.7, 0.1, 0.15, 0.05]])
    assert restrict(probs, 0, 1.0) is probs
    two = restrict(probs, 2, 1.0)
    assert torch.equal(two, torch.tensor([[0.0, 0.4, 0.0, 0.3], [0.7, 0.0, 0.15, 0.0]]))
    assert torch.equal(restrict(probs, 9, 1.0), probs)
    nucleus = restrict(probs, 0, 0.65)
    assert torch.equal(nucleus, torch.tensor([[0.0, 0.4, 0.0, 0.3], [0.7, 0.0, 0.0, 0.0]]))
    assert torch.equal(restrict(probs, 1, 0.65)[0], torch.tensor([0.0, 0.4, 0.0, 0.0]))
    halves = torch.tensor([[0.25, 0.5, 0.25]])
    assert torch.equal(restrict(halves, 0, 0.5), torch.tensor([[0.0, 0.5, 0.0]]))  # held exactly: no more is needed
    assert torch.equal(restrict(probs, 0, 1e-6)[1], torch.tensor([0.7, 0.0, 0.0, 0.0]))  # never nothing at all


def test_draw_inverts_the_cumulative_weights():
    weights = torch.tensor([[0.25, 0.25, 0.0, 0.5]] * 7)
    at = torch.tensor([0.0, 0.2499, 0.25, 0.4999, 0.5, 0.75, LARGEST])
    assert draw(weights, at).tolist() == [0, 0, 1, 1, 3, 3, 3]
    assert draw(2.0 * weights, at).tolist() == [0, 0, 1, 1, 3, 3, 3]


def test_draws_follow_the_weights():
    weights = torch.tensor([0.4, 0.0, 0.05, 0.3, 0.25])
    at = torch.from_numpy(np.concatenate([uniforms(0, f"p{p}", 0, 100) for p in range(200)]))
    counts = torch.bincount(draw(weights.expand(len(at), 5), at), minlength=5).double()
    assert counts[1] == 0
    kept = weights > 0
    expected = weights[kept].double() * len(at)
    assert float(((counts[kept] - expected) ** 2 / expected).sum()) < 16.27  # 3 degrees at 0.999


@pytest.mark.parametrize("vocabulary", [3, 456, 151_936])
def test_a_token_of_weight_zero_is_never_drawn(vocabulary: int):
    generator = torch.Generator().manual_seed(0)
    probs = torch.softmax(4 * torch.randn(4, vocabulary, generator=generator), dim=-1)
    probs[torch.rand(4, vocabulary, generator=generator) < 0.5] = 0.0
    probs[:, 0] = 0.0  # the ends are where inversion goes wrong
    probs[:, -1] = 0.0
    probs[:, 1] = 0.01
    for uniform in (0.0, 2.0**-24, 0.5, LARGEST - 2.0**-24, LARGEST):
        for top_k, top_p in ((0, 1.0), (5, 1.0), (0, 0.3)):
            weights = restrict(probs.clone(), top_k, top_p)
            chosen = draw(weights, torch.full((4,), uniform))
            assert (weights.gather(1, chosen[:, None]) > 0).all()


def test_tiny_weights_far_below_the_others_do_not_break_the_ends():
    weights = torch.full((2, 151_936), 1e-12)
    weights[:, -1] = 0.0
    weights[1] = 0.0
    weights[1, 151_934] = 1e-30
    assert draw(weights, torch.tensor([LARGEST, LARGEST])).tolist()[1] == 151_934
    assert draw(weights, torch.tensor([0.0, 0.0])).tolist() == [0, 151_934]
    assert draw(weights, torch.tensor([LARGEST, 0.5]))[0] < 151_935
    smallest = torch.tensor([[0.0, 1e-45, 0.0]])  # its product with the largest number rounds up to itself
    assert draw(smallest, torch.tensor([LARGEST])).tolist() == [1]
