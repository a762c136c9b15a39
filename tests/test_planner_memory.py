"""The forecast of memory against what gruppo's own code holds, tensor by tensor."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.optim import Optimizer
from transformers import Qwen3Config, Qwen3ForCausalLM

from gruppo.config.load import check
from gruppo.config.model_shape import ModelShape, shape_of
from gruppo.config.schema import Config
from gruppo.monitor.native import compiler
from gruppo.planner import memory, rollouts
from gruppo.planner.activations import saved_bytes
from gruppo.planner.devices import cpu, named_device
from gruppo.planner.models import adapter_parameters
from gruppo.planner.workload import Workload, largest_micro_batch
from gruppo.rollout import continuous, packed_weights, sampling, shared_prompts, slots
from gruppo.rollout.local import LocalEngine
from gruppo.rollout.parts import KernelParts
from gruppo.rollout.vllm.settings import CPU_GIB, GPU_SHARE
from gruppo.training import head
from gruppo.training.head import Head
from gruppo.training.models import LoadedModel, add_lora
from gruppo.training.optimizers import build_optimizers
from gruppo.training.packing import Row, default_token_budget
from gruppo.training.tree_attention import attending_by_trees
from gruppo.training.trees import tree_batches
from gruppo.types import SamplingParams
from models import VOCABULARY, Letters, prompts_of, request, tiny

CPU = torch.device("cpu")
LINEAR = ("all-linear",)


def config(**values: object) -> Config:
    return check(Config, {"model": "m", "data": "d", **values}, "test")


def sizes(model: torch.nn.Module) -> ModelShape:
    return shape_of(model.config.to_dict())  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]


def adapted(model: torch.nn.Module, rank: int) -> torch.nn.Module:
    if not rank:
        return model
    loaded = LoadedModel(model, None, (), None, VOCABULARY)  # pyright: ignore[reportArgumentType]
    return add_lora(loaded, rank, 2 * rank, LINEAR, 0).model


def equal_rows(prompts: int, group_size: int, prompt: int, completion: int) -> list[Row]:
    mask = np.ones(completion, dtype=np.bool_)
    ids, zeros = np.zeros(completion, dtype=np.int64), np.zeros(completion, dtype=np.float32)
    return [Row((number,) * prompt, ids, mask, zeros, 1.0) for number in range(prompts) for _ in range(group_size)]


def qwen3(layers: int) -> torch.nn.Module:
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    return Qwen3ForCausalLM(
        Qwen3Config(**shape, num_hidden_layers=layers, head_dim=8, vocab_size=VOCABULARY, tie_word_embeddings=True)
    ).eval()


def kept_by_autograd(model: torch.nn.Module, *, kernels: bool = False) -> float:
    """Bytes of a token that a forward pass by trees leaves for the backward pass, weights left out."""
    (batch,) = tree_batches(equal_rows(1, 4, 8, 25), 10_000, CPU)
    seen = {parameter.untyped_storage().data_ptr(): 0 for parameter in model.parameters()}
    alive: list[torch.Tensor] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        seen.setdefault(storage.data_ptr(), storage.nbytes())
        alive.append(tensor)
        return tensor

    parts = KernelParts(model).taken() if kernels else nullcontext()
    with attending_by_trees(model), parts, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        Head(model).hidden(batch)
    return sum(seen.values()) / batch.input_ids.shape[1]


@pytest.mark.parametrize("rank", [0, 4])
@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 4), (torch.bfloat16, 2)])
@pytest.mark.parametrize("family", ["qwen2", "llama", "qwen3"])
def test_a_layer_keeps_exactly_the_tensors_that_are_named(
    family: str, dtype: torch.dtype, size: int, rank: int
) -> None:
    models = [qwen3(layers) if family == "qwen3" else tiny(family, num_hidden_layers=layers) for layers in (3, 4)]
    shape = sizes(models[0])
    three, four = (kept_by_autograd(adapted(model.to(dtype), rank)) for model in models)
    assert four - three == pytest.approx(sum(saved_bytes(shape, size, rank, LINEAR).values()), rel=1e-9)


@pytest.mark.skipif(compiler() is None, reason="no C compiler")
@pytest.mark.parametrize("rank", [0, 4])
@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 4), (torch.bfloat16, 2)])
@pytest.mark.parametrize("family", ["qwen2", "llama", "qwen3"])
def test_and_with_norms_and_mlps_by_the_kernels(family: str, dtype: torch.dtype, size: int, rank: int) -> None:
    """The heads of this qwen3 have 8 numbers: its norms of queries and keys are torch's."""
    models = [qwen3(layers) if family == "qwen3" else tiny(family, num_hidden_layers=layers) for layers in (3, 4)]
    shape = sizes(models[0])
    three, four = (kept_by_autograd(adapted(model.to(dtype), rank), kernels=True) for model in models)
    named = saved_bytes(shape, size, rank, LINEAR, kernels=True)
    assert four - three == pytest.approx(sum(named.values()), rel=1e-9)
    spared = sum(saved_bytes(shape, size, rank, LINEAR).values()) - sum(named.values())
    of_norms = 2 * 32 * {(4, 0): 4, (4, 4): 0, (2, 0): 2 + 2, (2, 4): 2}[size, rank]
    assert spared == of_norms + 48 * size  # silu(gate)


