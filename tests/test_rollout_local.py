from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from gruppo.errors import EngineError
from gruppo.rollout.draws import uniforms
from gruppo.rollout.local import LocalEngine
from gruppo.training.logprobs import token_logprobs
from gruppo.training.packing import micro_batches
from gruppo.types import Completion, SamplingParams
from models import FAMILIES, VOCABULARY, Letters, prompts_of, request, rows_of, tiny

PROMPTS = prompts_of([3, 17, 1, 9, 24, 9, 2])
CPU = torch.device("cpu")
STOPPING = SamplingParams(max_completion_length=24, stop_token_ids=(5, 11, 40))


def sample(model: torch.nn.Module, sampling: SamplingParams, *, group_size: int = 3, max_live: int = 256):
    engine = LocalEngine(model, Letters(), max_live=max_live)
    return engine.generate([request(p, sampling, id=i, group_size=group_size) for i, p in enumerate(PROMPTS)])


def tokens(groups: Sequence[Sequence[Completion]]) -> list[list[list[int]]]:
    return [[completion.token_ids.tolist() for completion in group] for group in groups]


def naive_logits(model: torch.nn.Module, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0, -1].double()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.5])
@pytest.mark.parametrize("max_live", [4, 256])
def test_engine_and_trainer_agree_on_logprobs(family: str, temperature: float, max_live: int):
    model = tiny(family)
    groups = sample(model, replace(STOPPING, temperature=temperature), max_live=max_live)
    completions = [c for group in groups for c in group]
    assert len({len(c) for c in completions}) > 3  # lengths are mixed, or this proves little
    rows = rows_of(completions, [p for p in PROMPTS for _ in range(3)])
    worst, checked = 0.0, 0
    for micro in micro_batches(rows, 200, CPU):
        trainer = token_logprobs(model, micro, temperature).logprobs.detach()
        ratio = torch.exp(trainer - micro.sampler_logprobs[micro.mask])
        worst, checked = max(worst, float((ratio - 1).abs().max())), checked + len(ratio)
    assert checked == sum(map(len, completions))
    assert worst <= 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_is_a_naive_loop_without_a_cache(family: str):
    model = tiny(family)
    groups = sample(model, replace(STOPPING, temperature=0.0), group_size=1)
    for prompt, (completion,) in zip(PROMPTS, groups, strict=True):
        ids = list(prompt)
        logprobs: list[float] = []
        while len(ids) - len(prompt) < 24 and not (len(ids) > len(prompt) and ids[-1] in STOPPING.stop_token_ids):
            spread = torch.log_softmax(naive_logits(model, ids), dim=-1)
            ids.append(int(spread.argmax()))
            logprobs.append(float(spread.max()))
        assert completion.token_ids.tolist() == ids[len(prompt) :]
        np.testing.assert_allclose(completion.sampler_logprobs, logprobs, atol=5e-6)


