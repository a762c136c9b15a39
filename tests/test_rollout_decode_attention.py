"""The kernel for decode steps against exact attention, and a row's bits whatever stands beside it."""

from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gruppo.monitor.native import compiler
from gruppo.rollout.decode_attention import RowPrompts, available, decode_attention, takes
from gruppo.rollout.local import LocalEngine
from gruppo.types import SamplingParams
from models import Letters, prompts_of, request, tiny

SHAPES = [(1, 16), (2, 16), (3, 32), (1, 48), (4, 64), (7, 64), (1, 80), (2, 128), (5, 256)]
"""Queries of a key head, head size."""
LENGTHS = torch.tensor([0, 1, 14, 15, 16, 17, 40, 47, 63, 99])
"""Positions before the token's own."""
BEFORE = (0, 1, 15, 16, 21, 100, 0, 3, 64, 33)
"""Tokens of each row's prompt beside its slot."""

EVERY = range(len(LENGTHS))

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C compiler")


class Case:
    """Random rows; 2 key heads, 12 slots of 100 positions."""

    def __init__(self, group: int, size: int, dtype: torch.dtype = torch.float32, spread: float = 1.0) -> None:
        generator = torch.Generator().manual_seed(group * size)
        draw = lambda *shape: (torch.randn(*shape, generator=generator) * spread).to(dtype)  # noqa: E731
        self.query = draw(len(LENGTHS), 2, group, size)
        self.keys, self.values = draw(12, 2, 100, size), draw(12, 2, 100, size)
        self.before = [(draw(2, count, size), draw(2, count, size)) for count in BEFORE]
        self.scaling = size**-0.5

    def prompts(self, rows: Any) -> RowPrompts:
        places = [[each.data_ptr() for each in self.before[row]] + [BEFORE[row]] for row in rows]
        return RowPrompts(*np.array(places, dtype=np.int64).T.copy())

    def found(self, rows: Any = EVERY, window: int | None = None, *, prompts: bool = True) -> Tensor:
        slots = [each[list(rows)].contiguous() for each in (self.keys, self.values)]
        of_rows = self.prompts(rows) if prompts else None
        return decode_attention(
            self.query[list(rows)], slots[0], slots[1], LENGTHS[list(rows)], self.scaling, window, of_rows
        )

    def exact(self, row: int, window: int | None = None, *, prompts: bool = True) -> Tensor:
        """[K, G, D] in float64."""
        end = int(LENGTHS[row]) + 1
        own = slice(max(0, end - window) if window else 0, end)
        keys, values = self.keys[row, :, own].double(), self.values[row, :, own].double()
        if prompts:
            keys = torch.cat([self.before[row][0].double(), keys], dim=1)
            values = torch.cat([self.before[row][1].double(), values], dim=1)
        scores = self.query[row].double() @ keys.transpose(-1, -2) * self.scaling
        return torch.softmax(scores, dim=-1) @ values


@pytest.mark.parametrize(("group", "size"), SHAPES)
def test_rows_of_any_length_with_and_without_prompts(group: int, size: int):
    case = Case(group, size)
    for prompts in (True, False):
        found = case.found(prompts=prompts)
        for row in range(len(LENGTHS)):
            assert (found[row] - case.exact(row, prompts=prompts)).abs().max() < 2e-6


@pytest.mark.parametrize(("group", "size"), SHAPES)
def test_a_window_hides_what_lies_before_it(group: int, size: int):
    case = Case(group, size)
    for window in (1, 16, 30):
        found = case.found(window=window, prompts=False)
        for row in range(len(LENGTHS)):
            assert (found[row] - case.exact(row, window, prompts=False)).abs().max() < 2e-6


def test_the_kernels_own_check_passes():
    assert available(torch.float32)
    assert available(torch.bfloat16)
    assert not available(torch.float16)


