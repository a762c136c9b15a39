"""vLLM as a server, without vLLM: launcher, guard, client, weights and failures against a stand-in."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from gruppo.errors import EngineError
from gruppo.rollout.vllm.launcher import VLLMServer
from gruppo.rollout.vllm.server import ServerVLLM
from gruppo.rollout.vllm.weights import Held
from gruppo.types import SamplingParams
from models import request
from vllm_standin import SHAPE, STATE

STANDIN = Path(__file__).with_name("vllm_standin.py")
SAMPLING = SamplingParams(max_completion_length=4)
HEAD = torch.arange(6.0)
WEIGHTS = {"embed.weight": HEAD, "norm.weight": torch.ones(3), "lm_head.weight": HEAD}


def standin(folder: Path, *, start_seconds: float = 20.0, port: int = 0, **wishes: str) -> VLLMServer:
    """A server that isn't started yet."""
    command = [sys.executable, str(STANDIN)]
    for name, value in wishes.items():
        command += ["--set", f"{name}={value}"]
    weights = folder / "weights"
    return VLLMServer(command, folder / "vllm.log", weights, port=port, start_seconds=start_seconds)


@contextmanager
def engine_of(
    folder: Path, notes: list[str] | None = None, *, url: str | None = None, **wishes: str
) -> Iterator[ServerVLLM]:
    told = notes if notes is not None else []
    where = url or standin(folder, **wishes)
    engine = ServerVLLM(where, Held(SHAPE, "float32"), folder / "weights", note=told.append)
    try:
        yield engine
    finally:
        engine.close()


@contextmanager
def running(folder: Path, **wishes: str) -> Iterator[VLLMServer]:
    """A server that somebody else has started."""
    server = standin(folder, **wishes)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def gone(pid: int, seconds: float = 10.0) -> bool:
    """Whether a process has ended, or does within so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.02)
    return False


def groups(count: int, size: int = 2) -> list:
    return [request((10 + i, 3), SAMPLING, id=i, group_size=size, seed=i) for i in range(count)]


def test_completions_carry_the_version_that_was_loaded(tmp_path: Path) -> None:
    with engine_of(tmp_path) as engine:
        engine.load_weights(iter(WEIGHTS.items()), 3)
        found = engine.generate(groups(5))
        assert [[c.token_ids[0] for c in group] for group in found] == [[10 + i] * 2 for i in range(5)]
        assert {c.version for group in found for c in group} == {3}
        assert found[0][1].token_ids[1] == (found[0][0].token_ids[1] + 1) % 61  # a seed for each sample
        assert found[0][0].sampler_logprobs.tolist() == [-1.0, -2.0]
        assert found[0][0].finish_reason == "length"
        again = engine.generate(groups(5))
        assert [c.token_ids.tolist() for g in again for c in g] == [c.token_ids.tolist() for g in found for c in g]
        engine.load_weights(iter(WEIGHTS.items()), 4)
        assert engine.generate(groups(1))[0][0].version == 4
        assert [path.name for path in (tmp_path / "weights").iterdir()] == ["version-000004.safetensors"]
    assert not (tmp_path / "weights").exists()


def test_greedy_samples_are_asked_for_once(tmp_path: Path) -> None:
    greedy = request((5, 6), SamplingParams(temperature=0.0, max_completion_length=4), group_size=3)
    with engine_of(tmp_path) as engine:
        engine.load_weights(iter(WEIGHTS.items()), 0)
        (group,) = engine.generate([greedy])
    assert [c.sample for c in group] == [0, 1, 2]
    assert len({tuple(c.token_ids) for c in group}) == 1


@pytest.mark.parametrize(
    ("wishes", "told"),
    [
        ({"held": "old"}, "should hold version 2 (3 tensors), but it holds version 1 (3 tensors)"),
        ({"held": '{"tensors": 2}'}, "should hold version 1 (3 tensors), but it holds version 1 (2 tensors)"),
        ({"held": '{"version": 7}'}, "but it holds version 7"),
        ({"held": '{"owner": "x"}'}, "of another trainer; one server serves one trainer"),
        ({"reset": "fails"}, "did not reset its prefix cache"),
    ],
)
def test_a_load_that_went_wrong_is_refused(tmp_path: Path, wishes: dict[str, str], told: str) -> None:
    """A skipped update, half the tensors, another version, another trainer's, a stale prefix cache."""
    with engine_of(tmp_path, **wishes) as engine:
        if wishes == {"held": "old"}:
            engine.load_weights(iter(WEIGHTS.items()), 1)
        with pytest.raises(EngineError, match=re.escape(told)):
            engine.load_weights(iter(WEIGHTS.items()), 2 if wishes == {"held": "old"} else 1)


