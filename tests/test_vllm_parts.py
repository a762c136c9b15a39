"""What stands around vLLM and needs none of it: exported weights, the probe, the config's refusals, the extra."""

import math
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from gruppo.config.schema import Config
from gruppo.errors import ConfigError, EngineError
from gruppo.launch.build import check_packages
from gruppo.rollout.engine import RolloutEngine
from gruppo.rollout.local import LocalEngine
from gruppo.rollout.vllm import settings as settings_module
from gruppo.rollout.vllm.receiver import WeightReceiver
from gruppo.rollout.vllm.requests import Drawn, completions_of, probe_prompts, sampling_fields
from gruppo.rollout.vllm.server import is_local
from gruppo.rollout.vllm.settings import VLLMSettings
from gruppo.training.export import exported_weights
from gruppo.training.models import add_lora, load_model, save_model
from gruppo.training.optimizers import adamw
from gruppo.training.policy import LocalPolicy
from gruppo.training.weight_sync import ParityRule, Published, publish
from gruppo.types import Completion, GroupRequest, SamplingParams, TensorStream
from models import Letters, request, tiny
from vllm_standin import STATE

# ---- weights


@pytest.mark.parametrize("rank", [0, 4])
def test_exported_weights_are_those_of_the_saved_model(tiny_model: Path, tmp_path: Path, rank: int) -> None:
    loaded = load_model(str(tiny_model), "float32", torch.device("cpu"))
    if rank:
        loaded = add_lora(loaded, rank, 8.0, ("all-linear",), seed=0)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    exported = dict(exported_weights(loaded.model))
    save_model(loaded, tmp_path / "model")
    saved = load_file(tmp_path / "model" / "model.safetensors")
    assert exported.keys() == saved.keys() | {"lm_head.weight"}  # tied: under both names
    assert exported["lm_head.weight"].data_ptr() == exported["model.embed_tokens.weight"].data_ptr()
    assert max(float((exported[name] - tensor).abs().max()) for name, tensor in saved.items()) < 1e-7
    original = load_file(tiny_model / "model.safetensors")
    moved = "model.layers.0.mlp.up_proj.weight"
    assert float((exported[moved] - original[moved]).abs().max()) > 0.01


class Worker(WeightReceiver):
    """vLLM's worker, as far as the receiver asks."""

    def __init__(self, *, fails: bool = False) -> None:
        self.loaded: dict[str, torch.Tensor] = {}
        self._fails = fails

    def reload_weights(self, weights_iterator: Any) -> None:
        self.loaded = dict(weights_iterator)
        if self._fails:
            raise RuntimeError("in the middle")


def test_the_receiver_reads_a_tied_tensor_under_both_names(tmp_path: Path) -> None:
    path = str(tmp_path / "w.safetensors")
    named = {"gruppo_owner": "me", "gruppo_version": "3", "gruppo_tied": '{"lm_head.weight": "embed.weight"}'}
    save_file({"embed.weight": torch.arange(3.0)}, path, metadata=named)
    worker = Worker()
    worker.gruppo_read(path, "me", "3", "2")
    assert worker.loaded["lm_head.weight"].tolist() == [0.0, 1.0, 2.0]
    assert worker.gruppo_held == {"owner": "me", "version": 3, "tensors": 2}
    with pytest.raises(ValueError, match="holds version 3, wanted 4"):
        worker.gruppo_read(path, "me", "4", "2")
    with pytest.raises(ValueError, match="2 tensors came, 5 were announced"):
        worker.gruppo_read(path, "me", "3", "5")
    assert worker.gruppo_held is None


def test_a_load_that_breaks_off_leaves_no_version() -> None:
    worker = Worker(fails=True)
    worker.gruppo_held = {"owner": "me", "version": 1, "tensors": 1}
    with pytest.raises(RuntimeError):
        worker.gruppo_take(iter([("a", torch.ones(1))]), "me", 2, 1)
    assert worker.gruppo_held is None


