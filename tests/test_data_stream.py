"""The order of problems: a function of seed, positions and what was observed, and of nothing else."""

import json
from collections import Counter
from dataclasses import replace

import pytest

from gruppo.data.difficulty import DifficultySlice
from gruppo.data.pools import EASY, HARD, NORMAL, PassRates
from gruppo.data.stream import ProblemStream, StreamSettings
from gruppo.errors import ConfigError, DataError
from gruppo.types import Group, Problem
from models import scripted_group

PROBLEMS = [Problem(id=f"f:{index}", prompt=f"q{index}", answer=None) for index in range(5)]

GOLDEN_ORDER = [2, 4, 3, 0, 1, 1, 4]
GOLDEN_OTHER_SEED = [4, 0, 1, 2, 3]


def ids(problems: list[Problem]) -> list[int]:
    return [int(problem.id[2:]) for problem in problems]


def test_the_order_is_that_of_pcg64_for_seed_and_epoch() -> None:
    stream = ProblemStream(PROBLEMS, seed=0)
    assert ids(stream.take(7)) == GOLDEN_ORDER
    assert (stream.epoch, stream.position) == (1, 2)
    assert sorted(GOLDEN_ORDER[:5]) == [0, 1, 2, 3, 4]
    assert ids(ProblemStream(PROBLEMS, seed=1).take(5)) == GOLDEN_OTHER_SEED


def test_a_state_goes_on_where_it_was_also_at_an_epochs_end() -> None:
    for taken in (0, 3, 5, 12):
        stream = ProblemStream(PROBLEMS, seed=3)
        stream.take(taken)
        resumed = ProblemStream(PROBLEMS, seed=3)
        resumed.load_state_dict(stream.state_dict())
        assert ids(resumed.take(11)) == ids(stream.take(11))


def test_each_epoch_has_each_problem_once() -> None:
    taken = ids(ProblemStream(PROBLEMS, seed=2).take(20))
    assert all(sorted(taken[start : start + 5]) == [0, 1, 2, 3, 4] for start in (0, 5, 10, 15))
    assert taken[:5] != taken[5:10]


def test_states_of_other_data_or_another_seed_are_refused() -> None:
    state = ProblemStream(PROBLEMS, seed=0).state_dict()
    with pytest.raises(DataError, match="these 4 problems are not those that the checkpoint was made with"):
        ProblemStream(PROBLEMS[:4], seed=0).load_state_dict(state)
    with pytest.raises(DataError, match="the checkpoint's order of problems has seed 0, this run 1"):
        ProblemStream(PROBLEMS, seed=1).load_state_dict(state)
    with pytest.raises(DataError, match="no problems"):
        ProblemStream([], seed=0)


def rated(*difficulties: float | None, source: str = "") -> list[Problem]:
    return [
        Problem(id=f"{source or 'f'}:{index}", prompt=f"q{index}", answer=None, difficulty=difficulty, source=source)
        for index, difficulty in enumerate(difficulties)
    ]


def group(problem: Problem, passes: int, of: int = 4) -> Group:
    """A group of the problem with so many passes."""
    whole = scripted_group([1.0] * passes + [0.0] * (of - passes))
    return Group(problem, whole.rollouts)


def names(problems: list[Problem]) -> str:
    """`a0 b2`: the first letter of the data set and the row."""
    return " ".join(problem.id.replace(":", "") for problem in problems)


@pytest.mark.parametrize(
    "settings",
    [
        StreamSettings(),
        StreamSettings(weights={"x": 1.0, "y": 1.0}),
        StreamSettings(pool_weights=(1, 1, 1)),
        StreamSettings(pool_weights=(0, 1, 4)),
        StreamSettings(drop_after=1),
    ],
)
def test_with_nothing_to_choose_the_order_is_the_plain_one(settings: StreamSettings) -> None:
    problems = [*rated(1, 2, source="x"), *rated(3, 4, 5, source="y")]
    stream = ProblemStream(problems, 0, settings)
    taken = [problems.index(problem) for problem in stream.take(4)] + [
        problems.index(problem) for problem in stream.take(3, DifficultySlice(1, 5))
    ]
    assert taken == GOLDEN_ORDER
    assert (stream.epoch, stream.position) == (1, 2)


def test_pools_of_equal_weight_change_nothing_whatever_was_observed() -> None:
    stream = ProblemStream(PROBLEMS, 0, StreamSettings(pool_weights=(1, 1, 1)))
    stream.observe([group(PROBLEMS[2], 4), group(PROBLEMS[4], 0)])
    assert ids(stream.take(7)) == GOLDEN_ORDER


