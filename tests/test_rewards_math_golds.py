"""Every reference answer at hand accepts itself in each common form, and no wrong one like it."""

import importlib.util
import random
from pathlib import Path
from types import ModuleType

import pytest

from gruppo.rewards.math import reference_answer

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"
NAMES = ["gsm8k", "math", "aime", "mawps", "asdiv", "svamp"]


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_rewards", ROOT / "benchmarks" / "rewards.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def answers(bench: ModuleType, name: str) -> list[str]:
    if not (SHARED / bench.GOLDS[name][0]).exists():
        pytest.skip(f"{name} of the shared data is absent")
    return bench.golds(SHARED, name)


@pytest.mark.parametrize(
    ("answer", "wrong"),
    [
        ("72", "73"),
        ("\\frac{1}{2}", "3/2"),
        ("B", "A"),
        ("(2,-1)", "(2,-2)"),
        ("2\\sqrt{3}", "2\\sqrt{4}"),
        ("Tuesday", "zebra"),
        ("a+b", "a+b+1"),
        ("(-\\infty,\\infty)", "(-7,\\infty)"),
    ],
)
def test_how_answers_are_made_wrong(bench: ModuleType, answer: str, wrong: str) -> None:
    assert bench.perturbed(answer)[0] == wrong


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_of_the_reference_answers(bench: ModuleType, name: str) -> None:
    found = answers(bench, name)
    refused, accepted, kinds = bench.gold_check(random.Random(0).sample(found, 60))
    assert (refused, accepted, kinds.total()) == ([], [], 60)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "count", "different"),
    [
        ("gsm8k", 7473, 893),
        ("math", 7471, 2888),
        ("aime", 975, 526),
        ("mawps", 1445, 332),
        ("asdiv", 1550, 1431),
        ("svamp", 700, 219),
    ],
)
def test_all_reference_answers(bench: ModuleType, name: str, count: int, different: int) -> None:
    found = answers(bench, name)
    once = list(dict.fromkeys(map(reference_answer, found)))
    assert (len(found), len(once)) == (count, different)
    refused, accepted, _ = bench.gold_check(once)
    # One reference answer of MATH is empty: nothing is right for it, in none of the four forms.
    assert (len(refused), accepted) == (4 if name == "math" else 0, [])
    assert {gold for _, gold in refused} <= {""}
