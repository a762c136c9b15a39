from collections.abc import Sequence

import pytest

from gruppo.errors import EngineError, RewardError
from gruppo.rollout.collect import Collected, Collector
from gruppo.rollout.engine import ScriptedEngine
from gruppo.types import Group, GroupRequest, Problem, SamplingParams, Score
from models import Letters, request
from scorers import AtOnce

SAMPLING = SamplingParams(max_completion_length=4, stop_token_ids=(9,))


def by_prompt(request: GroupRequest, sample: int) -> list[int]:
    """The prompt's first token, `sample` + 1 times, then a stop."""
    return [request.prompt_ids[0]] * (sample + 1) + [9]


class Lengths(AtOnce):
    """Scores a text by its length, and passes from two letters on; notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, list[str], list[bool]]] = []

    def score(
        self, problem: Problem, texts: Sequence[str], truncated: Sequence[bool], lengths: Sequence[int]
    ) -> list[Score]:
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


class Alternating(AtOnce):
    """Problems named by a capital have signal; the completions of all others pass."""

    def score(
        self, problem: Problem, texts: Sequence[str], truncated: Sequence[bool], lengths: Sequence[int]
    ) -> list[Score]:
        values = [float(sample) if problem.id.isupper() else 1.0 for sample in range(len(texts))]
        return [Score(value, {"r": value}, value >= 1) for value in values]


def informative(names: str, n: int, max_factor: float) -> tuple[Collected, ScriptedEngine, list[int]]:
    """Groups collected from problems of one letter each, with what the engine was asked and what was taken."""
    engine, waiting, taken = ScriptedEngine(by_prompt), list(names), []

    def take(count: int) -> list[Problem]:
        taken.append(count)
        return [problem(waiting.pop(0), 0) for _ in range(count)]

    collector = Collector(engine, Alternating(), Letters(), SAMPLING, group_size=2)
    return collector.collect_informative(take, n, max_factor, seed=5), engine, taken


def names_of(groups: Sequence[Group]) -> str:
    return "".join(group.problem.id for group in groups)


@pytest.mark.parametrize(
    ("names", "n", "max_factor", "taken", "groups", "sampled"),
    [
        ("aBcD", 4, 1.0, [4], "aBcD", "aBcD"),
        ("ABCD", 4, 3.0, [4], "ABCD", "ABCD"),
        ("aBcDeFG", 4, 3.0, [4, 2, 1], "BDFG", "aBcDeFG"),
        ("abcdefGh", 4, 2.0, [4, 4], "Gabc", "abcdefGh"),
        ("aBcdE", 3, 1.5, [3, 2], "BEa", "aBcdE"),
        ("abcdefghijK", 10, 1.1, [10, 1], "Kabcdefghi", "abcdefghijK"),
        ("abcdef", 2, 2.2, [2, 2, 1], "ab", "abcde"),
    ],
)
def test_groups_without_signal_are_replaced_while_sampling_may_go_on(
    names: str, n: int, max_factor: float, taken: list[int], groups: str, sampled: str
) -> None:
    collected, engine, asked = informative(names, n, max_factor)
    assert asked == taken
    assert names_of(collected.groups) == groups
    assert names_of(collected.all_groups) == sampled
    assert collected.sampled_groups == len(sampled)
    assert [r.id for r in engine.requests] == list(range(len(sampled)))
    # Two completions a group, of two and three tokens.
    assert collected.generated_tokens == 5 * len(sampled)


def test_a_problem_that_comes_again_in_a_later_round_gets_other_draws() -> None:
    _, engine, _ = informative("aBaaBC", 3, 2.0)
    assert [(r.problem_id, r.seed) for r in engine.requests] == [
        ("a", 5),
        ("B", 5),
        ("a", 6),
        ("a", 7),
        ("B", 6),
        ("C", 5),
    ]


def test_with_factor_one_nothing_but_collect_is_done() -> None:
    problems = [problem(name, 0) for name in "aBBc"]
    engine = ScriptedEngine(by_prompt)
    collector = Collector(engine, Alternating(), Letters(), SAMPLING, group_size=3)
    plain = collector.collect(problems, seed=7)
    plain_requests, engine.requests = engine.requests, []
    informed = collector.collect_informative(lambda n: problems[:n], 4, 1.0, seed=7)
    assert engine.requests == plain_requests
    assert names_of(informed.groups) == names_of(plain.groups) == names_of(plain.all_groups) == "aBBc"
    assert plain.sampled_groups == informed.sampled_groups == 4
    for one, other in zip(plain.groups, informed.groups):
        assert one.rewards.tolist() == other.rewards.tolist()
        assert [r.text for r in one.rollouts] == [r.text for r in other.rollouts]


def test_after_a_reward_that_raises_the_engine_is_ready_again():
    class Broken(Lengths):
        def score(
            self, problem: Problem, texts: Sequence[str], truncated: Sequence[bool], lengths: Sequence[int]
        ) -> list[Score]:
            raise RewardError("no")

    engine = ScriptedEngine(by_prompt)
    with pytest.raises(RewardError):
        Collector(engine, Broken(), Letters(), SAMPLING, 2).collect([problem("x", 0), problem("y", 1)], seed=0)
    collected = Collector(engine, Lengths(), Letters(), SAMPLING, 2).collect([problem("z", 2)], seed=0)
    assert [r.text for r in collected.groups[0].rollouts] == ["cj", "ccj"]