@pytest.mark.parametrize("family", ["gemma2", "gemma3_text", "phi3", "qwen3_moe", "mixtral"])
def test_other_mlps_keep_their_activation(family: str) -> None:
    shape = replace(sizes(tiny()), family=family)
    named = saved_bytes(shape, 4, 0, LINEAR, kernels=True)
    assert named["gate, its activation if kept, up"] == 3 * 48 * 4


def test_a_layer_of_qwen2_by_hand() -> None:
    """D = 32, I = 48, 4 heads and 2 key heads of 8, float32."""
    found = saved_bytes(sizes(tiny()), 4, 0, LINEAR)
    assert sum(found.values()) == 4 * (2 * 3 * 32 + 2 + 2 * 32 + 2 * 16 + 4 + 4 * 48) == 1944


def test_the_constants_are_those_of_the_code() -> None:
    assert memory.FEWEST == head.FEWEST
    assert memory.PIECE[True] == head.LOGITS["cpu"]
    assert rollouts.SAMPLING_CHUNK == sampling.CHUNK
    assert rollouts.PACKED_FROM == packed_weights.SMALLEST_OWN
    assert rollouts.PACK_FROM == continuous.PACK_FROM
    assert rollouts.SHARED_TOKENS == shared_prompts.SHARED_TOKENS
    assert rollouts.SHARED_ROWS == shared_prompts.SHARED_ROWS
    assert (rollouts.VLLM_SHARE, rollouts.VLLM_CPU_GIB) == (GPU_SHARE, CPU_GIB)
    assert [rollouts.round_up(n) for n in range(1, 1000)] == [slots.round_up(n) for n in range(1, 1000)]
    assert rollouts.FIRST == continuous.FIRST == 192
    for vocabulary in (500, 16_384, 151_936, 1_000_000):
        for device in (CPU, torch.device("cuda")):
            for prompt in (0, 300, 1_500, 9_000):
                for hidden in (64, 65):
                    sized = replace(sizes(tiny()), vocabulary=vocabulary, hidden=hidden)
                    wanted = default_token_budget(vocabulary, device, longest_prompt=prompt, hidden=hidden)
                    assert memory.token_budget(config(), sized, device.type == "cpu", prompt) == wanted


@pytest.mark.parametrize("step", [(4, 8, 20, 33), (2, 16, 64, 48), (3, 64, 10, 16), (1, 2, 400, 9), (5, 5, 7, 300)])
@pytest.mark.parametrize("budget", [256, 1000, 4096])
def test_the_largest_micro_batch_is_the_one_that_is_packed(step: tuple[int, int, int, int], budget: int) -> None:
    prompts, group_size, prompt, completion = step
    found = [batch.input_ids.shape[1] for batch in tree_batches(equal_rows(*step), budget, CPU)]
    work = Workload(prompts, group_size, prompt, completion, completion)
    assert largest_micro_batch(work, budget) == (max(found), len(found))


def test_completions_of_many_lengths_fill_a_micro_batch() -> None:
    work = Workload(8, 8, 100, 60, 200)
    assert work.tree_tokens() == 8 * 100 + 64 * 59
    assert largest_micro_batch(work, 1000) == (1000, 5)


def test_the_cache_is_as_large_as_the_engines() -> None:
    model = tiny(context=256)
    engine = LocalEngine(model, Letters())
    wanted = SamplingParams(max_completion_length=100, stop_token_ids=(VOCABULARY,))
    for number, prompt in enumerate(prompts_of([20, 20, 20])):
        engine.submit(request(prompt, wanted, id=number, group_size=5))
    assert len(list(engine.completed())) == 15
    work, shape = Workload(3, 5, 20, 100, 100), sizes(model)
    made = memory.forecast_memory(config(prompts_per_step=3, group_size=5), shape, work, cpu(1))
    one_layer = engine.stats.peak_cache_bytes / shape.layers
    assert made.sampling["KV cache"] == engine.stats.peak_cache_bytes + one_layer == 16 * 128 * 2 * 2 * 8 * 4 * 3


