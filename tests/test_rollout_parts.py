"""What models give to the kernels, how they enter and leave, and what is left alone."""

import threading
from collections.abc import Callable
from itertools import permutations
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers.models.glm import modeling_glm
from transformers.models.llama import modeling_llama
from transformers.models.qwen2 import modeling_qwen2
from transformers.models.qwen2.modeling_qwen2 import Qwen2MLP

from gruppo.monitor.native import compiler
from gruppo.rollout.parts import KernelParts
from gruppo.rollout.pointwise import rotary
from models import VOCABULARY, tiny

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C compiler")
OWN = modeling_qwen2.apply_rotary_pos_emb


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def built(kind: str) -> Any:
    """A tiny model of a family, with weights that make peaked distributions."""
    sizes = {"hidden_size": 32, "intermediate_size": 51, "num_hidden_layers": 2, "vocab_size": VOCABULARY}
    of_heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "initializer_range": 0.15}
    tokens = {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = getattr(transformers, f"{kind}Config")(**sizes, **of_heads, **tokens)
        return transformers.AutoModelForCausalLM.from_config(config).eval()


def all_of(model: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits, and the gradient of a loss by parameter."""
    ids = torch.arange(44).view(2, 22) * 7 % VOCABULARY
    logits = model(ids).logits
    wanted = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids.roll(-1, dims=1).flatten())
    return logits.detach(), dict(zip(wanted, torch.autograd.grad(loss, list(wanted.values())), strict=True))


def counts(parts: KernelParts) -> tuple[int, int]:
    return len(parts._gates), len(parts._turns)


@pytest.mark.parametrize("kind", ["Llama", "Qwen2", "Qwen3", "Mistral"])
def test_models_compute_the_same_by_the_kernels(kind: str) -> None:
    model = built(kind)
    state = torch.get_rng_state()
    parts = KernelParts(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert counts(parts) == (2, 1)
    logits, grads = all_of(model)
    with parts.taken():
        found, found_grads = all_of(model)
    assert not torch.equal(found, logits)  # other roundings: the kernels have been there
    assert (found - logits).abs().max() < 1e-6 * logits.abs().max()
    for name, grad in grads.items():
        assert (found_grads[name] - grad).norm() < 1e-5 * grad.norm(), name
    again, _ = all_of(model)
    assert torch.equal(again, logits)


def test_a_model_in_bfloat16_is_no_further_from_float32_than_its_own() -> None:
    model = tiny("qwen2")
    exact, exact_grads = all_of(model)
    model.bfloat16()
    parts = KernelParts(model)
    assert counts(parts) == (2, 1)
    own, own_grads = all_of(model)
    with parts.taken():
        found, grads = all_of(model)
    assert (found - exact).norm() < 1.1 * (own - exact).norm()
    off, own_off = (
        sum(float((of[name].double() - grad).square().sum()) for name, grad in exact_grads.items())
        for of in (grads, own_grads)
    )
    assert off < 1.2 * own_off


def test_others_are_left_alone() -> None:
    assert counts(KernelParts(built("Gemma"))) == (0, 1)  # its activation is another
    assert counts(KernelParts(built("Glm"))) == (0, 0)  # its heads are interleaved, gate and up one map
    assert counts(KernelParts(tiny("gpt2"))) == (0, 0)
    assert counts(KernelParts(tiny("qwen2").half())) == (0, 1)
    assert counts(KernelParts(nn.ModuleList([nn.Linear(4, 4)]))) == (0, 0)
    before = modeling_glm.apply_rotary_pos_emb
    with KernelParts(built("Glm")).taken():
        assert modeling_glm.apply_rotary_pos_emb is before


def mlp(kind: type[nn.Module] = Qwen2MLP, activation: str = "silu") -> nn.Module:
    config = transformers.Qwen2Config(hidden_size=32, intermediate_size=51, hidden_act=activation)
    return kind(config)  # pyright: ignore[reportCallIssue]


def test_only_mlps_that_compute_the_same_are_taken() -> None:
    class Clamped(Qwen2MLP):
        def forward(self, x: Tensor) -> Tensor:
            return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x).clamp(max=7))

    class Exchanged(Qwen2MLP):
        def forward(self, x: Tensor) -> Tensor:
            return self.down_proj(self.act_fn(self.up_proj(x)) * self.gate_proj(x))

    class OtherName(Qwen2MLP):
        def forward(self, hidden: Tensor) -> Tensor:
            return super().forward(hidden)

    class Leaning(Qwen2MLP):
        """Right in its result, off in its gradient."""

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(1.5 * x - 0.5 * x.detach())

    more, scaled, kept = mlp(), mlp(), mlp()
    more.add_module("dropout", nn.Dropout())
    scaled.register_parameter("scale", nn.Parameter(torch.ones(1)))
    kept.__dict__["forward"] = lambda x: x
    left = [mlp(each) for each in (Clamped, Exchanged, OtherName, Leaning)] + [
        more,
        scaled,
        kept,
        mlp(activation="gelu"),
    ]
    parts = nn.ModuleList([mlp(), *left, mlp().bfloat16(), mlp(activation="swish")])
    assert [list(parts).index(part) for part, _ in KernelParts(parts)._gates] == [0, 9, 10]


def test_an_mlp_goes_through_its_maps_as_they_are() -> None:
    part: Any = mlp()
    parts, x = KernelParts(nn.ModuleList([part])), normal(4, 32)
    part.up_proj = nn.Linear(32, 51)  # as adapters are put in
    part.down_proj.weight.data = normal(32, 51, seed=1)
    wanted, seen = part(x), []
    part.gate_proj.register_forward_hook(lambda *_: seen.append("gate"))
    with parts.taken():
        assert torch.allclose(part(x), wanted, atol=1e-6, rtol=1e-5)
        half = part.half()(x.half())  # not the kernel's kind: the model's own way
    assert torch.equal(half, part(x.half()))
    assert seen == ["gate"] * 3
    assert "forward" not in vars(part)


def test_adapters_train_through_the_kernels() -> None:
    base = tiny("qwen2")
    parts = KernelParts(base)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model: Any = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    assert counts(KernelParts(model)) == (2, 1)
    logits, grads = all_of(model)
    with parts.taken():
        found, found_grads = all_of(model)
    assert len(grads) == 28
    assert 0 < (found - logits).abs().max() < 2e-6 * logits.abs().max()
    assert all((found_grads[name] - grad).norm() < 1e-5 * grad.norm() for name, grad in grads.items())


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_models_enter_and_leave_in_any_order(order: tuple[int, ...]) -> None:
    llama = modeling_llama.apply_rotary_pos_emb
    parts = [KernelParts(tiny("qwen2", seed=0))]
    parts[0].enter()
    parts += [KernelParts(tiny("qwen2", seed=1)), KernelParts(tiny("llama"))]  # made while another is inside
    assert [counts(each) for each in parts] == [(2, 1)] * 3
    parts[1].enter()
    parts[2].enter()
    parts[0].enter()  # once more, as passes do within passes
    parts[0].leave()
    inside = {0, 1, 2}
    for number in order:
        assert (modeling_qwen2.apply_rotary_pos_emb is OWN) == (inside <= {2})
        assert (modeling_llama.apply_rotary_pos_emb is llama) == (2 not in inside)
        parts[number].leave()
        inside.remove(number)
    assert modeling_qwen2.apply_rotary_pos_emb is OWN
    assert modeling_llama.apply_rotary_pos_emb is llama


def in_a_thread(call: Callable[[], Any]) -> Any:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(call()))
    thread.start()
    thread.join(60)
    return found[0]


def test_a_thread_that_has_not_entered_computes_by_torch() -> None:
    cos, sin = normal(2, 5, 16, seed=2).bfloat16(), normal(2, 5, 16, seed=3).bfloat16()
    q, k = (normal(2, 5, count, 16, seed=count).bfloat16().transpose(1, 2) for count in (4, 2))
    parts = KernelParts(tiny("qwen2"))
    own, quick = OWN(q, k, cos, sin), rotary(q, k, cos, sin)
    assert not torch.equal(own[0], quick[0])

    def is_own() -> bool:
        return torch.equal(modeling_qwen2.apply_rotary_pos_emb(q, k, cos, sin)[0], own[0])

    def entered() -> bool:
        with parts.taken():
            return is_own()

    with parts.taken():
        assert not is_own()
        assert in_a_thread(is_own)
        assert not in_a_thread(entered)
        meanwhile = modeling_qwen2.apply_rotary_pos_emb
        assert not is_own()
        square = [normal(2, 5, 5, 16, seed=seed).bfloat16() for seed in (4, 5)]  # as many heads as tokens
        for more, named in (([], {"unsqueeze_dim": 2}), ([2], {})):
            by_head = modeling_qwen2.apply_rotary_pos_emb(*square, cos, sin, *more, **named)
            assert torch.equal(by_head[0], OWN(*square, cos, sin, 2)[0])
        half = [each.half() for each in (q, k, cos, sin)]
        assert torch.equal(modeling_qwen2.apply_rotary_pos_emb(*half)[1], OWN(*half)[1])
        by_name = modeling_qwen2.apply_rotary_pos_emb(q=q, k=k, cos=cos, sin=sin)
        assert torch.equal(by_name[1], quick[1])
    assert torch.equal(meanwhile(q, k, cos, sin)[0], own[0])  # whoever has kept it gets what the model has
    assert is_own()


def test_who_exchanges_the_function_too_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def other(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
        return 2 * q, 2 * k

    parts = KernelParts(tiny("qwen2"))
    with parts.taken():
        monkeypatch.setattr(modeling_qwen2, "apply_rotary_pos_emb", other)
    assert modeling_qwen2.apply_rotary_pos_emb is other
    with parts.taken():
        assert modeling_qwen2.apply_rotary_pos_emb is other
    assert counts(KernelParts(tiny("qwen2"))) == (2, 0)
    monkeypatch.setattr(modeling_qwen2, "apply_rotary_pos_emb", OWN)
    with parts.taken():
        assert modeling_qwen2.apply_rotary_pos_emb is not OWN
    assert modeling_qwen2.apply_rotary_pos_emb is OWN


def test_after_an_error_inside_the_model_is_its_own() -> None:
    model = tiny("qwen2")
    with pytest.raises(IndexError), KernelParts(model).taken():
        model(torch.tensor([[VOCABULARY + 5]]))
    assert modeling_qwen2.apply_rotary_pos_emb is OWN
    assert not any("forward" in vars(part) for part in model.modules())


def test_found_while_nothing_is_recorded() -> None:
    with torch.inference_mode():
        assert counts(KernelParts(tiny("llama"))) == (2, 1)


def test_without_the_kernels_nothing_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gruppo.rollout.parts.available", lambda dtype: False)
    assert counts(KernelParts(tiny("qwen2"))) == (0, 0)
