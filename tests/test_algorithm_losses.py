"""The surrogate, its clip, the KL estimate and the normaliser: values and gradients worked out by hand."""

import math

import pytest
import torch

from gruppo.algorithm.kl import k3
from gruppo.algorithm.losses import ClipRange, clipped_surrogate, is_clipped

RATIOS = [0.5, 0.9, 1.0, 1.25, 1.5]
CLIP = ClipRange(0.2, 0.3)


def surrogate(advantage: float) -> tuple[list[float], list[float]]:
    """Losses and their gradients by log-prob, for RATIOS and one advantage."""
    old = torch.full((5,), -2.0, dtype=torch.float64)
    logprobs = (old + torch.tensor(RATIOS, dtype=torch.float64).log()).requires_grad_()
    advantages = torch.full((5,), advantage, dtype=torch.float64)
    losses = clipped_surrogate(torch.exp(logprobs - old), advantages, CLIP)
    (gradient,) = torch.autograd.grad(losses.sum(), logprobs)
    return losses.tolist(), gradient.tolist()


def test_a_good_completion_earns_no_more_above_the_high_side() -> None:
    losses, gradient = surrogate(2.0)
    assert losses == pytest.approx([-1.0, -1.8, -2.0, -2.5, -2.6])
    assert gradient == pytest.approx([-1.0, -1.8, -2.0, -2.5, 0.0])


def test_a_bad_completion_earns_no_more_below_the_low_side() -> None:
    losses, gradient = surrogate(-2.0)
    assert losses == pytest.approx([1.6, 1.8, 2.0, 2.5, 3.0])
    assert gradient == pytest.approx([0.0, 1.8, 2.0, 2.5, 3.0])


def test_without_an_advantage_nothing_is_learnt() -> None:
    losses, gradient = surrogate(0.0)
    assert losses == [0.0] * 5
    assert gradient == [0.0] * 5


def test_clipped_is_where_the_clip_takes_the_gradient_away() -> None:
    ratios = torch.tensor(RATIOS)
    assert is_clipped(ratios, torch.full((5,), 2.0), CLIP).tolist() == [False] * 4 + [True]
    assert is_clipped(ratios, torch.full((5,), -2.0), CLIP).tolist() == [True] + [False] * 4
    assert is_clipped(ratios, torch.zeros(5), CLIP).tolist() == [False] * 5
    for advantage in (2.0, -2.0):
        gone = [value == 0 for value in surrogate(advantage)[1]]
        assert gone == is_clipped(ratios, torch.full((5,), advantage), CLIP).tolist()


def test_k3_values() -> None:
    # d = ln 2: 2 - ln 2 - 1; d = -1: 1/e + 1 - 1; d = 0.01: 0.01^2 / 2 + 0.01^3 / 6
    logprobs = torch.tensor([-1.0, -1.0, -1.0, -1.0])
    ref = torch.tensor([-1.0, math.log(2) - 1, -2.0, -0.99])
    assert k3(logprobs, ref).tolist() == pytest.approx([0.0, 0.30685282, 0.36787944, 5.0167e-5], rel=1e-4)


def test_k3_of_nearly_equal_policies_does_not_drown_in_rounding() -> None:
    # d^2 / 2; exp(d) - d - 1 taken as it stands in float32 would be off by its whole size
    logprobs = torch.tensor([0.0])
    assert k3(logprobs, torch.tensor([2**-12])).item() == pytest.approx(2**-25, rel=1e-3)


def test_k3_gradient_pulls_towards_the_reference() -> None:
    # d k3 / d logprobs = 1 - exp(d)
    logprobs = torch.tensor([-1.0, -1.0, -1.0], dtype=torch.float64, requires_grad=True)
    ref = torch.tensor([-1.0, math.log(2) - 1, -2.0], dtype=torch.float64)
    (gradient,) = torch.autograd.grad(k3(logprobs, ref).sum(), logprobs)
    assert gradient.tolist() == pytest.approx([0.0, -1.0, 0.63212056])
