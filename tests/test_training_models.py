from copy import deepcopy
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from gruppo.config.schema import OptimizerFields
from gruppo.errors import ConfigError, ModelError
from gruppo.training.losses import LossSettings
from gruppo.training.models import LoadedModel, add_lora, choose_device, load_model, save_model
from gruppo.training.optimizers import adamw
from gruppo.training.packing import Batch
from gruppo.training.policy import LocalPolicy
from models import random_rows, same_bits, tiny, weights

CPU = torch.device("cpu")
IDS = torch.tensor([[7, 3, 50, 12, 9, 21, 33]])
LENGTHS = [(3, 4), (10, 2), (1, 9), (5, 5)]


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def families(tiny_model: Path, tied: bool) -> LoadedModel:
    """The demo's tokenizer around a random model whose head is tied to its embedding, or not."""
    loaded = load_model(str(tiny_model), "float32", CPU)
    model = tiny("qwen2" if tied else "llama", vocab_size=loaded.vocabulary)
    model.config.eos_token_id = model.generation_config.eos_token_id = loaded.eos_token_ids[0]
    return LoadedModel(model, loaded.tokenizer, loaded.eos_token_ids, 128, loaded.vocabulary)


def train(model: torch.nn.Module, beta: float = 0.0, steps: int = 3) -> LocalPolicy:
    optimizers = adamw(model, OptimizerFields(), 0.01)
    policy = LocalPolicy(model, optimizers, 1000, reference=beta > 0)
    for _ in range(steps):
        policy.update(Batch(tuple(random_rows(LENGTHS, [1.0, -1.0, 0.5, -0.5]))), LossSettings(beta=beta), 1.0)
    return policy


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_saved_model_is_the_same_to_the_bit(tiny_model: Path, tmp_path: Path, tied: bool, precision: str):
    loaded = families(tiny_model, tied)
    if precision == "bfloat16":
        loaded.model.to(torch.bfloat16)
    train(loaded.model)
    save_model(loaded, tmp_path / "model")
    save_model(loaded, tmp_path / "model")  # in place of an earlier one
    again = load_model(str(tmp_path / "model"), precision, CPU)
    assert same_bits(weights(again.model), weights(loaded.model))
    assert (again.eos_token_ids, again.context_length, again.vocabulary) == (loaded.eos_token_ids, 128, 456)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("tied", [True, False])
def test_lora_is_saved_merged_and_loads_as_a_plain_model(tiny_model: Path, tmp_path: Path, tied: bool):
    base = families(tiny_model, tied)
    start = logits(base.model)
    loaded = add_lora(deepcopy(base), 4, 8.0, ("all-linear",), seed=1)
    assert torch.equal(logits(loaded.model), start)  # an adapter starts at zero
    assert all("lora_" in name for name, p in loaded.model.named_parameters() if p.requires_grad)
    train(loaded.model)
    trained = logits(loaded.model)
    assert float((trained - start).abs().max()) > 0.1
    save_model(loaded, tmp_path / "model")
    torch.testing.assert_close(logits(loaded.model), trained, atol=1e-5, rtol=0)  # saving left it alone
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    torch.testing.assert_close(logits(model), trained, atol=1e-5, rtol=0)
    assert not [name for name, _ in model.named_parameters() if "lora" in name]
    assert len(tokenizer) == 456
    assert tokenizer.chat_template == loaded.tokenizer.chat_template
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()


def test_lora_is_seeded_and_leaves_the_random_state_alone(tiny_model: Path):
    base = families(tiny_model, tied=True)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first, same, other = (add_lora(deepcopy(base), 4, 8.0, ("q_proj",), seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert same_bits(weights(first.model), weights(same.model))
    assert not same_bits(weights(first.model), weights(other.model))
    assert first.trainable_parameters == 2 * 4 * (32 + 32)


@pytest.mark.parametrize(("rslora", "scale"), [(False, 2.0), (True, 8.0)])
def test_the_scale_of_lora_is_alpha_over_the_rank_or_its_root(
    tiny_model: Path, tmp_path: Path, rslora: bool, scale: float
):
    base = families(tiny_model, tied=True)
    before = weights(base.model)["model.layers.1.mlp.up_proj.weight"]
    loaded = add_lora(deepcopy(base), 16, 32.0, ("up_proj",), seed=1, rslora=rslora)
    adapter = loaded.model.get_submodule("base_model.model.model.layers.1.mlp.up_proj")
    assert adapter.scaling == {"default": scale}
    assert isinstance(adapter.lora_dropout["default"], torch.nn.Identity)
    first, second = adapter.lora_A["default"].weight, adapter.lora_B["default"].weight
    assert (first.shape, second.shape) == ((16, 32), (48, 16))
    assert not second.any()
    with torch.no_grad():
        second.normal_(generator=torch.Generator().manual_seed(0))
        update = scale * second @ first
    save_model(loaded, tmp_path / "model")
    merged = load_model(str(tmp_path / "model"), "float32", CPU)
    torch.testing.assert_close(weights(merged.model)["model.layers.1.mlp.up_proj.weight"], before + update)
    torch.testing.assert_close(logits(merged.model), logits(loaded.model), atol=2e-5, rtol=0)


def test_adapters_are_float32_over_a_bfloat16_base(tiny_model: Path):
    """They are their own master weights then; it is peft that makes them so."""
    base = families(tiny_model, tied=True)
    base.model.to(torch.bfloat16)
    loaded = add_lora(base, 4, 8.0, ("all-linear",), seed=1)
    kinds = {("lora_" in name, p.requires_grad, p.dtype) for name, p in loaded.model.named_parameters()}
    assert kinds == {(True, True, torch.float32), (False, False, torch.bfloat16)}
    assert len(adamw(loaded.model, OptimizerFields(), 0.01).masters.named) == 28


def test_the_reference_of_a_fresh_adapter_is_the_base(tiny_model: Path):
    base = families(tiny_model, tied=False)
    start, before = logits(base.model), weights(base.model)
    loaded = add_lora(deepcopy(base), 4, 8.0, ("all-linear",), seed=1)
    policy = train(loaded.model, beta=0.1)
    assert policy.reference is not None
    assert len(policy.reference.state_dict()) == 2 * 14  # the adapter alone, not a second model
    with policy.reference.swapped_in():
        assert torch.equal(logits(loaded.model), start)
    assert not torch.equal(logits(loaded.model), start)
    frozen = {name: p for name, p in loaded.model.named_parameters() if "lora_" not in name}
    assert len(frozen) == len(before)
    for name, parameter in frozen.items():
        plain = name.removeprefix("base_model.model.").replace(".base_layer.", ".")
        assert torch.equal(parameter, before[plain])


def test_refusals_say_what_and_the_cure(tiny_model: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"device: .*'gpu'.*say auto, cpu, cuda, cuda:N or mps"):
        choose_device("gpu")
    with pytest.raises(ModelError, match=r"lora_targets: .*'attn'.* can't be adapted"):
        add_lora(families(tiny_model, tied=True), 4, 8.0, ("attn",), seed=0)
    (tmp_path / "file.txt").write_text("")
    for name, words in {
        str(tmp_path / "missing"): "there is no folder",
        str(tmp_path): "holds no model",
        str(tmp_path / "file.txt"): "is a file",
    }.items():
        with pytest.raises(ModelError, match=words):
            load_model(name, "float32", CPU)
