"""The kernel for attention by trees against exact attention, forward and backward, and what it leaves to torch."""

from typing import Any

import pytest
import torch
from torch import Tensor

from gruppo.errors import TrainingError
from gruppo.monitor.native import compiler
from gruppo.training import tree_attention as forms
from gruppo.training import tree_kernel
from gruppo.training.losses import LossSettings
from gruppo.training.optimizers import MasterWeights
from gruppo.training.packing import Batch
from gruppo.training.policy import LocalPolicy
from gruppo.training.tree_layout import Layout, Span
from models import Caught, distance, tiny
from test_training_trees import MIXED, MODELS, agree, groups_of, model_of

SHAPES = [(1, 16), (2, 16), (3, 32), (1, 48), (4, 64), (40, 16), (1, 80), (2, 128)]
"""Queries of a key head, head size; 40 queries of a token are more than a block has rows."""
ROWS = {
    "a group": (Span(0, 21, (37, 1, 0, 18)),),
    "a prompt alone": (Span(0, 1, ()), Span(1, 70, ())),
    "no prompt": (Span(0, 0, (3, 40)), Span(43, 2, (33,))),
    "long": (Span(0, 130, (300, 65)),),
    "many": (Span(0, 5, (9,) * 12), Span(113, 16, (32, 31, 33)), Span(225, 3, (1,))),
}

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C compiler")


class Case:
    """A row's numbers at random; 2 key heads."""

    def __init__(
        self, row: str, group: int, size: int, dtype: torch.dtype = torch.float32, spread: float = 1.0
    ) -> None:
        self.layout = Layout(ROWS[row])
        generator = torch.Generator().manual_seed(group * size)
        length = ROWS[row][-1].end
        draw = lambda heads: (torch.randn(length, heads, size, generator=generator) * spread).to(dtype)  # noqa: E731
        self.inputs = [draw(2 * group), draw(2), draw(2)]
        self.grad, self.scale, self.group = draw(2 * group), size**-0.5, group

    def found(self, window: int | None = None) -> list[Tensor]:
        """Output and gradients of q, k, v."""
        inputs = [each.detach().requires_grad_() for each in self.inputs]
        out = tree_kernel.tree_attention(*inputs, self.layout, self.scale, window)  # pyright: ignore
        return [out.detach(), *torch.autograd.grad(out, inputs, self.grad)]

    def exact(self, window: int | None = None) -> list[Tensor]:
        """The same in float64, by the probabilities written out."""
        q, k, v = (each.double().requires_grad_() for each in self.inputs)
        out = forms._explicit(q, k, v, self.layout, self.scale, window, None, None)  # pyright: ignore
        return [out.detach(), *torch.autograd.grad(out, (q, k, v), self.grad.double())]


def off(found: list[Tensor], exact: list[Tensor]) -> float:
    """The largest relative error of output and gradients."""
    pairs = zip(found, exact, strict=True)
    return max(float((a.double() - b).norm() / b.norm()) for a, b in pairs)


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize(("group", "size"), SHAPES)
def test_output_and_gradients_are_those_of_exact_attention(row: str, group: int, size: int):
    case = Case(row, group, size)
    assert off(case.found(), case.exact()) < 1e-6


@pytest.mark.parametrize("window", [2, 4, 20, 33, 100])
@pytest.mark.parametrize("row", ["a group", "no prompt", "long"])
def test_a_window_ends_in_the_prompt_or_in_the_branch(row: str, window: int):
    case = Case(row, 2, 16)
    assert off(case.found(window), case.exact(window)) < 1e-6
    if window < 50:
        assert off(case.found(window), case.exact()) > 0.05


def test_a_window_of_one_sees_itself():
    case = Case("a group", 2, 16)
    assert torch.equal(case.found(1)[0], case.inputs[2].repeat_interleave(2, dim=1))


@pytest.mark.parametrize(("group", "size"), SHAPES)
def test_bfloat16_is_rounded_once_at_the_end(group: int, size: int):
    """Half a unit of its 8 digits is 0.2 to 0.4 %; the gradients go by an output that is rounded already."""
    case = Case("a group", group, size, torch.bfloat16)
    found, exact = case.found(), case.exact()
    assert off(found[:1], exact[:1]) < 2.5e-3
    assert off(found, exact) < 6e-3
    assert all(each.dtype == torch.bfloat16 for each in found)


def test_numbers_may_lie_head_by_head_or_turned():
    case = Case("many", 2, 32)
    wanted = case.found()
    case.inputs = [each.transpose(0, 1).contiguous().transpose(0, 1) for each in case.inputs]
    case.grad = case.grad.transpose(1, 2).contiguous().transpose(1, 2)
    assert all(torch.equal(a, b) for a, b in zip(case.found(), wanted, strict=True))


