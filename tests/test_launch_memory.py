"""What fits: the arithmetic by a table, activations against what autograd keeps, and what a resumed run keeps to."""

from pathlib import Path
from typing import Any

import pytest
import torch

from gruppo.launch.memory import MOST_ROWS, Sizes, activation_bytes, live_rows, settled, training_bytes
from gruppo.monitor.run_folder import RunFolder
from gruppo.training.packing import default_token_budget
from models import FAMILIES, tiny

GB = 10**9
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SMALL = Sizes(layers=24, hidden=896, inner=4864, kv=2 * 2 * 64, vocabulary=151_936, bytes=2)
"""Qwen2.5-0.5B in bfloat16."""


def test_bytes_of_a_token_and_of_a_training():
    layer = 8 * 896 + 4 * 4864 + 256
    assert activation_bytes(SMALL, recomputed=False, all_logits=False) == 24 * layer * 2
    assert activation_bytes(SMALL, recomputed=True, all_logits=False) == (24 * 896 + layer) * 2
    assert activation_bytes(SMALL, recomputed=False, all_logits=True) == 24 * layer * 2 + 12 * 151_936
    assert training_bytes(1000, "float32", "adamw", reference=False) == 1000 * (4 + 8)
    assert training_bytes(1000, "bfloat16", "adamw_8bit", reference=True) == 1000 * (4 + 4 + 2 + 2)


@pytest.mark.parametrize(
    ("device", "vocabulary", "free", "token", "prompt", "budget"),
    [
        (CUDA, 456, None, 1, 0, 16_384),
        (CUDA, 151_936, None, 1, 0, 883),  # x 151,936 x 4 bytes = 0.5 GiB
        (CUDA, 151_936, 60 * GB, 1_290_000, 0, 16_384),
        (CUDA, 151_936, 20 * GB, 1_290_000, 0, 7751),
        (CUDA, 151_936, 0, 1_290_000, 0, 256),
        (CPU, 456, None, 1, 0, 2_048),
        (CPU, 456, 100 * GB, 1_000_000, 0, 2_048),
        (CPU, 456, 2 * GB, 1_000_000, 0, 1000),
        (CPU, 151_936, 100 * GB, 1_000_000, 0, 883),
        (CPU, 10**9, None, 1, 0, 256),
        (CPU, 456, 100 * GB, 1_000_000, 1_000, 2_048),
        (CPU, 456, 100 * GB, 1_000_000, 2_048, 4_096),
        (CPU, 151_936, 100 * GB, 1_000_000, 600, 1_200),
        (CPU, 456, 5 * GB, 1_000_000, 2_048, 2_500),
        (CUDA, 456, None, 1, 10_000, 20_000),
    ],
)
def test_the_token_budget(
    device: torch.device, vocabulary: int, free: int | None, token: int, prompt: int, budget: int
):
    assert default_token_budget(vocabulary, device, free, token, prompt, hidden=65) == budget


def test_a_narrow_model_takes_twice_the_tokens_on_a_cpu():
    assert default_token_budget(456, CPU, hidden=64) == 4_096
    assert default_token_budget(2**16, CPU, hidden=64) == 2_048  # as many as have half a gibibyte of logits
    assert default_token_budget(456, CPU, 2 * GB, 1_000_000, hidden=64) == 1_000
    assert default_token_budget(456, CUDA, hidden=64) == 16_384


@pytest.mark.parametrize(
    ("free", "longest", "rows"),
    [
        (None, 10**6, MOST_ROWS),
        (60 * GB, 1024, 256),
        (10 * GB, 8192, 37 // 8 * 8),  # 0.4 x 10 GB / (8192 x 24 x 256 x 2 + 16 x 151,936)
        (GB, 8192, 3),
        (0, 8192, 1),
    ],
)
def test_the_rows_that_decode_together(free: int | None, longest: int, rows: int):
    assert live_rows(free, SMALL, longest) == rows


def kept_per_token(model: Any) -> float:
    """Bytes that autograd keeps of a forward pass, more with each token."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def kept(tokens: int) -> int:
        held: dict[int, torch.Tensor] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            held[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model(input_ids=torch.arange(tokens)[None] % 50, use_cache=False, logits_to_keep=1)
        return sum(t.untyped_storage().nbytes() for place, t in held.items() if place not in weights)

    return (kept(100) - kept(20)) / 80


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_activations_are_what_autograd_keeps(family: str, dtype: torch.dtype):
    settings = {} if family == "gpt2" else {"hidden_size": 128, "intermediate_size": 512}
    model: Any = tiny(family, attn_implementation="sdpa", **settings).to(dtype)  # pyright: ignore
    found = activation_bytes(Sizes.of(model, 61), recomputed=False, all_logits=False)
    assert 0.8 < found / kept_per_token(model) < 1.5


def test_sizes_of_other_families():
    assert Sizes.of(tiny("gpt2"), 61) == Sizes(2, 32, 128, 64, 61, 4)
    assert Sizes.of(tiny("llama"), 61) == Sizes(2, 32, 48, 2 * 2 * 8, 61, 4)


def test_a_run_that_goes_on_keeps_its_numbers_while_half_of_them_fits(tmp_path: Path):
    assert settled("micro_batch_tokens", 900, None) == 900
    with RunFolder.open(tmp_path, {"a": 1}):
        pass
    assert settled("micro_batch_tokens", 1000, tmp_path) == 1000
    assert settled("max_live_completions", 40, tmp_path) == 40
    assert settled("micro_batch_tokens", 5000, tmp_path) == 1000
    assert settled("micro_batch_tokens", 500, tmp_path) == 1000
    assert settled("micro_batch_tokens", 499, tmp_path) == 499
    assert settled("micro_batch_tokens", 900, tmp_path) == 499
    facts = RunFolder(tmp_path).read_environment()
    assert facts["memory"] == {"micro_batch_tokens": 499, "max_live_completions": 40}
    assert "versions" in facts
