"""Decode steps replayed from a tape: the bits of a call, whatever has changed since, and no step that can't be."""

import contextvars
import ctypes
import gc
import threading
from collections.abc import Callable
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gruppo.monitor.garbage import present_objects_spared
from gruppo.monitor.native import compiler, noting
from gruppo.rollout import captures, packed_weights, slot_model
from gruppo.rollout.captures import TAPES, Tape, tape
from gruppo.rollout.graphs import CapturedSteps
from gruppo.rollout.layers import linear_available, linear_product, rms_norm
from gruppo.rollout.local import LocalEngine
from gruppo.rollout.shared_prompts import PromptKey, SharedPrompts
from gruppo.types import Completion, SamplingParams
from models import FAMILIES, Letters, bits, changed_meanwhile, prompts_of, request, tiny
from test_rollout_slots import FITTING, PLAIN, built

PROMPTS = prompts_of([3, 17, 1, 9, 24, 9, 2])
STOPPING = SamplingParams(max_completion_length=70, stop_token_ids=(5, 11, 40))
SHORT = SamplingParams(max_completion_length=20)


def replayed(said: list[str]) -> list[str]:
    """What an engine says of replays; without a compiler it says that too."""
    return [line for line in said if "replayed" in line]


def called(monkeypatch: pytest.MonkeyPatch, run: Callable[[], Any]) -> Any:
    """What comes out where nothing is replayed."""
    with monkeypatch.context() as patch:
        patch.setattr(CapturedSteps, "_comes_again", lambda *_: False)
        return run()


def drawn(model: Any, sampling: SamplingParams = STOPPING, **more: Any) -> tuple[list[Completion], LocalEngine]:
    """3 completions of each prompt, 7 at a time."""
    engine = LocalEngine(model, Letters(), 7, **more)
    asked = [request(prompt, sampling, id=i, group_size=3) for i, prompt in enumerate(PROMPTS)]
    return list(chain(*engine.generate(asked))), engine


def model_of(name: str, head_size: int) -> Any:
    return tiny(name, hidden_size=4 * head_size) if name in FAMILIES[:2] else built(*FITTING[name], head_size)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("head_size", [8, 16])
@pytest.mark.parametrize("name", ["qwen2", *(pytest.param(name, marks=pytest.mark.slow) for name in FITTING)])
def test_the_same_bits_as_called(
    name: str, head_size: int, dtype: torch.dtype, packed: bool, monkeypatch: pytest.MonkeyPatch
):
    """21 rows through 7 slots, which finish and arrive, while the cache grows; prompts kept once where they may be."""
    monkeypatch.setattr(slot_model, "SHARED_TOKENS", 8)
    monkeypatch.setattr(slot_model, "SHARED_ROWS", 3)
    monkeypatch.setattr(packed_weights, "SMALLEST_OWN", 1 if packed else 2**40)
    monkeypatch.setattr("gruppo.rollout.continuous.FIRST", 64)
    model, said = model_of(name, head_size).to(dtype), list[str]()
    completions, engine = drawn(model, note=said.append)
    assert replayed(said) == []
    expected, _ = called(monkeypatch, lambda: drawn(model))
    assert bits(completions) == bits(expected)
    assert len({len(each) for each in completions}) > 5
    shares = name in (*PLAIN, "qwen2")
    by_torch = shares and (head_size == 8 or compiler() is None)  # whose calls depend on who is live
    assert engine.stats.shared_prompts == (4 if shares else 0)
    assert by_torch or engine.stats.replayed_steps > 0.8 * engine.stats.decode_steps


def test_a_tape_is_of_a_width_where_torch_attends(monkeypatch: pytest.MonkeyPatch):
    """Widths 64, 128 and 192 of slots that have 192 positions from the start; the kernel looks at lengths alone."""
    for head_size, captures_wanted in ((8, 3), (16, 3 if compiler() is None else 1)):
        model = tiny(hidden_size=4 * head_size, context=256)
        asked = [request(PROMPTS[2], SamplingParams(max_completion_length=150), id=i) for i in range(3)]
        engines = LocalEngine(model, Letters(), 4), LocalEngine(model, Letters(), 4)
        found = bits(chain(*engines[0].generate(asked)))
        assert found == called(monkeypatch, lambda: bits(chain(*engines[1].generate(asked))))  # noqa: B023
        assert engines[0].stats.captured_graphs == captures_wanted