def test_a_slice_passes_over_the_problems_outside_of_it() -> None:
    problems = rated(1, 2, 3, None, 4)
    plain = ids(ProblemStream(problems, 0).take(15))
    assert plain[:5] == [2, 4, 3, 0, 1]
    stream = ProblemStream(problems, 0)
    assert ids(stream.take(3, DifficultySlice(low=2))) == [2, 4, 1]
    assert (stream.epoch, stream.position) == (1, 0)
    rest = ids(stream.take(4, DifficultySlice(high=2)))
    assert rest == [index for index in plain[5:] if index in (0, 1)]
    with pytest.raises(DataError, match="no problem has a difficulty from 5 to 9; 4 of 5 problems have one, from 1"):
        stream.take(1, DifficultySlice(5, 9))


MIXED = [*rated(*[1] * 4, source="a"), *rated(None, None, source="b")]
MIXED_ORDER = "a1 a3 b1 b0 a0 a2 b0 b1 a2 b0 b1 a3"


def test_data_sets_are_mixed_by_weight_each_in_passes_of_its_own() -> None:
    stream = ProblemStream(MIXED, 0, StreamSettings(weights={"a": 3.0}))
    taken = stream.take(4000)
    assert names(taken[:12]) == MIXED_ORDER
    of = {name: [problem.id for problem in taken if problem.source == name] for name in "ab"}
    # 3 of 4 draws, within four standard errors of sqrt(0.75 * 0.25 / 4000).
    assert abs(len(of["a"]) / 4000 - 0.75) < 0.0274
    for name, size in (("a", 4), ("b", 2)):
        passes = [of[name][start : start + size] for start in range(0, len(of[name]) - size, size)]
        assert all(len(set(one)) == size for one in passes)
        assert len({tuple(one) for one in passes}) > 1
    assert (stream.epoch, stream.position) == (666, 4)


def test_a_data_set_without_problems_in_the_slice_leaves_its_share_to_the_others() -> None:
    stream = ProblemStream(MIXED, 0, StreamSettings(weights={"a": 1.0, "b": 99.0}))
    assert {problem.source for problem in stream.take(50)} == {"b"}
    assert sorted(names(stream.take(4, DifficultySlice(0, 1))).split()) == ["a0", "a1", "a2", "a3"]


def test_the_order_within_a_data_set_does_not_depend_on_the_weights() -> None:
    def order(weight: float) -> list[str]:
        taken = ProblemStream(MIXED, 5, StreamSettings(weights={"b": weight})).take(200)
        return [problem.id for problem in taken if problem.source == "a"][:20]

    assert order(0.5) == order(2.0)


def test_rolling_pass_rates_and_pools() -> None:
    rates = PassRates(["p", "q", "r"])
    p, q, _ = rated(None, None, None)
    p, q = replace(p, id="p"), replace(q, id="q")
    assert rates.pools.tolist() == [NORMAL, NORMAL, NORMAL]
    rates.observe([group(p, 4), group(q, 1)])
    assert rates.rates.tolist()[:2] == [1.0, 0.25]
    assert rates.pools.tolist() == [EASY, NORMAL, NORMAL]
    rates.observe([group(p, 2), group(q, 0), group(q, 3)])
    assert rates.rates.tolist()[:2] == [0.75, 0.4375]
    assert rates.pools.tolist() == [NORMAL, NORMAL, NORMAL]
    rates.observe([group(p, 17, of=20), group(q, 0), group(q, 0)])
    assert rates.rates[:2] == pytest.approx([0.8, 0.109375])
    assert rates.pools.tolist() == [EASY, HARD, NORMAL]


def test_streaks_count_groups_of_passes_alone_or_failures_alone() -> None:
    (p,) = rated(None)
    rates = PassRates([p.id])
    lengths = []
    for passes in (4, 4, 0, 0, 0, 1, 4, 0):
        rates.observe([group(p, passes)])
        lengths.append(max(n for n in range(9) if rates.settled(n)[0]))
    assert lengths == [1, 2, 1, 2, 3, 0, 1, 1]


def test_pool_weights_say_how_often_a_problem_comes() -> None:
    problems = rated(*[None] * 9)
    stream = ProblemStream(problems, 3, StreamSettings(pool_weights=(0.25, 1, 0.5)))
    stream.observe([group(problem, 4) for problem in problems[:3]] + [group(problem, 0) for problem in problems[3:6]])
    assert stream.report() == {"pool_easy": 3, "pool_normal": 3, "pool_hard": 3, "problems_dropped": None}
    counts = Counter(ids(stream.take(3 * (2 + 8 + 4))))
    assert stream.epoch == 8
    assert [counts[index] for index in range(9)] == [2, 2, 2, 4, 4, 4, 8, 8, 8]


def test_the_pools_that_have_problems_set_the_pace() -> None:
    problems = rated(*[None] * 4)
    stream = ProblemStream(problems, 0, StreamSettings(pool_weights=(1, 8, 4)))
    stream.observe([group(problem, 4) for problem in problems[:2]] + [group(problem, 0) for problem in problems[2:]])
    counts = Counter(ids(stream.take(2 * (2 + 8))))
    assert [counts[index] for index in range(4)] == [2, 2, 8, 8]


