"""Kernels for linear layers and norms against float64, and what they are not made for."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

from gruppo.monitor.native import compiler
from gruppo.rollout.layers import Norms, linear_available, linear_product, rms_norm, takes_linear
from gruppo.rollout.local import LocalEngine
from gruppo.types import SamplingParams
from models import FAMILIES, Letters, prompts_of, request, tiny

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C compiler")
wide = pytest.mark.skipif(not linear_available(torch.float32), reason="a processor without AVX-512")
wide_halves = pytest.mark.skipif(not linear_available(torch.bfloat16), reason="a processor without AVX512_BF16")
BOTH = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@wide
@pytest.mark.parametrize(("outputs", "inputs"), [(16, 1), (32, 7), (48, 64), (64, 144), (4096, 256), (256, 4864)])
@pytest.mark.parametrize("rows", [1, 3, 4, 7, 8, 12, 37])
def test_products_are_those_of_float64(outputs: int, inputs: int, rows: int):
    weight, bias, x = normal(outputs, inputs), normal(outputs, seed=1), normal(rows, 1, inputs, seed=2)
    for more in (bias, None):
        found = linear_product(weight, more)(x)
        assert (found.shape, found.dtype) == ((rows, 1, outputs), torch.float32)
        exact = x.double() @ weight.double().T + (0 if more is None else more.double())
        assert float((found - exact).abs().max()) < 1e-6 + 2e-6 * inputs**0.5


@wide_halves
@pytest.mark.parametrize(("outputs", "inputs"), [(16, 2), (32, 6), (48, 64), (4096, 256), (256, 4864)])
@pytest.mark.parametrize("rows", [1, 3, 8, 37])
def test_products_in_bfloat16_are_rounded_once(outputs: int, inputs: int, rows: int):
    weight, bias, x = (
        each.bfloat16() for each in (normal(outputs, inputs), normal(outputs, seed=1), normal(rows, inputs, seed=2))
    )
    for more in (bias, None):
        found = linear_product(weight, more)(x)
        assert (found.shape, found.dtype) == ((rows, outputs), torch.bfloat16)
        exact = x.double() @ weight.double().T + (0 if more is None else more.double())
        assert ((found.double() - exact).abs() <= 2**-8 * exact.abs() + 2e-6 * inputs**0.5).all()


@pytest.mark.parametrize(
    "dtype", [pytest.param(torch.float32, marks=wide), pytest.param(torch.bfloat16, marks=wide_halves)]
)
def test_a_rows_product_has_the_same_bits_whatever_stands_beside_it(dtype: torch.dtype):
    for outputs, inputs in ((48, 64), (144, 34), (512, 256)):
        weight, bias, x = (
            each.to(dtype) for each in (normal(outputs, inputs), normal(outputs, seed=1), normal(45, inputs, seed=2))
        )
        product = linear_product(weight, bias)
        whole = product(x)
        for rows in ([7, 3, 44, 0, 8, 2, 9, 11, 30], [5, 6, 7, 8], [44], list(range(44, -1, -1))):
            assert torch.equal(product(x[rows]), whole[rows])
        assert torch.equal(product(torch.cat([x, x], dim=1)[:, inputs:]), whole)  # rows that are not contiguous
        torch.set_num_threads(2)
        try:
            assert torch.equal(product(x.repeat(30, 1)), whole.repeat(30, 1))
            assert torch.equal(linear_product(weight, bias)(x), whole)
        finally:
            torch.set_num_threads(1)


@wide
def test_a_copy_of_the_weight_and_what_is_not_finite_stays_in_its_row():
    weight, x = normal(32, 16), normal(9, 16, seed=2)
    product = linear_product(weight, None)
    whole = product(x)
    weight.zero_()
    x[4, 3] = float("nan")
    found = product(x)
    assert found[4].isnan().all()
    others = [0, 1, 2, 3, 5, 6, 7, 8]
    assert torch.equal(found[others], whole[others])


@wide
def test_what_linear_layers_the_kernel_does_not_take():
    weight, bias = normal(32, 16), normal(32)
    assert takes_linear(weight, bias)
    assert takes_linear(weight, None)
    assert not takes_linear(normal(31, 16), None)
    assert not takes_linear(weight.double(), None)
    assert not takes_linear(normal(32, 15).bfloat16(), None)
    assert takes_linear(weight.bfloat16(), None) == linear_available(torch.bfloat16)
    assert not takes_linear(weight, bias.double())
    assert not takes_linear(normal(16, 32).T, None)
    for wrong in (normal(3, 17), normal(3, 16).double()):
        with pytest.raises(TypeError, match=r"a linear layer of 16 inputs of torch\.float32 got"):
            linear_product(weight, bias)(wrong)


@BOTH
@pytest.mark.parametrize("size", [16, 48, 64, 896])
def test_norms_are_those_of_float64_rounded_where_transformers_rounds(size: int, dtype: torch.dtype):
    x, weight = (3 * normal(37, 1, size)).to(dtype), normal(size, seed=1).to(dtype)
    x[0] = 0
    x[1] *= 1e-3
    found = rms_norm(x, weight, 1e-6)
    share = (x.double().square().mean(-1, keepdim=True) + 1e-6).rsqrt()
    if dtype == torch.float32:
        assert ((found - x * share * weight).abs() <= 4e-7 * (x * share * weight).abs() + 1e-30).all()
    else:
        wanted = (x * share).to(dtype) * weight
        assert (found != wanted).double().mean() < 1e-3
    part: Any = Qwen2RMSNorm(size).to(dtype)
    part.weight.data.copy_(weight)
    assert torch.allclose(found.float(), part(x).float(), atol=1e-6, rtol=1e-6 if dtype == torch.float32 else 8e-3)


@BOTH
@pytest.mark.parametrize(("rows", "size"), [(1, 16), (37, 80), (300, 64)])
def test_gradients_of_norms_are_those_of_float64(rows: int, size: int, dtype: torch.dtype):
    x, weight, grad = (
        normal(*shape, seed=n).to(dtype) for n, shape in enumerate([(2, rows, size), (size,), (2, rows, size)])
    )
    ours = [x.clone().requires_grad_(), weight.clone().requires_grad_()]
    exact = [x.double().requires_grad_(), weight.double().requires_grad_()]
    wanted = exact[1] * exact[0] * (exact[0].pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt()
    pairs = zip(
        torch.autograd.grad(rms_norm(*ours, 1e-6), ours, grad),
        torch.autograd.grad(wanted, exact, grad.double()),
        strict=True,
    )
    for found, right in pairs:
        assert found.dtype == dtype
        assert (found - right).norm() / right.norm() < (4e-7 if dtype == torch.float32 else 3e-3)


def test_gradients_by_two_threads_and_of_a_frozen_weight():
    x, weight, grad = normal(900, 48), normal(48, seed=1), normal(900, 48, seed=2)
    inputs = [x.requires_grad_(), weight.requires_grad_()]
    one = torch.autograd.grad(rms_norm(*inputs, 1e-6), inputs, grad)
    torch.set_num_threads(3)
    try:
        three = torch.autograd.grad(rms_norm(*inputs, 1e-6), inputs, grad)
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(a, b) for a, b in zip(one, three, strict=True))
    (alone,) = torch.autograd.grad(rms_norm(x, weight.detach(), 1e-6), [x], grad)
    assert torch.allclose(alone, one[0], atol=1e-6)
    assert not rms_norm(x.detach(), weight.detach(), 1e-6).requires_grad


def test_a_norm_whose_gradient_is_another_is_not_taken(monkeypatch: pytest.MonkeyPatch):
    class Leaning(torch.autograd.Function):
        """Right in its result, off in its gradient."""

        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:  # pyright: ignore
            return x.clone()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:  # pyright: ignore
            return 1.1 * grad

    class LeaningRMSNorm(Qwen2RMSNorm):
        def forward(self, hidden_states: Tensor) -> Tensor:
            return super().forward(Leaning.apply(hidden_states))  # pyright: ignore

    assert Norms(nn.ModuleList([LeaningRMSNorm(32)]))._parts == []


@BOTH
def test_a_rows_norm_has_the_same_bits_whatever_stands_beside_it(dtype: torch.dtype):
    x, weight = normal(9, 80).to(dtype), normal(80, seed=1).to(dtype)
    whole = rms_norm(x, weight, 1e-6)
    for rows in ([7, 3, 8, 0], [5]):
        assert torch.equal(rms_norm(x[rows], weight, 1e-6), whole[rows])
    assert torch.equal(rms_norm(x.T.contiguous().T, weight, 1e-6), whole)
    torch.set_num_threads(2)
    try:
        assert torch.equal(rms_norm(x, weight, 1e-6), whole)
    finally:
        torch.set_num_threads(1)


def test_only_norms_that_compute_the_same_are_taken():
    class OtherRMSNorm(Qwen2RMSNorm):
        """A name that promises, and another scale."""

        def forward(self, hidden_states: Tensor) -> Tensor:
            return 1.001 * super().forward(hidden_states)

    broken = Qwen2RMSNorm(32)
    broken.weight.data[3] = float("nan")
    parts = nn.ModuleList(
        [Qwen2RMSNorm(32), GemmaRMSNorm(32), OtherRMSNorm(32), Qwen2RMSNorm(24), Qwen2RMSNorm(32).half(), broken]
    )
    parts += [Qwen2RMSNorm(32).bfloat16(), nn.RMSNorm(32), nn.LayerNorm(32), nn.RMSNorm(32, eps=1e-5)]
    norms = Norms(parts)
    assert [list(parts).index(part) for part, _ in norms._parts] == [0, 6, 9]
    norms.enter()
    assert ["forward" in vars(part) for part in parts] == [n in (0, 6, 9) for n in range(len(parts))]
    assert Norms(parts)._parts == []
    norms.leave()
    assert not any("forward" in vars(part) for part in parts)


def test_norms_read_the_weights_as_they_are():
    parts = nn.ModuleList([Qwen2RMSNorm(32)])
    norms, x = Norms(parts), normal(4, 32)
    parts[0].weight.data = normal(32, seed=1)
    wanted = parts[0](x)
    norms.enter()
    assert torch.allclose(parts[0](x), wanted, atol=1e-6)
    mixed = parts[0](x.bfloat16())  # another kind than the weight's: the norm's own way
    norms.leave()
    assert torch.equal(mixed, parts[0](x.bfloat16()))


@pytest.mark.parametrize("family", FAMILIES)
def test_an_engine_draws_the_same_with_and_without(family: str, monkeypatch: pytest.MonkeyPatch):
    asked = [
        request(prompt, SamplingParams(max_completion_length=20), id=i, group_size=3)
        for i, prompt in enumerate(prompts_of([3, 70, 20]))
    ]

    def drawn() -> list[Any]:
        groups = LocalEngine(tiny(family, hidden_size=32), Letters()).generate(asked)
        return [completion for group in groups for completion in group]

    monkeypatch.setattr("gruppo.rollout.packed_weights.SMALLEST_OWN", 1)
    quick = drawn()
    monkeypatch.setattr("gruppo.rollout.packed_weights.takes_linear", lambda *_: False)
    monkeypatch.setattr("gruppo.rollout.layers._epsilon", lambda part: None)
    monkeypatch.setattr("gruppo.rollout.parts.available", lambda dtype: False)
    for one, other in zip(quick, drawn(), strict=True):
        assert one.token_ids.tolist() == other.token_ids.tolist()
        assert abs(one.sampler_logprobs - other.sampler_logprobs).max() < 5e-6
