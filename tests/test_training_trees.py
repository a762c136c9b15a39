"""Trees against the padded way, which is the oracle: the same losses and gradients, on every shape and model."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from gruppo.training import head
from gruppo.training.logprobs import from_logits, token_logprobs, with_logits
from gruppo.training.losses import LossSettings
from gruppo.training.optimizers import MasterWeights
from gruppo.training.packing import Batch, Row, micro_batches
from gruppo.training.policy import LocalPolicy
from gruppo.training.recompute import recompute_activations
from gruppo.training.tree_attention import attending_by_trees
from gruppo.training.tree_gate import why_not_trees
from gruppo.training.tree_layout import Layout, Span
from gruppo.training.trees import grow, tree_batches
from models import VOCABULARY, Caught, distance, same_bits, tiny, weights

CPU = torch.device("cpu")
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
LLAMA = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "max_position_embeddings": 128, **HEADS}
WINDOW = {"sliding_window": 4}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {**LLAMA, "tie_word_embeddings": False}),
    "llama-yarn": (
        "Llama",
        {**LLAMA, "rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 10_000.0}},
    ),
    "qwen2": ("Qwen2", {**LLAMA, "tie_word_embeddings": True}),
    "qwen2-window": ("Qwen2", {**LLAMA, **WINDOW, "use_sliding_window": True, "max_window_layers": 1}),
    "qwen3": ("Qwen3", {**LLAMA, "head_dim": 8}),
    "qwen3-moe": (
        "Qwen3Moe",
        {**LLAMA, "head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
    ),
    "gemma": ("Gemma", {**LLAMA, "head_dim": 8}),
    "gemma2": ("Gemma2", {**LLAMA, "head_dim": 8, **WINDOW, "attn_logit_softcapping": 0.5}),
    "gemma2-capped": (
        "Gemma2",
        {**LLAMA, "head_dim": 8, **WINDOW, "attn_logit_softcapping": 0.5, "attn_implementation": "eager"},
    ),
    "gemma3": ("Gemma3", {**LLAMA, "head_dim": 8, **WINDOW}),
    "mistral": ("Mistral", {**LLAMA, "sliding_window": None}),
    "mistral-window": ("Mistral", {**LLAMA, **WINDOW}),
    "gpt2": ("GPT2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}),
    "gpt-oss": (
        "GptOss",
        {**LLAMA, "head_dim": 8, **WINDOW, "num_local_experts": 4, "num_experts_per_tok": 2},
    ),
    "cohere": ("Cohere", {**LLAMA, "logit_scale": 0.3}),
    "granite": ("Granite", {**LLAMA, "logits_scaling": 3.0, "attention_multiplier": 0.2}),
    "phi": ("Phi", {**LLAMA, "num_key_value_heads": 4}),
    "opt": (
        "OPT",
        {
            "hidden_size": 32,
            "ffn_dim": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 128,
            "word_embed_proj_dim": 32,
        },
    ),
    "deepseek-v3": (
        "DeepseekV3",
        {
            **LLAMA,
            "num_key_value_heads": 4,
            "q_lora_rank": 16,
            "kv_lora_rank": 16,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8,
            "v_head_dim": 12,
            "n_routed_experts": 4,
            "n_group": 1,
            "topk_group": 1,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 24,
            "first_k_dense_replace": 1,
        },
    ),
}
REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "stablelm": ("StableLm", LLAMA),
    "bloom": ("Bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "mpt": ("Mpt", {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 128}),
    "falcon": ("Falcon", {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}),
    "falcon-alibi": ("Falcon", {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "alibi": True}),
    "gptj": ("GPTJ", {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 8, "n_positions": 128}),
    "mamba": ("Mamba", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}),
    "qwen3-next": (
        "Qwen3Next",
        {
            **LLAMA,
            "head_dim": 8,
            "num_hidden_layers": 4,
            "linear_num_value_heads": 2,
            "linear_num_key_heads": 2,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "num_experts": 0,
        },
    ),
}


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits five tokens at a time, so that completions are cut."""
    monkeypatch.setattr(head, "FEWEST", 5)
    monkeypatch.setattr(head, "LOGITS", {"cpu": 1})


