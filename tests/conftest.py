"""What several tests share: a small untrained model, and a few problems of arithmetic."""

import json
import os
import shutil
from pathlib import Path

import pytest

from command_line import Bench

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub: no test may depend on a network

PAIRS = [(3, 4), (5, 2), (6, 1), (8, 7), (9, 3), (2, 2), (12, 5), (11, 8), (14, 3), (7, 7), (10, 4), (1, 9)]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's model before any training, a folder as transformers saves it."""
    from gruppo.demo.model import build_model

    folder = tmp_path_factory.mktemp("tiny_model")
    build_model(folder, seed=0)
    return folder


@pytest.fixture(scope="session")
def problems_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve rows with `question` and `answer`."""
    path = tmp_path_factory.mktemp("problems") / "problems.jsonl"
    rows = [{"question": f"What is {a} + {b}?", "answer": str(a + b)} for a, b in PAIRS]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def bench(
    tmp_path: Path,
    tiny_model: Path,
    problems_file: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Bench:
    """A working folder with `problems.jsonl` and `rewards.py` in it, and commands to run there."""
    shutil.copy(problems_file, tmp_path / "problems.jsonl")
    monkeypatch.chdir(tmp_path)
    return Bench(tmp_path, tiny_model, capsys)
