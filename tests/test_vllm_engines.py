"""vLLM itself, colocated and as a server: parity, sabotage, training, failures. Skipped where it is not installed."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import gruppo
from gruppo.data.chat import ChatRenderer
from gruppo.demo.model import as_llama
from gruppo.errors import EngineError
from gruppo.launch.engines import build_engine
from gruppo.rollout.engine import RolloutEngine
from gruppo.rollout.local import LocalEngine
from gruppo.rollout.vllm import settings as settings_module
from gruppo.rollout.vllm.receiver import WeightReceiver
from gruppo.rollout.vllm.settings import installed_version
from gruppo.training import policy as policy_module
from gruppo.training.models import LoadedModel, add_lora, load_model, save_model
from gruppo.training.optimizers import adamw
from gruppo.training.policy import LocalPolicy
from gruppo.training.weight_sync import ParityRule, probe, publish
from gruppo.types import SamplingParams
from models import request
from vllm_sabotage import NAME, VARIABLE, lying

pytestmark = [
    pytest.mark.skipif(installed_version() is None, reason="vllm is not installed here: `make test-vllm` installs it"),
    pytest.mark.slow,
]

RULE = ParityRule(temperature=1.0, limit=2e-5)
FORMS = (None, "launch")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """The demo's untrained model as a llama."""
    return as_llama(tiny_model, tmp_path_factory.mktemp("llama") / "model")


