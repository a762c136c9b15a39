"""Reward functions written for other trainers, unchanged: TRL's own and its users', and plain ones of two arguments."""

import math
import pickle
from pathlib import Path
from typing import Any

import pytest

from gruppo.config.schema import RewardConfig
from gruppo.errors import RewardError
from gruppo.rewards.binding import function_name, log_nothing
from gruppo.rewards.building import build_rubric
from gruppo.rewards.loading import load_function
from gruppo.rewards.rubric import Reward, Rubric
from gruppo.types import Problem

QUESTION = Problem("f.jsonl:1", "1/4+1/4?", "\\frac{1}{2}", {"question": "1/4+1/4?", "Level": 3})
CHAT = Problem(
    "f.jsonl:2",
    "1/4+1/4?",
    "\\frac{1}{2}",
    {"prompt_messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "1/4+1/4?"}]},
)
CODE = Problem("f.jsonl:3", "Write twice.", None, {"tests": ["assert twice(2) == 4", "assert twice(0) == 0"]})
TEXTS = ["<think>easy</think> It is \\boxed{0.5}", "It is \\boxed{\\frac{1}{3}}"]
IDS = [[1, 2, 3, 4], [5, 5, 5, 5, 5, 5, 5, 5, 5]]


def values(function: Any, problem: Problem = QUESTION, texts: list[str] = TEXTS) -> list[float | None]:
    scores = Rubric([Reward("r", function)]).score(problem, texts, [False, True], [4, 9], IDS)
    found = [score.parts["r"] for score in scores]
    return [None if value is None else round(value, 9) for value in found]


def trl(name: str) -> Any:
    pytest.importorskip("trl", reason="trl is not installed")
    return load_function(f"trl.rewards:{name}")


@pytest.mark.parametrize("problem", [QUESTION, CHAT], ids=["question", "conversation"])
@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("accuracy_reward", None, [1.0, 0.0]),
        ("reasoning_accuracy_reward", None, [1.0, 0.0]),
        ("think_format_reward", None, [1.0, 0.0]),
        ("get_soft_overlong_punishment", (10, 4), [0.0, -0.75]),
        ("get_repetition_penalty_reward", (2, -1.0), [0.0, -0.875]),
        (
            "get_cosine_scaled_reward",
            (10,),
            [round(0.75 + 0.25 * math.cos(0.4 * math.pi), 9), round(-0.75 - 0.25 * math.cos(0.9 * math.pi), 9)],
        ),
    ],
)
def test_trls_own_rewards(name: str, settings: tuple | None, expected: list[float], problem: Problem) -> None:
    function = trl(name)
    assert values(function if settings is None else function(*settings), problem) == expected


def test_trls_own_rewards_by_name_and_with_a_gold_that_cannot_be_read() -> None:
    pytest.importorskip("trl", reason="trl is not installed")
    assert function_name(trl("accuracy_reward")) == "accuracy_reward"
    assert function_name(trl("get_soft_overlong_punishment")(10, 4)) == "soft_overlong_punishment_reward"
    unreadable = Problem("f:1", "p", "", {"solution": ""})
    assert values(trl("accuracy_reward"), unreadable) == [None, None]
    with pytest.raises(RewardError, match=r"trl\.rewards has no function 'acuracy_reward'"):
        load_function("trl.rewards:acuracy_reward")


def text_lengths(completions: list[str], **kwargs: Any) -> list[float]:
    return [float(len(completion)) for completion in completions]


def message_lengths(completions, **kwargs):
    return [float(len(completion[0]["content"])) for completion in completions]


def prompt_roles(prompts: list[list[dict[str, str]]], completions: list[list[dict[str, str]]]) -> list[float]:
    assert [completion[0]["role"] for completion in completions] == ["assistant"] * 2
    return [float(len(prompt)) for prompt in prompts]


def with_logs(completions, answer, log_extra: Any = None, log_metric: Any = None, **kwargs):
    log_extra("golden", list(answer))
    log_metric("accuracy", 0.5)
    return [float(gold in text) for text, gold in zip(completions, answer)]


def only_kwargs(completions, **kwargs):
    kwargs["log_extra"]("column", ["a", "b"])
    kwargs["log_metric"]("name", 1.0)
    assert kwargs["completion_ids"] == IDS
    return [float(level) for level in kwargs["Level"]]


async def asynchronous(prompts, completions, completion_ids, **kwargs):
    return [len(prompt) + len(ids) for prompt, ids in zip(prompts, completion_ids)]


class Wrapped:
    """As TRL's factories return."""

    __name__ = "wrapped_reward"

    def __call__(self, completion_ids: list[list[int]], **kwargs: Any) -> list[float]:
        return [float(len(ids)) for ids in completion_ids]


