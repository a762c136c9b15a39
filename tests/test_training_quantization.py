"""QLoRA: an adapter over a base in 4 bits, its gradients, its memory, what is saved, and a whole run with it."""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gruppo.config.load import load_config
from gruppo.config.schema import OptimizerFields
from gruppo.demo.model import build_model
from gruppo.errors import ConfigError, ModelError
from gruppo.rollout.local import LocalEngine
from gruppo.training.logprobs import token_logprobs
from gruppo.training.losses import LossSettings
from gruppo.training.models import LoadedModel, add_lora, describe, load_model, save_model
from gruppo.training.optimizers import adamw
from gruppo.training.packing import Batch, micro_batches
from gruppo.training.policy import LocalPolicy
from gruppo.training.quantization import dequantized, four_bit_layers
from gruppo.types import SamplingParams
from models import Letters, distance, prompts_of, random_rows, request, rows_of, same_bits, tiny, weights
from test_launch_pipeline import SFT_STEPS, STEPS, Breaking, config, crash, outcome, train

pytest.importorskip("bitsandbytes", reason="the extra [quant] is not installed")

CPU = torch.device("cpu")
IDS = torch.arange(10, 40)[None]
LENGTHS = [(3, 4), (10, 2), (1, 9), (5, 5)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    build_model(folder, seed=0)
    return folder


def qlora(base: Path, precision: str = "float32") -> LoadedModel:
    """A 4-bit base with an adapter whose B is not zero."""
    loaded = add_lora(load_model(str(base), precision, CPU, four_bit=True), 4, 8.0, ("all-linear",), seed=1)
    torch.manual_seed(1)
    for name, parameter in loaded.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter.data, std=0.3)
    return loaded


def twin(loaded: LoadedModel, base: Path, precision: str = "float32") -> LoadedModel:
    """The same function without 4 bits: the dequantized numbers in a plain base under the same adapter."""
    plain = add_lora(load_model(str(base), precision, CPU), 4, 8.0, ("all-linear",), seed=1)
    own = dict(plain.model.named_parameters())
    with torch.no_grad():
        for name, parameter in loaded.model.named_parameters():
            if "lora_" in name:
                own[name].copy_(parameter)
        for name, layer in four_bit_layers(loaded.model).items():
            own[f"{name}.weight"].copy_(dequantized(layer))
    return plain


@torch.no_grad()
def logits(loaded: LoadedModel) -> torch.Tensor:
    return loaded.model(IDS).logits


LINEAR = (*(f"self_attn.{x}_proj" for x in "qkvo"), "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")


def storage(loaded: LoadedModel, parts: Sequence[str]) -> list[int]:
    """Bytes of the tensors whose names hold one of the parts, scales and code books counted."""
    state = loaded.model.state_dict()
    return [t.numel() * t.element_size() for name, t in state.items() if any(part in name for part in parts)]


def test_what_is_in_4_bits(base: Path):
    loaded = load_model(str(base), "bfloat16", CPU, four_bit=True)
    layers = four_bit_layers(loaded.model)
    assert list(layers) == [f"model.layers.{n}.{part}" for n in (0, 1) for part in LINEAR]
    kinds = {(layer.weight.quant_type, layer.weight.blocksize, layer.quant_state.nested) for layer in layers.values()}
    assert kinds == {("nf4", 64, True)}
    assert {layer.compute_dtype for layer in layers.values()} == {torch.bfloat16}
    others = {
        name: p.dtype for name, p in loaded.model.named_parameters() if name.removesuffix(".weight") not in layers
    }
    assert set(others.values()) == {torch.bfloat16}
    assert "model.embed_tokens.weight" in others
    plain = load_model(str(base), "bfloat16", CPU)
    assert not four_bit_layers(plain.model)
    assert describe(loaded, CPU)["parameters"] == describe(plain, CPU)["parameters"] == 177_472


