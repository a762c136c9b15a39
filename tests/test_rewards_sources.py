"""Where a user's function comes from: a file, an entry point of a package, a script without a file."""

import subprocess
import sys
from pathlib import Path

import pytest

from gruppo.config.rewards import RewardConfig
from gruppo.errors import RewardError
from gruppo.rewards.building import build_rubric
from gruppo.rewards.workers import WorkerPool
from gruppo.types import Problem

PROBLEM = Problem(id="f.jsonl:3", prompt="?", answer="2")


def test_an_entry_point_of_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "some_package.py").write_text("def brevity(completion):\n    return -len(completion)\n")
    info = tmp_path / "some_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[gruppo.rewards]\nbrevity = some_package:brevity\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with WorkerPool(1) as pool:
        rubric = build_rubric([RewardConfig(name="brevity")], pool=pool)
        assert [score.reward for score in rubric.score(PROBLEM, ["ab", "c"], [False] * 2, [1, 1])] == [-2.0, -1.0]
        with pytest.raises(RewardError, match=r"no built-in reward 'brevty', only .*brevity. Did you mean 'brevity'"):
            build_rubric([RewardConfig(name="brevty")])


def test_a_script_without_a_file_and_without_a_guard() -> None:
    script = """
import math
from gruppo.rewards.rubric import Reward, Rubric
from gruppo.rewards.workers import WorkerPool
from gruppo.types import Problem

ROOT = 9

def reward(completion, answer):
    return math.sqrt(ROOT) + len(completion) + float(answer)

class Judge:
    bonus = 0.5
    def __call__(self, completion):
        return self.bonus

pool = WorkerPool(1)
rewards = [Reward("plain", reward), Reward("judge", Judge()), Reward("short", lambda completion: ROOT)]
rubric = Rubric(rewards, pool=pool)
print([score.reward for score in rubric.score(Problem("p", "?", "2"), ["ab", "c"], [False] * 2, [1, 1])])
"""
    done = subprocess.run([sys.executable, "-"], input=script, capture_output=True, text=True, timeout=120)
    assert done.stdout == "[16.5, 15.5]\n", done.stderr