class Side:
    """A trainer's policy and a vLLM beside it."""

    def __init__(self, model: Path, folder: Path, url: str | None) -> None:
        self.config = gruppo.Config(model=str(model), data="none", engine="vllm", vllm_url=url)
        self.loaded: LoadedModel = load_model(str(model), "float32", torch.device("cpu"))
        self.renderer = ChatRenderer(self.loaded.tokenizer)
        self.notes: list[str] = []
        self.wish = folder / "sabotage"
        self.wish.write_text("")
        self.engine: RolloutEngine = build_engine(
            self.config, self.loaded, torch.device("cpu"), self.renderer, 256, self.notes.append, folder
        )
        self.policy = LocalPolicy(self.loaded.model, adamw(self.loaded.model, self.config, 1e-3), 4096)

    def move(self, seed: int, size: float = 0.01) -> None:
        """An update, as far as the engine can tell."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.loaded.model.parameters():
                parameter.add_(size * torch.randn(parameter.shape, generator=generator))
        self.policy.version += 1


@pytest.fixture(scope="module", params=FORMS, ids=["colocated", "server"])
def side(request: pytest.FixtureRequest, llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Side]:
    folder = tmp_path_factory.mktemp("vllm")
    with pytest.MonkeyPatch.context() as patch:
        if request.param is not None:
            patch.setattr(settings_module, "RECEIVER", NAME)
            patch.setenv(VARIABLE, str(folder / "sabotage"))
            patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        found = Side(llama, folder, request.param)
    try:
        yield found
    finally:
        found.engine.close()


def test_log_probs_after_each_of_twenty_updates(side: Side) -> None:
    worst = 0.0
    for update in range(20):
        side.move(update)
        publish(side.policy, side.engine, RULE)
        for temperature in (0.7, 1.0, 1.5):
            worst = max(worst, probe(side.policy, side.engine, temperature) or 0.0)
    assert 0.0 < worst <= 2e-5


def test_completions_are_those_that_were_asked_for(side: Side) -> None:
    """Lengths, stop tokens, versions; and the same again, whatever else is asked for beside it."""
    publish(side.policy, side.engine, RULE)
    sampling = SamplingParams(max_completion_length=30, stop_token_ids=(7, 9, 11, 13, 200, 201, 202))
    asked = [request(range(20, 60 + i), sampling, id=i, group_size=3, seed=5) for i in range(6)]
    found = side.engine.generate(asked)
    for completion in (c for group in found for c in group):
        tokens = completion.token_ids.tolist()
        stopped = [t for t in tokens if t in sampling.stop_token_ids]
        assert completion.version == side.policy.version
        assert (stopped == tokens[-1:]) if completion.finish_reason == "stop" else (not stopped and len(tokens) == 30)
    assert {c.finish_reason for group in found for c in group} == {"stop", "length"}
    assert len({tuple(c.token_ids) for c in found[0]}) == 3
    again = side.engine.generate(asked[:1])
    assert [c.token_ids.tolist() for c in again[0]] == [c.token_ids.tolist() for c in found[0]]


def test_stop_strings_end_a_completion_where_the_local_engine_would(side: Side) -> None:
    publish(side.policy, side.engine, RULE)
    sampling = SamplingParams(max_completion_length=60, stop=("e", "1"))
    asked = [request(range(30, 40 + i), sampling, id=i, group_size=4) for i in range(4)]
    stopped = [c for group in side.engine.generate(asked) for c in group if c.finish_reason == "stop"]
    assert len(stopped) > 4
    for completion in stopped:
        text, before = (side.renderer.decode(ids) for ids in (completion.token_ids, completion.token_ids[:-1]))
        assert any(stop in text for stop in sampling.stop)
        assert not any(stop in before for stop in sampling.stop)


def test_greedy_is_the_local_engines(side: Side) -> None:
    publish(side.policy, side.engine, RULE)
    local = LocalEngine(side.loaded.model, side.renderer)
    sampling = SamplingParams(temperature=0.0, max_completion_length=16)
    asked = [request(range(10 + i, 40 + i), sampling, id=i, group_size=2) for i in range(8)]
    for ours, theirs in zip(local.generate(asked), side.engine.generate(asked), strict=True):
        for mine, other in zip(ours, theirs, strict=True):
            assert mine.token_ids.tolist() == other.token_ids.tolist()
            assert np.abs(mine.sampler_logprobs - other.sampler_logprobs).max() <= 2e-5


# ---- sabotage: each is seen before a step can sample


def _half_moves(side: Side, monkeypatch: pytest.MonkeyPatch, seed: int, every: int) -> None:
    """The policy moves, and of every few tensors the engine gets one as it is now, the others as they were."""
    whole = policy_module.exported_weights
    before = {name: tensor.detach().clone() for name, tensor in whole(side.policy.model)}
    side.move(seed)
    mixed = [(name, new if i % every == 0 else before[name]) for i, (name, new) in enumerate(whole(side.policy.model))]
    monkeypatch.setattr(policy_module, "exported_weights", lambda model: iter(mixed))


def test_half_the_tensors_show_in_the_log_probs(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(side.policy, side.engine, RULE)
    _half_moves(side, monkeypatch, 100, every=2)
    with pytest.raises(EngineError, match="does not compute with the weights of version"):
        publish(side.policy, side.engine, RULE)
    monkeypatch.undo()
    publish(side.policy, side.engine, RULE)


def test_where_a_correction_is_set_a_difference_is_measured_and_not_refused(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    _half_moves(side, monkeypatch, 101, every=4)
    published = publish(side.policy, side.engine, ParityRule(1.0, 2e-5, corrected=True))
    assert published.difference is not None
    assert published.difference > 0.01


def test_a_prefix_cache_that_was_not_reset_shows_in_the_log_probs(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(side.policy, side.engine, RULE)
    inner: Any = side.engine
    if side.config.vllm_url is None:
        monkeypatch.setattr(inner._engine, "reset_prefix_cache", lambda: True)
    else:
        ask = inner._client._ask
        pretend = lambda method, path, *rest: {"success": True} if "reset" in path else ask(method, path, *rest)  # noqa: E731
        monkeypatch.setattr(inner._client, "_ask", pretend)
    side.move(102)
    with pytest.raises(EngineError, match="does not compute with the weights of version"):
        publish(side.policy, side.engine, RULE)
    monkeypatch.undo()
    publish(side.policy, side.engine, RULE)


@contextlib.contextmanager
def sabotaged(side: Side, *, load: bool = True, off: int = 0) -> Iterator[None]:
    """The worker says that it holds a version `off` the one that it was given, and may not have loaded it."""
    if side.config.vllm_url is None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(WeightReceiver, "gruppo_take", lying(WeightReceiver.gruppo_take, load=load, off=off))
            yield
        return
    side.wish.write_text(json.dumps({"load": load, "off": off}))
    try:
        yield
    finally:
        side.wish.write_text("")


def test_an_update_that_was_skipped(side: Side) -> None:
    publish(side.policy, side.engine, RULE)
    side.move(103)
    with sabotaged(side, load=False), pytest.raises(EngineError, match="does not compute with the weights of version"):
        publish(side.policy, side.engine, RULE)
    publish(side.policy, side.engine, RULE)


@pytest.mark.parametrize("off", [-1, 1])
def test_weights_of_another_version(side: Side, off: int) -> None:
    side.move(104)
    with sabotaged(side, off=off), pytest.raises(EngineError, match="should hold version"):
        publish(side.policy, side.engine, RULE)
    publish(side.policy, side.engine, RULE)


def test_weights_that_are_not_finite(side: Side) -> None:
    """Last of those with this engine: what is in its cache afterwards is not finite either."""
    side.move(105, size=float("nan"))
    with pytest.raises(EngineError, match="vLLM's logits are not finite"):
        publish(side.policy, side.engine, RULE)


# ---- the folder that a run leaves


@pytest.mark.parametrize("rank", [0, 4])
def test_the_exported_model_gives_the_same_greedy_tokens(llama: Path, tmp_path: Path, rank: int) -> None:
    loaded = load_model(str(llama), "float32", torch.device("cpu"))
    if rank:
        loaded = add_lora(loaded, rank, 2.0 * rank, ("all-linear",), seed=0)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    save_model(loaded, tmp_path / "model")
    lengths = np.random.default_rng(0)
    prompts = [[int(t) for t in lengths.integers(0, 456, 5 + i % 40)] for i in range(100)]
    (tmp_path / "prompts.json").write_text(json.dumps(prompts))
    script = Path(__file__).with_name("vllm_greedy.py")
    paths = [str(tmp_path / name) for name in ("model", "prompts.json", "tokens.json")]
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_LOGGING_LEVEL": "ERROR"}
    subprocess.run([sys.executable, str(script), *paths], env=os.environ | environment, check=True, timeout=300)
    sampling = SamplingParams(temperature=0.0, max_completion_length=24)
    asked = [request(ids, sampling, id=i) for i, ids in enumerate(prompts)]
    own = LocalEngine(loaded.model, ChatRenderer(loaded.tokenizer)).generate(asked)
    assert json.loads((tmp_path / "tokens.json").read_text()) == [group[0].token_ids.tolist() for group in own]


# ---- whole runs


def digits(completion: str) -> float:
    """Something that an untrained model learns in a few steps."""
    return sum(map(str.isdigit, completion)) / max(1, len(completion))


def run(llama: Path, problems: Path, out: Path, **settings: Any) -> gruppo.RunResult:
    numbers = {"steps": 12, "prompts_per_step": 4, "max_completion_length": 12, "learning_rate": 1e-2, "threads": 1}
    config = gruppo.Config(
        model=str(llama), data=str(problems), output_dir=str(out), lr_schedule="constant", **numbers, **settings
    )
    return gruppo.train(config, rewards=[digits])


@pytest.mark.parametrize(
    "settings", [{}, {"vllm_url": "launch"}, {"lora_rank": 8}], ids=["colocated", "server", "lora"]
)
def test_a_run_learns_as_with_the_local_engine(
    llama: Path, problems_file: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    shared = {key: value for key, value in settings.items() if key != "vllm_url"}
    local = run(llama, problems_file, tmp_path / "local", **shared)
    ours = run(llama, problems_file, tmp_path / "vllm", engine="vllm", **settings)
    for result in (local, ours):
        rewards = [row["reward_mean"] for row in result.metrics]
        assert len(rewards) == 12
        if not settings.get("lora_rank"):  # an adapter over random weights learns too slowly for a test
            assert np.mean(rewards[-3:]) > np.mean(rewards[:3]) + 0.1
    assert max(row["parity_difference_max"] for row in ours.metrics) <= 2e-5
    assert max(row["sampler_logprob_difference_max"] for row in ours.metrics) <= 2e-5
    assert [row["policy_version"] for row in ours.metrics] == list(range(1, 13))
    assert all(row["parity_difference_max"] is None for row in local.metrics)


def descendants(pid: int) -> list[int]:
    """Every process below one."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found += [child, *descendants(child)]
    return found


