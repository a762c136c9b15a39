"""Rollouts in another precision than the update: the copy, its refreshing, and what corrects the difference."""

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from gruppo.config.advice import advise
from gruppo.config.load import load_config
from gruppo.config.schema import Config
from gruppo.errors import ConfigError, ModelError
from gruppo.monitor.diagnosis import rules
from gruppo.rollout.local import LocalEngine
from gruppo.rollout.parts import KernelParts
from gruppo.training.logprobs import token_logprobs
from gruppo.training.losses import LossSettings
from gruppo.training.optimizers import MasterWeights
from gruppo.training.packing import Batch, micro_batches
from gruppo.training.policy import LocalPolicy
from gruppo.training.rollout_copy import rollout_copy
from gruppo.training.weight_sync import ParityRule, Published, publish
from gruppo.types import SamplingParams
from models import FAMILIES, Caught, Letters, distance, prompts_of, request, rows_of, tiny

CPU = torch.device("cpu")
IDS = torch.arange(5, 40)[None]
SAMPLING = SamplingParams(max_completion_length=24, stop_token_ids=(5, 11))


def adapted(family: str, **settings: Any):
    """A model under LoRA whose adapters do something."""
    kind = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM", **settings)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model: Any = get_peft_model(tiny(family), kind).eval()  # pyright: ignore
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.3)
    return model


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model(input_ids=IDS).logits