@pytest.mark.parametrize("settings", [{}, {"top_k": 4}, {"top_p": 0.6}])
def test_sampling_is_inversion_at_the_keyed_numbers(settings: dict[str, float]):
    """Drawn again, a prefix at a time, in double precision; log-probs are the whole distribution's."""
    model = tiny()
    sampling = replace(STOPPING, temperature=1.3, **settings)
    for prompt, group in zip(PROMPTS, sample(model, sampling), strict=True):
        for completion in group:
            numbers = uniforms(0, completion.problem_id, completion.sample, 24)
            for place, token in enumerate(completion.token_ids):
                logits = naive_logits(model, [*prompt, *completion.token_ids[:place].tolist()])
                probs = torch.softmax(logits / 1.3, dim=-1)
                order = probs.argsort(descending=True).tolist()
                reach = np.cumsum(probs[order].numpy())
                allowed = order[: sampling.top_k or None]
                if sampling.top_p < 1:
                    allowed = order[: int(np.searchsorted(reach, sampling.top_p)) + 1]
                weights = np.where(np.isin(np.arange(VOCABULARY), allowed), probs.numpy(), 0.0)
                below = weights[:token].sum() / weights.sum()
                assert weights[token] > 0
                assert below - 1e-5 <= numbers[place] <= below + weights[token] / weights.sum() + 1e-5
                assert completion.sampler_logprobs[place] == pytest.approx(float(probs[token].log()), abs=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_completions_do_not_depend_on_what_else_is_in_the_batch(family: str):
    # Logits of another batch shape may differ in the last bit; a token differs only where its uniform number falls
    # within that of a border, which these seeds do not.
    model = tiny(family)
    whole = tokens(sample(model, STOPPING, group_size=5))
    for max_live in (1, 2, 3, 7):
        assert tokens(sample(model, STOPPING, group_size=5, max_live=max_live)) == whole
    alone = LocalEngine(model, Letters()).generate([request(PROMPTS[4], STOPPING, id=4, group_size=2)])
    assert tokens(alone)[0] == whole[4][:2]


def test_seeds_problems_and_samples_draw_differently():
    engine = LocalEngine(tiny(), Letters())
    asked = [
        request(PROMPTS[0], STOPPING, id=0, group_size=4, problem_id="a"),
        request(PROMPTS[0], STOPPING, id=1, group_size=4, problem_id="a"),
        request(PROMPTS[0], STOPPING, id=2, group_size=4, problem_id="b"),
        request(PROMPTS[0], STOPPING, id=3, group_size=4, problem_id="a", seed=1),
    ]
    first, again, other, seeded = tokens(engine.generate(asked))
    assert first == again
    assert len({tuple(c) for group in (first, other, seeded) for c in group}) == 12


def test_a_group_larger_than_the_batch():
    engine = LocalEngine(tiny(), Letters(), max_live=4)
    (group,) = engine.generate([request(PROMPTS[0], STOPPING, group_size=11)])
    assert [completion.sample for completion in group] == list(range(11))


def test_finish_reasons():
    completions = [c for group in sample(tiny(), STOPPING, group_size=6) for c in group]
    stopped = [c for c in completions if c.finish_reason == "stop"]
    assert 5 < len(stopped) < len(completions)
    for completion in completions:
        ids = completion.token_ids.tolist()
        ends = [token in STOPPING.stop_token_ids for token in ids]
        assert not any(ends[:-1])
        assert completion.finish_reason == ("stop" if ends[-1] else "length")
        assert completion.truncated == (not ends[-1])
        assert len(ids) == 24 or ends[-1]
        assert completion.mask.tolist() == [True] * len(ids)
        assert completion.token_ids.dtype == np.int64
        assert completion.sampler_logprobs.dtype == np.float32


def test_a_stop_token_at_the_last_place_is_a_stop():
    free = LocalEngine(tiny(), Letters()).generate([request(PROMPTS[0], SamplingParams(max_completion_length=6))])
    last = int(free[0][0].token_ids[-1])
    sampling = SamplingParams(max_completion_length=6, stop_token_ids=(last,))
    (completion,) = LocalEngine(tiny(), Letters()).generate([request(PROMPTS[0], sampling)])[0]
    assert completion.finish_reason == "stop"
    assert completion.token_ids.tolist() == free[0][0].token_ids.tolist()[: len(completion)]


def test_stop_strings_end_where_their_text_first_stands():
    free = SamplingParams(max_completion_length=24, temperature=1.5)
    texts = [Letters().decode(c.token_ids) for g in sample(tiny(), free, group_size=6) for c in g]
    stop = (texts[0][6:8], texts[7][10:13], "never there")
    found = [c for g in sample(tiny(), replace(free, stop=stop), group_size=6) for c in g]
    ended = 0
    for text, completion in zip(texts, found, strict=True):
        places = [text.find(s) + len(s) for s in stop if s in text]
        assert Letters().decode(completion.token_ids) == text[: min(places, default=24)]
        assert completion.finish_reason == ("stop" if places else "length")
        ended += bool(places)
    assert ended >= 2


def test_versions_and_weights():
    model, other = tiny(seed=0), tiny(seed=1)
    engine = LocalEngine(model, Letters())
    asked = [request(PROMPTS[1], STOPPING, group_size=4)]
    before = engine.generate(asked)
    expected = LocalEngine(other, Letters()).generate(asked)
    engine.load_weights(iter(other.named_parameters()), version=7)
    after = engine.generate(asked)
    assert {c.version for c in before[0]} == {0}
    assert {c.version for c in after[0]} == {7}
    assert tokens(after) == tokens(expected) != tokens(before)
    with pytest.raises(EngineError, match=r"weight head\.bias: the engine's model has no such parameter"):
        engine.load_weights(iter([("head.bias", torch.zeros(1))]), version=8)


def test_requests_may_be_submitted_while_others_finish():
    engine = LocalEngine(tiny(), Letters(), max_live=3)
    engine.submit(request(PROMPTS[0], STOPPING, id=0, group_size=4))
    seen: list[tuple[int, int]] = []
    for completion in engine.completed():
        seen.append((completion.request_id, completion.sample))
        if len(seen) == 1:
            engine.submit(request(PROMPTS[1], replace(STOPPING, temperature=0.0), id=1))
        if len(seen) == 5:
            engine.submit(request(PROMPTS[2], STOPPING, id=2, group_size=2))
    assert sorted(seen) == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (2, 0), (2, 1)]