def commands(pids: list[int]) -> dict[int, str]:
    found: dict[int, str] = {}
    for pid in pids:
        path = Path(f"/proc/{pid}/cmdline")
        if path.exists():
            found[pid] = path.read_bytes().replace(b"\0", b" ").decode()
    return found


@pytest.mark.parametrize("victim", ["api_server", "EngineCore"])
def test_a_server_killed_in_mid_step(llama: Path, problems_file: Path, tmp_path: Path, victim: str) -> None:
    """The run ends as it would have, with as many problems, and leaves nothing behind."""
    killed: list[int] = []
    others = set(descendants(os.getpid()))  # servers of the tests before this one

    def kill() -> None:
        metrics = tmp_path / "run" / "metrics.jsonl"
        while not metrics.exists() or len(metrics.read_text().splitlines()) < 3:
            time.sleep(0.01)
        below = commands(descendants(os.getpid()))
        own = {pid: name for pid, name in below.items() if pid not in others}
        killed.extend(pid for pid, name in own.items() if victim in name and "guard.py" not in name)
        os.kill(killed[0], signal.SIGKILL)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    result = run(llama, problems_file, tmp_path / "run", engine="vllm", vllm_url="launch", max_live_completions=4)
    thread.join(5)
    assert killed
    assert [row["sampled_groups"] for row in result.metrics] == [4] * 12
    assert (tmp_path / "run" / "vllm.log").read_text().count("--port") == 2  # started twice
    left = commands([pid for pid in descendants(os.getpid()) if pid not in others])
    assert not [name for name in left.values() if "vllm" in name.lower() and "guard" not in name]
