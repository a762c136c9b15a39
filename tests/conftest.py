"""What several tests share: a small untrained model, and a few problems of arithmetic."""

import json
from pathlib import Path

import pytest

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