def test_bfloat16_is_rounded_once():
    case = Case(3, 64, torch.bfloat16)
    found = case.found()
    assert found.dtype == torch.bfloat16
    wanted = torch.stack([case.exact(row) for row in range(len(LENGTHS))])
    assert ((found.double() - wanted).abs() <= wanted.abs() * 2**-8 + 1e-6).all()
    assert torch.equal(found, wanted.bfloat16()) or (found != wanted.bfloat16()).double().mean() < 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_has_the_same_bits_whatever_stands_beside_it(dtype: torch.dtype):
    for group, size in SHAPES:
        case = Case(group, size, dtype)
        whole = case.found()
        order = [7, 3, 9, 0, 8, 2]
        assert torch.equal(case.found(order), whole[order])
        for row in range(len(LENGTHS)):
            assert torch.equal(case.found([row])[0], whole[row])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_tokens_own_key_and_value_go_to_their_places_first(dtype: torch.dtype):
    for group, size in SHAPES:
        case = Case(group, size, dtype)
        wanted, whole = case.found(), [case.keys.clone(), case.values.clone()]
        rows = torch.arange(len(LENGTHS))
        own = [each[rows, :, LENGTHS][:, :, None] for each in whole]
        apart = [torch.cat([each, each], dim=1).transpose(2, 3).contiguous().transpose(2, 3)[:, :2] for each in own]
        for token in (own, apart):
            for slots in (case.keys, case.values):
                slots[rows, :, LENGTHS] = float("nan")
            pair = (token[0], token[1])
            prompts = case.prompts(EVERY)
            found = decode_attention(
                case.query, case.keys, case.values, LENGTHS, case.scaling, prompts=prompts, token=pair
            )
            assert torch.equal(found, wanted)
            assert torch.equal(case.keys, whole[0])
            assert torch.equal(case.values, whole[1])


def test_two_threads_give_the_bits_of_one():
    case = Case(4, 64)
    one = case.found()
    torch.set_num_threads(2)
    try:
        assert torch.equal(case.found(), one)
    finally:
        torch.set_num_threads(1)


def test_large_scores_do_not_overflow_and_small_ones_keep_their_weight():
    case = Case(2, 32, spread=30.0)  # scores up to thousands: all weight on one position
    for row, found in enumerate(case.found()):
        assert (found - case.exact(row)).abs().max() < 1e-3
    even = Case(2, 32)
    even.query.zero_()
    assert (even.found(prompts=False)[9] - even.values[9].mean(dim=1, keepdim=True)).abs().max() < 1e-6


@pytest.mark.parametrize("broken", ["query", "keys", "values"])
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so_in_its_row_alone(broken: str, number: float):
    case = Case(2, 32)
    whole = case.found()
    getattr(case, broken)[6, :, 0] = number
    found = case.found()
    assert not found[6].isfinite().all()
    assert torch.equal(found[:6], whole[:6])
    assert torch.equal(found[7:], whole[7:])


def test_what_the_kernel_is_not_made_for_it_does_not_take():
    case = Case(2, 32)
    assert takes(case.query, case.keys, case.values)
    assert not takes(case.query[..., :24], case.keys[..., :24].contiguous(), case.values[..., :24].contiguous())
    assert not takes(case.query, case.keys[:, :, :50], case.values[:, :, :50])
    assert not takes(case.query, case.keys, case.values[..., :16].contiguous())
    assert not takes(*(each.half() for each in (case.query, case.keys, case.values)))
    assert not takes(case.query, case.keys.bfloat16(), case.values.bfloat16())


def test_without_a_compiler_an_engine_says_so_and_draws_the_same(monkeypatch: pytest.MonkeyPatch):
    asked = [
        request(prompt, SamplingParams(max_completion_length=12), id=i, group_size=4)
        for i, prompt in enumerate(prompts_of([3, 90, 20]))
    ]
    model = tiny(hidden_size=64)
    said: list[str] = []
    quick = LocalEngine(model, Letters(), note=said.append).generate(asked)
    assert said == []
    monkeypatch.setattr("gruppo.rollout.slots.takes", lambda *_: False)
    monkeypatch.setattr("gruppo.rollout.local.available", lambda dtype: False)
    slow = LocalEngine(model, Letters(), note=said.append).generate(asked)
    (line,) = said
    assert line.startswith("sampling without the decode kernel, which is slower: no C compiler that works was found")
    for one, other in zip(chain(*quick), chain(*slow), strict=True):
        assert one.token_ids.tolist() == other.token_ids.tolist()
        np.testing.assert_allclose(one.sampler_logprobs, other.sampler_logprobs, atol=5e-6)
