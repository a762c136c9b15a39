from collections.abc import Sequence

import pytest

from gruppo.errors import EngineError, RewardError
from gruppo.rollout.collect import Collector
from gruppo.rollout.engine import ScriptedEngine
from gruppo.types import GroupRequest, Problem, SamplingParams, Score
from models import Letters, request

SAMPLING = SamplingParams(max_completion_length=4, stop_token_ids=(9,))


def by_prompt(request: GroupRequest, sample: int) -> list[int]:
    """The prompt's first token, `sample` + 1 times, then a stop."""
    return [request.prompt_ids[0]] * (sample + 1) + [9]


class Lengths:
    """Scores a text by its length, and passes from two letters on; notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, list[str], list[bool]]] = []

    def score(self, problem: Problem, texts: Sequence[str], truncated: Sequence[bool]) -> list[Score]:
        self.asked.append((problem.id, list(texts), list(truncated)))
        return [Score(len(text), {"length": len(text)}, len(text) >= 2) for text in texts]


def problem(name: str, first: int) -> Problem:
    return Problem(id=name, prompt=name, answer=None, prompt_ids=(first, 1))


def test_scripted_engine_says_what_the_script_says():
    engine = ScriptedEngine(by_prompt)
    engine.load_weights(iter([]), version=3)
    first, second = engine.generate([request([0, 1], SAMPLING, id=8, group_size=4), request([2], SAMPLING, id=9)])
    assert [c.token_ids.tolist() for c in first] == [[0, 9], [0, 0, 9], [0, 0, 0, 9], [0, 0, 0, 0]]
    assert [c.finish_reason for c in first] == ["stop", "stop", "stop", "length"]
    assert [c.sample for c in first] == [0, 1, 2, 3]
    assert second[0].token_ids.tolist() == [2, 9]
    assert second[0].sampler_logprobs.tolist() == [0.0, 0.0]
    assert (second[0].request_id, second[0].problem_id, second[0].version) == (9, "p9", 3)
    assert engine.versions == [3]
    assert [r.id for r in engine.requests] == [8, 9]
    with pytest.raises(EngineError, match="problem p5: the prompt has no tokens"):
        engine.submit(request([], SAMPLING, id=5))


def test_collect_scores_whole_groups_in_the_order_of_their_problems():
    scorer = Lengths()
    collector = Collector(ScriptedEngine(by_prompt), scorer, Letters(), SAMPLING, group_size=3)
    collected = collector.collect([problem("x", 0), problem("y", 1)], seed=5)
    assert [group.problem.id for group in collected.groups] == ["x", "y"]
    assert [r.text for r in collected.groups[1].rollouts] == ["bj", "bbj", "bbbj"]
    assert collected.groups[0].rewards.tolist() == [2.0, 3.0, 4.0]
    assert scorer.asked[0] == ("x", ["aj", "aaj", "aaaj"], [False, False, False])
    assert collected.generated_tokens == 18
    assert collected.seconds_rollout >= 0
    assert collected.seconds_reward >= 0


def test_a_problem_that_stands_twice_in_a_step_gets_other_draws():
    engine = ScriptedEngine(by_prompt)
    Collector(engine, Lengths(), Letters(), SAMPLING, group_size=2).collect(
        [problem("x", 0), problem("y", 1), problem("x", 0)], seed=5
    )
    assert [(r.id, r.problem_id, r.seed) for r in engine.requests] == [(0, "x", 5), (1, "y", 5), (2, "x", 6)]


def test_after_a_reward_that_raises_the_engine_is_ready_again():
    class Broken(Lengths):
        def score(self, problem: Problem, texts: Sequence[str], truncated: Sequence[bool]) -> list[Score]:
            raise RewardError("no")

    engine = ScriptedEngine(by_prompt)
    with pytest.raises(RewardError):
        Collector(engine, Broken(), Letters(), SAMPLING, 2).collect([problem("x", 0), problem("y", 1)], seed=0)
    collected = Collector(engine, Lengths(), Letters(), SAMPLING, 2).collect([problem("z", 2)], seed=0)
    assert [r.text for r in collected.groups[0].rollouts] == ["cj", "ccj"]