@pytest.mark.parametrize(
    ("function", "problem", "expected"),
    [
        (text_lengths, QUESTION, [37.0, 25.0]),
        (text_lengths, CHAT, [37.0, 25.0]),
        (message_lengths, CHAT, [37.0, 25.0]),
        (lambda completions, **kwargs: [float(isinstance(c, str)) for c in completions], QUESTION, [1.0, 1.0]),
        (prompt_roles, QUESTION, [1.0, 1.0]),
        (prompt_roles, CHAT, [2.0, 2.0]),
        (with_logs, QUESTION, [0.0, 0.0]),
        (only_kwargs, QUESTION, [3.0, 3.0]),
        (asynchronous, QUESTION, [12.0, 17.0]),
        (Wrapped(), QUESTION, [4.0, 9.0]),
        (lambda completions, solution: [len(s) for s in solution], QUESTION, [11.0, 11.0]),
        (lambda completions, ground_truth: [len(s) for s in ground_truth], QUESTION, [11.0, 11.0]),
        (lambda completions, **kwargs: [None, 1.0], QUESTION, [None, 1.0]),
    ],
)
def test_functions_in_trls_style(function: Any, problem: Problem, expected: list[float | None]) -> None:
    assert values(function, problem) == expected


def test_without_tokens_a_function_of_tokens_is_refused_by_name() -> None:
    with pytest.raises(RewardError, match=r"reward 'r' .* wants the parameter 'completion_ids'"):
        Rubric([Reward("r", Wrapped())]).score(QUESTION, TEXTS, [False, True], [4, 9])


def math_style(generated, ground_truth):
    """As a plain script has it: two arguments, one number."""
    return 1.0 if generated.strip().endswith(ground_truth) else 0.0


def code_style(generated_code, test_cases):
    """The share of tests that the program passes."""
    passed = 0
    for test in test_cases:
        names: dict[str, Any] = {}
        try:
            exec(f"{generated_code}\n{test}", names)
            passed += 1
        except Exception:
            pass
    return passed / len(test_cases)


def typed(generated: str, ground_truth: str, tolerance: float = 0.0) -> float:
    return float(len(ground_truth)) + tolerance


@pytest.mark.parametrize(
    ("function", "problem", "texts", "expected"),
    [
        (math_style, QUESTION, ["it is \\frac{1}{2}", "2"], [1.0, 0.0]),
        (typed, QUESTION, ["", ""], [11.0, 11.0]),
        (code_style, CODE, ["def twice(n): return 2 * n", "def twice(n): return 4"], [1.0, 0.5]),
        (lambda generated_code, test_cases, **row: len(row["tests"]), CODE, ["", ""], [2.0, 2.0]),
    ],
)
def test_plain_functions_of_two_arguments(function: Any, problem: Problem, texts, expected: list[float]) -> None:
    assert values(function, problem, texts) == expected


def test_plain_functions_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "peer_rewards.py"
    path.write_text("def reward(generated, ground_truth):\n    return float(ground_truth in generated)\n")
    assert values(load_function(f"{path}:reward"), QUESTION, ["\\frac{1}{2}", "no"]) == [1.0, 0.0]


def test_a_column_of_the_rows_own_goes_before_the_other_name() -> None:
    both = Problem("f:1", "p", "7", {"answer": "7", "solution": "3+4=7", "ground_truth": 8.0, "test_cases": [1]})
    assert values(lambda completions, solution: [len(s) for s in solution], both) == [5.0, 5.0]
    assert values(lambda generated, ground_truth: float(ground_truth), both) == [8.0, 8.0]
    assert values(lambda generated, test_cases: len(test_cases), both) == [1.0, 1.0]


@pytest.mark.parametrize("name", ["answer", "ground_truth", "solution", "tests", "test_cases"])
def test_what_is_missing_does_not_apply(name: str) -> None:
    bare = Problem("f:1", "p", None, {"tests": None})
    function = eval(f"lambda completion, {name}: 1.0")
    assert values(function, bare) == [None, None]
    assert values(eval(f"lambda completion, {name}=None: 1.0"), bare) == [1.0, 1.0]


def test_the_logs_can_be_sent_to_another_process() -> None:
    assert pickle.loads(pickle.dumps(log_nothing)) is log_nothing
    assert log_nothing("a", [1]) is None


def test_solution_is_the_answer_only_where_it_must_be_given() -> None:
    assert values(lambda completion, solution: len(solution)) == [11.0, 11.0]
    assert values(lambda completion, solution="": len(solution)) == [0.0, 0.0]


def test_trls_rewards_stand_in_a_rubric_by_name() -> None:
    pytest.importorskip("trl", reason="trl is not installed")
    rubric = build_rubric([RewardConfig(name="trl.rewards:accuracy_reward")])
    scores = rubric.score(QUESTION, TEXTS, [False, True], [4, 9])
    assert [(score.reward, score.passed) for score in scores] == [(1.0, True), (0.0, False)]
    assert rubric.success == "accuracy_reward"