def test_what_was_left_by_an_error_never_comes_back():
    engine = LocalEngine(tiny(), Letters(), max_live=2)
    engine.submit(request(PROMPTS[0], STOPPING, id=0, group_size=6))
    stream = engine.completed()
    next(stream)
    stream.close()
    (group,) = engine.generate([request(PROMPTS[1], STOPPING, id=5, group_size=2)])
    assert [(c.request_id, c.sample) for c in group] == [(5, 0), (5, 1)]


def test_refusals_name_problem_and_cure():
    engine = LocalEngine(tiny(context=32), Letters(), context_length=32)
    with pytest.raises(EngineError, match="problem p3: the prompt has no tokens"):
        engine.submit(request([], STOPPING, id=3))
    engine.submit(request(range(8), STOPPING))
    with pytest.raises(EngineError) as refused:
        engine.submit(request(range(9), STOPPING, id=4))
    assert str(refused.value) == (
        "problem p4: prompt (9 tokens) and completion (up to 24) exceed the model's context of 32; "
        "lower max_prompt_length or max_completion_length"
    )


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite_are_an_error(temperature: float):
    model = tiny()
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    engine = LocalEngine(model, Letters())
    with pytest.raises(EngineError, match=r"problem p0: the model's logits are not finite at completion token 0"):
        engine.generate([request(PROMPTS[0], replace(STOPPING, temperature=temperature))])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_last_position_of_the_context_is_used(family: str):
    model = tiny(family, context=20)
    engine = LocalEngine(model, Letters(), context_length=20)
    sampling = SamplingParams(max_completion_length=12)
    (group,) = engine.generate([request(prompts_of([8])[0], sampling, group_size=3)])
    assert {len(completion) for completion in group} == {12}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_padding_on_the_left_is_never_seen(attention: str):
    model = tiny(attn_implementation=attention)
    alone = [
        LocalEngine(model, Letters()).generate([request(p, STOPPING, id=i, group_size=2)])[0]
        for i, p in enumerate(PROMPTS)
    ]
    together = sample(model, STOPPING, group_size=2)
    assert tokens(together) == tokens(alone)
    for group, single in zip(together, alone, strict=True):
        for one, other in zip(group, single, strict=True):
            np.testing.assert_allclose(one.sampler_logprobs, other.sampler_logprobs, atol=1e-5)


def test_a_sliding_window_is_the_trainers_too():
    settings = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}
    model = tiny(**settings)
    completions = [c for group in sample(model, STOPPING, max_live=5) for c in group]
    (micro,) = micro_batches(rows_of(completions, [p for p in PROMPTS for _ in range(3)]), 10_000, CPU)
    trainer = token_logprobs(model, micro, 1.0).logprobs.detach()
    assert float((torch.exp(trainer - micro.sampler_logprobs[micro.mask]) - 1).abs().max()) <= 1e-5
    full = token_logprobs(tiny(), micro, 1.0).logprobs.detach()
    assert float((full - trainer).abs().max()) > 0.1  # the window matters here
