"""What the config says about the optimizer, the adapter and recomputation arrives in the weights of a run."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from gruppo.launch.build import Workbench, loss_settings
from gruppo.monitor.progress import SilentProgress
from gruppo.monitor.run_folder import RunFolder
from gruppo.rollout.local import LocalEngine
from gruppo.training.optimizers import build_optimizers
from gruppo.types import GroupRequest, SamplingParams
from models import same_bits
from test_launch_pipeline import config, digits, train


def weights_after(model: Path, problems: Path, out: Path, **changes: Any) -> dict[str, torch.Tensor]:
    """Of a run of three steps of GRPO alone, unless the changes say otherwise."""
    values: dict[str, Any] = {"steps": 3, "sft": None, "eval": None, "lr_schedule": "constant", "warmup_ratio": 0.0}
    settings = config(model, problems, out, **{**values, **changes})
    return load_file(train(settings).model / "model.safetensors")


def norm(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    """L2 norm of the difference."""
    return sum(float((first[name] - second[name]).square().sum()) for name in second) ** 0.5


def test_each_optimizer_ends_elsewhere(tiny_model: Path, problems_file: Path, tmp_path: Path):
    pytest.importorskip("bitsandbytes", reason="the extra [quant] is not installed")
    ends = {
        name: weights_after(tiny_model, problems_file, tmp_path / name, optimizer=name)
        for name in ("adamw", "adamw_8bit", "muon")
    }
    start = load_file(tiny_model / "model.safetensors")
    way = norm(ends["adamw"], start)
    apart = {name: norm(end, ends["adamw"]) / way for name, end in ends.items()}
    assert apart["adamw"] == 0.0
    assert 0.02 < apart["adamw_8bit"] < 0.1
    assert apart["muon"] > 0.5
    faster = weights_after(tiny_model, problems_file, tmp_path / "fast", optimizer="muon", muon_learning_rate=0.02)
    assert not same_bits(faster, ends["muon"])


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_recomputing_activations_changes_no_bit(tiny_model: Path, problems_file: Path, tmp_path: Path, lora_rank: int):
    ends = [
        weights_after(
            tiny_model, problems_file, tmp_path / str(on), gradient_checkpointing=on, lora_rank=lora_rank, beta=0.1
        )
        for on in (False, True)
    ]
    assert same_bits(*ends)


def test_rslora_scales_the_update(tiny_model: Path, problems_file: Path, tmp_path: Path):
    ends = [
        weights_after(tiny_model, problems_file, tmp_path / str(on), rslora=on, lora_rank=16, steps=1)
        for on in (False, True)
    ]
    start = load_file(tiny_model / "model.safetensors")
    moved = [norm(end, start) for end in ends]
    assert moved[1] / moved[0] == pytest.approx(4.0, rel=0.01)  # sqrt(16): AdamW's first step doesn't feel the scale


@pytest.mark.parametrize("plain", [False, True])
def test_the_plain_way_is_one_option(tiny_model: Path, problems_file: Path, tmp_path: Path, plain: bool):
    bench = Workbench(config(tiny_model, problems_file, tmp_path, plain=plain), str(tiny_model), {}, SilentProgress())
    policy = bench.policy(build_optimizers(bench.loaded.model, bench.config, 1e-3))
    assert policy.why_padded == ("packing: padded" if plain else "")
    prompt = GroupRequest(0, "p", (5, 6, 7), 2, SamplingParams(max_completion_length=4), 0)
    bench.engine.generate([prompt])
    assert isinstance(bench.engine, LocalEngine)
    assert (bench.engine.stats.decode_steps == 0) == plain  # waves count none


def test_the_plain_way_never_changes_the_update_but_for_rounding(tiny_model: Path, problems_file: Path, tmp_path: Path):
    ends = [
        weights_after(tiny_model, problems_file, tmp_path / str(plain), plain=plain, steps=1, beta=0.1)
        for plain in (False, True)
    ]
    assert 0 < norm(*ends) < 1e-4 * norm(ends[0], load_file(tiny_model / "model.safetensors"))


def test_batch_invariance_reaches_the_engine(
    tiny_model: Path, problems_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    tried: list[bool] = []
    monkeypatch.setattr("gruppo.rollout.local.find_rows_step", lambda model: tried.append(True) or 4)
    for on in (True, False):
        weights_after(tiny_model, problems_file, tmp_path / str(on), steps=1, batch_invariant=on)
    assert tried == [True]


def test_rollouts_in_another_precision_leave_evaluations_as_they_are(
    tiny_model: Path, problems_file: Path, tmp_path: Path
):
    said: list[str] = []
    observer = SilentProgress()
    observer.note = said.append  # pyright: ignore[reportAttributeAccessIssue]
    settings = config(tiny_model, problems_file, tmp_path, rollout_precision="bfloat16")
    bench = Workbench(settings, str(tiny_model), {"digits": digits}, observer)
    problems = bench.problems(settings.data_paths, settings, "train", 8)
    assert settings.eval is not None
    bench.evaluator(settings.eval, problems, None)
    assert not [line for line in said if line.startswith("rollouts in")]
    assert bench.collector.engine is bench.rollout_engine
    assert bench.rollout_engine is not bench.engine
    assert said[-1] == (
        "rollouts in bfloat16 on a copy of the weights, the update in float32; corrected by sampler_correction "
        "token_truncate"
    )
    assert loss_settings(settings).sampler_correction == "token_truncate"


def test_what_is_found_from_memory_is_said_and_kept(
    tiny_model: Path, problems_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    said: list[str] = []
    observer = SilentProgress()
    observer.note = said.append  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setattr("gruppo.launch.memory.available_memory", lambda: 177_472 * 12 + 30_000_000)
    settings = config(tiny_model, problems_file, tmp_path / "run", steps=1, sft=None, eval=None)
    result = train(settings, observer=observer)
    # A layer of the demo's model keeps 8 x 64 + 4 x 256 + 128 numbers; a row has 13 + 8 tokens, 2 x 128 numbers each.
    budget, rows = 15_000_000 // (2 * 1664 * 4), 256
    assert [line for line in said if "GB are free" in line] == [
        f"micro_batch_tokens: {budget} (0.03 GB are free, 0.013 MB a token)",
        f"max_live_completions: {rows} (0.03 GB are free, up to 21 tokens each)",
    ]
    found = RunFolder(result.folder).read_environment()["memory"]
    assert found == {"micro_batch_tokens": budget, "max_live_completions": rows}
