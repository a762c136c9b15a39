"""The KL divergence: values by hand, gradients by hand, and what each estimator's gradient is on average."""

import math

import pytest
import torch
from torch import Tensor

from gruppo.algorithm.kl import ESTIMATORS, exact_kl, k3, kl_estimate


def test_values() -> None:
    # d = ref - policy: 0, ln 2, -1, 0.01
    logprobs = torch.tensor([-1.0, -1.0, -1.0, -1.0], dtype=torch.float64)
    ref = torch.tensor([-1.0, math.log(2) - 1, -2.0, -0.99], dtype=torch.float64)
    assert kl_estimate(logprobs, ref, "k1").tolist() == pytest.approx([0.0, -0.69314718, 1.0, -0.01])
    assert kl_estimate(logprobs, ref, "k2").tolist() == pytest.approx([0.0, 0.24022651, 0.5, 5e-5])
    assert kl_estimate(logprobs, ref, "k3").tolist() == pytest.approx(
        [0.0, 0.30685282, 0.36787944, 5.0167e-5], rel=1e-4
    )


def test_the_weighted_estimate_is_k3_times_the_ratio() -> None:
    logprobs = torch.tensor([-1.0], dtype=torch.float64, requires_grad=True)
    old, ref = torch.tensor([-1.0 - math.log(2)]), torch.tensor([math.log(2) - 1])
    weighted = kl_estimate(logprobs, ref, "k3_weighted", old_logprobs=old)
    assert weighted.item() == pytest.approx(2 * 0.30685282)
    (gradient,) = torch.autograd.grad(weighted.sum(), logprobs)
    assert gradient.item() == pytest.approx(2 * (0.30685282 - 1.0))  # w k3 + w (1 - exp(d))


def test_k3_of_nearly_equal_policies_does_not_drown_in_rounding() -> None:
    # d^2 / 2; exp(d) - d - 1 taken as it stands in float32 would be off by its whole size
    assert k3(torch.tensor([0.0]), torch.tensor([2**-12])).item() == pytest.approx(2**-25, rel=1e-3)


def test_k3_gradient_pulls_towards_the_reference() -> None:
    # d k3 / d logprobs = 1 - exp(d)
    logprobs = torch.tensor([-1.0, -1.0, -1.0], dtype=torch.float64, requires_grad=True)
    ref = torch.tensor([-1.0, math.log(2) - 1, -2.0], dtype=torch.float64)
    (gradient,) = torch.autograd.grad(k3(logprobs, ref).sum(), logprobs)
    assert gradient.tolist() == pytest.approx([0.0, -1.0, 0.63212056])


def test_the_exact_one_by_hand() -> None:
    even, uneven = torch.zeros(1, 2), torch.tensor([[0.0, math.log(3)]])
    # 1/2 ln(1/2 / 1/4) + 1/2 ln(1/2 / 3/4), and 1/4 ln(1/4 / 1/2) + 3/4 ln(3/4 / 1/2)
    assert exact_kl(even, uneven).item() == pytest.approx(0.14384104)
    assert exact_kl(even, uneven, forward=True).item() == pytest.approx(0.13081204)
    assert exact_kl(torch.zeros(0, 5), torch.zeros(0, 5)).tolist() == []


LOGITS = torch.randn(3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
REF = torch.randn(3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(6))


def gradient_of(value: Tensor, logits: Tensor) -> Tensor:
    return torch.autograd.grad(value.sum(), logits)[0]


@pytest.mark.parametrize("forward", [False, True])
def test_the_exact_one_in_any_chunks_and_its_gradient(forward: bool) -> None:
    logits = LOGITS.clone().requires_grad_()
    whole = exact_kl(logits, REF, forward=forward)
    parts = exact_kl(logits, REF, forward=forward, chunk=2)
    assert (parts - whole).abs().max().item() <= 1e-12
    torch.testing.assert_close(gradient_of(parts, logits), gradient_of(whole, logits), atol=1e-12, rtol=0)
    policy, reference = torch.distributions.Categorical(logits=LOGITS), torch.distributions.Categorical(logits=REF)
    pair = (reference, policy) if forward else (policy, reference)
    torch.testing.assert_close(whole.detach(), torch.distributions.kl_divergence(*pair), atol=1e-10, rtol=0)
    assert torch.autograd.gradcheck(lambda x: exact_kl(x, REF, forward=forward, chunk=2), (logits,), atol=1e-8)


def mean_over_draws(estimator: str, logits: Tensor, sampler: Tensor) -> Tensor:
    """The estimate's mean over every token that the sampler may draw, without a gradient through the draw."""
    logprobs, ref = torch.log_softmax(logits, -1), torch.log_softmax(REF, -1)
    old = torch.log_softmax(sampler, -1)
    estimate = kl_estimate(logprobs, ref, estimator, old_logprobs=old)
    return (old.exp() * estimate).sum(-1)


def test_as_a_value_k1_and_k3_are_unbiased_and_k2_is_not() -> None:
    exact = exact_kl(LOGITS, REF)
    for estimator in ("k1", "k3", "k3_weighted"):
        torch.testing.assert_close(mean_over_draws(estimator, LOGITS, LOGITS), exact, atol=1e-10, rtol=0)
    assert (mean_over_draws("k2", LOGITS, LOGITS) - exact).abs().min().item() > 0.05


def test_what_each_gradient_is_on_average() -> None:
    logits = LOGITS.clone().requires_grad_()
    reverse = gradient_of(exact_kl(logits, REF), logits)
    forward = gradient_of(exact_kl(logits, REF, forward=True), logits)
    assert (reverse - forward).abs().max().item() > 0.1
    expected = {"k1": torch.zeros_like(reverse), "k2": reverse, "k3": forward, "k3_weighted": reverse}
    for estimator, gradient in expected.items():
        found = gradient_of(mean_over_draws(estimator, logits, LOGITS), logits)
        torch.testing.assert_close(found, gradient, atol=1e-10, rtol=0)


def test_weighted_by_the_ratio_an_older_policys_tokens_do() -> None:
    logits = LOGITS.clone().requires_grad_()
    reverse = gradient_of(exact_kl(logits, REF), logits)
    older = LOGITS + 0.3 * REF
    found = gradient_of(mean_over_draws("k3_weighted", logits, older), logits)
    torch.testing.assert_close(found, reverse, atol=1e-10, rtol=0)
    assert (gradient_of(mean_over_draws("k2", logits, older), logits) - reverse).abs().max().item() > 0.01


@pytest.mark.parametrize("estimator", [*ESTIMATORS, "k3_weighted"])
def test_gradients_against_finite_differences(estimator: str) -> None:
    logprobs = LOGITS[0].clone().requires_grad_()
    old = REF[1]
    assert torch.autograd.gradcheck(
        lambda x: kl_estimate(x, REF[0], estimator, old_logprobs=old), (logprobs,), atol=1e-8
    )


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="estimator must be one of k1, k2, k3, k3_weighted; got 'k4'"):
        kl_estimate(LOGITS, REF, "k4")
    with pytest.raises(ValueError, match="k3_weighted wants old_logprobs"):
        kl_estimate(LOGITS, REF, "k3_weighted")
