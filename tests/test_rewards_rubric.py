"""The reward seam: signatures, sums, passes, and one clear message for each broken contract."""

import asyncio
import functools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gruppo.config.rewards import FormatReward, MathReward, OverlongReward, RewardConfig
from gruppo.errors import ConfigError, RewardError
from gruppo.rewards import Reward, RewardResult, Rubric, build_rubric, format_reward, load_function
from gruppo.types import Problem

PROBLEM = Problem(
    id="f.jsonl:3",
    prompt="1+1?",
    answer="2",
    columns={"question": "1+1?", "answer": 2.0, "Level": 5, "tests": ["t"], "prompt_note": "n"},
)
TEXTS = ["2", "33"]


def values(function, problem: Problem = PROBLEM) -> list[float | None]:
    scores = Rubric([Reward("r", function)]).score(problem, TEXTS, [False, True], [3, 7])
    return [score.parts["r"] for score in scores]


def refusal(function, problem: Problem = PROBLEM) -> str:
    with pytest.raises(RewardError) as caught:
        values(function, problem)
    return str(caught.value)


class Brief:
    def __call__(self, completion: str) -> float:
        return -len(completion)

    def method(self, generated: str, truncated: bool) -> float:
        return len(generated) + 10 * truncated


async def slow(completion: str, answer: str) -> float:
    await asyncio.sleep(0)
    return float(completion == answer)


async def slow_batch(prompts: list[str], completions: list[str], **columns: list) -> list[float]:
    await asyncio.sleep(0)
    return [level + len(prompt) for level, prompt in zip(columns["Level"], prompts)]


def positional(completion, answer, /, level, missing=4):
    return len(completion) + int(answer) + level + missing


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda completion, answer: completion == answer, [1.0, 0.0]),
        (lambda generated_code, ground_truth, **row: row["Level"] * (generated_code == ground_truth), [5.0, 0.0]),
        (lambda completion, tests, test_cases: len(tests) + len(test_cases), [2.0, 2.0]),
        (lambda completion, prompt, truncated: len(prompt) + truncated, [4.0, 5.0]),
        (lambda **row: len(row["completion"]) + len(row["answer"]), [2.0, 3.0]),
        (lambda completion: None if completion == "2" else np.float32(0.5), [None, 0.5]),
        (lambda completion: np.bool_(completion == "2"), [1.0, 0.0]),
        (lambda completions, answer, **kwargs: [c == a for c, a in zip(completions, answer)], [1.0, 0.0]),
        (lambda prompts, completions, Level: np.array([len(prompts), Level[1]]), [2.0, 5.0]),
        (lambda completions, truncated: [None, truncated[1]], [None, 1.0]),
        (positional, [12.0, 13.0]),
        (functools.partial(lambda completion, answer, bonus: bonus + len(completion), bonus=3), [4.0, 5.0]),
        (Brief(), [-1.0, -2.0]),
        (Brief().method, [1.0, 12.0]),
        (slow, [1.0, 0.0]),
        (slow_batch, [9.0, 9.0]),
    ],
)
def test_signatures(function, expected: list[float | None]) -> None:
    assert values(function) == expected


def test_async_rewards_where_a_loop_runs_already() -> None:
    async def notebook() -> list[float | None]:
        return values(slow)

    assert asyncio.run(notebook()) == [1.0, 0.0]


def test_conversations_reach_batch_functions_as_messages() -> None:
    messages = [{"role": "user", "content": "1+1?"}]
    problem = Problem(id="f:1", prompt="1+1?", answer="2", columns={"prompt_messages": messages})
    seen: list = []

    def trl(prompts, completions, answer):
        seen.extend([prompts[0], completions[1]])
        return [float(completion[0]["content"] == wanted) for completion, wanted in zip(completions, answer)]

    assert values(trl, problem) == [1.0, 0.0]
    assert seen == [messages, [{"role": "assistant", "content": "33"}]]


def test_a_reward_that_needs_the_answer_does_not_apply_without_one() -> None:
    problem = Problem(id="f:1", prompt="?", answer=None)
    assert values(lambda completion, answer: 1.0, problem) == [None, None]
    assert values(lambda completion, answer="x": len(answer), problem) == [1.0, 1.0]
    rubric = build_rubric([RewardConfig(name="math")])
    assert rubric.score(problem, ["#### 2"], [False], [1])[0].reward == 0.0
    rubric.check([PROBLEM, problem])
    with pytest.raises(RewardError, match=r"'math' .*needs the answer, and none of the 1 problems has one; name its"):
        rubric.check([problem])