def model_of(kind: str, fields: dict[str, Any]) -> nn.Module:
    """Untrained, float32, evaluation mode, with biases and norms that are not their defaults."""
    common = {"vocab_size": VOCABULARY, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    config = getattr(transformers, f"{kind}TextConfig" if kind == "Gemma3" else f"{kind}Config")(**common, **fields)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        heads = "LMHeadModel" if kind == "GPT2" else "ForCausalLM"
        model = getattr(transformers, kind + heads)(config)
        for parameter in model.parameters():
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def adapted(model: nn.Module) -> nn.Module:
    """With LoRA whose second factors are not zero, so that gradients go everywhere."""
    settings = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        wrapped = get_peft_model(model, settings).eval()  # pyright: ignore[reportArgumentType]
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter.data, std=0.1)
    return wrapped


def groups_of(shapes: Sequence[tuple[int, Sequence[int]]], seed: int = 0, masked: bool = False) -> list[Row]:
    """Groups of (prompt length, completion lengths), each completion with an advantage and a weight of its own."""
    generator = np.random.default_rng(seed)
    rows: list[Row] = []
    for prompt, lengths in shapes:
        prompt_ids = tuple(int(t) for t in generator.integers(0, VOCABULARY, prompt))
        for length in lengths:
            mask = generator.random(length) < 0.6 if masked else np.ones(length, dtype=np.bool_)
            logprobs = -generator.random(length).astype(np.float32)
            ids = generator.integers(0, VOCABULARY, length)
            row = Row(prompt_ids, ids, mask, logprobs, float(generator.normal()), weight=float(generator.random()))
            rows.append(row)
    return rows


def random_shapes(seed: int) -> list[tuple[int, list[int]]]:
    """One to four prompts of 1 to 20 tokens with one to seven completions of 0 to 17."""
    generator = np.random.default_rng(seed)
    return [
        (int(generator.integers(1, 21)), generator.integers(0, 18, generator.integers(1, 8)).tolist())
        for _ in range(generator.integers(1, 5))
    ]


def settings(**changes: Any) -> LossSettings:
    return LossSettings(**{"temperature": 0.9, "max_length": 24, **changes})


