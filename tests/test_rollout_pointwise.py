"""Kernels for rotary embedding and gated MLPs against float64, and what they are not made for."""

import pytest
import torch
from torch import Tensor

from gruppo.monitor.native import compiler
from gruppo.rollout.pointwise import available, gated, rotary, takes_gated, takes_rotary

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C compiler")
BOTH = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
ROUNDED = {torch.float32: 3e-7, torch.bfloat16: 2**-8 + 1e-6}
"""The share of itself by which a number may be off: once rounded."""


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def angles(rows: int, tokens: int, size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines [B, T, D] whose halves differ."""
    angle = 3 * normal(rows, tokens, size, seed=9)
    return angle.cos().to(dtype), angle.sin().to(dtype)


def heads(rows: int, tokens: int, count: int, size: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """[B, H, T, D], as a projection's output is seen."""
    return normal(rows, tokens, count, size, seed=seed).to(dtype).transpose(1, 2)


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding in float64."""
    a, b = x.double().chunk(2, dim=-1)
    return x.double() * cos.double()[:, None] + torch.cat((-b, a), dim=-1) * sin.double()[:, None]


def close(found: Tensor, exact: Tensor, dtype: torch.dtype, scale: float = 1.0) -> bool:
    """Within a rounding, and of sums of two products some digits of the larger one."""
    assert found.dtype == dtype
    return bool(((found.double() - exact).abs() <= ROUNDED[dtype] * exact.abs() + scale * 5e-7).all())


@BOTH
@pytest.mark.parametrize("size", [2, 6, 16, 24, 32, 48, 64, 80, 128])
@pytest.mark.parametrize(("rows", "tokens", "of_angles"), [(1, 37, 1), (3, 5, 3), (3, 5, 1), (7, 1, 7), (1, 1, 1)])
def test_turned_heads_and_their_gradients_are_those_of_float64(
    rows: int, tokens: int, of_angles: int, size: int, dtype: torch.dtype
) -> None:
    cos, sin = angles(of_angles, tokens, size, dtype)
    inputs = [heads(rows, tokens, count, size, dtype, seed=count) for count in (6, 2)]
    grads = [normal(*each.shape, seed=3).to(dtype) for each in inputs]  # not in the layout of the heads
    ours, exact = ([each.clone().to(kind).requires_grad_() for each in inputs] for kind in (dtype, torch.float64))
    found = rotary(ours[0], ours[1], cos, sin)
    wanted = [turned(each, cos, sin) for each in exact]
    plain = rotary(*inputs, cos, sin)
    for one, other, right in zip(found, plain, wanted, strict=True):
        assert close(one, right, dtype, scale=3)
        assert torch.equal(one, other)
        assert one.transpose(1, 2).is_contiguous()
        assert not other.requires_grad
    of_ours = torch.autograd.grad(found, ours, grads)
    of_exact = torch.autograd.grad(wanted, exact, [grad.double() for grad in grads])
    for one, right in zip(of_ours, of_exact, strict=True):
        assert close(one, right, dtype, scale=3)


def test_heads_and_angles_in_any_layout() -> None:
    q, k = normal(2, 4, 5, 16), normal(2, 2, 5, 48, seed=1)[..., 16:32]
    cos, sin = (each.transpose(0, 1).contiguous().transpose(0, 1) for each in angles(2, 5, 16, torch.float32))
    for found, x in zip(rotary(q, k, cos, sin), (q, k), strict=True):
        assert close(found, turned(x, cos, sin), torch.float32, scale=3)


def test_a_gradient_of_one_output_alone() -> None:
    cos, sin = angles(1, 5, 16, torch.float32)
    q, k = heads(1, 5, 4, 16, torch.float32).requires_grad_(), heads(1, 5, 2, 16, torch.float32)
    (found,) = torch.autograd.grad(rotary(q, k, cos, sin)[0].sum(), [q])
    (wanted,) = torch.autograd.grad(turned(q, cos, sin).sum(), [q])
    assert torch.allclose(found, wanted.float(), atol=1e-6)


def silu(x: Tensor) -> Tensor:
    return x / (1 + (-x).exp())


@BOTH
@pytest.mark.parametrize("count", [1, 7, 15, 16, 17, 37, 48, 1001])
def test_gated_products_and_their_gradients_are_those_of_float64(count: int, dtype: torch.dtype) -> None:
    gate, up, grad = (normal(3, count, seed=seed).to(dtype) for seed in range(3))
    gate = (8 * gate.float()).to(dtype)
    ours, exact = ([each.clone().to(kind).requires_grad_() for each in (gate, up)] for kind in (dtype, torch.float64))
    found, wanted = gated(*ours), silu(exact[0]) * exact[1]
    assert close(found, wanted, dtype, scale=0)
    assert torch.equal(gated(gate, up), found)
    of_ours = torch.autograd.grad(found, ours, grad.T.contiguous().T)
    of_exact = torch.autograd.grad(wanted, exact, grad.double())
    assert close(of_ours[0], of_exact[0], dtype, scale=3)  # 1 + gate (1 - s) goes through 0
    assert close(of_ours[1], of_exact[1], dtype, scale=0)


@BOTH
def test_gates_far_from_nought(dtype: torch.dtype) -> None:
    gate = torch.tensor([-1e4, -200.0, -88.0, -87.0, -30.0, -0.0, 0.0, 30.0, 88.0, 1e4, float("inf")]).to(dtype)
    ones = torch.ones_like(gate)
    wanted = [0, 0, 0, 0, -30 * 9.357623e-14, 0, 0, *gate[-4:].tolist()]
    assert torch.allclose(gated(gate, ones).double(), torch.tensor(wanted).double(), rtol=4e-3, atol=2e-32)
    leaf = gate[:-1].clone().requires_grad_()
    (slope,) = torch.autograd.grad(gated(leaf, ones[:-1]).sum(), [leaf])
    assert torch.allclose(slope.float(), torch.tensor([0, 0, 0, 0, 0, 0.5, 0.5, 1, 1, 1]), atol=1e-6)
    beside = torch.tensor([float("nan"), 1.0]).to(dtype)
    assert gated(beside, torch.ones_like(beside)).isnan().tolist() == [True, False]


@BOTH
def test_a_number_has_the_same_bits_wherever_it_stands(dtype: torch.dtype) -> None:
    gate, up, grad = (3 * normal(1003, seed=seed) for seed in range(3))
    gate, up, grad = (each.to(dtype) for each in (gate, up, grad))

    def all_of(where: slice) -> list[Tensor]:
        inputs = [each[where].clone().requires_grad_() for each in (gate, up)]
        out = gated(*inputs)
        return [out.detach(), *torch.autograd.grad(out, inputs, grad[where])]

    whole = all_of(slice(None))
    for first in range(40):
        for count in (1, 5, 15, 16, 17, 30):
            where = slice(first, first + count)
            assert all(torch.equal(part, each[where]) for part, each in zip(all_of(where), whole, strict=True))


@BOTH
@pytest.mark.parametrize("size", [16, 24, 64])
def test_a_rows_bits_depend_on_nothing_beside_it(size: int, dtype: torch.dtype) -> None:
    cos, sin = angles(300, 1, size, dtype)
    q, k = (heads(300, 1, count, size, dtype) for count in (6, 2))
    gate, up = normal(300, 1, 1001).to(dtype), normal(300, 1, 1001, seed=1).to(dtype)
    whole = [*rotary(q, k, cos, sin), gated(gate, up)]
    for rows in ([7, 3, 299, 0], [5], list(range(299, -1, -1))):
        part = [*rotary(q[rows], k[rows], cos[rows], sin[rows]), gated(gate[rows], up[rows])]
        assert all(torch.equal(one, each[rows]) for one, each in zip(part, whole, strict=True))
    torch.set_num_threads(3)
    try:
        by_three = [*rotary(q, k, cos, sin), gated(gate, up)]
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(one, each) for one, each in zip(by_three, whole, strict=True))


def test_what_the_kernels_do_not_take() -> None:
    cos, sin = angles(2, 5, 16, torch.float32)
    q, k = heads(2, 5, 4, 16, torch.float32), heads(2, 5, 2, 16, torch.float32)
    assert takes_rotary(q, k, cos, sin)
    assert takes_rotary(q, k, cos[:1], sin[:1])
    assert not takes_rotary(q.half(), k.half(), cos.half(), sin.half())
    assert not takes_rotary(q.double(), k.double(), cos.double(), sin.double())
    assert not takes_rotary(q, k.bfloat16(), cos, sin)
    assert not takes_rotary(q.bfloat16(), k.bfloat16(), cos, sin)
    assert not takes_rotary(q, k[:, :, :4], cos, sin)
    assert not takes_rotary(q[:1], k, cos, sin)
    assert not takes_rotary(q, k, cos[:, :4], sin[:, :4])
    assert not takes_rotary(q, k, cos[..., :8], sin[..., :8])
    assert not takes_rotary(q, k, cos, sin[:1])
    assert not takes_rotary(q[..., :15], k[..., :15], cos[..., :15], sin[..., :15])
    assert not takes_rotary(q, k, cos.requires_grad_(), sin)
    assert not takes_rotary(*(each.to("meta") for each in (q, k, cos, sin)))
    gate, up = normal(3, 5), normal(3, 5, seed=1)
    assert takes_gated(gate, up)
    assert not takes_gated(gate.half(), up.half())
    assert not takes_gated(gate, up.bfloat16())
    assert not takes_gated(gate, up[:1])
    assert not takes_gated(gate.to("meta"), up.to("meta"))
    assert not available(torch.float64)
