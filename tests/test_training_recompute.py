"""Gradient checkpointing: the same gradients, activations recomputed, and sampling left as it is."""

from copy import deepcopy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import OPTConfig, OPTForCausalLM
from transformers.modeling_layers import GradientCheckpointingLayer

from gruppo.errors import ModelError
from gruppo.rollout.local import LocalEngine
from gruppo.training.logprobs import token_logprobs
from gruppo.training.packing import micro_batches
from gruppo.training.recompute import recompute_activations
from gruppo.types import SamplingParams
from models import FAMILIES, VOCABULARY, Letters, distance, prompts_of, random_rows, request, tiny

(MICRO,) = micro_batches(random_rows([(3, 4), (10, 2), (1, 9), (5, 5)], [1.0] * 4), 1000, torch.device("cpu"))


def adapted(model: nn.Module) -> nn.Module:
    """With LoRA whose second factors are not zero, so that gradients go everywhere."""
    settings = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    torch.manual_seed(0)
    wrapped = get_peft_model(model, settings).eval()
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter.data, std=0.1)
    return wrapped


def recomputing(model: nn.Module) -> nn.Module:
    """A copy of a copy that recomputes: what is deep-copied still does."""
    copy = deepcopy(model)
    recompute_activations(copy)
    return deepcopy(copy)


def backward(model: nn.Module) -> tuple[dict[str, torch.Tensor], int, int]:
    """Gradients, calls of layers, and bytes kept for the backward pass."""
    calls, kept = 0, 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.numel() * tensor.element_size()
        return tensor

    layers = [part for part in model.modules() if isinstance(part, GradientCheckpointingLayer)]
    handles = [layer.register_forward_pre_hook(count) for layer in layers]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = token_logprobs(model, MICRO, 1.0).logprobs.sum()
    loss.backward()
    for handle in handles:
        handle.remove()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert all(gradient is not None for gradient in gradients.values())
    return {name: gradient for name, gradient in gradients.items() if gradient is not None}, calls, kept


@pytest.mark.filterwarnings("ignore:fan_in_fan_out")
@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_the_same_and_activations_are_recomputed(family: str, lora: bool):
    plain = adapted(tiny(family)) if lora else tiny(family)
    copy = recomputing(plain)
    expected, calls, kept = backward(plain)
    gradients, calls_again, kept_again = backward(copy)
    assert distance(gradients, expected) <= 1e-6
    assert len(gradients) == {True: 28 if family != "gpt2" else 16, False: len(list(plain.parameters()))}[lora]
    assert (calls, calls_again) == (2, 4)
    assert kept_again < 0.16 * kept


def test_without_gradients_nothing_is_recomputed_and_the_cache_stays():
    model = tiny()
    copy = recomputing(model)
    backward(copy)  # the layers are in training mode after it
    with torch.no_grad():
        output = copy(input_ids=MICRO.input_ids, use_cache=True)
    assert output.past_key_values.get_seq_length() == MICRO.input_ids.shape[1]
    assert not any(part.training for part in copy.modules())
    torch.testing.assert_close(output.logits, model(input_ids=MICRO.input_ids).logits, atol=0, rtol=0)


@pytest.mark.parametrize("lora", [False, True])
def test_the_engine_samples_the_same_between_updates(lora: bool):
    model = adapted(tiny()) if lora else tiny()
    copy = recomputing(model)
    backward(copy)
    sampling = SamplingParams(temperature=1.0, max_completion_length=12)
    texts = []
    for each in (model, copy):
        engine = LocalEngine(each, Letters())
        for index, prompt in enumerate(prompts_of([3, 7])):
            engine.submit(request(prompt, sampling, id=index, group_size=3))
        texts.append({(c.request_id, c.sample): c.token_ids.tolist() for c in engine.completed()})
    assert texts[0] == texts[1]
    assert len(texts[0]) == 6
    (again, calls, _), (expected, _, _) = backward(copy), backward(model)
    assert calls == 4
    assert distance({n: g / 2 for n, g in again.items()}, expected) <= 1e-6  # the second backward on the copy


def test_layers_that_drop_by_their_own_rate_do_not_drop():
    settings = OPTConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        ffn_dim=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        word_embed_proj_dim=32,
        dropout=0.5,
        attention_dropout=0.5,
        init_std=0.15,
    )
    torch.manual_seed(0)
    plain = OPTForCausalLM(settings).eval()
    copy = recomputing(plain)
    expected, _, _ = backward(plain)
    gradients, calls, _ = backward(copy)
    assert calls == 4
    assert distance(gradients, expected) <= 1e-6


def test_a_model_that_can_not_is_refused():
    model = tiny()
    model.supports_gradient_checkpointing = False
    with pytest.raises(ModelError, match="gradient_checkpointing: Qwen2ForCausalLM can't recompute its layers"):
        recompute_activations(model)