# ---- the probe


class Copy(RolloutEngine):
    """An engine with a copy of the weights, which may leave a load out."""

    separate = True
    probe_prompts = ((1, 2, 3, 4, 5), (6, 7))

    def __init__(self) -> None:
        self.model = tiny("llama", seed=9)
        self.local = LocalEngine(self.model, Letters())
        self.forgets = False

    def submit(self, request: GroupRequest) -> None:
        self.local.submit(request)

    def completed(self) -> Generator[Completion, None, None]:
        return self.local.completed()

    def load_weights(self, tensors: TensorStream, version: int) -> None:
        self.local.load_weights(iter([]) if self.forgets else tensors, version)


@pytest.fixture
def pair() -> tuple[LocalPolicy, Copy]:
    model = tiny("llama", seed=1)
    config = Config(model="m", data="d")
    return LocalPolicy(model, adamw(model, config, 1e-3), 4096), Copy()


def test_the_probe_tells_whether_the_engine_has_the_weights(pair: tuple[LocalPolicy, Copy]) -> None:
    policy, engine = pair
    for temperature in (0.7, 1.0, 1.5):
        published = publish(policy, engine, ParityRule(temperature, 2e-5))
        assert published.version == 0
        assert published.difference is not None
        assert published.difference <= 2e-6
    engine.forgets = True
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.mul_(1.05)
    with pytest.raises(EngineError, match=r"nats from the trainer's on the same tokens, at most 0\.0002 are taken"):
        publish(policy, engine, ParityRule(1.0, 2e-4))
    corrected = publish(policy, engine, ParityRule(1.0, 2e-4, corrected=True))
    assert corrected.difference is not None
    assert corrected.difference > 0.01


def test_log_probs_that_are_no_numbers_are_refused(pair: tuple[LocalPolicy, Copy]) -> None:
    policy, engine = pair
    publish(policy, engine, ParityRule(1.0, 2e-4))
    policy.logprobs = lambda rows, temperature: [torch.full((16,), math.nan) for _ in rows]  # pyright: ignore
    with pytest.raises(EngineError, match="up to nan nats"):
        publish(policy, engine, ParityRule(1.0, 2e-4))


def test_the_local_engine_is_not_probed() -> None:
    model = tiny("llama")
    policy = LocalPolicy(model, adamw(model, Config(model="m", data="d"), 1e-3), 4096)
    assert publish(policy, LocalEngine(model, Letters()), ParityRule(1.0, 0.0)) == Published(0, None)


def test_the_long_probe_is_longer_than_a_block() -> None:
    long, short = probe_prompts(STATE)
    assert len(long) == 40
    assert len(short) == 5
    assert max(long) < 61
    cramped, _ = probe_prompts(STATE | {"context_length": 48})
    assert len(cramped) == 16


# ---- requests


def test_the_fields_of_a_request() -> None:
    sampling = SamplingParams(temperature=0.7, max_completion_length=9, stop_token_ids=(3,), stop=("x",))
    fields = sampling_fields(request((1, 2), sampling, group_size=4, seed=7))
    assert {name: fields[name] for name in ("n", "temperature", "max_tokens", "stop", "stop_token_ids", "top_p")} == {
        "n": 4, "temperature": 0.7, "max_tokens": 9, "stop": ["x"], "stop_token_ids": [3], "top_p": 1.0
    }  # fmt: skip
    assert 0 <= fields["seed"] < 2**62
    assert fields["seed"] != sampling_fields(request((1, 2), sampling, seed=8))["seed"]
    assert fields["seed"] != sampling_fields(request((1, 2), sampling, seed=7, problem_id="q"))["seed"]


