"""A completion is the same to the bit whatever else is in the batch, where this machine's kernels allow it."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from gruppo.monitor.native import compiler
from gruppo.rollout.invariance import find_packs, find_rows_step
from gruppo.rollout.local import LocalEngine
from gruppo.rollout.shared_prompts import SHARED_TOKENS
from gruppo.rollout.slot_model import Prompt, SlotModel
from gruppo.types import SamplingParams
from models import Letters, prompts_of, request, tiny

PROMPTS = prompts_of([5, 40, 90, 17, 130, 2, 64, 200])
SAMPLING = SamplingParams(max_completion_length=150, stop_token_ids=(5,))
SHAPE = {"hidden_size": 256, "intermediate_size": 688, "num_attention_heads": 8}


@pytest.fixture(autouse=True)
def says_nothing_of_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an engine says without one is of no matter here."""
    monkeypatch.setattr("gruppo.rollout.local.available", lambda dtype: True)


def rows_are_computed_alone(dtype: torch.dtype) -> bool:
    """Whether a row of a product has the same bits among 4 rows as among 32."""
    generator = torch.Generator().manual_seed(0)
    weight, rows = (torch.randn(*shape, generator=generator).to(dtype) for shape in ((688, 256), (32, 256)))
    whole = torch.nn.functional.linear(rows, weight)
    return all(torch.equal(torch.nn.functional.linear(rows[s : s + 4], weight), whole[s : s + 4]) for s in range(28))


@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_alone_in_8_slots_in_a_full_batch_and_permuted(
    dtype: torch.dtype, kernel: bool, monkeypatch: pytest.MonkeyPatch
):
    if kernel and compiler() is None:
        pytest.skip("no C compiler")
    if not kernel:
        monkeypatch.setattr("gruppo.rollout.slots.takes", lambda *_: False)
    if not rows_are_computed_alone(dtype):
        pytest.skip("this processor's products depend on the number of rows")
    model = tiny("qwen2", context=512, spread=0.06, **SHAPE)
    model.to(dtype)  # pyright: ignore[reportArgumentType, reportCallIssue]

    def bits(order: list[int], group_size: int = 4, max_live: int = 256) -> dict[tuple[int, int], tuple[bytes, bytes]]:
        engine = LocalEngine(model, Letters(), max_live)
        asked = [request(PROMPTS[i], SAMPLING, id=i, group_size=group_size) for i in order]
        found = {
            (c.request_id, c.sample): (c.token_ids.tobytes(), c.sampler_logprobs.tobytes())
            for group in engine.generate(asked)
            for c in group
        }
        assert engine.stats.decode_steps > 0
        return found

    whole = bits(list(range(8)))
    assert len({len(ids) for ids, _ in whole.values()}) > 8
    assert bits([3, 6, 0, 7, 5, 1, 4, 2]) == whole
    assert bits(list(range(8)), max_live=8) == whole
    assert bits(list(range(8)), max_live=5) == whole
    for alone in (0, 2, 5, 7):
        of_its_group = {key: found for key, found in whole.items() if key[0] == alone}
        assert bits([alone], max_live=1) == of_its_group
        if len(PROMPTS[alone]) <= SHARED_TOKENS:  # a longer prompt is kept once for its group, but not for one row
            assert bits([alone], group_size=1) == {(alone, 0): whole[alone, 0]}


