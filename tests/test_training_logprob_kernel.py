"""The kernel for log-probs and entropies against torch in float64, and what it leaves to torch."""

from typing import Any

import pytest
import torch
from torch import Tensor

from gruppo.monitor.native import compiler
from gruppo.training import logprob_kernel, logprobs
from gruppo.training.logprob_kernel import logprobs_and_entropies, takes
from gruppo.training.logprobs import from_logits

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C compiler")


def drawn(tokens: int, vocabulary: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, targets at both ends and between, and gradients."""
    generator = torch.Generator().manual_seed(vocabulary)
    logits = (4 * torch.randn(tokens, vocabulary, generator=generator)).to(dtype)
    targets = torch.randint(0, vocabulary, (tokens,), generator=generator)
    targets[0], targets[-1] = 0, vocabulary - 1
    return logits, targets, torch.randn(tokens, generator=generator)


def found(logits: Tensor, targets: Tensor, grad: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    logits = logits.clone().requires_grad_()
    values, entropies = logprobs_and_entropies(logits * 1, targets, temperature)
    return values.detach(), entropies, torch.autograd.grad(values, logits, grad)[0]


def exact(logits: Tensor, targets: Tensor, grad: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    logits = logits.double().requires_grad_()
    every = torch.log_softmax(logits / temperature, dim=-1)
    values = every.gather(1, targets[:, None])[:, 0]
    entropies = -(every.exp() * every).sum(-1)
    return values.detach(), entropies.detach(), torch.autograd.grad(values, logits, grad.double())[0]


@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.5])
@pytest.mark.parametrize("vocabulary", [2, 15, 16, 17, 100, 512, 1023, 1024, 1025, 5000])
def test_figures_and_gradients_are_exact(vocabulary: int, temperature: float):
    case = drawn(5, vocabulary)
    ours, wanted = found(*case, temperature), exact(*case, temperature)
    assert (ours[0] - wanted[0]).abs().max() < 4e-6  # of up to -40 nats, whose last digit is that
    assert (ours[1] - wanted[1]).abs().max() < 2e-6
    assert (ours[2] - wanted[2]).norm() / wanted[2].norm() < 5e-7


def test_a_large_vocabulary_loses_no_digits():
    case = drawn(3, 151_936)
    ours, wanted = found(*case, 1.0), exact(*case, 1.0)
    assert (ours[0] - wanted[0]).abs().max() < 4e-6
    assert (ours[1] - wanted[1]).abs().max() < 4e-6
    assert (ours[2] - wanted[2]).norm() / wanted[2].norm() < 5e-7


@pytest.mark.parametrize("vocabulary", [17, 1024, 3001])
def test_bfloat16_logits_are_read_as_they_are_and_their_gradient_rounded(vocabulary: int):
    case = drawn(5, vocabulary, torch.bfloat16)
    ours, wanted = found(*case, 0.9), exact(*case, 0.9)
    assert ours[0].dtype == torch.float32
    assert ours[2].dtype == torch.bfloat16
    assert (ours[0] - wanted[0]).abs().max() < 3e-6
    assert (ours[1] - wanted[1]).abs().max() < 3e-6
    assert (ours[2].double() - wanted[2]).norm() / wanted[2].norm() < 3e-3  # half a unit of 8 digits


def test_an_impossible_token_counts_nothing_and_a_number_that_is_none_stays_in_its_row():
    logits, targets, grad = drawn(4, 40)
    logits[0, 5:] = float("-inf")
    targets[1], logits[1, 7] = 7, float("-inf")
    logits[2, 3] = float("nan")
    values, entropies, gradient = found(logits, targets, grad, 1.0)
    wanted = exact(logits[:, :5], targets.clamp_max(4), grad, 1.0)
    assert abs(values[0] - wanted[0][0]) < 1e-6
    assert abs(entropies[0] - wanted[1][0]) < 1e-6
    assert (gradient[0, :5] - wanted[2][0]).abs().max() < 1e-6
    assert (gradient[0, 5:] == 0).all()
    assert values[1] == float("-inf")
    assert values[2].isnan()
    assert entropies[2].isnan()
    assert values[3].isfinite()


def test_sums_go_by_row_whatever_the_threads():
    case = drawn(90, 700)
    one = found(*case, 1.0)
    torch.set_num_threads(3)
    try:
        assert all(torch.equal(a, b) for a, b in zip(found(*case, 1.0), one, strict=True))
    finally:
        torch.set_num_threads(1)


def test_autograd_is_told_that_the_logits_are_gone():
    """A head that keeps its result for its own backward pass would otherwise go on with the gradient in its place."""
    logits = torch.randn(3, 20, requires_grad=True)
    kept = torch.tanh(logits)  # its gradient is by its result
    values, _ = logprobs_and_entropies(kept, torch.tensor([1, 2, 3]), 1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        values.sum().backward()


def test_what_the_kernel_is_not_made_for_goes_by_torch(monkeypatch: pytest.MonkeyPatch):
    logits, targets, _ = drawn(5, 300)
    assert takes(logits)
    assert not takes(logits.double())
    assert not takes(logits.half())
    assert not takes(logits[:, ::2])
    kernel = from_logits(logits.clone(), targets, 0.8)
    monkeypatch.setattr(logprobs.logprob_kernel, "available", lambda dtype: False)
    torchs = from_logits(logits.clone(), targets, 0.8)
    assert (kernel.logprobs - torchs.logprobs).abs().max() < 2e-6
    assert (kernel.entropy - torchs.entropy).abs().max() < 2e-6


def test_a_kernel_that_gives_other_numbers_is_not_used(monkeypatch: pytest.MonkeyPatch):
    right = logprob_kernel._run  # pyright: ignore[reportPrivateUsage]

    def wrong(call: Any, dtype: torch.dtype, *, backward: bool) -> None:
        call.temperature *= 1.001 if backward else 1.0
        right(call, dtype, backward=backward)

    assert logprob_kernel.available.__wrapped__(torch.float32)
    monkeypatch.setattr(logprob_kernel, "_run", wrong)
    assert not logprob_kernel.available.__wrapped__(torch.float32)
