import sys
from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.optim import AdamW, Muon

from gruppo.config.schema import OptimizerFields
from gruppo.errors import ConfigError
from gruppo.training.logprobs import token_logprobs
from gruppo.training.optimizers import MasterWeights, OptimizerSet, adamw, adamw_8bit, build_optimizers, muon
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
    optimizers = muon(model, OptimizerFields(muon_learning_rate=0.02), 0.01)
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


def test_muon_alone_where_every_parameter_is_a_matrix_of_a_layer():
    model = nn.Sequential(nn.Sequential(nn.Linear(4, 3, bias=False)))
    (only,) = muon(model, OptimizerFields(muon_learning_rate=0.02), 0.01).optimizers
    assert (type(only[0]), only[1]) == (Muon, 0.02)
    model[0][0].weight.requires_grad_(False)
    model.append(nn.LayerNorm(3))
    (only,) = muon(model, OptimizerFields(muon_learning_rate=0.02), 0.01).optimizers
    assert (type(only[0]), only[1]) == (AdamW, 0.01)


@pytest.mark.parametrize(
    ("name", "kinds", "peaks"),
    [
        ("adamw", ["AdamW"], [0.01]),
        ("adamw_8bit", ["AdamW8bit"], [0.01]),
        ("muon", ["Muon", "AdamW"], [0.02, 0.01]),
    ],
)
def test_the_config_names_the_optimizer(name: str, kinds: list[str], peaks: list[float]):
    fields = OptimizerFields.model_validate(
        {
            "optimizer": name,
            "muon_learning_rate": 0.02,
            "weight_decay": 0.3,
            "adam_beta1": 0.8,
            "adam_beta2": 0.95,
            "max_grad_norm": 7.0,
        }
    )
    built = build_optimizers(tiny(), fields, 0.01)
    assert [type(optimizer).__name__ for optimizer, _ in built.optimizers] == kinds
    assert [peak for _, peak in built.optimizers] == peaks
    assert built.max_grad_norm == 7.0
    assert built.optimizers[0][0].param_groups[0]["weight_decay"] == 0.3
    last = built.optimizers[-1][0].param_groups[0]
    assert (last["betas"], last["eps"]) == ((0.8, 0.95), 1e-8)


# ---- float32 masters at a small rate


def fixed_gradients(model: nn.Module, seed: int) -> list[torch.Tensor]:
    """One per parameter, exact in bfloat16, the same whatever the model's precision."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(p.shape, generator=generator).bfloat16() for p in model.parameters()]


def give(model: nn.Module, gradients: list[torch.Tensor]) -> None:
    pairs = zip(model.parameters(), gradients, strict=True)
    torch.stack([(p * g.to(p.dtype)).float().sum() for p, g in pairs]).sum().backward()


def test_under_bfloat16_the_weights_follow_the_float32_run():
    narrow = tiny(spread=0.02, tie_word_embeddings=False).to(torch.bfloat16)
    start = weights(narrow)
    wide, pure = deepcopy(narrow).float(), deepcopy(narrow)
    fields, rate = OptimizerFields(max_grad_norm=1e9), 3e-6
    in_float32, with_masters = adamw(wide, fields, rate), adamw(narrow, fields, rate)
    in_bfloat16 = AdamW(pure.parameters(), lr=rate, weight_decay=0.0)
    for step in range(200):
        for model in (wide, narrow, pure):
            give(model, fixed_gradients(model, step % 8))
        in_float32.step(1.0)
        with_masters.step(1.0)
        in_bfloat16.step()
        in_bfloat16.zero_grad()
    masters = with_masters.masters.state_dict()
    for name, expected in weights(wide).items():
        assert float((masters[name] - expected).abs().max()) <= 1e-6
        assert torch.equal(weights(narrow)[name], expected.bfloat16())
    matrices = [name for name, weight in start.items() if weight.dim() == 2]

    def moved(now: dict[str, torch.Tensor]) -> float:
        """Share of the matrices' weights that differ from where they started."""
        changed = sum(int((now[name] != start[name].to(now[name].dtype)).sum()) for name in matrices)
        return changed / sum(start[name].numel() for name in matrices)

    shares = [moved(now) for now in (weights(wide), weights(narrow), weights(pure))]
    assert shares == pytest.approx([1.0, 0.851, 0.036], abs=0.005)


# ---- moments in 8 bits