def test_the_base_takes_well_below_half_of_its_bfloat16(base: Path, tmp_path: Path):
    folder = tmp_path / "large"
    shutil.copytree(base, folder)
    vocabulary = load_model(str(base), "float32", CPU).vocabulary
    shape = {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8, "num_key_value_heads": 8}
    tiny(vocab_size=vocabulary, **shape).save_pretrained(folder)
    four, sixteen = (load_model(str(folder), "bfloat16", CPU, four_bit=four_bit) for four_bit in (True, False))
    in_layers = 2 * (4 * 512 * 512 + 3 * 512 * 2048)
    matrices = [f"{part}.weight" for part in LINEAR]
    assert sum(storage(sixteen, matrices)) == 2 * in_layers
    assert sum(storage(four, matrices)) / in_layers == pytest.approx(
        0.518, abs=0.0005
    )  # bytes: 1/2, 1/64 of scales, code books
    whole = [sum(storage(loaded, ("",))) for loaded in (four, sixteen)]
    assert whole[0] / whole[1] == pytest.approx(0.2985, abs=0.0005)  # embeddings and vectors counted


def test_weights_are_rounded_to_the_nearest_of_16_values_per_block(base: Path):
    plain = weights(load_model(str(base), "float32", CPU).model)
    layers = four_bit_layers(load_model(str(base), "float32", CPU, four_bit=True).model)
    for name, layer in layers.items():
        exact, rounded = plain[f"{name}.weight"], dequantized(layer)
        assert rounded.dtype == torch.float32
        assert all(len(block.unique()) <= 16 for block in rounded.reshape(-1, 64))
        error = float((rounded - exact).square().mean().sqrt() / exact.square().mean().sqrt())
        assert error == pytest.approx(0.095, abs=0.01)  # NF4 on normal weights


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_forward_and_gradients_are_those_of_the_dequantized_base_also_after_a_rollout(base: Path, precision: str):
    """bitsandbytes would change the layout at the first pass without gradient, and lose the backward with it."""
    loaded = qlora(base, precision)
    plain = twin(loaded, base, precision)
    expected = logits(plain).float()
    assert float((logits(loaded).float() - expected).abs().max()) <= (1e-5 if precision == "float32" else 0.05)
    (micro,) = micro_batches(random_rows(LENGTHS, [1.0] * 4), 1000, CPU)
    gradients = []
    for each in (loaded, plain):
        token_logprobs(each.model, micro, 1.0).logprobs.sum().backward()
        gradients.append({n: p.grad for n, p in each.model.named_parameters() if p.grad is not None})
    assert len(gradients[0]) == 28
    assert distance(*gradients) <= (1e-5 if precision == "float32" else 0.05)


def test_the_engine_samples_with_the_log_probs_of_the_trainer(base: Path):
    loaded = qlora(base)
    engine = LocalEngine(loaded.model, Letters())
    prompts = prompts_of([3, 7])
    for index, prompt in enumerate(prompts):
        engine.submit(
            request(prompt, SamplingParams(temperature=0.7, max_completion_length=12), id=index, group_size=3)
        )
    completions = list(engine.completed())
    policy = LocalPolicy(loaded.model, adamw(loaded.model, OptimizerFields(), 0.01), 99)
    found = policy.logprobs(rows_of(completions, [prompts[c.request_id] for c in completions]), 0.7)
    for completion, logprobs in zip(completions, found, strict=True):
        torch.testing.assert_close(logprobs, torch.from_numpy(completion.sampler_logprobs), atol=1e-5, rtol=0)


def test_an_update_moves_the_adapter_and_nothing_else(base: Path):
    loaded = qlora(base)
    before, start = weights(loaded.model), {n: dequantized(m) for n, m in four_bit_layers(loaded.model).items()}
    policy = LocalPolicy(loaded.model, adamw(loaded.model, OptimizerFields(), 0.01), 1000, reference=True)
    stats = policy.update(Batch(tuple(random_rows(LENGTHS, [1.0, -1.0, 0.5, -0.5]))), LossSettings(beta=0.1), 1.0)
    assert stats.stepped
    moved = {name for name, weight in weights(loaded.model).items() if not torch.equal(weight, before[name])}
    assert moved == {name for name in before if "lora_" in name}
    layers = four_bit_layers(loaded.model)
    assert all(torch.equal(dequantized(layers[name]), weight) for name, weight in start.items())


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 2e-5), ("bfloat16", 0.05)])
def test_it_is_saved_as_a_plain_model_and_as_an_adapter(base: Path, tmp_path: Path, precision: str, tolerance: float):
    loaded = qlora(base, precision)
    before, expected = weights(loaded.model), logits(loaded)
    save_model(loaded, tmp_path / "model")
    assert same_bits(weights(loaded.model), before)  # saving reads alone
    assert torch.equal(logits(loaded), expected)
    plain = load_model(str(tmp_path / "model"), precision, CPU)
    assert not four_bit_layers(plain.model)
    assert plain.eos_token_ids == loaded.eos_token_ids
    assert load_file(tmp_path / "model/model.safetensors").keys() == load_file(base / "model.safetensors").keys()
    assert float((logits(plain) - expected).abs().max()) <= tolerance
    again = load_model(str(tmp_path / "adapter"), precision, CPU, four_bit=True)
    assert torch.equal(logits(again), expected)  # the adapter over the same base in 4 bits is exact
    name = "model.layers.0.mlp.up_proj"
    layer = loaded.model.get_submodule(f"base_model.model.{name}")
    with torch.no_grad():
        update = 2.0 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
        merged = (dequantized(layer.base_layer).float() + update).to(plain.model.dtype)
    assert torch.equal(weights(plain.model)[f"{name}.weight"], merged)