@pytest.mark.parametrize("row", ROWS)
def test_two_threads_share_the_branches_and_give_the_same_bits_each_time(row: str):
    case = Case(row, 3, 32)
    one = case.found()
    torch.set_num_threads(2)
    try:
        two, again = case.found(), case.found()
        five = Case(row, 3, 32)
        torch.set_num_threads(5)  # three parts of each of two heads
        assert off(five.found(), one) < 1e-6
    finally:
        torch.set_num_threads(1)
    assert off(two, one) < 1e-6
    assert all(torch.equal(a, b) for a, b in zip(two, again, strict=True))


def test_large_scores_do_not_overflow():
    case = Case("a group", 2, 32, spread=30.0)  # scores up to thousands: nearly all weight on one key
    found, exact = case.found(), case.exact()
    assert all(bool(each.isfinite().all()) for each in found)
    assert off(found[:1], exact[:1]) < 1e-3


@pytest.mark.parametrize("broken", range(3))
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so_and_in_its_branch_alone(broken: int, number: float):
    case = Case("a group", 2, 32)
    whole = case.found()[0]
    case.inputs[broken][60, 0] = number  # of the last branch, which begins at 59
    found = case.found()[0]
    assert not found[60].isfinite().all()
    assert torch.equal(found[:59], whole[:59])


def test_what_the_kernel_is_not_made_for_it_does_not_take():
    q, k, v = Case("a group", 2, 32).inputs
    assert tree_kernel.takes(q, k, v)
    assert not tree_kernel.takes(q[..., :24], k[..., :24], v[..., :24])
    assert not tree_kernel.takes(q, k, v[..., :16])
    assert not tree_kernel.takes(q.double(), k.double(), v.double())
    assert not tree_kernel.takes(q, k.bfloat16(), v)


def test_a_kernel_that_gives_other_numbers_is_not_used(monkeypatch: pytest.MonkeyPatch):
    right = tree_kernel._run  # pyright: ignore[reportPrivateUsage]

    def wrong(call: Any, dtype: torch.dtype, *, backward: bool) -> None:
        call.scaling *= 1.01 if backward else 1.0
        right(call, dtype, backward=backward)

    assert tree_kernel.available.__wrapped__(torch.float32)
    monkeypatch.setattr(tree_kernel, "_run", wrong)
    assert not tree_kernel.available.__wrapped__(torch.float32)


def test_a_kernel_without_memory_says_what_to_lower(monkeypatch: pytest.MonkeyPatch):
    case = Case("a group", 2, 32)
    monkeypatch.setattr(tree_kernel, "_kernel", lambda dtype: lambda *_: 1)
    with pytest.raises(TrainingError, match="no memory for the attention of an update; lower micro_batch_tokens"):
        case.found()


def test_an_update_without_a_compiler_says_so_and_is_the_same(monkeypatch: pytest.MonkeyPatch):
    def update(dtype: torch.dtype = torch.float32) -> tuple[LocalPolicy, dict[str, Tensor]]:
        model = tiny(hidden_size=64).to(dtype)
        caught = Caught(MasterWeights(model))
        policy = LocalPolicy(model, caught, 60)
        policy.update(Batch(tuple(groups_of(MIXED))), LossSettings(max_length=24), 1.0)
        return policy, caught.gradients

    forms.RAN.clear()
    policy, quick = update()
    assert set(forms.RAN) == {"kernel"}
    assert policy.slower == []
    monkeypatch.setattr(tree_kernel, "available", lambda dtype: False)
    forms.RAN.clear()
    policy, slow = update()
    assert set(forms.RAN) == {"parts"}
    (line,) = policy.slower
    assert line.startswith("attention by trees without its kernel, which is slower: no C compiler that works was found")
    assert distance(quick, slow) < 1e-5
    assert update(torch.float64)[0].slower == []  # for which there is no kernel anyway


WIDE = {"hidden_size": 64, "n_embd": 64, "word_embed_proj_dim": 64, "head_dim": 16}
OTHERS = {"gemma2-capped": "explicit", "gpt-oss": "explicit", "deepseek-v3": "masked"}
"""Models whose attention the kernel is not made for: capped scores, sinks, values of another size than keys."""


@pytest.mark.parametrize("name", MODELS)
def test_every_kind_of_model_with_heads_of_16(name: str):
    kind, fields = MODELS[name]
    forms.RAN.clear()
    model = model_of(kind, {key: WIDE.get(key, value) for key, value in fields.items()})
    agree(model, groups_of([*MIXED, (40, [33, 8])], masked=True), off=1e-6, far=1e-5)
    assert OTHERS.get(name, "kernel") in forms.RAN
