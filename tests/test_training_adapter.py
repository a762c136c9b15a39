"""A LoRA adapter's folder as a model: it goes on being trained, and its reference is the adapter as it came."""

from pathlib import Path

import pytest
import torch

from gruppo.demo.model import build_model
from gruppo.errors import ModelError
from gruppo.training.models import LoadedModel, add_lora, load_model, merge_lora, save_model
from gruppo.training.policy import ReferencePolicy

CPU = torch.device("cpu")
IDS = torch.arange(10, 40)[None]


@pytest.fixture
def trained(tmp_path: Path) -> tuple[LoadedModel, Path]:
    """A model with an adapter whose B is not zero, and where it is saved."""
    build_model(tmp_path / "base", seed=0)
    loaded = add_lora(load_model(str(tmp_path / "base"), "float32", CPU), 4, 8.0, ("all-linear",), seed=0)
    torch.manual_seed(1)
    for name, parameter in loaded.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter.data)
    save_model(loaded, tmp_path / "out" / "model")
    return loaded, tmp_path / "out"


@torch.no_grad()
def logits(loaded: LoadedModel) -> torch.Tensor:
    return loaded.model(IDS).logits


def test_an_adapter_folder_goes_on_with_its_own_adapter(trained: tuple[LoadedModel, Path]) -> None:
    loaded, out = trained
    again = load_model(str(out / "adapter"), "float32", CPU)
    assert (logits(again) - logits(loaded)).abs().max() < 5e-5  # taking a merged adapter out again rounds
    assert again.trainable_parameters == 12_800
    assert add_lora(again, 4, 8.0, ("all-linear",), seed=9) is again


def test_its_reference_is_the_adapter_as_it_came(trained: tuple[LoadedModel, Path]) -> None:
    _, out = trained
    again = load_model(str(out / "adapter"), "float32", CPU)
    before = logits(again)
    reference = ReferencePolicy(again.model)
    for parameter in again.model.parameters():
        if parameter.requires_grad:
            parameter.data.mul_(1.5)
    moved = logits(again)
    assert (moved - before).abs().max() > 0.1
    with reference.swapped_in():
        assert torch.equal(logits(again), before)
    assert torch.equal(logits(again), moved)


def test_another_rank_is_refused(trained: tuple[LoadedModel, Path]) -> None:
    again = load_model(str(trained[1] / "adapter"), "float32", CPU)
    with pytest.raises(ModelError, match="lora_rank: 8, the adapter in the model's folder has 4"):
        add_lora(again, 8, 16.0, ("all-linear",), seed=0)


def test_another_scale_is_refused(trained: tuple[LoadedModel, Path]) -> None:
    again = load_model(str(trained[1] / "adapter"), "float32", CPU)
    with pytest.raises(ModelError, match="rslora: true, the adapter in the model's folder has false"):
        add_lora(again, 4, 8.0, ("all-linear",), seed=0, rslora=True)


def test_merged_and_reloaded_are_the_same_function(trained: tuple[LoadedModel, Path]) -> None:
    loaded, out = trained
    merged = merge_lora(load_model(str(out / "adapter"), "float32", CPU))
    reloaded = load_model(str(out / "model"), "float32", CPU)
    assert (logits(merged) - logits(loaded)).abs().max() < 5e-5
    assert (logits(reloaded) - logits(loaded)).abs().max() < 5e-5
    assert all(parameter.requires_grad for parameter in merged.model.parameters())