def test_a_layer_outside_the_targets_is_dequantized_too(base: Path, tmp_path: Path):
    loaded = add_lora(load_model(str(base), "float32", CPU, four_bit=True), 4, 8.0, ("q_proj",), seed=1)
    save_model(loaded, tmp_path / "model")
    plain = load_model(str(tmp_path / "model"), "float32", CPU)
    torch.testing.assert_close(logits(plain), logits(loaded), atol=1e-5, rtol=0)


QLORA = {
    "lora_rank": 2,
    "rslora": True,
    "quantize": "4bit",
    "gradient_checkpointing": True,
    "optimizer": "adamw_8bit",
    "beta": 0.1,
    "learning_rate": 0.01,
}


def test_a_whole_run_goes_on_to_the_same_bits_after_a_crash(tiny_model: Path, problems_file: Path, tmp_path: Path):
    whole = train(config(tiny_model, problems_file, tmp_path / "whole", **QLORA))
    assert all(row["sampler_logprob_difference_max"] < 1e-5 for row in whole.metrics)
    assert whole.metrics[0]["kl_to_reference"] == 0.0
    assert whole.metrics[-1]["kl_to_reference"] > 1e-6
    models = [load_file(whole.folder / part / "model.safetensors") for part in ("sft/model", "model")]
    assert max(float((models[1][name] - models[0][name]).abs().max()) for name in models[0]) > 1e-4
    settings = config(tiny_model, problems_file, tmp_path / "run", **QLORA)
    for stage, step in (("sft", 5), ("grpo", 5)):
        with pytest.raises(ZeroDivisionError):
            train(settings, observer=Breaking(stage, step, crash))
    assert outcome(train(settings).folder) == outcome(whole.folder)
    assert (SFT_STEPS, STEPS) == (8, 6)


def test_grpo_goes_on_with_the_adapter_of_sft(tiny_model: Path, problems_file: Path, tmp_path: Path):
    """Rounding SFT's merged model to 4 bits anew would lose a part of it."""
    settings = config(tiny_model, problems_file, tmp_path / "run", steps=1, **{**QLORA, "learning_rate": 1e-9})
    train(settings, stages=("sft",))
    sft = load_file(tmp_path / "run/model/model.safetensors")
    result = train(settings)
    final = load_file(result.model / "model.safetensors")
    assert max(float((final[name] - sft[name]).abs().max()) for name in sft) <= 1e-6
    again = load_model(str(tmp_path / "run/sft/model"), "float32", CPU, four_bit=True).model
    name, layer = next(iter(four_bit_layers(again).items()))
    assert float((dequantized(layer) - sft[f"{name}.weight"]).abs().max()) > 1e-3


def test_refusals(base: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: Path, problems_file: Path, tmp_path: Path):
    with pytest.raises(
        ConfigError, match="quantize: got 4bit, but 4-bit weights can't be trained; set lora_rank, such as 16"
    ):
        load_config(None, {"model": "m", "data": "d", "quantize": "4bit"})
    loaded = qlora(base)
    loaded.model.active_peft_config.use_dora = True
    with pytest.raises(ModelError, match="quantize: 4bit can't merge the adapter in the model's folder, which is DoRA"):
        add_lora(loaded, 4, 8.0, ("all-linear",), seed=0)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    for changes in ({"optimizer": "adamw_8bit"}, {"quantize": "4bit", "lora_rank": 2}):
        words = r"^\w+: \w+ needs the package bitsandbytes.*install it: `pip install 'gruppo\[quant\]'`$"
        with pytest.raises(ConfigError, match=words):
            train(config(tiny_model, problems_file, tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()