def test_a_tape_is_of_a_number_of_rows_and_goes_with_its_batch():
    """By hand. 6 rows are 8 for steps 1 to 4, 4 for 5 to 12; the first of each is a call, the second a capture."""
    model = tiny(hidden_size=64)
    engine = LocalEngine(model, Letters(), 8)
    asked = [request((7, i), SamplingParams(max_completion_length=n), id=i) for i, n in enumerate([2, 4, 6, 8, 10, 12])]
    first = bits(chain(*engine.generate(asked)))
    counts = engine.stats.captured_graphs, engine.stats.replayed_steps, engine.stats.decode_steps
    assert counts == (2, 3 + 7, 12)
    steps = engine._slots.steps  # pyright: ignore[reportOptionalMemberAccess]
    assert isinstance(steps, CapturedSteps)
    assert steps._graphs == {}
    assert bits(chain(*engine.generate(asked))) == first
    assert (engine.stats.captured_graphs, engine.stats.replayed_steps) == (4, 10 + 12 - 1)


def test_tapes_go_with_the_weights_that_they_know(monkeypatch: pytest.MonkeyPatch):
    """A tape has the addresses of the packed copies."""
    if not linear_available(torch.float32):
        pytest.skip("no C compiler, or a processor without AVX-512")
    monkeypatch.setattr(packed_weights, "SMALLEST_OWN", 1)
    model = tiny(hidden_size=64)
    steps = CapturedSteps(tape, model, 4, rules=TAPES)
    slots = slot_model.SlotModel(model, 4, steps)
    slots.pack()
    cache = slots.lend_cache()
    cache.reserve(4, 64)

    def tapes() -> int:
        for step in range(3):
            slots.decode(cache, np.arange(4), np.full(4, step), 64)
        return len(steps._graphs)

    assert tapes() == 1
    slots.release()
    assert steps._graphs == {}
    assert tapes() == 1
    slots.pack()
    assert steps._graphs == {}
    assert tapes() == 1
    slots.give_back(cache)
    assert steps._graphs == {}


def test_the_oldest_tape_goes():
    engine = LocalEngine(tiny(hidden_size=64), Letters(), 64)
    held: list[int] = []
    engine.submit(request((7, 8), SamplingParams(max_completion_length=40), group_size=40))
    engine._decide()
    slots = engine._slots
    assert slots is not None
    steps = slots.steps
    assert isinstance(steps, CapturedSteps)
    cache = slots.lend_cache()
    cache.reserve(40, 64)
    for rows in (40, 32, 24, 16, 8, 4):
        for step in range(3):
            slots.decode(cache, np.arange(rows), np.full(rows, step), 64)
        held.append(len(steps._graphs))
    assert held == [1, 2, 3, 4, 4, 4]
    assert [shape[0] for shape in steps._graphs] == [24, 16, 8, 4]


def with_new_weights(*, elsewhere: bool) -> list[Completion]:
    model, other = tiny(hidden_size=64), tiny(hidden_size=64, seed=1)
    return changed_meanwhile(LocalEngine(model, Letters(), 7), model, other, PROMPTS[1], elsewhere=elsewhere)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("elsewhere", [False, True])