def uneven(kind: str):
    """A model whose logits depend on the company by a hair, as other processors' products do."""
    model = tiny()

    def tilt(part: torch.nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
        rows = output.shape[0]
        tilts = {
            "few rows": torch.tensor(float(rows < 9)),
            "any number of rows": torch.tensor(float(rows)),
            "the place": torch.arange(rows)[:, None, None],
        }
        return output + 1e-6 * tilts[kind]

    model.lm_head.register_forward_hook(tilt)
    return model


@pytest.mark.parametrize(("kind", "step"), [("few rows", 16), ("any number of rows", None), ("the place", None)])
def test_the_trial_finds_at_how_many_rows_they_are_alone(kind: str, step: int | None):
    if find_rows_step(tiny()) != 4:
        pytest.skip("this processor's products depend on the number of rows")
    assert find_rows_step(uneven(kind)) == step


def prefilled(model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch, lengths: list[int], **more: Any) -> list[int]:
    """How many prompts each call of a prefill held, with an engine of the model."""
    engine = LocalEngine(model, Letters(), **more)
    short = replace(SAMPLING, max_completion_length=2)
    engine.generate([request(PROMPTS[0], short)])
    held: list[int] = []
    prefill = SlotModel.prefill
    monkeypatch.setattr(SlotModel, "prefill", lambda *args: (held.append(len(args[2])), prefill(*args))[1])
    engine.generate([request(prompt, short, id=i) for i, prompt in enumerate(prompts_of(lengths))])
    monkeypatch.undo()
    return held


def test_prompts_go_together_up_to_256_tokens_where_the_trial_finds_them_alike(monkeypatch: pytest.MonkeyPatch):
    if find_rows_step(tiny()) != 4:
        pytest.skip("this processor's products depend on the number of rows")
    model = tiny("qwen2", context=512, **SHAPE)
    lengths = [41] * 14 + [300, 10]  # the last token of a prompt belongs to the first step
    assert find_packs(model, 4)
    assert prefilled(model, monkeypatch, lengths) == [6, 6, 2, 1, 1]
    assert prefilled(model, monkeypatch, lengths, batch_invariant=False) == [16]
    monkeypatch.setattr("gruppo.rollout.invariance.PACKED_BELOW", 1000)
    assert not find_packs(model, 4)


@pytest.mark.parametrize("kind", ["the number of tokens", "the place"])
def test_prompts_that_differ_beside_others_go_one_by_one(kind: str, monkeypatch: pytest.MonkeyPatch):
    if find_rows_step(tiny()) != 4:
        pytest.skip("this processor's products depend on the number of rows")
    model = tiny("qwen2", context=512, **SHAPE)
    last: Any = model.get_submodule("model.layers.1.self_attn.v_proj")

    def tilt(part: torch.nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
        tokens = output.shape[1]
        return output * (1 + 1e-6 * (tokens > 100 if kind == "the number of tokens" else torch.arange(tokens)[:, None]))

    last.register_forward_hook(tilt)
    assert find_rows_step(model) == 4  # a step has one token a row
    assert not find_packs(model, 4)
    assert prefilled(model, monkeypatch, [20, 30, 300]) == [1, 1, 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_fills_a_prefill_up_is_written_nowhere(dtype: torch.dtype):
    decoder = SlotModel(tiny("qwen2", context=512, **SHAPE).to(dtype), 4, packs=True)  # pyright: ignore
    cache = decoder.new_cache()
    cache.reserve(3, 64)
    decoder.prefill(cache, [Prompt(PROMPTS[0], slots=(0, 1)), Prompt(PROMPTS[1][:18], slots=(2,))])  # 5 + 18 + 1
    for row, length in enumerate((5, 5, 18)):
        assert all(each[:, :length].any(-1).all() for each in cache.of_row(row, 64))
        assert not any(each[:, length:].any() for each in cache.of_row(row, 64))


def test_attention_that_depends_on_the_width_is_found(monkeypatch: pytest.MonkeyPatch):
    attend = torch.nn.functional.scaled_dot_product_attention

    def by_width(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **more: object) -> torch.Tensor:
        return attend(query, key, value, **more) * (1 + 1e-6 * (key.shape[2] > 64))  # pyright: ignore

    monkeypatch.setattr("gruppo.rollout.slots.scaled_dot_product_attention", by_width)
    assert find_rows_step(tiny()) is None


def sampled(model: torch.nn.Module, order: list[int], said: list[str], **more: Any) -> dict[int, tuple[bytes, bytes]]:
    engine = LocalEngine(model, Letters(), note=said.append, **more)
    groups = engine.generate(
        [request(PROMPTS[i][:90], replace(SAMPLING, max_completion_length=20), id=i) for i in order]
    )
    assert engine.stats.decode_steps > 0
    return {c.request_id: (c.token_ids.tobytes(), c.sampler_logprobs.tobytes()) for group in groups for c in group}


def test_an_engine_keeps_to_what_the_trial_found():
    if find_rows_step(tiny()) != 4:
        pytest.skip("this processor's products depend on the number of rows")
    said: list[str] = []
    whole = sampled(uneven("few rows"), list(range(8)), said)
    assert sampled(uneven("few rows"), [3], said) == {3: whole[3]}
    assert said == []
    loose = sampled(uneven("few rows"), [3], said, batch_invariant=False)
    assert (loose[3][0], loose[3] == whole[3], said) == (whole[3][0], False, [])


def test_an_engine_says_that_nothing_holds_and_goes_on():
    said: list[str] = []
    found = sampled(uneven("any number of rows"), [0, 1, 2], said)
    assert found.keys() == {0, 1, 2}
    (line,) = said
    assert line.startswith("batch_invariant: not kept on this machine, ")