def test_the_weighted_sum_the_pass_and_the_parts() -> None:
    rubric = Rubric(
        [
            Reward("right", lambda completion: RewardResult(9.9, {"digits": 2}, "close"), 2.0, 10.0),
            Reward("length", lambda completion: len(completion), -0.5),
            Reward("never", lambda completion: None, 7.0),
        ],
        reward_scale=10.0,
    )
    (score,) = rubric.score(PROBLEM, ["four"], [False], [1])
    assert score.reward == pytest.approx(10 * (2 * 9.9 - 0.5 * 4))
    assert score.parts == {"right": 9.9, "right/digits": 2.0, "length": 4.0, "never": None}
    assert score.reasons == {"right": "close"}
    assert score.passed
    assert not Rubric(rubric.rewards, "never").score(PROBLEM, ["x"], [False], [1])[0].passed
    just_below = Rubric([Reward("r", lambda completion: 9.89, full_scale=10.0)])
    assert not just_below.score(PROBLEM, ["x"], [False], [1])[0].passed


def of(source: str, answer: str | None = "2") -> Problem:
    return Problem(id=f"{source}:1", prompt="1+1?", answer=answer, source=source)


def test_a_reward_is_only_for_its_data_sets() -> None:
    rubric = Rubric(
        [
            Reward("right", lambda completion, answer: completion == answer, 2.0, data=("sums.jsonl",)),
            Reward("brief", lambda completion: len(completion) < 2, 0.5),
            Reward("kind", lambda completion: RewardResult(len(completion), {"words": 1}, "so"), data=("talk", "more")),
        ]
    )
    (sums,) = rubric.score(of("sums.jsonl"), ["2"], [False], [1])
    assert sums.reward == 2.0 + 0.5
    assert sums.parts == {"right": 1.0, "brief": 1.0, "kind": None}
    (talk,) = rubric.score(of("talk"), ["hello"], [False], [1])
    assert talk.reward == 5.0
    assert talk.parts == {"right": None, "brief": 0.0, "kind": 5.0, "kind/words": 1.0}
    assert talk.reasons == {"kind": "so"}


def test_where_success_is_not_for_a_data_set_the_first_reward_that_applies_decides_the_pass() -> None:
    def passes(problem: Problem, text: str) -> bool:
        return rubric.score(problem, [text], [False], [1])[0].passed

    rubric = Rubric(
        [
            Reward("exact", lambda completion, answer: completion == answer, data=("sums", "talk")),
            Reward("long", lambda completion: None if completion == "?" else len(completion), full_scale=4),
            Reward("math", lambda completion: completion == "2", data=("sums",)),
        ],
        success="math",
    )
    assert [passes(of("sums"), text) for text in ("2", "long enough")] == [True, False]
    assert [passes(of("talk"), text) for text in ("2", "long enough")] == [True, False]
    # Without an answer `exact` does not apply, and `long` decides; of "?" it says nothing, and no other is asked.
    assert [passes(of("talk", None), text) for text in ("2", "four", "?")] == [False, True, False]
    assert [passes(of("else"), text) for text in ("2", "four", "?")] == [False, True, False]


def test_a_data_set_that_no_reward_is_for_is_refused_before_the_run() -> None:
    needs_answer = Reward("right", lambda completion, answer: 1.0, data=("sums",))
    rubric = Rubric([needs_answer, Reward("talk", lambda completion: 1.0, data=("talk",))])
    rubric.check([of("sums"), of("talk", None)])
    rubric.check([of("talk", None)])
    with pytest.raises(RewardError, match=r"rewards: none is for the data set 'else' \(else:1\); name it under `data`"):
        rubric.check([of("sums"), of("else")])
    with pytest.raises(RewardError, match=r"'right' .* needs the answer, and none of the 1 problems has one"):
        rubric.check([of("sums", None), of("talk")])


def broken(completion):
    raise KeyError("level")


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda completion: "yes", "returned 'yes' (str) for f.jsonl:3; wanted a finite number, None"),
        (lambda completion: float("nan"), "returned nan (float) for f.jsonl:3; wanted a finite number"),
        (lambda completion: [1.0], "(A function that returns a list takes `completions`, in the plural.)"),
        (lambda completion: RewardResult(1.0, {"a": float("inf")}), "returned inf (float) in the part 'a'"),
        (lambda completions: [1.0], "returned 1 values for the 2 completions of f.jsonl:3; wanted a list of 2"),
        (lambda completions: 0.5, "returned 0.5 (float) for f.jsonl:3; wanted a list of 2 numbers, one per"),
        (lambda completions: "ab", "returned 'ab' (str) for f.jsonl:3; wanted a list of 2 numbers"),
        (lambda completion, levl: 1.0, "wants the parameter 'levl', but f.jsonl:3 has no such column. Did you mean"),
        (lambda answer: 1.0, "has no parameter for the completion, only (answer); call it `completion`"),
        (broken, "raised KeyError for f.jsonl:3: 'level'"),
        (7, "is no function but a int"),
    ],
)
def test_broken_contracts_name_function_problem_and_what_is_wanted(function, expected: str) -> None:
    message = refusal(function)
    assert expected in message
    assert message.startswith("reward 'r' ")
    assert "\n" not in message