def updated(
    model: nn.Module, rows: Sequence[Row], packing: str, budget: int = 60, loss: LossSettings | None = None
) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of one update; the reference is a step away from the policy."""
    loss = loss or settings()
    caught = Caught(MasterWeights(model))
    policy = LocalPolicy(model, caught, budget, reference=loss.beta > 0, packing=packing)
    assert bool(policy.why_padded) == (packing == "padded"), policy.why_padded
    if policy.reference is not None:
        policy.reference.load_state_dict({n: 1.05 * p.detach() for n, p in model.named_parameters() if p.requires_grad})
    stats = policy.update(Batch(tuple(rows)), loss, 1.0)
    assert stats.loss is not None
    return stats.loss, caught.gradients


def agree(model: nn.Module, rows: Sequence[Row], *, off: float, far: float, **options: Any) -> None:
    plain_loss, plain = updated(model, rows, "padded", **options)
    loss, gradients = updated(model, rows, "trees", **options)
    assert abs(loss - plain_loss) <= off * max(1.0, abs(plain_loss))
    assert max(float(g.abs().max()) for g in plain.values()) > 1e-4
    assert distance(gradients, plain) <= far


MIXED = [(9, [7, 1, 12, 12, 0, 3]), (1, [5, 5]), (14, [1]), (9, [17, 2])]


@pytest.mark.parametrize("name", MODELS)
def test_losses_and_gradients_are_those_of_padded_rows(name: str):
    model = model_of(*MODELS[name])
    for masked in (False, True):
        agree(model, groups_of(MIXED, masked=masked), off=1e-6, far=1e-5)


@pytest.mark.parametrize("seed", range(12))
def test_random_trees_in_double_precision(seed: int):
    model = tiny(("qwen2", "llama", "gpt2")[seed % 3]).double()
    rows = groups_of(random_shapes(seed), seed, masked=seed % 2 == 1)
    rows[0] = replace(rows[0], token_ids=np.array([3, 4]), mask=np.ones(2, bool), sampler_logprobs=np.zeros(2))
    # The loss is reported in float32, and the norms of Llama and Qwen2 compute in it.
    agree(model, rows, off=1e-7, far=1e-12 if seed % 3 == 2 else 1e-7, budget=(1000, 20, 60, 200)[seed % 4])


EDGES = {
    "one completion": [(6, [5])],
    "one token each": [(6, [1, 1, 1])],
    "a prompt of one token": [(1, [4, 9])],
    "an empty completion": [(5, [0, 6, 0])],
    "the longest allowed": [(64, [64, 64, 1])],
    "many of a kind": [(3, [4] * 16), (3, [4] * 16)],
}


@pytest.mark.parametrize("name", EDGES)
@pytest.mark.parametrize("family", ["qwen2", "llama", "gpt2"])
def test_the_edges(name: str, family: str):
    for budget in (1, 40, 4000):
        agree(tiny(family), groups_of(EDGES[name]), off=1e-6, far=1e-5, budget=budget)


@pytest.mark.parametrize("family", ["qwen2", "llama", "gpt2"])
def test_a_completion_without_loss_has_no_log_probs(family: str):
    rows = groups_of([(5, [0]), (5, [3])])
    rows[1] = replace(rows[1], mask=np.zeros(3, bool))
    policy = LocalPolicy(tiny(family), Caught(MasterWeights(tiny(family))), 60)
    assert not policy.why_padded
    assert [len(each) for each in policy.logprobs(rows, 1.0)] == [0, 0]


def test_equal_completions_each_count():
    rows = groups_of([(6, [5])])
    twins = [replace(rows[0], advantage=a) for a in (1.0, 0.5, 0.5)]
    agree(tiny(), twins, off=1e-6, far=1e-5)
    single = updated(tiny(), [replace(rows[0], advantage=2.0)], "trees")[1]
    assert distance(updated(tiny(), twins, "trees")[1], {n: g / 3 for n, g in single.items()}) <= 1e-5


LOSSES = [
    {"loss": "gspo", "updates_per_batch": 2},
    {"minibatches": 3},
    {"beta": 0.3},
    {"beta": 0.3, "kl_estimator": "exact"},
    {"aggregation": "sequences", "sampler_correction": "sequence_truncate"},
]


@pytest.mark.parametrize("changes", LOSSES, ids=lambda each: "-".join(map(str, each.values())))
def test_every_kind_of_loss(changes: dict[str, Any]):
    agree(tiny(), groups_of(MIXED, masked=True), off=1e-6, far=1e-5, loss=settings(**changes))


@pytest.mark.filterwarnings("ignore:fan_in_fan_out")
@pytest.mark.parametrize("name", ["qwen2", "llama", "gpt2", "gemma2"])
def test_adapters_and_recomputed_layers(name: str):
    rows = groups_of(MIXED)
    wrapped = adapted(model_of(*MODELS[name]))
    agree(wrapped, rows, off=1e-6, far=1e-5)
    plain = updated(wrapped, rows, "trees")[1]
    for model, expected in ((wrapped, plain), (model_of(*MODELS[name]), None)):
        copy = deepcopy(model)
        recompute_activations(copy)  # pyright: ignore[reportArgumentType]
        found = updated(copy, rows, "trees")[1]
        assert distance(found, expected or updated(model, rows, "trees")[1]) <= 1e-6


@pytest.mark.parametrize("name", ["qwen2", "mistral-window", "gemma2", "gpt2"])
def test_bfloat16_is_as_near_to_float32_as_padded_rows_are(name: str):
    """Both round: their log-probs lie within 0.1 of float32's, and the trees' gradient no farther than 1.2 times."""
    exact, rows = model_of(*MODELS[name]), groups_of(MIXED)
    model = deepcopy(exact).bfloat16()
    exact.load_state_dict(model.state_dict())
    _, expected = updated(exact, rows, "padded")
    far = {
        packing: distance(_floats(updated(deepcopy(model), rows, packing)[1]), expected)
        for packing in ("padded", "trees")
    }
    assert far["trees"] <= 1.2 * far["padded"]
    assert far["trees"] < 0.06


def _floats(gradients: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: gradient.float() for name, gradient in gradients.items()}


@pytest.mark.parametrize("name", REFUSED)
def test_models_that_would_be_silently_wrong_keep_padded_rows(name: str):
    kind, fields = REFUSED[name]
    model = model_of(kind, fields)
    why = why_not_trees(model)
    assert kind.lower() in why.lower(), why
    policy = LocalPolicy(model, Caught(MasterWeights(model)), 60)
    assert policy.why_padded == why
    assert policy.update(Batch(tuple(groups_of(MIXED))), settings(), 1.0).stepped


@pytest.mark.parametrize("name", REFUSED)
def test_the_trial_alone_finds_them_too(name: str, monkeypatch: pytest.MonkeyPatch):
    """What a class says of itself may be wrong one day; the two small trees don't ask."""
    model = model_of(*REFUSED[name])
    monkeypatch.setattr(type(model), "_supports_attention_backend", True)
    assert why_not_trees(model) != ""


