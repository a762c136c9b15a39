"""Packed weights: the same products, always of the weights as they are, and nothing left behind."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from gruppo.rollout import packed_weights
from gruppo.rollout.layers import linear_available
from gruppo.rollout.local import LocalEngine
from gruppo.rollout.packed_weights import PackedWeights, available, packed_product
from gruppo.training.logprobs import token_logprobs
from gruppo.training.packing import micro_batches
from gruppo.types import SamplingParams
from models import FAMILIES, Letters, prompts_of, request, rows_of, tiny

PROMPTS = prompts_of([3, 17, 1, 9])
SAMPLING = SamplingParams(max_completion_length=20, stop_token_ids=(5, 11, 40))

pytestmark = pytest.mark.skipif(not available(torch.float32), reason="this torch does not pack weights")


@pytest.fixture(autouse=True, params=["our own kernel", "oneDNN"])
def pack_all(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny models' weights are packed too."""
    monkeypatch.setattr(packed_weights, "SMALLEST", 1)
    monkeypatch.setattr(packed_weights, "SMALLEST_OWN", 1)
    if request.param == "oneDNN":
        monkeypatch.setattr(packed_weights, "takes_linear", lambda *_: False)
    elif not linear_available(torch.float32):
        pytest.skip("no C compiler, or a processor without AVX-512")


def distance_to_the_trainer(model: nn.Module, engine: LocalEngine, seed: int = 0) -> float:
    asked = [request(p, SAMPLING, id=i, group_size=3, seed=seed) for i, p in enumerate(PROMPTS)]
    completions = [c for group in engine.generate(asked) for c in group]
    rows = rows_of(completions, [p for p in PROMPTS for _ in range(3)])
    (micro,) = micro_batches(rows, 10_000, torch.device("cpu"))
    trainer = token_logprobs(model, micro, 1.0).logprobs.detach()
    return float((trainer - micro.sampler_logprobs[micro.mask]).abs().max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_products(dtype: torch.dtype, bias: bool):
    generator = torch.Generator().manual_seed(1)
    layer = nn.Linear(48, 31, bias=bias)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(31, 48, generator=generator))
    rows = torch.randn(7, 1, 48, generator=generator).to(dtype)
    layer = layer.to(dtype)
    with torch.inference_mode():
        found = packed_product(layer.weight, layer.bias)(rows)
        assert found.dtype == dtype
        assert found.shape == (7, 1, 31)
        exact = layer.double()(rows.double())
    assert float((found - exact).abs().max()) < (1e-5 if dtype == torch.float32 else 0.15)


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_engine_and_trainer_agree_also_after_updates(family: str):
    model = tiny(family)
    engine = LocalEngine(model, Letters())
    linears = [part for part in model.modules() if isinstance(part, nn.Linear)]
    assert len(PackedWeights(model)._layers) == len(linears)  # gpt2 has but its head: the rest are not nn.Linear
    assert distance_to_the_trainer(model, engine) <= 1e-5
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.data += 0.05 * torch.sign(parameter)
    assert distance_to_the_trainer(model, engine, seed=1) <= 1e-5
    assert not any("forward" in vars(part) for part in model.modules())


def test_weights_loaded_while_completions_are_drawn_are_packed_anew():
    model, other = tiny("llama", seed=0), tiny("llama", seed=1)
    expected = LocalEngine(tiny("llama", seed=1), Letters()).generate([request(PROMPTS[1], SAMPLING, id=1)])
    engine = LocalEngine(model, Letters(), max_live=1)
    engine.submit(request(PROMPTS[0], SAMPLING))
    found = []
    for completion in engine.completed():
        found.append(completion)
        if len(found) == 1:
            engine.load_weights(iter(other.named_parameters()), version=1)
            engine.submit(request(PROMPTS[1], SAMPLING, id=1))
    assert found[1].token_ids.tolist() == expected[0][0].token_ids.tolist()


def test_lora_over_packed_weights():
    model = tiny("llama")
    settings = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted = get_peft_model(model, settings).eval()  # pyright: ignore[reportArgumentType]
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.05)
    engine = LocalEngine(adapted, Letters())
    assert distance_to_the_trainer(adapted, engine) <= 1e-5
    assert engine.stats.decode_steps > 0


def test_without_the_operators_layers_compute_as_always(monkeypatch: pytest.MonkeyPatch):
    def missing(*_: object) -> None:
        raise AttributeError("no such operator")

    monkeypatch.setattr(packed_weights, "packed_product", missing)
    monkeypatch.setattr(packed_weights, "takes_linear", lambda *_: False)
    available.cache_clear()
    try:
        assert not available(torch.float32)
        model = tiny()
        assert PackedWeights(model)._layers == []
        assert distance_to_the_trainer(model, LocalEngine(model, Letters())) <= 1e-5
    finally:
        monkeypatch.undo()
        available.cache_clear()


def test_what_is_not_packed(monkeypatch: pytest.MonkeyPatch):
    class Own(nn.Linear):
        pass

    assert not available(torch.float16)
    parts = nn.ModuleList([nn.Linear(32, 32), Own(32, 32), nn.Linear(32, 31), nn.Linear(32, 32).half()])
    assert len(PackedWeights(parts)._layers) == 2
    monkeypatch.setattr(packed_weights, "SMALLEST", 1024)
    monkeypatch.setattr(packed_weights, "SMALLEST_OWN", 1025)
    assert PackedWeights(parts)._layers == [parts[0]]
