"""Attention by trees under a block mask, uncompiled and on a CPU: the same numbers and gradients as the other forms."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.attention import flex_attention as flex
from torch.nn.attention.flex_attention import create_block_mask

from gruppo.training import tree_attention, tree_blocks, tree_kernel
from gruppo.training.optimizers import MasterWeights
from gruppo.training.policy import LocalPolicy
from gruppo.training.tree_blocks import attend, block_mask, filled_up
from gruppo.training.tree_gate import why_not_trees
from gruppo.training.tree_layout import Layout, Span
from models import Caught, tiny
from test_training_trees import EDGES, MIXED, MODELS, agree, groups_of, model_of, random_shapes

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def blocks_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The uncompiled kernel, which has gradients on a CPU too, though torch refuses them there."""
    torch._dynamo.reset()
    monkeypatch.setattr(flex, "_validate_device", lambda *_: None)
    monkeypatch.setattr(tree_blocks, "kernel", lambda: flex.flex_attention)
    monkeypatch.setattr(tree_blocks, "DEVICES", {"cpu"})
    monkeypatch.setattr(tree_blocks, "why_not", {})
    tree_attention.RAN.clear()


def layout_of(shapes: list[tuple[int, list[int]]]) -> Layout:
    spans: list[Span] = []
    for prompt, lengths in shapes:
        spans.append(Span(spans[-1].end if spans else 0, prompt, tuple(lengths)))
    return Layout(tuple(spans))


def inputs_of(layout: Layout, heads: int, key_heads: int, size: int, value_size: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(layout.spans[-1].end)
    shapes = ((heads, size), (key_heads, size), (key_heads, value_size), (heads, value_size))
    return [torch.randn(layout.spans[-1].end, *shape, generator=generator) for shape in shapes]


def pulled(attention: Callable[..., Tensor], inputs: list[Tensor]) -> list[Tensor]:
    """The output, and the gradients of queries, keys and values."""
    *leaves, pull = (each.clone().requires_grad_() for each in inputs)
    out = attention(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, pull.detach())]


LAYOUTS = {
    **{f"random {seed}": random_shapes(seed) for seed in range(6)},
    **EDGES,
    "one prompt alone": [(5, [])],
    "several blocks": [(150, [70, 3, 0, 90]), (1, [1, 1]), (40, [200])],
    "a block but for one token": [(1, []), (300, [5])],
}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("heads", [(4, 4, 8, 8), (6, 2, 8, 8), (4, 1, 8, 12)], ids=str)
def test_the_numbers_and_gradients_of_the_other_forms(name: str, heads: tuple[int, int, int, int]):
    layout = layout_of(LAYOUTS[name])
    inputs = inputs_of(layout, *heads)
    for window in (None, 4):
        for cap in (None, 0.7):
            found = pulled(lambda *qkv: attend(*qkv, layout, 0.4, window, cap), inputs)  # noqa: B023
            expected = pulled(lambda *qkv: tree_attention._uncut(*qkv, layout, 0.4, window, cap), inputs)  # noqa: B023
            assert float((found[0] - expected[0]).abs().max()) <= 1e-6
            for one, other in zip(found[1:], expected[1:], strict=True):
                assert float((one - other).norm()) <= 1e-5 * float(other.norm())
            assert float(expected[0].abs().max()) > 0.5


def test_and_of_the_form_of_a_cpu():
    layout = layout_of(LAYOUTS["several blocks"])
    inputs = inputs_of(layout, 4, 2, 16, 16)
    found = pulled(lambda *qkv: attend(*qkv, layout, 0.3, None, None), inputs)
    expected = pulled(lambda *qkv: tree_attention._PartsAttention.apply(*qkv, layout, 0.3), inputs)
    for one, other in zip(found, expected, strict=True):
        assert float((one - other).norm()) <= 1e-6 * float(other.norm())


@pytest.mark.parametrize("window", [None, 5, 60])
@pytest.mark.parametrize("name", LAYOUTS)
def test_the_mask_is_the_layouts_and_torch_counts_the_same_blocks(name: str, window: int | None):
    layout = layout_of(LAYOUTS[name])
    length = filled_up(layout.spans[-1].end)
    found = block_mask(layout, window, CPU)
    places = torch.arange(length)
    dense = found.mask_mod(*(torch.zeros((), dtype=torch.int),) * 2, places[:, None], places)
    expected = torch.eye(length, dtype=torch.bool)
    for number, span in enumerate(layout.spans):
        expected[span.start : span.end, span.start : span.end] = layout.mask(number, window, CPU)
    assert torch.equal(dense, expected)
    torchs = create_block_mask(found.mask_mod, None, None, length, length, device="cpu")
    for name in ("kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices", "q_num_blocks", "q_indices"):
        assert torch.equal(getattr(found, name), getattr(torchs, name)), name
    assert (found.seq_lengths, found.BLOCK_SIZE) == ((length, length), (128, 128))


def test_blocks_in_which_nobody_attends_to_anybody_are_skipped():
    """By hand: a prompt of 256 tokens, completions of 128 and 128, and a tree of 512."""
    counts = block_mask(layout_of([(256, [128, 128]), (512, [])]), None, CPU)
    assert counts.full_kv_num_blocks is not None
    assert counts.kv_num_blocks.tolist() == [[[1] * 8]]
    assert counts.full_kv_num_blocks.tolist() == [[[0, 1, 2, 2, 0, 1, 2, 3]]]


BY_BLOCKS = ["llama", "qwen2", "qwen2-window", "gemma2", "gemma2-capped", "mistral-window", "gpt2", "deepseek-v3"]