def test_messages_name_file_and_line_and_keep_the_cause() -> None:
    line = broken.__code__.co_firstlineno
    with pytest.raises(RewardError, match=rf"reward 'r' \(test_rewards_rubric.py:{line}\) raised") as caught:
        values(broken)
    assert isinstance(caught.value.__cause__, KeyError)
    assert "Did you mean 'Level'?" in refusal(lambda completion, Levl: 1.0)


def test_functions_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "helper_beside.py").write_text("BONUS = 3\n")
    (tmp_path / "mine.py").write_text(
        "from helper_beside import BONUS\nWEIGHT = 2\ndef brevity(completion):\n    return BONUS - len(completion)\n"
    )
    (tmp_path / "bad.py").write_text("x = 1\ny = x / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("mine.py:brevity", "mine:brevity", str(tmp_path / "mine.py:brevity")):
        assert load_function(name)("ab") == 1

    def message(name: str) -> str:
        with pytest.raises(RewardError) as caught:
            load_function(name)
        return str(caught.value)

    assert message("mine.py:brevty") == (
        "reward 'mine.py:brevty': mine.py has no function 'brevty', only ['brevity']. Did you mean 'brevity'?"
    )
    assert message("mine.py:WEIGHT").endswith("'WEIGHT' of mine.py is a int, no function.")
    assert message("mina.py:brevity") == "reward 'mina.py:brevity': no file 'mina.py'. Did you mean 'mine.py'?"
    assert message("bad.py:f") == "reward 'bad.py:f': bad.py, line 2, raised ZeroDivisionError: division by zero"
    assert "no module 'no_such_module' in the working folder" in message("no_such_module:f")


def test_build_rubric(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("def brevity(completion):\n    return -len(completion)\n")
    name = f"{tmp_path / 'own.py'}:brevity"
    configs = [RewardConfig(name="math"), RewardConfig(name=name, weight=0.5, data="f.jsonl")]
    rubric = build_rubric(configs, [lambda completion: 1.0, lambda completion: 2.0, Reward("x", Brief())], name, 2.0)
    assert [reward.data for reward in rubric.rewards] == [(), ("f.jsonl",), (), (), ()]
    assert [reward.name for reward in rubric.rewards] == ["math", "brevity", "lambda", "lambda_2", "x"]
    assert rubric.success == "brevity"
    (score,) = rubric.score(replace(PROBLEM, source="f.jsonl"), ["#### 2"], [False], [1])
    assert score.reward == 2.0 * (1.0 - 3.0 + 1.0 + 2.0 - 6.0)
    assert score.reasons == {"math": "####: 2 equals 2"}
    with pytest.raises(RewardError, match=r"no built-in reward 'maths', only math, code, .*Did you mean 'math'\?"):
        build_rubric([RewardConfig(name="maths")])
    with pytest.raises(RewardError, match="success: 'matth' is none of the rewards"):
        build_rubric([RewardConfig(name="math")], success="matth")
    with pytest.raises(RewardError, match="at least one reward"):
        build_rubric([])


def test_format() -> None:
    pattern = r".*#### -?[0-9]+\s*"
    assert format_reward("work\nmore #### 36\n", pattern=pattern) == 1.0
    assert format_reward("#### 36 or so", pattern=pattern) == 0.0
    rubric = build_rubric([FormatReward(pattern="<think>.*</think>.+")])
    assert [score.passed for score in rubric.score(PROBLEM, ["<think>\n</think>x", "x"], [False] * 2, [1, 1])] == [
        True,
        False,
    ]
    with pytest.raises(ConfigError, match=r"pattern: 'a\(b' is no regular expression: .* at position 1"):
        format_reward("x", pattern="a(b")


@pytest.mark.parametrize("signature", ["single", "batch"])
def test_the_length_in_tokens_is_at_hand(signature: str) -> None:
    def single(completion: str, completion_length: int) -> float:
        return completion_length / 10

    def batch(completions: list[str], completion_length: list[int]) -> list[float]:
        return [length / 10 for length in completion_length]

    scores = Rubric([Reward("r", single if signature == "single" else batch)]).score(
        PROBLEM, TEXTS, [False] * 2, [3, 7]
    )
    assert [score.reward for score in scores] == [0.3, 0.7]


def test_the_soft_overlong_penalty() -> None:
    configs = [MathReward(), OverlongReward(buffer=4, weight=0.5)]
    rubric = build_rubric(configs, max_completion_length=20)
    lengths = [1, 16, 17, 18, 20, 25]
    scores = rubric.score(PROBLEM, ["#### 4"] * 6, [False] * 6, lengths)
    assert [score.parts["overlong"] for score in scores] == [0.0, 0.0, -0.25, -0.5, -1.0, -1.0]
    assert [score.reward - scores[0].reward for score in scores] == [0.0, 0.0, -0.125, -0.25, -0.5, -0.5]
    assert scores[2].reasons["overlong"] == "17 of 20 tokens; free up to 16"
    with pytest.raises(ValueError, match="buffer"):
        OverlongReward.model_validate({})