def test_settled_problems_are_left_out_and_come_again_where_nothing_else_is_left() -> None:
    told: list[str] = []
    stream = ProblemStream(PROBLEMS, 0, StreamSettings(drop_after=2), told.append)
    solved = [group(problem, 4) for problem in PROBLEMS[:3]]
    stream.observe(solved)
    assert stream.report()["problems_dropped"] == 0
    stream.observe(solved)
    assert stream.report() == {"pool_easy": 0, "pool_normal": 2, "pool_hard": 0, "problems_dropped": 3}
    assert sorted(ids(stream.take(4))) == [3, 3, 4, 4]
    stream.observe([group(problem, 0) for problem in PROBLEMS[3:]] * 2)
    assert stream.report()["problems_dropped"] == 5
    assert told == []
    assert set(ids(stream.take(10))) == {0, 1, 2, 3, 4}
    assert told == [
        "drop_after: nothing else is left, so the 5 problems left out come again; the problems are too easy or too "
        "hard by now"
    ]
    assert stream.report() == {"pool_easy": 3, "pool_normal": 0, "pool_hard": 2, "problems_dropped": 0}
    stream.observe(solved)
    assert stream.report()["problems_dropped"] == 0


def test_only_the_dropped_problems_of_the_slice_come_again() -> None:
    problems = rated(1, 1, 2, 2)
    stream = ProblemStream(problems, 0, StreamSettings(drop_after=1))
    stream.observe([group(problem, 0) for problem in problems[1:]])
    assert ids(stream.take(3, DifficultySlice(1, 1))) == [0, 0, 0]
    assert sorted(ids(stream.take(2, DifficultySlice(2, 2)))) == [2, 3]
    assert stream.report()["problems_dropped"] == 1


def test_a_pool_of_weight_nothing_comes_where_no_other_has_problems() -> None:
    stream = ProblemStream(PROBLEMS, 0, StreamSettings(pool_weights=(0, 1, 1)))
    stream.observe([group(problem, 4) for problem in PROBLEMS[1:]])
    assert ids(stream.take(3)) == [0, 0, 0]
    stream.observe([group(PROBLEMS[0], 4)])
    assert set(ids(stream.take(10))) == {0, 1, 2, 3, 4}


EVERYTHING = StreamSettings(weights={"a": 2.0, "b": 0.5}, pool_weights=(0.25, 1, 0.5), drop_after=2)


def test_a_state_of_any_step_goes_on_as_if_nothing_had_happened() -> None:
    problems = [*rated(1, 2, 3, 4, 5, source="a"), *rated(1, None, 5, source="b")]
    slices = [None, DifficultySlice(low=2), DifficultySlice(high=3)]

    def step(stream: ProblemStream, number: int) -> list[str]:
        taken = stream.take(3, slices[number // 4 % 3])
        stream.observe([group(p, (number + 3 * int(p.id[2:])) // 5 % 5) for p in taken])
        return [problem.id for problem in taken]

    whole = ProblemStream(problems, 7, EVERYTHING)
    states, orders, reports = [], [], []
    for number in range(40):
        states.append(json.dumps(whole.state_dict()))
        orders.append(step(whole, number))
        reports.append(whole.report())
    assert max(report["problems_dropped"] or 0 for report in reports) >= 2
    for start, state in enumerate(states):
        resumed = ProblemStream(problems, 7, EVERYTHING)
        resumed.take(5)
        resumed.observe([group(problems[0], 4)])
        resumed.load_state_dict(json.loads(state))
        for number in range(start, 40):
            assert step(resumed, number) == orders[number]
            assert resumed.report() == reports[number]


def test_a_state_belongs_to_its_problems_and_weights() -> None:
    problems = [*rated(1, 2, source="a"), *rated(3, source="b")]
    state = ProblemStream(problems, 0).state_dict()
    moved = [replace(problem, source=f"elsewhere/{problem.source}") for problem in problems]
    ProblemStream(moved, 0).load_state_dict(state)
    for other in (
        [replace(problems[0], difficulty=2.0), *problems[1:]],
        [replace(problem, source="a") for problem in problems],
    ):
        with pytest.raises(DataError, match="are not those that the checkpoint was made with"):
            ProblemStream(other, 0).load_state_dict(state)
    with pytest.raises(DataError, match="made with other weights of the data sets"):
        ProblemStream(problems, 0, StreamSettings(weights={"a": 2.0})).load_state_dict(state)


def test_settings_that_leave_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"pool_weights: got \(1, 0, 1\), wanted .* one above 0 for normal"):
        StreamSettings(pool_weights=(1, 0, 1))
    with pytest.raises(ConfigError, match="pool_weights: got"):
        StreamSettings(pool_weights=(-1, 1, 1))
    with pytest.raises(ConfigError, match="data: the weight of 'a' is 0, wanted a number above 0"):
        StreamSettings(weights={"a": 0})
    with pytest.raises(DataError, match="data: no problem of 'c' is left to give it its weight of 2"):
        ProblemStream(MIXED, 0, StreamSettings(weights={"c": 2.0}))