@pytest.mark.parametrize(
    ("drawn", "told"),
    [
        (Drawn([1, 2, 3], [-1.0, -1.0], "stop"), "returned 3 tokens with 2 log-probs"),
        (Drawn([], [], "stop"), "returned 0 tokens"),
        (Drawn([1] * 5, [-1.0] * 5, "length"), "asked for 1 to 4"),
        (Drawn([1], [math.nan], "stop"), "logits are not finite"),
        (Drawn([1], [-1.0], "abort"), "for the reason 'abort'"),
    ],
)
def test_samples_that_were_not_asked_for(drawn: Drawn, told: str) -> None:
    asked = request((1,), SamplingParams(max_completion_length=4))
    with pytest.raises(EngineError, match=told):
        completions_of(asked, [drawn], 0)
    with pytest.raises(EngineError, match="returned 2 samples, asked for 1"):
        completions_of(asked, [Drawn([1], [-1.0], "stop")] * 2, 0)
    (right,) = completions_of(asked, [Drawn([1, 2], [-1.0, -2.0], "length")], 6)
    assert (right.version, right.finish_reason, right.mask.tolist()) == (6, "length", [True, True])
    assert right.sampler_logprobs.dtype == np.float32


# ---- the config and the extra


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({"vllm_url": "launch"}, "vllm_url: got launch with engine local"),
        ({"engine": "vllm", "vllm_url": "localhost:8000"}, "wanted launch, or http://host:port"),
        ({"engine_memory": 0.5}, "engine_memory: got 0.5, but it is for a vLLM that the run starts"),
        ({"engine": "vllm", "vllm_url": "http://h:1", "engine_memory": 0.5}, "engine_memory: got 0.5"),
        ({"engine": "vllm", "top_p": 0.9}, "not of the whole vocabulary"),
        ({"engine": "vllm", "quantize": "4bit", "lora_rank": 4}, "rounded otherwise than the trainer's"),
    ],
)
def test_words_that_can_not_stand_together(words: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        Config(model="m", data="d", **words)


def test_vllm_that_is_not_installed_is_asked_for_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings_module, "installed_version", lambda: None)
    config = Config(model="m", data="d", engine="vllm")
    with pytest.raises(ConfigError, match=r"engine: vllm needs .* install it: `pip install 'gruppo\[vllm\]'`"):
        check_packages(config)
    check_packages(Config(model="m", data="d", engine="vllm", vllm_url="http://elsewhere:8000"))
    monkeypatch.setattr(settings_module, "installed_version", lambda: "0.20.1")
    with pytest.raises(ConfigError, match=r"vLLM 0\.20\.1 is not supported; wanted 0\.29 or newer, below 0\.34"):
        check_packages(config)


def test_models_that_vllm_would_load_wrong() -> None:
    cpu = VLLMSettings(Path("m"))
    with pytest.raises(EngineError, match="heads of a qwen2 model"):
        cpu.check_model(tiny("qwen2", head_dim=32).config)
    with pytest.raises(EngineError, match="no attention for heads of 8"):
        cpu.check_model(tiny("llama").config)
    cpu.check_model(tiny("llama", head_dim=32).config)


def test_the_flags_of_a_server() -> None:
    flags = VLLMSettings(Path("m"), context_length=9000).flags
    assert flags[:2] == ["--model", "m"]
    assert "--no-enable-chunked-prefill" in flags
    assert flags[flags.index("--max-num-batched-tokens") + 1] == "9000"  # a prompt is never split
    gpu = VLLMSettings(Path("m"), device="cuda", memory=0.3)
    assert gpu.flags[-2:] == ["--gpu-memory-utilization", "0.3"]
    assert "VLLM_CPU_KVCACHE_SPACE" not in gpu.environment
    assert VLLMSettings(Path("m"), memory=3.0).environment["VLLM_CPU_KVCACHE_SPACE"] == "3"


def test_what_is_this_machine() -> None:
    local = [is_local(f"http://{host}:1") for host in ("127.0.0.1", "localhost", "[::1]", "10.0.0.1", "node")]
    assert local == [True, True, True, False, False]