@pytest.mark.parametrize("name", BY_BLOCKS)
def test_updates_are_those_of_padded_rows(name: str):
    model = model_of(*MODELS[name])
    assert why_not_trees(model) == ""
    agree(model, groups_of(MIXED, masked=True), off=1e-6, far=1e-5)
    assert set(tree_attention.RAN) == {"blocks"}
    assert set(tree_blocks.why_not.values()) == {""}
    windows = {"qwen2-window": [False, True], "gemma2": [False, True], "gemma2-capped": [False, True]}
    expected = windows.get(name, [name == "mistral-window"])
    assert sorted({kind.windowed for kind in tree_blocks.why_not}) == expected


def test_sinks_are_written_out():
    agree(model_of(*MODELS["gpt-oss"]), groups_of(MIXED), off=1e-6, far=1e-5)
    assert set(tree_attention.RAN) == {"explicit"}


def test_a_mask_is_made_once_a_row_and_window(monkeypatch: pytest.MonkeyPatch):
    made: list[int] = []
    counted = tree_blocks._counted
    monkeypatch.setattr(tree_blocks, "_counted", lambda *given: (made.append(given[1]), counted(*given))[1])
    for name, masks in (("llama", 1), ("gemma2", 2)):
        model = model_of(*MODELS[name])
        assert why_not_trees(model) == ""  # the trial of the kernel has a row of its own
        made.clear()
        agree(model, groups_of([(9, [7, 12])]), off=1e-6, far=1e-5, budget=1000)
        assert made == 2 * [128] * masks  # the gate's row, and that of the update


def test_rows_of_one_length_are_compiled_once(monkeypatch: pytest.MonkeyPatch):
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(flex.flex_attention, backend=counter, fullgraph=True, dynamic=False)
    monkeypatch.setattr(tree_blocks, "kernel", lambda: compiled)

    def frames(shapes: list[tuple[int, list[int]]], window: int | None = None, cap: float | None = None) -> int:
        layout = layout_of(shapes)
        inputs = inputs_of(layout, 4, 2, 8, 8)
        found = pulled(lambda *qkv: attend(*qkv, layout, 0.4, window, cap), inputs)
        expected = pulled(lambda *qkv: tree_attention._uncut(*qkv, layout, 0.4, window, cap), inputs)
        assert float((found[0] - expected[0]).abs().max()) <= 1e-6
        return counter.frame_count

    assert frames(MIXED) == 1
    assert [frames(random_shapes(seed)) for seed in range(12) if _short(random_shapes(seed))] == [1] * 6
    assert frames([(60, [50, 18])]) == 1  # 128 without filling up
    assert frames([(60, [50, 40])]) == 2  # 256
    assert frames([(90, [50, 40])]) == 2
    assert frames(MIXED, window=4) == 3
    assert frames([(12, [3, 9])], window=4) == 3
    assert frames(MIXED, cap=0.7) == 4
    assert frames([(12, [3, 9])], cap=0.7) == 4


def _short(shapes: list[tuple[int, list[int]]]) -> bool:
    return filled_up(layout_of(shapes).spans[-1].end) == 128


FAULTS: dict[str, Callable[..., Any]] = {
    "no block fits": lambda *_, **__: (_ for _ in ()).throw(RuntimeError("no block fits\nand more lines")),
    "it is off by 0.01": lambda *given, **more: 1.01 * flex.flex_attention(*given, **more),
    "it is off by 0.0005": lambda *given, **more: 1.0005 * flex.flex_attention(*given, **more),
}


@pytest.mark.parametrize("why", FAULTS)
def test_a_kernel_that_fails_or_is_off_is_not_taken(why: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tree_blocks, "kernel", lambda: FAULTS[why])
    agree(tiny(), groups_of(MIXED), off=1e-6, far=1e-5)
    assert set(tree_attention.RAN) == {"parts"}
    assert list(tree_blocks.why_not.values()) == [why]
    monkeypatch.setattr(tree_kernel, "available", lambda dtype: True)  # nothing to say of compilers
    policy = LocalPolicy(tiny(), Caught(MasterWeights(tiny())), 60)
    assert policy.slower == [f"attention by trees without its fused kernel, since {why}; slower, same update"]


def test_gradients_alone_may_be_off(monkeypatch: pytest.MonkeyPatch):
    def leaky(q: Tensor, k: Tensor, v: Tensor, **more: Any) -> Tensor:
        return flex.flex_attention(q, k, v.detach() + (v - v.detach()) * 1.01, **more)  # pyright: ignore

    monkeypatch.setattr(tree_blocks, "kernel", lambda: leaky)
    assert why_not_trees(tiny()) == ""
    assert list(tree_blocks.why_not.values()) == ["it is off by 0.01"]


def test_a_layer_with_a_window_is_tried_with_it_though_the_first_row_is_short(monkeypatch: pytest.MonkeyPatch):
    def windows_off(*given: Any, block_mask: Any, **more: Any) -> Any:
        out = flex.flex_attention(*given, block_mask=block_mask, **more)
        return out * (1.01 if block_mask.mask_mod.__name__ == "sees_near" else 1.0)

    monkeypatch.setattr(tree_blocks, "kernel", lambda: windows_off)
    kind, fields = MODELS["mistral-window"]
    assert why_not_trees(model_of(kind, {**fields, "sliding_window": 64})) == ""
    assert list(tree_blocks.why_not.values()) == ["it is off by 0.01"]
    assert set(tree_attention.RAN) == {"parts"}


def test_lengths():
    assert [filled_up(length) for length in (1, 128, 129, 256, 257, 16_384)] == [128, 128, 256, 256, 512, 16_384]
    np.testing.assert_equal(len({filled_up(length) for length in range(1, 16_385)}), 8)
