"""The order of problems: a function of seed and position, and of nothing else."""

import pytest

from gruppo.data.stream import ProblemStream
from gruppo.errors import DataError
from gruppo.types import Problem

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