def test_weights_that_change_between_steps_are_seen_before_the_next(tmp_path: Path) -> None:
    with running(tmp_path) as server, engine_of(tmp_path / "ours", url=server.url) as engine:
        engine.load_weights(iter(WEIGHTS.items()), 1)
        with engine_of(tmp_path / "other", url=server.url) as other:
            other.load_weights(iter(WEIGHTS.items()), 1)
        with pytest.raises(EngineError, match="another trainer"):
            engine.generate(groups(1))


def test_a_server_killed_in_mid_step_is_started_again_and_every_group_comes_once(tmp_path: Path) -> None:
    (tmp_path / "lives").write_text("1")
    notes: list[str] = []
    wishes = {"die_after": "3", "lives": str(tmp_path / "lives"), "child": str(tmp_path / "pids"), "seconds": "0.05"}
    with engine_of(tmp_path, notes, **wishes) as engine:
        first = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
        engine.load_weights(iter(WEIGHTS.items()), 5)
        found = engine.generate(groups(8))
        assert [[c.token_ids[0] for c in group] for group in found] == [[10 + i] * 2 for i in range(8)]
        assert {c.version for group in found for c in group} == {5}
        assert len(notes) == 1
        assert "ended by SIGKILL" in notes[0]
        second = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert all(gone(pid) for pid in first + second)


def test_a_server_that_dies_again_ends_the_step_with_its_log(tmp_path: Path) -> None:
    (tmp_path / "lives").write_text("9")
    wishes = {"die_after": "1", "lives": str(tmp_path / "lives")}
    with engine_of(tmp_path, **wishes) as engine:
        engine.load_weights(iter(WEIGHTS.items()), 1)
        with pytest.raises(EngineError, match=r"died again after a restart: it was ended by SIGKILL[^$]*vllm\.log"):
            engine.generate(groups(8))


def test_a_server_of_the_users_that_dies_is_told(tmp_path: Path) -> None:
    with running(tmp_path) as server, engine_of(tmp_path / "ours", url=server.url) as engine:
        engine.load_weights(iter(WEIGHTS.items()), 1)
        assert not list((tmp_path / "ours" / "weights").iterdir())  # read once, and gone
        server.stop()
        with pytest.raises(EngineError, match=r"can't be reached.*Start it again; the same command goes on"):
            engine.generate(groups(1))


def test_leaving_early_forgets_what_was_submitted(tmp_path: Path) -> None:
    with engine_of(tmp_path, seconds="0.1") as engine:
        engine.load_weights(iter(WEIGHTS.items()), 1)
        for each in groups(40):
            engine.submit(each)
        stream = engine.completed()
        next(stream)
        with pytest.raises(EngineError, match="while completions were on their way"):
            engine.load_weights(iter(WEIGHTS.items()), 2)
        begun = time.monotonic()
        stream.close()
        assert time.monotonic() - begun < 3
        assert [c.token_ids[0] for group in engine.generate(groups(1)) for c in group] == [10, 10]


@pytest.mark.parametrize(
    ("wishes", "told"),
    [
        ({"say": "ERROR: [Errno 98] Address already in use"}, "the port is taken"),
        ({"say": "torch.OutOfMemoryError: CUDA out of memory."}, "short of memory; lower engine_memory"),
        ({"say": "ValueError: No available memory for the cache blocks."}, "short of memory"),
        ({"say": "Model architectures ['X'] are not supported for now."}, "can't run this model"),
        ({"say": "strange"}, "it ended with status 1"),
    ],
)
def test_a_server_that_does_not_start_says_why(tmp_path: Path, wishes: dict[str, str], told: str) -> None:
    with (
        pytest.raises(EngineError, match=f"did not start: .*{re.escape(told)}") as caught,
        engine_of(tmp_path, **wishes),
    ):
        pass
    assert str(caught.value).endswith(f"vllm.log:\n  {wishes['say']}")


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        server = standin(tmp_path, port=other.getsockname()[1])
        with pytest.raises(EngineError, match="the port is taken"):
            server.start()