def test_new_weights_are_those_that_are_read(elsewhere: bool, packed: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(packed_weights, "SMALLEST_OWN", 1 if packed else 2**40)
    found = with_new_weights(elsewhere=elsewhere)
    assert bits(found) == bits(called(monkeypatch, lambda: with_new_weights(elsewhere=elsewhere)))
    unchanged, _ = drawn(tiny(hidden_size=64), SHORT)
    assert bits(unchanged)[1, 0] != bits(found)[1, 0]


def test_two_batches_at_once_each_read_what_is_theirs(monkeypatch: pytest.MonkeyPatch):
    """The second lays the weights out anew and gives its copies back, while the first goes on."""
    monkeypatch.setattr(packed_weights, "SMALLEST_OWN", 1)

    def interleaved() -> list[Completion]:
        engine = LocalEngine(tiny(hidden_size=64), Letters(), 7)
        engine.submit(request(PROMPTS[1], SamplingParams(max_completion_length=4), id=0))
        engine.submit(request(PROMPTS[1], SamplingParams(max_completion_length=40), id=1, group_size=3))
        first = engine.completed()
        found = [next(first)]
        engine.submit(request(PROMPTS[3], SamplingParams(max_completion_length=30, temperature=0.5), id=2))
        return found + list(engine.completed()) + list(first)

    assert bits(interleaved()) == bits(called(monkeypatch, interleaved))


ASKS: dict[str, Callable[[Tensor], Any]] = {
    "item": lambda out: out[0, 0, 0].item(),
    "is_nonzero": lambda out: bool((out > 0).any()),
    "index": lambda out: out[out > 0],
    "nonzero": lambda out: out.nonzero(),
    "tolist": lambda out: out[0, 0].tolist(),
    "numpy": lambda out: np.asarray(out[0, 0]),
}


def hooked(change: Callable[[Tensor], Any]) -> Any:
    """A model whose logits go through a function of Python."""
    model = tiny(hidden_size=64)
    model.lm_head.register_forward_hook(lambda _m, _i, out: change(out))
    return model


@pytest.mark.parametrize("name", ASKS)
def test_a_model_that_asks_for_a_result_is_called(name: str, monkeypatch: pytest.MonkeyPatch):
    said: list[str] = []
    model = hooked(lambda out: (ASKS[name](out), out)[1])
    completions, engine = drawn(model, note=said.append)
    assert bits(completions) == bits(called(monkeypatch, lambda: drawn(model))[0])
    (line,) = replayed(said)
    assert line.startswith("decode steps are not replayed, which is slower (the model waits for the device in ")
    assert name in line or name in ("item", "numpy")
    assert engine.stats.captured_graphs == 0


def test_a_model_that_asks_unseen_is_found_by_a_step_that_is_compared(monkeypatch: pytest.MonkeyPatch):
    """What is read at an address is no operator: the tape has the number of its own step for ever."""
    said, asks = list[str](), list[int]()

    def change(out: Tensor) -> Tensor:
        return out + ctypes.c_float.from_address(out.data_ptr()).value * torch.arange(61) / 99 if asks else out

    def of_three() -> list[Completion]:
        asks.clear()
        engine = LocalEngine(hooked(change), Letters(), 7, note=said.append)
        engine.submit(request(PROMPTS[1], STOPPING, group_size=3))
        engine._decide()  # the gate would find it too
        asks.append(1)
        return list(engine.completed())

    assert bits(of_three()) == bits(called(monkeypatch, of_three))
    assert replayed(said) == ["decode steps are not replayed, which is slower (a replay gave other logits than a call)"]


def test_a_step_that_is_too_large_is_called(monkeypatch: pytest.MonkeyPatch):
    """What a step of 8 rows makes takes more than 32 KiB, that of 4 less; by torch's operators it is more."""
    if not linear_available(torch.float32):
        pytest.skip("no C compiler, or a processor without AVX-512")
    model, said = tiny(hidden_size=64), list[str]()
    expected, whole = drawn(model)
    monkeypatch.setattr(captures, "TAPE_BYTES", 2**15)
    completions, engine = drawn(model, note=said.append)
    assert bits(completions) == bits(expected)
    assert replayed(said) == []
    assert 0 < engine.stats.replayed_steps < whole.stats.replayed_steps
    monkeypatch.setattr(captures, "TAPE_BYTES", 0)
    assert drawn(model)[1].stats.replayed_steps == 0


def test_a_replay_works_on_what_it_was_recorded_with():
    """Views, numbers of Python and buffers stay; what is written to the inputs is read anew."""
    static, number = torch.ones(3), 100.0
    with torch.inference_mode():
        buffer = torch.zeros(2, 3)
        found: list[Tensor] = []

        def call() -> None:
            row = buffer[1]
            row.copy_(static.float().contiguous() * 2)
            found[:] = [torch.cat([row[1:], static[:1]]) + number, *buffer.max(dim=0)]

        replay = tape(call)
        static.copy_(torch.tensor([1.0, 2.0, 3.0]))
        number = 0.0
        replay()
    assert buffer.tolist() == [[0, 0, 0], [2, 4, 6]]
    assert [each.tolist() for each in found] == [[104.0, 106.0, 101.0], [2.0, 4.0, 6.0], [1, 1, 1]]


OPERATORS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "linear": lambda x, w, b: torch.nn.functional.linear(x, w, b),  # whose form with a result given rounds twice
    "linear without a bias": lambda x, w, b: torch.nn.functional.linear(x, w),
    "matmul": lambda x, w, b: x @ w.T,
    "addmm": lambda x, w, b: torch.addmm(b, x[:, 0], w.T),
    "silu": lambda x, w, b: torch.nn.functional.silu(x) * x,
    "softmax": lambda x, w, b: torch.softmax(x, dim=-1),
    "norm": lambda x, w, b: torch.nn.functional.layer_norm(x, (64,), b[:64], b[64:]),
    "a sum to a number": lambda x, w, b: x.sum() + b,
    "attention": lambda x, w, b: torch.nn.functional.scaled_dot_product_attention(*[x.view(3, 4, 4, 16)] * 3),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_is_replayed_to_the_bit(name: str, dtype: torch.dtype):
    generator = torch.Generator().manual_seed(0)
    weight, bias = (torch.randn(*shape, generator=generator).to(dtype) for shape in ((128, 64), (128,)))
    x, found = torch.zeros(12, 1, 64, dtype=dtype), list[Tensor]()
    with torch.inference_mode():
        replay = tape(lambda: found.__setitem__(slice(None), [OPERATORS[name](x, weight, bias)]))
        for _ in range(20):
            x.copy_(torch.randn(x.shape, generator=generator))
            replay()
            assert torch.equal(found[0], OPERATORS[name](x, weight, bias))


def test_kernels_are_replayed_with_operators_in_their_order():
    if not linear_available(torch.float32):
        pytest.skip("no C compiler, or a processor without AVX-512")
    generator = torch.Generator().manual_seed(0)
    weight, norm = torch.randn(32, 32, generator=generator), torch.rand(32, generator=generator)
    product, x, found = linear_product(weight, None), torch.zeros(4, 32), list[Tensor]()
    with torch.inference_mode():
        replay = tape(lambda: found.__setitem__(slice(None), [product(rms_norm(x * 2, norm, 1e-6) + 1)]))
        x.copy_(torch.randn(4, 32, generator=generator))
        replay()
        wanted = (2 * x * (4 * x * x).mean(-1, keepdim=True).add(1e-6).rsqrt() * norm + 1) @ weight.T
    torch.testing.assert_close(found[0], wanted, atol=1e-4, rtol=1e-5)


def test_calls_are_noted_in_their_own_thread():
    x, norm, noted = torch.ones(1, 16), torch.ones(16), list[Any]()
    if not linear_available(torch.float32):
        pytest.skip("no C compiler, or a processor without AVX-512")
    with noting(lambda function, given: noted.append(given)):
        other = threading.Thread(target=rms_norm, args=(x, norm, 1e-6))
        other.start()
        other.join()
        assert noted == []
        rms_norm(x, norm, 1e-6)
        contextvars.Context().run(rms_norm, x, norm, 1e-6)
    rms_norm(x, norm, 1e-6)
    assert len(noted) == 1


def test_what_is_held_counts():
    with torch.inference_mode(), Tape() as found:
        x = torch.empty(4, 8)
        (x[1:] * 2).view(-1).neg_()
    assert sum(each.nbytes for each in found._held) == 4 * (32 + 24)
    assert len(found._calls) == 2


def test_prompts_of_rows_stay_where_they_are():
    """Captured steps read the arrays; what was put anew under an old name is found."""
    prompts, keys = SharedPrompts(), [(0, (1, 2)), (0, (3,))]
    states = [torch.zeros(1, 2, length, 16) for length in (4, 9, 4)]
    for key, each in zip(keys, states, strict=False):
        prompts.put(0, key, each, each)
    rows: list[PromptKey | None] = [keys[0], None, keys[1]]
    prompts.begin(rows, 4, 8)
    places = prompts.of_rows(0)
    assert places.lengths.tolist() == [4, 0, 9, 0, 0, 0, 0, 0]
    address = places.keys.ctypes.data
    prompts.begin([keys[1], keys[1]], 2, 8)
    assert places.lengths.tolist() == [9, 9, 0, 0, 0, 0, 0, 0]
    assert places.values[:2].tolist() == 2 * [states[1].data_ptr()]
    prompts.put(0, keys[1], states[2], states[2])
    prompts.begin([keys[1], keys[1]], 2, 8)
    assert places.lengths[:3].tolist() == [4, 4, 0]
    assert places.keys[:2].tolist() == 2 * [states[2].data_ptr()]
    assert prompts.of_rows(0).keys.ctypes.data == address
    prompts.begin([keys[0]], 16, 16)  # more slots: elsewhere, and so are the slots
    assert prompts.of_rows(0).lengths.tolist() == [4] + [0] * 15


def test_present_objects_are_spared_and_come_back():
    gone = list[int]()

    class Node:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            gone.append(1)

    before, _ = gc.get_freeze_count(), Node()
    Node()
    with present_objects_spared():
        assert gone == [1]  # what was garbage already
        assert gc.get_freeze_count() > 10_000
        del _
        gc.collect()
        assert gone == [1]
        with present_objects_spared():
            pass
        assert gc.get_freeze_count() > 10_000  # the outer one's
    assert gc.get_freeze_count() == before
    gc.collect()
    assert gone == [1, 1]