def test_a_model_with_a_mixing_of_its_own_is_found_by_its_numbers():
    """All layers hand over their attention, and yet each token's embedding leaks into the next one's."""
    model = tiny()
    assert why_not_trees(model) == ""
    model.get_input_embeddings().register_forward_hook(lambda _m, _i, out: out + 0.1 * out.roll(1, dims=1))
    assert "Qwen2ForCausalLM gives other logits for a tree" in why_not_trees(model)


def test_the_model_is_left_as_it_came():
    model, rows = tiny(), groups_of(MIXED)
    ids = torch.tensor([[5, 9, 2, 8]])
    before = model(input_ids=ids, attention_mask=torch.tensor([[0, 1, 1, 1]])).logits
    held = weights(model)
    updated(model, rows, "trees")
    assert model.config._attn_implementation == "sdpa"
    assert torch.equal(model(input_ids=ids, attention_mask=torch.tensor([[0, 1, 1, 1]])).logits, before)
    assert same_bits(weights(model), held)
    with attending_by_trees(model), pytest.raises(ValueError, match="wants a row of trees"):
        model(input_ids=ids)


def test_the_same_rows_give_the_same_bits():
    rows = groups_of(MIXED, masked=True)
    assert same_bits(updated(tiny(), rows, "trees")[1], updated(tiny(), rows, "trees")[1])


def test_a_row_is_laid_out_as_documented():
    def row(prompt: tuple[int, ...], tokens: list[int], mask: list[int], advantage: float) -> Row:
        logprobs = -np.arange(len(tokens), dtype=np.float32)
        return Row(prompt, np.array(tokens), np.array(mask, dtype=bool), logprobs, advantage, weight=advantage / 2)

    rows = [
        row((1, 2, 3), [4, 5, 6], [1, 1, 1], 2.0),
        row((9,), [8], [1], -1.0),
        row((1, 2, 3), [7, 8, 9, 10], [1, 0, 1, 0], 3.0),
    ]
    (batch,) = tree_batches(rows, 100, CPU)
    assert batch.input_ids.tolist() == [[1, 2, 3, 4, 5, 7, 8, 9]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4, 3, 4, 0]]
    assert batch.layout.spans == (Span(0, 3, (2, 2)), Span(7, 1, (0,)))
    assert batch.logit_places.tolist() == [2, 3, 4, 2, 6, 7]
    assert batch.numbers == (0, 2, 1)
    wanted = batch.loss_tokens
    assert wanted.targets.tolist() == [4, 5, 6, 7, 9, 8]
    assert wanted.completion.tolist() == [0, 0, 0, 1, 1, 2]
    assert wanted.sampler_logprobs.tolist() == [0, -1, -2, 0, -2, 0]
    assert wanted.advantages.tolist() == [2, 2, 2, 3, 3, -1]
    assert wanted.weights.tolist() == [1, 1, 1, 1.5, 1.5, -0.5]


def test_trees_keep_to_the_budget_and_lose_no_completion():
    rows = groups_of([(10, [6, 6, 6, 6]), (2, [3, 3]), (30, [40])])
    sizes = {budget: [len(tree) for tree in grow(rows, budget)] for budget in (1, 20, 25, 1000)}
    assert sizes == {
        1: [15, 15, 15, 15, 4, 4, 69],
        20: [20, 20, 6, 69],
        25: [25, 15, 6, 69],
        1000: [30, 6, 69],
    }
    for budget in (1, 20, 31, 1000):
        batches = list(tree_batches(rows, budget, CPU))
        assert sorted(n for batch in batches for n in batch.numbers) == list(range(7))
    assert [batch.input_ids.shape[1] for batch in tree_batches(rows, 31, CPU)] == [69, 30, 6]
    assert [batch.input_ids.shape[1] for batch in tree_batches(rows, 36, CPU)] == [69, 36]


