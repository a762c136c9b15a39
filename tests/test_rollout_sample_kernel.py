"""The kernel that samples against exact inversion, and a row's bits whatever stands beside it."""

import pytest
import torch
from torch import Tensor

from gruppo.monitor.native import compiler
from gruppo.rollout.sample_kernel import available, sample, takes
from gruppo.rollout.sampling import sample_tokens

LARGEST = 1.0 - 2.0**-24
"""The largest uniform number that a draw can get."""
BOTH = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C compiler")


def random(
    rows: int, vocabulary: int, dtype: torch.dtype = torch.float32, spread: float = 2.0
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(vocabulary)
    logits = spread * torch.randn(rows, vocabulary, generator=generator)
    return logits.to(dtype), torch.rand(rows, generator=generator)


@BOTH
@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.7])
@pytest.mark.parametrize("vocabulary", [1, 2, 15, 16, 17, 61, 512, 1000, 1040, 4096, 5001, 151_936])
def test_tokens_are_the_inversion_and_log_probs_are_exact(vocabulary: int, temperature: float, dtype: torch.dtype):
    rows = 4 if vocabulary > 10_000 else 200
    logits, uniform = random(rows, vocabulary, dtype)
    tokens, logprobs = sample(logits, temperature, uniform)
    exact = torch.log_softmax(logits.double() / temperature, dim=-1)
    wanted = exact.gather(1, tokens[:, None])[:, 0]
    assert (logprobs.double() - wanted).abs().max() < 1e-6
    reach = exact.exp().cumsum(dim=-1)
    start = reach.gather(1, tokens[:, None])[:, 0] - wanted.exp()
    assert (start - uniform).max() < 1e-6
    assert (uniform - (start + wanted.exp())).max() < 1e-6
    found = torch.searchsorted(reach, uniform[:, None].double(), right=True)[:, 0].clamp_max(vocabulary - 1)
    assert int((found != tokens).sum()) <= 1  # where the number falls on a border, within rounding


@BOTH
def test_it_draws_what_torch_draws(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch):
    logits, uniform = random(2000, 700, dtype)
    tokens, logprobs = sample_tokens(logits, 0.8, uniform)
    monkeypatch.setattr("gruppo.rollout.sampling.takes", lambda *_: False)
    others, other_logprobs = sample_tokens(logits, 0.8, uniform)
    same = tokens == others
    assert int((~same).sum()) <= 2
    assert (logprobs - other_logprobs)[same].abs().max() < 2e-6
    assert (tokens.dtype, logprobs.dtype) == (others.dtype, other_logprobs.dtype) == (torch.int64, torch.float32)


@BOTH
@pytest.mark.parametrize("vocabulary", [5, 456, 2048, 151_936])
def test_a_token_of_weight_zero_is_never_drawn(vocabulary: int, dtype: torch.dtype):
    logits, _ = random(4, vocabulary, dtype, spread=4.0)
    logits[torch.rand(4, vocabulary, generator=torch.Generator().manual_seed(0)) < 0.5] = float("-inf")
    logits[:, [0, -1]] = float("-inf")  # the ends are where inversion goes wrong
    logits[:, 1] = -3
    logits[3, 2:] = -200.0  # nothing in float32, beside the one before
    for uniform in (0.0, 2.0**-24, 0.5, LARGEST - 2.0**-24, LARGEST):
        tokens, logprobs = sample(logits, 1.0, torch.full((4,), uniform))
        assert logits.gather(1, tokens[:, None]).isfinite().all()
        assert (tokens[3], logprobs[3]) == (1, 0)


def test_the_ends_of_the_numbers_draw_the_ends_of_the_vocabulary():
    logits = torch.zeros(2, 4096)
    assert sample(logits, 1.0, torch.tensor([0.0, LARGEST]))[0].tolist() == [0, 4095]
    steps = torch.arange(4096) / 4096  # of equal weights, each begins with itself
    assert sample(logits[:1].expand(4096, -1), 1.0, steps)[0].tolist() == list(range(4096))


def test_large_logits_neither_overflow_nor_lose_digits():
    logits = torch.tensor([[3e38, -3e38, 3e38, 0.0], [1e4, 1e4 + 1, 1e4 - 1, -1e4]])
    tokens, logprobs = sample(logits, 1.0, torch.tensor([0.75, 0.5]))
    assert tokens.tolist() == [2, 1]
    wanted = torch.log_softmax(logits.double(), dim=-1).gather(1, tokens[:, None])[:, 0]
    assert (logprobs - wanted).abs().max() < 1e-6


@BOTH
@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_stays_so_in_its_row_alone(number: float, dtype: torch.dtype):
    logits, uniform = random(8, 300, dtype)
    tokens, logprobs = sample(logits, 1.0, uniform)
    for place in (0, 17, 299):
        broken = logits.clone()
        broken[6, place] = number
        if number == float("-inf"):
            broken[6] = number
        found, its = sample(broken, 1.0, uniform)
        assert not its[6].isfinite()
        assert 0 <= int(found[6]) < 300
        others = [0, 1, 2, 3, 4, 5, 7]
        assert torch.equal(its[others], logprobs[others])
        assert torch.equal(found[others], tokens[others])


@BOTH
def test_a_row_has_the_same_bits_whatever_stands_beside_it(dtype: torch.dtype):
    for vocabulary in (61, 512, 4100):
        logits, uniform = random(9, vocabulary, dtype)
        tokens, logprobs = sample(logits, 0.9, uniform)
        order = [7, 3, 8, 0, 2]
        found = sample(logits[order], 0.9, uniform[order])
        assert torch.equal(found[0], tokens[order])
        assert torch.equal(found[1], logprobs[order])
        apart = torch.zeros(9, vocabulary + 3, dtype=dtype)[:, 1:-2].copy_(logits)
        every_second = sample(apart[::2], 0.9, uniform[::2])
        assert torch.equal(every_second[1], logprobs[::2])
        torch.set_num_threads(2)
        try:
            assert torch.equal(sample(logits, 0.9, uniform)[1], logprobs)
        finally:
            torch.set_num_threads(1)


def test_the_kernels_own_check_and_what_it_does_not_take():
    assert available(torch.float32)
    assert available(torch.bfloat16)
    assert not available(torch.float16)
    logits = torch.zeros(2, 64)
    assert takes(logits, 1.0, 0, 1.0)
    assert not takes(logits, 0.0, 0, 1.0)
    assert not takes(logits, 1.0, 5, 1.0)
    assert not takes(logits, 1.0, 0, 0.9)
    assert not takes(logits.T, 1.0, 0, 1.0)
    assert not takes(logits.half(), 1.0, 0, 1.0)