def test_a_long_prompt_is_in_the_cache_once_a_group() -> None:
    model = tiny(context=256)
    engine = LocalEngine(model, Letters())
    wanted = SamplingParams(max_completion_length=100, stop_token_ids=(VOCABULARY,))
    for number, prompt in enumerate(prompts_of([80, 80, 80])):
        engine.submit(request(prompt, wanted, id=number, group_size=5))
    assert len(list(engine.completed())) == 15
    work, shape = Workload(3, 5, 80, 100, 100), sizes(model)
    made = memory.forecast_memory(config(prompts_per_step=3, group_size=5), shape, work, cpu(1))
    assert engine.stats.peak_cache_bytes == (16 * 128 + 3 * 79) * 256
    assert made.sampling["KV cache"] == (16 * 128 + 3 * 79) * 256 * 3 / 2
    plain = memory.forecast_memory(config(plain=True), shape, work, cpu(1))
    assert plain.sampling["KV cache"] == 16 * 192 * 256 * 3 / 2


@pytest.mark.parametrize(
    ("before", "completion"), [(0, 64), (0, 65), (0, 128), (0, 192), (0, 300), (9, 200), (9, 40), (200, 90)]
)
def test_a_row_is_as_wide_as_the_cache_has_grown(before: int, completion: int) -> None:
    model = tiny(context=512)
    engine = LocalEngine(model, Letters())
    wanted = SamplingParams(max_completion_length=completion, stop_token_ids=(VOCABULARY,))
    engine.submit(request(prompts_of([before + 1])[0], wanted, group_size=2))
    assert len(list(engine.completed())) == 2
    assert engine.stats.peak_cache_bytes == 4 * 256 * rollouts.slot_width(before, completion)


def test_rollouts_in_another_precision_are_drawn_from_a_copy() -> None:
    shape, work = sizes(tiny()), Workload(1, 4, 8, 20, 20)
    same, other = (
        memory.forecast_memory(config(rollout_precision=precision), shape, work, cpu(1))
        for precision in ("float32", "bfloat16")
    )
    assert (same.update["rollout copy"], other.update["rollout copy"]) == (0, 17_600 * 2)
    assert other.sampling["rollout copy"] == 17_600 * 2
    assert (same.sampling["KV cache"], other.sampling["KV cache"]) == (4 * 64 * 256 * 3 / 2, 4 * 64 * 128 * 3 / 2)


def test_vllm_on_a_cpu_holds_the_weights_again_and_its_own_cache() -> None:
    shape, work = sizes(tiny()), Workload(1, 4, 8, 20, 20)

    def vllm_parts(**values: object) -> dict[str, float]:
        made = memory.forecast_memory(config(engine="vllm", **values), shape, work, cpu(1))
        assert "KV cache" not in made.sampling
        assert {name: made.sampling[name] for name in made.sampling if "vLLM" in name} == {
            name: made.update[name] for name in made.update if "vLLM" in name
        }
        return {name: value for name, value in made.update.items() if "vLLM" in name and value}

    own = {"vLLM's weights": 17_600 * 4, "vLLM's KV cache": 2**30}
    assert vllm_parts() == own
    assert vllm_parts(engine_memory=3) == own | {"vLLM's KV cache": 3 * 2**30}
    assert vllm_parts(rollout_precision="bfloat16") == own | {"vLLM's weights": 17_600 * 2}
    assert vllm_parts(vllm_url="launch") == own | {"weights on their way to vLLM": 2 * 17_600 * 4}
    assert vllm_parts(vllm_url="http://there:8000") == {}


def test_vllm_on_a_gpu_takes_its_share_and_sleeps_only_in_the_trainers_process() -> None:
    shape, work = sizes(tiny()), Workload(1, 4, 8, 20, 20)
    device = named_device("h100")[0]
    share = {"vLLM's weights": 70_400, "vLLM's KV cache": 0.25 * 80 * 2**30 - 70_400}
    for url, while_updating in ((None, {}), ("launch", share)):
        settings = config(engine="vllm", engine_memory=0.25, vllm_url=url)
        made = memory.forecast_memory(settings, shape, work, device)
        assert {name: made.sampling[name] for name in share} == share
        assert {name: value for name, value in made.update.items() if "vLLM" in name} == while_updating
    unset = memory.forecast_memory(config(engine="vllm"), shape, work, device)
    assert unset.sampling["vLLM's KV cache"] == 0.4 * 80 * 2**30 - 70_400


