"""Decoding in slots: which models fit, how many steps and bytes it takes, and what the waves say to the same."""

from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from gruppo.monitor.native import compiler
from gruppo.rollout import slot_model
from gruppo.rollout.decode_attention import decode_attention
from gruppo.rollout.draws import draw
from gruppo.rollout.gate import misfit
from gruppo.rollout.local import LocalEngine
from gruppo.rollout.sampling import draw_by_parts, sample_tokens
from gruppo.training.logprobs import token_logprobs
from gruppo.training.packing import micro_batches
from gruppo.types import SamplingParams
from models import FAMILIES, VOCABULARY, Letters, prompts_of, request, rows_of, tiny

PROMPTS = prompts_of([3, 17, 1, 9, 24, 9, 2])
STOPPING = SamplingParams(max_completion_length=24, stop_token_ids=(5, 11, 40))
GEMMA: dict[str, Any] = {"sliding_window": 8, "query_pre_attn_scalar": 8}
FITTING: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {}),
    "qwen3": ("Qwen3Config", {}),
    "gemma": ("GemmaConfig", {}),
    "gemma2, windows and soft caps": (
        "Gemma2Config",
        {**GEMMA, "attn_logit_softcapping": 2.0, "attn_implementation": "eager"},
    ),
    "gemma3": ("Gemma3TextConfig", {**GEMMA, "layer_types": ["sliding_attention", "full_attention"]}),
    "mistral, a window": ("MistralConfig", {"sliding_window": 8}),
    "mistral, a window within the check": ("MistralConfig", {"sliding_window": 3}),
    "gpt_oss, sinks": ("GptOssConfig", {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8}),
    "opt": ("OPTConfig", {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "phi3": ("Phi3Config", {}),
    "cohere": ("CohereConfig", {}),
}
NOT_FITTING: dict[str, dict[str, Any]] = {
    "StableLmConfig": {},
    "BloomConfig": {"n_head": 4},
    "MptConfig": {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 128},
    "GPTJConfig": {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4, "n_positions": 128},
    "MambaConfig": {},
    "Qwen3NextConfig": {"num_experts": 4, "num_experts_per_tok": 2},
}


def built(config: str, settings: dict[str, Any], head_size: int = 8) -> Any:
    """A tiny untrained model of an architecture, with uneven logits."""
    if "word_embed_proj_dim" in settings:
        settings = {**settings, "word_embed_proj_dim": 4 * head_size}
    common = {
        "vocab_size": VOCABULARY,
        "initializer_range": 0.15,
        "hidden_size": 4 * head_size,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "head_dim": head_size,
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(getattr(transformers, config)(**{**common, **settings})).eval()


def asked(sampling: SamplingParams = STOPPING, group_size: int = 3) -> list[Any]:
    return [request(prompt, sampling, id=i, group_size=group_size) for i, prompt in enumerate(PROMPTS)]


def tokens(groups: Any) -> list[list[list[int]]]:
    return [[completion.token_ids.tolist() for completion in group] for group in groups]


def distance_to_the_trainer(model: Any, groups: Any) -> float:
    """The largest difference of a sampled token's log-prob."""
    completions = [c for group in groups for c in group]
    prompts = [prompt for prompt, group in zip(PROMPTS, groups, strict=True) for _ in group]
    worst = 0.0
    for micro in micro_batches(rows_of(completions, prompts), 400, torch.device("cpu")):
        trainer = token_logprobs(model, micro, 1.0).logprobs.detach()
        worst = max(worst, float((trainer - micro.sampler_logprobs[micro.mask]).abs().max()))
    return worst


@pytest.fixture
def kernel_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of each call of the kernel for decode steps."""
    calls: list[int] = []

    def counted(query: torch.Tensor, *given: Any) -> torch.Tensor:
        calls.append(query.shape[0])
        return decode_attention(query, *given)

    monkeypatch.setattr("gruppo.rollout.slots.decode_attention", counted)
    return calls


def takes_the_kernel(name: str, head_size: int) -> bool:
    """Heads of full vectors, scored by scaled products alone, where there is a compiler."""
    return head_size % 16 == 0 and compiler() is not None and not name.endswith(("soft caps", "sinks"))


@pytest.mark.parametrize("head_size", [8, 16])
@pytest.mark.parametrize("name", FITTING)
def test_architectures_that_fit(name: str, head_size: int, kernel_calls: list[int]):
    model = built(*FITTING[name], head_size)
    engine = LocalEngine(model, Letters(), max_live=5)
    groups = engine.generate(asked())
    assert engine.stats.decode_steps > 0  # in slots, not in waves
    assert len({len(c) for group in groups for c in group}) > 3
    assert distance_to_the_trainer(model, groups) <= 1e-5
    assert bool(kernel_calls) == takes_the_kernel(name, head_size)


PLAIN = [name for name in FITTING if not {"sliding_window", "attn_logit_softcapping"} & FITTING[name][1].keys()]


@pytest.mark.parametrize("head_size", [8, 16])
@pytest.mark.parametrize("name", FITTING)
def test_long_prompts_are_kept_once_where_layers_attend_plainly(
    name: str, head_size: int, monkeypatch: pytest.MonkeyPatch, kernel_calls: list[int]
):
    monkeypatch.setattr(slot_model, "SHARED_TOKENS", 2)
    monkeypatch.setattr(slot_model, "SHARED_ROWS", 3)
    model = built(*FITTING[name], head_size)
    engine = LocalEngine(model, Letters(), max_live=7)
    groups = engine.generate(asked())
    assert engine.stats.decode_steps > 0
    assert engine.stats.shared_prompts == (sum(len(prompt) > 2 for prompt in PROMPTS) if name in PLAIN else 0)
    assert distance_to_the_trainer(model, groups) <= 1e-5
    assert bool(kernel_calls) == takes_the_kernel(name, head_size)


def test_a_prompt_kept_once_takes_its_bytes_once_and_goes_with_its_last_row(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(slot_model, "SHARED_TOKENS", 16)
    engine, sampling = LocalEngine(tiny(context=512), Letters(), max_live=8), SamplingParams(max_completion_length=40)
    prompts = prompts_of([301, 201, 301])
    engine.generate([request(prompt, sampling, id=i, group_size=8) for i, prompt in enumerate(prompts)])
    # 2 layers, keys and values, 2 heads, 8 numbers a head, 4 bytes: 8 slots of 64, and one prompt at a time, since all
    # rows of a group end together.
    position = 2 * 2 * 2 * 8 * 4
    assert engine.stats.peak_cache_bytes == (8 * 64 + 300) * position
    assert (engine.stats.prefilled_prompts, engine.stats.shared_prompts) == (3, 3)


@pytest.mark.parametrize("config", NOT_FITTING)
def test_architectures_that_do_not_fit_are_said_once(config: str):
    model = built(config, NOT_FITTING[config])
    said: list[str] = []
    engine = LocalEngine(model, Letters(), note=said.append)
    if config in ("BloomConfig", "GPTJConfig", "StableLmConfig"):  # the plain path takes them
        assert distance_to_the_trainer(model, engine.generate(asked(group_size=1))) <= 1e-5
        engine.generate([request(PROMPTS[0], STOPPING)])
        assert said == [
            "sampling in waves, which is slower: the model does not fit continuous batching "
            "(the architecture has attention of its own)"
        ]
        assert engine.stats.decode_steps == 0
    assert misfit(model) == "the architecture has attention of its own"


def test_what_a_config_names_and_its_layers_do_not_is_found():
    model: Any = tiny()
    model.model.layers[1].self_attn.sliding_window = 8
    assert misfit(model) == "its layers attended 2 times with windows ['8', 'None']"
    model.config.layer_types = ["full_attention", "chunked_attention"]
    assert misfit(model) == "layers of kind chunked_attention"


def test_soft_caps_that_the_models_own_attention_drops_are_found():
    """transformers' sdpa leaves them out: what the trainer computes is the policy, so the slots must not have them."""
    settings = {**GEMMA, "attn_logit_softcapping": 2.0, "attn_implementation": "sdpa"}
    model = built("Gemma2Config", settings)
    reason = misfit(model)
    assert reason is not None
    assert reason.startswith("its logits are off by ")
    assert distance_to_the_trainer(model, LocalEngine(model, Letters()).generate(asked())) <= 1e-5


def test_logits_that_differ_are_found():
    model = tiny()

    def tilt(part: Any, inputs: Any, output: Any) -> Any:
        return output + 0.01 * (model.config._attn_implementation == "gruppo_slots")

    model.lm_head.register_forward_hook(tilt)
    reason = misfit(model)
    assert reason is not None
    assert reason.startswith("its logits are off by 1.0e-02")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_slots_and_waves_draw_the_same(family: str, temperature: float):
    model = tiny(family)
    sampling = replace(STOPPING, temperature=temperature)
    waves = LocalEngine(model, Letters(), plain=True)
    slots = LocalEngine(model, Letters(), max_live=6)
    expected, found = waves.generate(asked(sampling)), slots.generate(asked(sampling))
    assert tokens(found) == tokens(expected)
    assert (waves.stats.decode_steps > 0, slots.stats.decode_steps > 0) == (False, True)
    for one, other in zip(chain(*found), chain(*expected), strict=True):
        np.testing.assert_allclose(one.sampler_logprobs, other.sampler_logprobs, atol=5e-6)


def limited(lengths: list[int], max_live: int) -> int:
    """Decode steps of completions of exactly these lengths, first come first served."""
    engine = LocalEngine(tiny(), Letters(), max_live=max_live)
    engine.generate(
        [
            request(PROMPTS[i % 7], SamplingParams(max_completion_length=length), id=i)
            for i, length in enumerate(lengths)
        ]
    )
    return engine.stats.decode_steps


def test_finished_rows_are_replaced_at_once():
    """By hand. Two slots and 6 1 2 1 2: the first slot has 6, the other 1 + 2 + 1 + 2; waves would take 6 + 2 + 2."""
    assert limited([6, 1, 2, 1, 2], max_live=2) == 6
    assert limited([3, 3, 3, 3], max_live=4) == 3
    assert limited([1, 2, 3, 4, 5], max_live=1) == 15
    # Slots end at 4, 1, 2; then 5 from 1 to 6, 1 from 2 to 3, 2 from 3 to 5, 3 from 4 to 7, 1 from 5 to 6.
    assert limited([4, 1, 2, 5, 1, 2, 3, 1], max_live=3) == 7


def test_memory_is_bounded_whatever_the_number_of_prompts():
    engine = LocalEngine(tiny(), Letters(), max_live=16)
    sampling = replace(STOPPING, max_completion_length=30)
    prompts = prompts_of([int(n) for n in np.random.default_rng(0).integers(1, 60, 200)])
    groups = engine.generate([request(p, sampling, id=i, group_size=4) for i, p in enumerate(prompts)])
    assert [len(group) for group in groups] == [4] * 200
    assert engine.stats.peak_rows == 16
    # 2 layers, keys and values, 16 slots, 2 heads, 128 positions (89 rounded up), 8 numbers a head, 4 bytes
    assert engine.stats.peak_cache_bytes <= 2 * 2 * 16 * 2 * 128 * 8 * 4
    assert engine.stats.prefilled_prompts == sum(len(prompt) > 1 for prompt in prompts)
    assert engine.stats.prefilled_tokens == sum(len(prompt) - 1 for prompt in prompts)


def test_a_group_larger_than_the_slots_prefills_its_prompt_once():
    model = tiny()
    engine = LocalEngine(model, Letters(), max_live=8)
    (group,) = engine.generate([request(PROMPTS[1], STOPPING, group_size=70)])
    assert [completion.sample for completion in group] == list(range(70))
    assert (engine.stats.prefilled_prompts, engine.stats.prefilled_tokens, engine.stats.peak_rows) == (1, 16, 8)
    whole = LocalEngine(model, Letters()).generate([request(PROMPTS[1], STOPPING, group_size=70)])
    assert tokens([group]) == tokens(whole)


def test_keys_of_old_weights_are_not_shared_with_new_ones():
    model, other = tiny(seed=0), tiny(seed=1)
    expected = LocalEngine(tiny(seed=1), Letters()).generate([request(PROMPTS[1], STOPPING, id=1, group_size=2)])
    engine = LocalEngine(model, Letters())
    engine.submit(request(PROMPTS[1], STOPPING, group_size=3))
    found = []
    for completion in engine.completed():
        found.append(completion)
        if len(found) == 1:
            engine.load_weights(iter(other.named_parameters()), version=1)
            engine.submit(request(PROMPTS[1], STOPPING, id=1, group_size=2))
    new = sorted((c for c in found if c.request_id == 1), key=lambda c: c.sample)
    assert [c.version for c in new] == [1, 1]
    assert tokens([new]) == tokens(expected)
    assert {c.version for c in found if c.request_id == 0} == {0}


def test_the_model_is_as_before_wherever_the_caller_has_it():
    model = tiny(attn_implementation="sdpa")
    engine = LocalEngine(model, Letters(), max_live=2)
    engine.submit(request(PROMPTS[0], STOPPING, group_size=4))
    ids = torch.tensor([PROMPTS[4]])
    before = model(input_ids=ids).logits
    for _ in engine.completed():
        assert model.config._attn_implementation == "sdpa"
        assert torch.equal(model(input_ids=ids).logits, before)
        model(input_ids=ids).logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("vocabulary", [40, 512, 513, 640, 700, 5000])
def test_drawing_by_parts_is_drawing(vocabulary: int):
    generator = torch.Generator().manual_seed(0)
    weights = torch.softmax(4 * torch.randn(400, vocabulary, generator=generator), dim=-1)
    weights[:, ::3] = 0.0
    weights[200:, : vocabulary // 2] = 0.0
    uniform = torch.rand(400, generator=generator)
    uniform[::50], uniform[1::50] = 0.0, 1.0 - 2.0**-24
    found, expected = draw_by_parts(weights, uniform), draw(weights.double(), uniform.double())
    assert bool((weights.gather(1, found[:, None]) > 0).all())
    exact = weights.double().cumsum(dim=-1) / weights.double().sum(dim=-1, keepdim=True)
    reach = exact.gather(1, found[:, None]).squeeze(1)
    start = reach - (weights.double() / weights.double().sum(dim=-1, keepdim=True)).gather(1, found[:, None]).squeeze(1)
    assert float((start - uniform).max()) < 1e-6
    assert float((uniform - reach).max()) < 1e-6
    assert int((found != expected).sum()) <= 2  # where the number falls on a border, within rounding


@pytest.mark.parametrize("settings", [{}, {"top_k": 30}, {"top_p": 0.8}, {"top_k": 40, "top_p": 0.9}])
def test_100_000_draws_are_distributed_as_the_softmax_says(settings: dict[str, Any]):
    generator = torch.Generator().manual_seed(3)
    logits = 1.5 * torch.randn(1, 1000, generator=generator)
    probs = torch.softmax(logits[0].double() / 1.3, dim=-1)
    order = probs.argsort(descending=True)
    reach = probs[order].cumsum(dim=-1)
    kept = torch.ones(1000, dtype=torch.bool)
    kept[settings.get("top_k", 1000) :] = False
    kept &= reach - probs[order] < settings.get("top_p", 1.0)
    allowed = torch.zeros(1000, dtype=torch.bool).index_put_((order,), kept)
    numbers = torch.rand(100_000, generator=generator)
    drawn, logprobs = sample_tokens(logits.expand(100_000, -1), 1.3, numbers, **settings)
    counts = torch.bincount(drawn, minlength=1000).double()
    assert int(counts[~allowed].sum()) == 0
    expected = 100_000 * probs[allowed] / probs[allowed].sum()
    square = float(((counts[allowed] - expected).square() / expected).sum())
    freedom = int(allowed.sum()) - 1
    assert square < freedom + 3.1 * (2 * freedom) ** 0.5 + 4  # about the 0.999 quantile
    torch.testing.assert_close(logprobs.double(), probs.log()[drawn], atol=2e-6, rtol=0)
