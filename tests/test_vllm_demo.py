"""The demo's task with vLLM, colocated and as a server, on one seed: a sample of the three in docs/results.md."""

import importlib
from pathlib import Path

import pytest

from gruppo.rollout.vllm.settings import installed_version

pytestmark = [
    pytest.mark.skipif(installed_version() is None, reason="vllm is not installed here: `make test-vllm` installs it"),
    pytest.mark.slow,
]


def test_the_demo_learns_as_with_the_local_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "benchmarks")
    demo = importlib.import_module("engines_demo")
    model = demo.start_model(0, tmp_path)
    found = {engine: demo.row(demo.grpo(0, engine, 15, model, tmp_path)) for engine in demo.ENGINES}
    assert all(abs(row["before"] - found["local"]["before"]) < 0.05 for row in found.values())  # draws of its own
    for row in found.values():
        assert row["after"] > row["before"] + 0.2
        assert row["reward_last"] > row["reward_first"] + 0.15
        assert row["difference"] <= 1e-4  # of all tokens sampled, of a model that is sure of itself
        assert abs(row["after"] - found["local"]["after"]) < 0.15  # still learning: a step more or less shows