@pytest.mark.parametrize("rank", [1, 8])
def test_adapters_are_counted_as_peft_makes_them(rank: int) -> None:
    for family in ("qwen2", "llama"):
        model = adapted(tiny(family), rank)
        real = sum(p.numel() for p in model.parameters() if p.requires_grad)
        assert adapter_parameters(sizes(tiny(family)), rank, LINEAR) == real
    assert adapter_parameters(sizes(tiny()), 8, ("q_proj", "v_proj")) == 2 * 8 * (32 + 32 + 32 + 16)


def held_by(optimizers: Sequence[tuple[Optimizer, float]]) -> int:
    """Bytes of all moments."""
    states = [state for optimizer, _ in optimizers for state in optimizer.state.values()]
    tensors = [value for state in states for value in state.values() if isinstance(value, torch.Tensor)]
    return sum(each.numel() * each.element_size() for each in tensors if each.numel() > 1)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_masters_gradients_and_moments_are_those_that_are_made(precision: str, optimizer: str) -> None:
    settings = config(precision=precision, optimizer=optimizer)
    model = tiny().to(getattr(torch, precision))
    made = build_optimizers(model, settings, 1e-3)
    for _, parameter in made.masters.named:
        parameter.grad = torch.ones_like(parameter)
    made.step(1.0)
    found = memory.forecast_memory(settings, sizes(model), Workload(1, 2, 8, 8, 8), cpu(1))
    assert found.update["optimizer"] == held_by(made.optimizers)
    masters = 0 if precision == "float32" else 17_600 * 4
    assert found.update["master weights"] == masters
    assert found.update["weights"] == sum(p.numel() * p.element_size() for p in model.parameters())


def test_a_reference_policy_costs_what_is_trained() -> None:
    shape, work = sizes(tiny()), Workload(1, 2, 8, 8, 8)
    full = memory.forecast_memory(config(beta=0.1, precision="bfloat16"), shape, work, cpu(1))
    lora = memory.forecast_memory(config(beta=0.1, lora_rank=2), shape, work, cpu(1))
    assert full.update["reference policy"] == 17_600 * 2
    assert lora.update["reference policy"] == adapter_parameters(shape, 2, LINEAR) * 4
    assert memory.forecast_memory(config(), shape, work, cpu(1)).update["reference policy"] == 0


def test_recomputing_keeps_a_boundary_per_layer_and_one_layer() -> None:
    shape, work = sizes(tiny()), Workload(1, 2, 8, 500, 500)
    tokens = 8 + 2 * 499
    plain = memory.forecast_memory(config(), shape, work, cpu(1)).update["activations"]
    less = memory.forecast_memory(config(gradient_checkpointing=True), shape, work, cpu(1)).update["activations"]
    hidden = 2 * tokens * 32 * 4
    layer = 1944 - 2 * 32 * 4 - 48 * 4  # without what is normalised, and silu(gate)
    assert plain == hidden + tokens * (2 * layer + 32 * 2 * 4)
    assert less == hidden + tokens * (2 * 32 * 4 + layer)


def test_on_a_gpu_prompts_stand_in_their_rows() -> None:
    """8 rows of 2 prompts of 100 tokens and completions of 20: 99 and 20 are rounded up to 128 positions."""
    shape, work = sizes(tiny()), Workload(2, 4, 100, 20, 20)
    token = 2 * 2 * 2 * 8 * 4  # layers, keys and values, key heads, their size, bytes
    for device, tokens in ((cpu(1), 8 * 64 + 2 * 99), (named_device("h100")[0], 8 * 128)):
        found = memory.forecast_memory(config(), shape, work, device)
        assert found.sampling["KV cache"] == 1.5 * token * tokens
        assert "KV cache" not in found.update


def test_several_gpus_share_what_is_held() -> None:
    shape, work = sizes(tiny()), Workload(4, 2, 8, 8, 8)
    one, two = (memory.forecast_memory(config(), shape, work, named_device("h100", n)[0]) for n in (1, 2))
    assert two.update["optimizer"] == one.update["optimizer"] / 2
    assert two.sampling["KV cache"] == one.sampling["KV cache"] / 2