@pytest.mark.parametrize("family", FAMILIES)
def test_a_copy_in_the_same_precision_is_the_same_function(family: str):
    model, state = tiny(family), torch.get_rng_state()
    made = rollout_copy(model, torch.float32)
    assert torch.equal(logits(made), logits(model))
    assert not any(parameter.requires_grad for parameter in made.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    merged = rollout_copy(adapted(family), torch.float32)
    expected = logits(adapted(family))
    assert float((logits(merged) - expected).abs().max()) < 2e-5
    assert float((expected - logits(model)).abs().max()) > 0.1


def test_a_copy_in_bfloat16_keeps_in_float32_what_a_model_loaded_so_keeps():
    made = rollout_copy(tiny(), torch.bfloat16)
    assert {parameter.dtype for parameter in made.parameters()} == {torch.bfloat16}
    assert {buffer.dtype for buffer in made.buffers()} == {torch.float32}
    head: Any = made.get_output_embeddings()
    assert head.weight is made.get_input_embeddings().weight
    off = float((logits(made).float() - logits(tiny())).abs().max())
    assert 1e-4 < off < 0.1


def test_an_adapter_that_is_no_sum_is_refused():
    with pytest.raises(ModelError, match="rollout_precision: the adapter in the model's folder is DoRA"):
        rollout_copy(adapted("qwen2", use_dora=True), torch.bfloat16)


@pytest.mark.parametrize("lora", [False, True])
def test_publishing_refreshes_the_copy(lora: bool):
    model = adapted("qwen2") if lora else tiny()
    policy = LocalPolicy(model, Caught(MasterWeights(model)), token_budget=400)
    engine = LocalEngine(rollout_copy(model, torch.bfloat16), Letters(), separate=True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.25)
    policy.version = 7
    assert publish(policy, engine, ParityRule(1.0, 2e-4)) == Published(7)
    fresh, held = rollout_copy(model, torch.bfloat16), engine._model
    assert all(torch.equal(a, b) for a, b in zip(fresh.parameters(), held.parameters(), strict=True))
    asked = [request(prompt, SAMPLING, id=i, group_size=3) for i, prompt in enumerate(prompts_of([3, 17, 9]))]
    assert {c.version for group in engine.generate(asked) for c in group} == {7}


def test_the_difference_is_the_precisions_and_is_corrected_by_the_weights():
    """Against the copy itself the sampler is nearly exact; against the trainer it is off by bfloat16's rounding, and
    the loss weighs each token with min(exp(trainer - sampler), 2)."""
    model = tiny()
    copied = rollout_copy(model, torch.bfloat16)
    prompts = prompts_of([3, 17, 9, 30])
    asked = [request(prompt, SAMPLING, id=i, group_size=4) for i, prompt in enumerate(prompts)]
    groups = LocalEngine(copied, Letters(), separate=True).generate(asked)
    drawn = [c for group in groups for c in group]
    rows = rows_of(drawn, [prompt for prompt in prompts for _ in range(4)])
    (micro,) = micro_batches(rows, 4000, CPU)
    sampler = micro.loss_tokens.sampler_logprobs
    with KernelParts(copied).taken():  # which round once where torch's operators round several times
        own = token_logprobs(copied, micro, 1.0).logprobs.detach()
    trainer = token_logprobs(model, micro, 1.0).logprobs.detach()
    assert float((own - sampler).abs().max()) < 0.03
    differences = trainer - sampler
    assert 1e-3 < float(differences.abs().max()) < 0.1

    gradients: dict[str, dict[str, torch.Tensor]] = {}
    stats: dict[str, Any] = {}
    for correction in ("none", "token_truncate"):
        caught = Caught(MasterWeights(model))
        policy = LocalPolicy(model, caught, token_budget=4000)
        loss = LossSettings(sampler_correction=correction)
        stats[correction] = policy.update(Batch(tuple(rows)), loss, 1.0)
        gradients[correction] = caught.gradients
    assert distance(gradients["token_truncate"], gradients["none"]) > 1e-4
    assert stats["none"].importance_weight_mean is None
    found = stats["token_truncate"]
    weights = torch.exp(differences).clamp(max=2.0)
    assert found.importance_weight_mean == pytest.approx(float(weights.mean()), abs=1e-6)
    assert found.sampler_logprob_difference_max == pytest.approx(float(differences.abs().max()), abs=2e-6)
    assert found.sampler_logprob_difference_mean == pytest.approx(float(differences.abs().mean()), abs=2e-6)
    kl = float((torch.exp(differences) - 1 - differences).mean())
    assert found.sampler_kl == pytest.approx(kl, rel=0.02)


CONFIG: dict[str, Any] = {"model": "m", "data": "d.jsonl"}


@pytest.mark.parametrize(
    ("values", "correction", "differ"),
    [
        ({}, "none", False),
        ({"rollout_precision": "float32"}, "none", False),
        ({"rollout_precision": None}, "none", False),
        ({"rollout_precision": "bfloat16"}, "token_truncate", True),
        ({"rollout_precision": "bfloat16", "precision": "bfloat16"}, "none", False),
        ({"rollout_precision": "float32", "precision": "bfloat16"}, "token_truncate", True),
        ({"rollout_precision": "bfloat16", "sampler_correction": "sequence_mask"}, "sequence_mask", True),
        ({"rollout_precision": "bfloat16", "sampler_correction": "none"}, "none", True),
    ],
)
def test_the_correction_that_is_chosen(values: dict[str, Any], correction: str, differ: bool):
    config = Config.model_validate({**CONFIG, **values})
    assert (config.sampler_correction, config.rollouts_differ) == (correction, differ)
    assert Config.model_validate(config.model_dump(mode="json")) == config
    warned = [line for line in advise(config) if line.startswith("sampler_correction: none; leaves it uncorrected")]
    assert len(warned) == (differ and correction == "none")


def test_four_bits_have_no_copy():
    with pytest.raises(ConfigError, match="rollout_precision: got bfloat16 with quantize 4bit"):
        load_config(None, {**CONFIG, "rollout_precision": "bfloat16", "quantize": "4bit", "lora_rank": 4})


@pytest.mark.parametrize(("precision", "found"), [("float32", 2), ("bfloat16", 1), ("mixed", 0)])
def test_how_far_trainer_and_sampler_may_be_apart(precision: str, found: int):
    (rule,) = [rule for rule in rules(precision) if rule.name == "sampler_difference"]
    shown = [rule.shows([{"step": 1, "sampler_logprob_difference_max": value}]) for value in (0.02, 0.2)]
    assert sum(text is not None for text in shown) == found
