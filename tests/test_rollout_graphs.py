"""Decode steps that are captured and replayed: the same bits as without, and never on memory that is not theirs."""

import contextlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from graph_standin import Recorder, StandIn
from gruppo.rollout.captures import CudaCapture, NoWaiting, steps_for, tape
from gruppo.rollout.graphs import CapturedSteps, PlainSteps, bucket
from gruppo.rollout.local import LocalEngine
from gruppo.rollout.shared_prompts import PromptKey
from gruppo.rollout.slot_model import Prompt, SlotModel
from gruppo.types import Completion, SamplingParams
from models import FAMILIES, Letters, bits, changed_meanwhile, prompts_of, request, tiny
from test_rollout_slots import FITTING, built

PROMPTS = prompts_of([3, 17, 1, 9, 24, 9, 2])
STOPPING = SamplingParams(max_completion_length=70, stop_token_ids=(5,))
Bits = dict[tuple[int, int], tuple[bytes, bytes]]


@pytest.fixture(autouse=True)
def operators_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own kernels for layers are of the CPU, and nothing that a recorder of torch's operators sees.

    And what an engine says without a compiler is of no matter here.
    """
    monkeypatch.setattr("gruppo.rollout.local.available", lambda dtype: True)
    monkeypatch.setattr("gruppo.rollout.packed_weights.takes_linear", lambda *_: False)
    monkeypatch.setattr("gruppo.rollout.layers._epsilon", lambda part: None)
    monkeypatch.setattr("gruppo.rollout.parts.available", lambda dtype: False)


def called_again(call: Callable[[], None]) -> Callable[[], None]:
    """What a replay has to equal: the call, made anew."""
    return call


def engine_of(model: Any, capture: Any, max_live: int = 7, said: list[str] | None = None, **more: Any) -> LocalEngine:
    return LocalEngine(model, Letters(), max_live, capture=capture, note=(said or []).append, **more)


def steps_of(engine: LocalEngine) -> CapturedSteps:
    assert engine._slots is not None
    assert isinstance(engine._slots.steps, CapturedSteps)
    return engine._slots.steps


def counts(engine: LocalEngine) -> tuple[int, int, int]:
    """Captures, replays and decode steps so far."""
    return engine.stats.captured_graphs, engine.stats.replayed_steps, engine.stats.decode_steps


def drawn(engine: LocalEngine, sampling: SamplingParams = STOPPING, group_size: int = 3) -> list[Completion]:
    asked = [request(prompt, sampling, id=i, group_size=group_size) for i, prompt in enumerate(PROMPTS)]
    return list(chain(*engine.generate(asked)))


def of_lengths(engine: LocalEngine, lengths: list[int], first: int = 7) -> Bits:
    """Completions of exactly these lengths, each of a prompt of two tokens."""
    asked = [request((first, i), SamplingParams(max_completion_length=n), id=i) for i, n in enumerate(lengths)]
    return bits(chain(*engine.generate(asked)))


def test_buckets():
    assert [bucket(rows) for rows in (1, 2, 3, 5, 8, 9, 17, 64, 65, 81, 256)] == [
        1,
        2,
        4,
        8,
        8,
        16,
        24,
        64,
        80,
        96,
        256,
    ]
    assert len({bucket(rows) for rows in range(1, 257)}) == 23


@pytest.mark.parametrize("name", [*FAMILIES, *FITTING])
@pytest.mark.parametrize("batch_invariant", [True, False])
def test_the_same_bits_as_without(name: str, batch_invariant: bool):
    """21 rows through 7 slots, which finish and arrive, while the cache grows."""
    model = tiny(name) if name in FAMILIES else built(*FITTING[name])
    found, expected = (
        engine_of(model, capture, batch_invariant=batch_invariant) for capture in (StandIn(), called_again)
    )
    completions = drawn(found)
    assert bits(completions) == bits(drawn(expected))
    assert counts(found) == counts(expected)
    captures, replays, steps = counts(found)
    assert captures >= 3
    assert replays > 0.9 * steps
    assert len({len(each) for each in completions}) > 5
    plain = drawn(LocalEngine(model, Letters(), 7, batch_invariant=batch_invariant))
    for one, other in zip(completions, plain, strict=True):
        assert one.token_ids.tolist() == other.token_ids.tolist()
        np.testing.assert_allclose(one.sampler_logprobs, other.sampler_logprobs, atol=5e-6)


def test_a_shape_is_captured_when_it_comes_again_and_kept_for_the_next_rollouts():
    """By hand. 6 rows are 8 for steps 1 to 4, 4 for 5 to 8, 2 for 9 and 10, 1 for 11 and 12; the first of each is a
    plain call, the second a capture that is replayed at once."""
    engine = engine_of(tiny(), StandIn(), max_live=8, batch_invariant=False)
    first = of_lengths(engine, [2, 4, 6, 8, 10, 12])
    assert counts(engine) == (4, 3 + 3 + 1 + 1, 12)
    assert of_lengths(engine, [2, 4, 6, 8, 10, 12]) == first
    assert counts(engine) == (4, 8 + 12, 24)
    # A multiple of 4 rows: 8 and 4.
    engine = engine_of(tiny(), StandIn(), max_live=8)
    assert engine.stats.decode_steps == 0
    of_lengths(engine, [2, 4, 6, 8, 10, 12])
    assert counts(engine) == (2, 3 + 7, 12)


def test_a_cache_that_grows_drops_its_graphs(monkeypatch: pytest.MonkeyPatch):
    """One row of 100 tokens behind one: width 64 for steps 1 to 63, then the buffers grow to 128."""
    monkeypatch.setattr("gruppo.rollout.continuous.FIRST", 64)
    engine = engine_of(tiny(), StandIn(), batch_invariant=False)
    expected = of_lengths(engine_of(tiny(), called_again, batch_invariant=False), [100])
    assert of_lengths(engine, [100]) == expected
    assert counts(engine) == (2, 62 + 36, 100)
    # The buffers are large now. The graph of width 64 went with the small ones; its shape is known, though.
    assert of_lengths(engine, [100]) == expected
    assert counts(engine) == (3, 98 + 100, 200)
    # More rows are larger buffers again.
    of_lengths(engine, [3, 3])
    assert counts(engine) == (4, 198 + 2, 203)
    assert of_lengths(engine, [100]) == expected
    assert counts(engine) == (6, 200 + 100, 303)


def test_graphs_write_their_logits_to_the_same_memory():
    """8 rows of 61 logits, though 4 shapes have been captured: an output of each would be held as long as they are."""
    engine = engine_of(tiny(), StandIn(), max_live=8, batch_invariant=False)
    of_lengths(engine, [2, 4, 6, 8, 10, 12])
    graphs = steps_of(engine)._graphs
    assert sorted(graph.logits.shape for graph in graphs.values()) == [(1, 61), (2, 61), (4, 61), (8, 61)]
    assert {graph.logits.untyped_storage().data_ptr() for graph in graphs.values()} == {
        steps_of(engine)._logits.untyped_storage().data_ptr()  # pyright: ignore[reportOptionalMemberAccess]
    }
    assert graphs[8, 64, False].logits.untyped_storage().nbytes() == 8 * 61 * 4


def test_without_looking_at_addresses_the_stand_in_goes_wrong(monkeypatch: pytest.MonkeyPatch):
    """It would not find anything if it did not."""
    expected = of_lengths(engine_of(tiny(), called_again), [100])
    monkeypatch.setattr(CapturedSteps, "_drop_what_moved", lambda *_: None)
    engine = engine_of(tiny(), StandIn())
    of_lengths(engine, [100], first=9)
    of_lengths(engine, [3] * 6)  # larger buffers: the prompt goes there, and the graphs read the old ones
    assert of_lengths(engine, [100]) != expected


def with_new_weights(capture: Any, *, elsewhere: bool) -> tuple[list[Completion], LocalEngine]:
    model, other = tiny(), tiny(seed=1)
    engine = engine_of(model, capture)
    return changed_meanwhile(engine, model, other, PROMPTS[1], elsewhere=elsewhere), engine


@pytest.mark.parametrize("elsewhere", [False, True])
def test_new_weights_are_those_that_are_read(elsewhere: bool):
    found, engine = with_new_weights(StandIn(), elsewhere=elsewhere)
    expected, _ = with_new_weights(called_again, elsewhere=elsewhere)
    assert bits(found) == bits(expected)
    unchanged = engine_of(tiny(), StandIn())
    groups = unchanged.generate([request(PROMPTS[1], SamplingParams(max_completion_length=20), id=1, group_size=2)])
    assert bits(groups[0]) != {key: each for key, each in bits(found).items() if key[0] == 1}
    # One bucket, 4 rows; captured anew where the addresses have changed.
    assert counts(engine) == (2 if elsewhere else 1, 19, 20)


def test_weights_moved_between_rollouts_are_noticed(monkeypatch: pytest.MonkeyPatch):
    model = tiny()
    engine = engine_of(model, StandIn())
    of_lengths(engine, [9])
    for mine, new in zip(model.parameters(), tiny(seed=1).parameters(), strict=True):
        mine.data = new.data
    expected = of_lengths(engine_of(tiny(seed=1), called_again), [9])
    monkeypatch.setattr(CapturedSteps, "look_again", lambda _: None)
    assert of_lengths(engine, [9]) != expected  # the stand-in keeps to the old memory, as a graph does
    monkeypatch.undo()
    assert of_lengths(engine, [9]) == expected


def test_a_capture_that_fails_is_said_once_and_not_tried_again():
    said: list[str] = []
    stand_in = StandIn(fails_at=2)
    engine = LocalEngine(tiny(), Letters(), 7, capture=stand_in, note=said.append)
    expected = bits(drawn(engine_of(tiny(), called_again)))
    assert bits(drawn(engine)) == expected
    assert bits(drawn(engine)) == expected
    why = "CUDA out of memory. Tried to allocate 2.00 GiB"
    assert said == [f"decode steps are not captured as CUDA graphs, which is slower ({why})"]
    assert (stand_in.captures, steps_of(engine).captures, steps_of(engine).keeps) == (2, 1, False)
    assert engine._slots is not None
    assert engine._slots._kept is None


WAITS: dict[str, Callable[[Tensor], Any]] = {
    "aten::item": lambda out: out[0, 0, 0].item(),
    "aten::is_nonzero": lambda out: bool((out > 0).any()),
    "aten::index": lambda out: out[out > 0],
    "aten::nonzero": lambda out: out.nonzero(),
}


@pytest.mark.parametrize("name", WAITS)
def test_a_model_that_waits_for_the_device_decodes_plainly(name: str):
    model, said = tiny(), list[str]()
    model.lm_head.register_forward_hook(lambda _m, _i, out: (WAITS[name](out), out)[1])
    engine = LocalEngine(model, Letters(), 7, capture=StandIn(), note=said.append)
    assert bits(drawn(engine)) == bits(drawn(engine_of(tiny(), called_again)))
    (line,) = said
    assert line.startswith("decode steps are not captured as CUDA graphs, which is slower (the model waits for the")
    assert name in line or name == "aten::item"
    assert steps_of(engine).captures == 0


def test_what_is_copied_between_devices_is_found():
    with NoWaiting():
        assert torch.zeros(3, device="meta").sum().device.type == "meta"
        with pytest.raises(RuntimeError, match="copies between devices in aten::"):
            torch.zeros(3).to("meta")


def test_the_stand_in_keeps_what_a_graph_would_keep():
    """Numbers that Python knew and tensors made for one step stay; static inputs are read anew."""
    static, fresh, number = torch.ones(3), torch.full((3,), 10.0), 100.0
    with Recorder() as recorder:
        out = (static + fresh).mul_(2)[1:] + number
    assert out.tolist() == [122.0, 122.0]
    static.copy_(torch.tensor([1.0, 2.0, 3.0]))
    fresh, number = torch.zeros(3), 0.0
    recorder.replay()
    assert out.tolist() == [124.0, 126.0]


def test_prompts_stand_in_their_rows_and_others_are_decoded_plainly():
    prompts = prompts_of([90, 80])
    asked = [request(p, replace(STOPPING, max_completion_length=12), id=i, group_size=4) for i, p in enumerate(prompts)]
    plain, captured = LocalEngine(tiny(), Letters()), engine_of(tiny(), StandIn(), 8)
    expected, found = (chain(*engine.generate(asked)) for engine in (plain, captured))
    for one, other in zip(found, expected, strict=True):
        assert one.token_ids.tolist() == other.token_ids.tolist()
        np.testing.assert_allclose(one.sampler_logprobs, other.sampler_logprobs, atol=5e-6)
    assert (plain.stats.shared_prompts, captured.stats.shared_prompts) == (2, 0)
    assert captured.stats.prefilled_prompts == 2

    model, key = tiny(), (0, prompts[0])
    stand_in = StandIn()
    logits: list[list[Tensor]] = []
    for steps in (None, CapturedSteps(stand_in, model, 4)):
        decoder = SlotModel(model, 4, steps)
        cache = decoder.new_cache()
        cache.reserve(4, 64)
        decoder.prefill(cache, [Prompt(prompts[0][:-1], shared=key)])
        lengths, keys = np.arange(1), list[PromptKey | None]([key])
        logits.append(
            [decoder.decode(cache, np.array([t]), lengths + i, 64, keys).clone() for i, t in enumerate((9, 4, 7))]
        )
    assert all(map(torch.equal, *logits))
    assert stand_in.captures == 0


def test_idle_rows_have_slots():
    for max_live, rows in ((5, 8), (9, 16), (8, 8)):
        engine = engine_of(tiny(), StandIn(), max_live, batch_invariant=False)
        drawn(engine)
        assert engine.stats.peak_rows == rows


def test_a_cache_is_lent_to_one_batch_at_a_time():
    model = tiny()
    decoder = SlotModel(model, 4, CapturedSteps(StandIn(), model, 4))
    first, second = decoder.lend_cache(), decoder.lend_cache()
    assert first is not second
    decoder.give_back(first)
    assert decoder.lend_cache() is first
    plain = SlotModel(model)
    plain.give_back(first)
    assert plain.lend_cache() is not first
    engine = engine_of(model, StandIn())
    of_lengths(engine, [4, 4])
    assert engine._slots is not None
    assert engine._slots._kept is not None
    engine.close()
    assert (engine._slots._kept, steps_of(engine)._graphs) == (None, {})


def test_an_engine_that_sleeps_gives_cache_and_graphs_back():
    """Afterwards its shapes are known, and captured as soon as a step has been called that has as many logits."""
    engine = engine_of(tiny(), StandIn(), batch_invariant=False)
    expected = of_lengths(engine, [9, 9])
    of_lengths(engine, [5])
    assert counts(engine) == (2, 8 + 4, 9 + 5)
    engine.sleep()
    assert engine._slots is not None
    assert (engine._slots._kept, steps_of(engine)._graphs, steps_of(engine)._logits) == (None, {}, None)
    engine.wake()
    of_lengths(engine, [5])
    assert counts(engine) == (3, 12 + 4, 14 + 5)
    assert of_lengths(engine, [9, 9]) == expected
    assert counts(engine) == (4, 16 + 8, 19 + 9)


def test_what_cuda_is_asked_for(monkeypatch: pytest.MonkeyPatch):
    """Nothing of CUDA runs here: only the order of the calls is held, and that torch's capture takes its arguments."""
    log: list[str] = []
    takes = inspect.signature(torch.cuda.graph)

    @contextlib.contextmanager
    def logged(begin: str) -> Iterator[None]:
        log.append(begin)
        yield
        log.append("end")

    def stream(name: str) -> Any:
        return SimpleNamespace(name=name, device="cuda:0", wait_stream=lambda o: log.append(f"{name} waits {o.name}"))

    def capturing(*given: Any, **more: Any) -> Any:
        bound = takes.bind(*given, **more).arguments
        assert (bound["pool"], bound["stream"].name) == ("pool", "side")
        return logged(f"capture {bound['capture_error_mode']}")

    stand_ins = {
        "Stream": lambda _: stream("side"),
        "current_stream": lambda _: stream("main"),
        "stream": lambda s: logged(f"on {s.name}"),
        "graph_pool_handle": lambda: "pool",
        "CUDAGraph": lambda: SimpleNamespace(replay=lambda: log.append("replay")),
        "graph": capturing,
    }
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    replay = CudaCapture(torch.device("cuda"))(lambda: log.append("call"))
    replay()
    first = ["side waits main", "on side", "call", "end", "main waits side"]
    assert log == [*first, "capture thread_local", "call", "end", "replay"]

    on_cuda: Any = SimpleNamespace(parameters=lambda: iter([SimpleNamespace(device=torch.device("cuda"))]))
    steps = steps_for(on_cuda, 4, None, print)
    assert isinstance(steps, CapturedSteps)
    assert isinstance(steps._capture, CudaCapture)
    taped = steps_for(tiny(), 4, None, print)
    assert isinstance(taped, CapturedSteps)
    assert taped._capture is tape
    on_meta: Any = SimpleNamespace(parameters=lambda: iter([torch.zeros(1, device="meta")]))
    assert isinstance(steps_for(on_meta, 4, None, print), PlainSteps)