def wide_model(dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Module:
    """The smallest whose matrices have the 4,096 weights from which on moments are in 8 bits."""
    return tiny(seed=seed, hidden_size=64, intermediate_size=128, num_key_value_heads=4).to(dtype)


def bytes_of(state: object) -> int:
    if isinstance(state, torch.Tensor):
        return state.numel() * state.element_size()
    values = state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else ()
    return sum(map(bytes_of, values))


def test_8_bit_moments_take_a_quarter_of_the_memory():
    layer = nn.Linear(1024, 256)
    sizes = {}
    for name in ("adamw", "adamw_8bit"):
        optimizers = build_optimizers(layer, OptimizerFields.model_validate({"optimizer": name}), 1e-3)
        push(layer)
        optimizers.step(1.0)
        sizes[name] = bytes_of(optimizers.state_dict()["optimizers"])
    bias = 2 * 256 * 4  # float32 in both
    assert sizes["adamw"] == 2 * 4 * 262_144 + bias + 2 * 4  # and a count of steps per tensor
    assert sizes["adamw_8bit"] == 2 * (262_144 + 1024 * 4 + 256 * 4) + bias  # codes, scales of blocks, code book
    assert sizes["adamw_8bit"] / sizes["adamw"] == pytest.approx(0.2557, abs=0.0001)


def test_8_bit_moments_lead_to_the_weights_of_adamw():
    rows = random_rows(LENGTHS, [1.0] * 4)
    (micro,) = micro_batches(rows, 1000, torch.device("cpu"))
    start, ends, losses = weights(wide_model()), [], []
    for make in (adamw, adamw_8bit):
        model = wide_model()
        optimizers = make(model, SETTINGS, 1e-3)
        for _ in range(30):
            loss = token_logprobs(model, micro, 1.0).logprobs.mean().neg()
            loss.backward()
            optimizers.step(1.0)
        ends.append(weights(model))
        losses.append(loss.item())
    eight = optimizers.state_dict()["optimizers"][0]["state"].values()
    kinds = [state["__bnb_optimizer_quant_state__"]["state1"].dtype for state in eight]
    assert kinds.count(torch.uint8) == 14
    travelled = {name: ends[0][name] - start[name] for name in start}
    off = {name: ends[1][name] - ends[0][name] for name in start}
    norms = [sum(float(t.square().sum()) for t in part.values()) ** 0.5 for part in (off, travelled)]
    assert norms[0] / norms[1] == pytest.approx(0.04, abs=0.015)  # of the way that AdamW went
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_8_bit_moments_decay_matrices_and_no_vectors():
    model = wide_model()
    start = weights(model)
    optimizers = adamw_8bit(model, OptimizerFields(weight_decay=0.5), 0.1)
    push(model, 0.0)
    optimizers.step(1.0)
    for name, parameter in model.named_parameters():
        factor = 0.95 if parameter.dim() >= 2 else 1.0
        torch.testing.assert_close(parameter.detach(), factor * start[name])


def test_without_the_package_the_error_names_the_command(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ConfigError, match=r"optimizer: adamw_8bit needs the package bitsandbytes.*gruppo\[quant\]"):
        adamw_8bit(tiny(), SETTINGS, 1e-3)


@pytest.mark.parametrize("make", [adamw, adamw_8bit, muon])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_saved_state_goes_on_to_the_same_bits(
    make: Callable[[nn.Module, OptimizerFields, float], OptimizerSet],
    dtype: torch.dtype,
    tmp_path_factory: pytest.TempPathFactory,
):
    rows = random_rows(LENGTHS, [1.0] * 4)
    (micro,) = micro_batches(rows, 1000, torch.device("cpu"))

    def steps(model: nn.Module, optimizers: OptimizerSet, count: int) -> None:
        for _ in range(count):
            token_logprobs(model, micro, 1.0).logprobs.mean().neg().backward()
            optimizers.step(1.0)

    whole = wide_model(dtype)
    steps(whole, make(whole, SETTINGS, 1e-2), 6)
    first = wide_model(dtype)
    optimizers = make(first, SETTINGS, 1e-2)
    steps(first, optimizers, 3)
    file = tmp_path_factory.mktemp("state") / "state.pt"
    torch.save(optimizers.state_dict(), file)
    second = wide_model(dtype, seed=5)
    resumed = make(second, SETTINGS, 1e-2)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert same_bits(weights(second), weights(first))
    steps(second, resumed, 3)
    assert same_bits(weights(second), weights(whole))