def test_the_mask_of_a_tree():
    layout = Layout((Span(0, 2, (2, 1)),))
    literal = [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 0, 0, 1]]
    assert layout.mask(0, None, CPU).int().tolist() == literal
    windowed = [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 1, 1, 0], [0, 1, 0, 0, 1]]
    assert layout.mask(0, 2, CPU).int().tolist() == windowed


def test_only_tokens_that_can_move_the_weights_are_read():
    """A group without signal is no work without a penalty, and counts in the normaliser all the same."""
    rows = groups_of([(9, [7, 4]), (50, [20, 20])])
    rows = [replace(row, advantage=0.0, has_signal=False) if i > 1 else row for i, row in enumerate(rows)]
    model, read = tiny(), list[int]()
    with_silent, alone = (updated(model, each, "trees")[1] for each in (rows, rows[:2]))
    assert distance(with_silent, {n: g * 11 / 51 for n, g in alone.items()}) <= 1e-6
    policy = LocalPolicy(model, Caught(MasterWeights(model)), 1000)
    model.get_input_embeddings().register_forward_hook(lambda _m, _i, out: read.append(out.shape[1]))
    policy.update(Batch(tuple(rows)), settings(), 1.0)
    assert read == [9 + 6 + 3]


def test_log_probs_of_a_tree_are_those_of_each_row():
    model, rows = tiny(), groups_of(MIXED, masked=True)
    expected = {micro.numbers[0]: token_logprobs(model, micro, 0.8) for micro in micro_batches(rows, 1, CPU)}
    (batch,) = tree_batches(rows, 1000, CPU)
    with attending_by_trees(model):
        found = token_logprobs(model, batch, 0.8)
    for name in ("logprobs", "entropy"):
        whole = torch.cat([getattr(expected[number], name) for number in batch.numbers])
        torch.testing.assert_close(getattr(found, name), whole, atol=2e-5, rtol=0)


def test_pieces_cover_every_token_once_and_keep_completions_whole_where_asked():
    completion = torch.tensor([0] * 3 + [1] * 4 + [3] * 9 + [4])
    assert head.pieces(completion, 1) == [slice(0, 5), slice(5, 10), slice(10, 15), slice(15, 17)]
    assert head.pieces(completion, 1, whole=True) == [slice(0, 3), slice(3, 7), slice(7, 16), slice(16, 17)]
    assert head.pieces(completion[:0], 1) == head.pieces(completion[:0], 1, whole=True) == []


def test_the_size_of_a_piece_is_by_the_vocabulary(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(head, "FEWEST", 4)
    monkeypatch.setattr(head, "LOGITS", {"cpu": 60})
    completion = torch.zeros(20, dtype=torch.long)
    assert [part.stop for part in head.pieces(completion, 10)] == [6, 12, 18, 20]
    assert [part.stop for part in head.pieces(completion, 30)] == [4, 8, 12, 16, 20]


def test_figures_in_one_pass_are_those_of_torchs_operators():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 40, generator=generator) * 3
    logits[0, 1], targets = float("-inf"), torch.tensor([0, 39, 5, 5, 7, 1])
    pulled, found = [], []
    for figures in (with_logits, from_logits):
        leaf = logits.clone().requires_grad_()
        result = figures(leaf * 1.0, targets, 0.7)
        (gradient,) = torch.autograd.grad((result.logprobs * torch.arange(6.0)).sum(), leaf)
        pulled.append(gradient)
        found.append(result)
    torch.testing.assert_close(found[1].logprobs, found[0].logprobs, atol=2e-6, rtol=1e-6)
    torch.testing.assert_close(found[1].entropy[1:], found[0].entropy[1:], atol=5e-6, rtol=0)
    assert torch.isfinite(found[1].entropy).all()
    torch.testing.assert_close(pulled[1], pulled[0], atol=1e-6, rtol=1e-6)