def test_a_server_that_is_not_up_in_time_is_ended(tmp_path: Path) -> None:
    server = standin(tmp_path, start_seconds=1.0, health="never", child=str(tmp_path / "pids"))
    with pytest.raises(EngineError, match="was not up after 1 s"):
        server.start()
    assert not server.alive
    assert all(gone(int(pid)) for pid in (tmp_path / "pids").read_text().split())


@pytest.mark.parametrize(
    ("wishes", "told"),
    [
        ({"version": "0.20.2"}, "vLLM 0.20.2 is not supported; wanted 0.29 or newer, below 0.34"),
        ({"state": json.dumps({"shape": SHAPE | {"vocab_size": 62}})}, "vocab_size 62, the trainer's model has 61"),
        ({"state": '{"dtype": "bfloat16"}'}, "--dtype bfloat16, the trainer computes in float32"),
        ({"state": '{"logprobs_mode": "raw_logprobs"}'}, "--logprobs-mode raw_logprobs, wanted processed_logprobs"),
        ({"state": '{"split_prompts": true}'}, "wanted --no-enable-chunked-prefill"),
        ({"dev": "off"}, "started without VLLM_SERVER_DEV_MODE=1"),
    ],
)
def test_a_server_that_can_not_be_used(tmp_path: Path, wishes: dict[str, str], told: str) -> None:
    with pytest.raises(EngineError, match=re.escape(told)), engine_of(tmp_path, **wishes):
        pass


def test_no_server_at_the_url(tmp_path: Path) -> None:
    with (
        pytest.raises(EngineError, match="no vLLM server answers at http"),
        engine_of(tmp_path, url="http://127.0.0.1:9"),
    ):
        pass


@pytest.mark.parametrize("part", ["token_ids", "logprobs"])
def test_answers_that_lack_something(tmp_path: Path, part: str) -> None:
    with engine_of(tmp_path, without=part) as engine:
        engine.load_weights(iter(WEIGHTS.items()), 1)
        with pytest.raises(EngineError, match="answered without token ids or log-probs"):
            engine.generate(groups(1))


@pytest.mark.parametrize(
    ("wish", "told"),
    [
        ("Out of range float values are not JSON compliant: nan", "problem p0: vLLM's logits are not finite"),
        ("n must be 1", "refuses /v1/completions (status 400): n must be 1"),
    ],
)
def test_a_request_that_is_refused_says_why(tmp_path: Path, wish: str, told: str) -> None:
    with engine_of(tmp_path, refuses=wish) as engine:
        engine.load_weights(iter(WEIGHTS.items()), 1)
        with pytest.raises(EngineError, match=re.escape(told)):
            engine.generate(groups(1))


def test_requests_that_can_not_be_served(tmp_path: Path) -> None:
    assert STATE["context_length"] == 128
    with engine_of(tmp_path) as engine:
        with pytest.raises(EngineError, match="no tokens"):
            engine.submit(request((), SAMPLING))
        with pytest.raises(EngineError, match="exceed the engine's context of 128"):
            engine.submit(request((1,) * 125, SAMPLING))
        with pytest.raises(EngineError, match="under top_k or top_p"):
            engine.submit(request((1,), SamplingParams(top_k=5, max_completion_length=4)))


TRAINER = """
import os, signal, sys, time
from pathlib import Path
from gruppo.rollout.vllm.launcher import VLLMServer
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job would ignore it
folder = Path(sys.argv[1])
(folder / "weights").mkdir()
VLLMServer(sys.argv[3:], folder / "vllm.log", folder / "weights", start_seconds=20).start()
if sys.argv[2] == "fork" and os.fork() == 0:  # holds the pipe, as a worker of a reward might
    (folder / "fork").write_text(str(os.getpid()))
    time.sleep(60)
print("up", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize(("number", "fork"), [(signal.SIGKILL, False), (signal.SIGKILL, True), (signal.SIGINT, False)])
def test_nothing_outlives_a_trainer_that_is_killed(tmp_path: Path, number: signal.Signals, fork: bool) -> None:
    server = [sys.executable, str(STANDIN), "--set", f"child={tmp_path / 'pids'}"]
    command = [sys.executable, "-c", TRAINER, str(tmp_path), "fork" if fork else "alone", *server]
    trainer = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert trainer.stdout is not None
    assert trainer.stdout.readline() == b"up\n"
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    trainer.send_signal(number)
    trainer.wait(10)
    assert all(gone(pid) for pid in pids)
    assert _soon(lambda: not (tmp_path / "weights").exists())
    if fork:
        os.kill(int((tmp_path / "fork").read_text()), signal.SIGKILL)


def _soon(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()
