from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.optim import AdamW, Muon

from gruppo.config.schema import OptimizerFields
from gruppo.training.logprobs import token_logprobs
from gruppo.training.optimizers import MasterWeights, OptimizerSet, adamw, muon
from gruppo.training.packing import micro_batches
from models import FAMILIES, random_rows, same_bits, tiny, weights

SETTINGS = OptimizerFields(max_grad_norm=1e9)
LENGTHS = [(3, 4), (10, 2), (1, 9), (5, 5)]


def push(model: nn.Module, value: float = 1.0) -> None:
    """The gradient `value` on every parameter."""
    torch.stack([parameter.float().sum() for parameter in model.parameters()]).sum().mul(value).backward()


def test_small_updates_add_up_in_the_masters_under_bfloat16():
    model = tiny().to(torch.bfloat16)
    start = weights(model)
    optimizers = adamw(model, SETTINGS, 1e-6)
    for _ in range(20):
        push(model)
        norm, stepped = optimizers.step(1.0)
    assert stepped
    assert norm == pytest.approx(sum(p.numel() for p in model.parameters()) ** 0.5)
    for name, master in optimizers.masters.named:
        assert master.dtype == torch.float32
        torch.testing.assert_close(master.detach(), start[name].float() - 2e-5, atol=1e-6, rtol=0)
    norms = [name for name in start if "norm" in name]  # ones, whose neighbours in bfloat16 are 0.0039 below
    assert all(torch.equal(weights(model)[name], start[name]) for name in norms)
    for _ in range(20):
        push(model)
        optimizers.step(100.0)
    assert set(weights(model)[norms[0]].tolist()) == {0.99609375}  # 0.99798, rounded


def test_gradients_of_micro_batches_add_up_in_float32():
    model, rows = tiny().to(torch.bfloat16), random_rows(LENGTHS, [1.0] * 4)
    twin = deepcopy(model)
    masters = MasterWeights(model)
    expected = {name: torch.zeros_like(parameter, dtype=torch.float32) for name, parameter in twin.named_parameters()}
    in_bfloat16 = {name: torch.zeros_like(parameter) for name, parameter in twin.named_parameters()}
    for micro in micro_batches(rows, 1, torch.device("cpu")):
        token_logprobs(model, micro, 1.0).logprobs.sum().backward()
        token_logprobs(twin, micro, 1.0).logprobs.sum().backward()
        for name, parameter in twin.named_parameters():
            assert parameter.grad is not None
            expected[name] += parameter.grad.float()
            in_bfloat16[name] += parameter.grad
        twin.zero_grad()
    assert all(parameter.grad is None for parameter in model.parameters())
    for name, master in masters.named:
        assert master.grad is not None
        assert torch.equal(master.grad, expected[name])
    assert any(not torch.equal(in_bfloat16[name].float(), expected[name]) for name in expected)


def test_float32_parameters_are_their_own_masters():
    model = tiny()
    masters = MasterWeights(model)
    assert [id(parameter) for _, parameter in masters.named] == [id(parameter) for parameter in model.parameters()]
    next(model.parameters()).requires_grad_(False)
    assert len(MasterWeights(model).named) == len(masters.named) - 1


def test_clipping_scales_to_the_norm_and_tells_the_norm_before():
    model = tiny()
    start = weights(model)
    masters = MasterWeights(model)
    plain = torch.optim.SGD([parameter for _, parameter in masters.named], lr=1.0)
    size = sum(p.numel() for p in model.parameters())
    push(model, 3.0)
    norm, stepped = OptimizerSet(masters, [(plain, 0.5)], max_grad_norm=2.0).step(0.1)
    assert stepped
    assert norm == pytest.approx(3 * size**0.5, rel=1e-5)
    for name, parameter in model.named_parameters():
        expected = start[name] - 0.5 * 0.1 * 2.0 / size**0.5
        torch.testing.assert_close(parameter.detach(), expected, atol=1e-6, rtol=0)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_adamw_decays_matrices_and_no_vectors():
    model = tiny()
    start = weights(model)
    optimizers = adamw(model, OptimizerFields(weight_decay=0.5), 0.1)
    push(model, 0.0)
    optimizers.step(1.0)
    for name, parameter in model.named_parameters():
        factor = 0.95 if parameter.dim() >= 2 else 1.0
        torch.testing.assert_close(parameter.detach(), factor * start[name])
    (optimizer, peak) = optimizers.optimizers[0]
    assert (peak, optimizer.param_groups[0]["betas"]) == (0.1, (0.9, 0.999))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
def test_muon_takes_the_matrices_of_the_layers_alone(family: str, tied: bool):
    model = tiny(family, tie_word_embeddings=tied)
    optimizers = muon(model, SETTINGS, 0.01, 0.02)
    (first, first_rate), (second, second_rate) = optimizers.optimizers
    assert isinstance(first, Muon)
    assert isinstance(second, AdamW)
    assert (first_rate, second_rate) == (0.02, 0.01)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    in_muon = {names[id(p)] for group in first.param_groups for p in group["params"]}
    in_adamw = {names[id(p)] for group in second.param_groups for p in group["params"]}
    layer = "transformer.h." if family == "gpt2" else "model.layers."
    assert len(in_muon) == (8 if family == "gpt2" else 14)
    assert in_muon == {n for n, p in model.named_parameters() if n.startswith(layer) and p.dim() == 2}
    assert in_muon | in_adamw == set(names.values())
    assert not in_muon & in_adamw
    outer = {"transformer.wte.weight", "transformer.wpe.weight"} if family == "gpt2" else {"model.embed_tokens.weight"}
    assert outer | (set() if tied else {"lm_head.weight"}) <= in_adamw


@pytest.mark.parametrize("make", [lambda m: adamw(m, SETTINGS, 1e-2), lambda m: muon(m, SETTINGS, 1e-2, 1e-2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_saved_state_goes_on_to_the_same_bits(
    make: Callable[[nn.Module], OptimizerSet], dtype: torch.dtype, tmp_path_factory: pytest.TempPathFactory
):
    rows = random_rows(LENGTHS, [1.0] * 4)
    (micro,) = micro_batches(rows, 1000, torch.device("cpu"))

    def steps(model: nn.Module, optimizers: OptimizerSet, count: int) -> None:
        for _ in range(count):
            token_logprobs(model, micro, 1.0).logprobs.mean().neg().backward()
            optimizers.step(1.0)

    whole = tiny().to(dtype)
    steps(whole, make(whole), 6)
    first = tiny().to(dtype)
    optimizers = make(first)
    steps(first, optimizers, 3)
    file = tmp_path_factory.mktemp("state") / "state.pt"
    torch.save(optimizers.state_dict(), file)
    second = tiny(seed=5).to(dtype)
    resumed = make(second)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert same_bits(weights(second), weights(first))
    steps(second, resumed, 3)
    assert same_bits(weights(second), weights(whole))
