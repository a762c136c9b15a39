"""Advantages against numbers worked out by hand."""

import pytest
import torch

from gruppo.algorithm.advantages import group_advantages, has_signal


def test_two_of_four_right() -> None:
    assert group_advantages(torch.tensor([[0.0, 1.0, 1.0, 0.0]])).tolist() == [
        pytest.approx([-1.0, 1.0, 1.0, -1.0], abs=1e-6)
    ]


def test_the_std_is_the_populations() -> None:
    # mean 3, squares 4 + 1 + 0 + 9 = 14, std sqrt(14 / 4) = 1.870829 (the sample's would be 2.160247)
    advantages = group_advantages(torch.tensor([[1.0, 2.0, 3.0, 6.0]]))
    assert advantages.tolist() == [pytest.approx([-1.0690450, -0.5345225, 0.0, 1.6035675], abs=1e-6)]


def test_each_group_is_standardised_by_itself() -> None:
    rewards = torch.tensor([[0.0, 1.0, 0.0, 0.0], [10.0, 10.0, 10.0, 14.0]])
    one_of_four = [1.7320508, -0.5773503]  # sqrt(3) and -1 / sqrt(3)
    high, low = one_of_four
    assert group_advantages(rewards).tolist() == [
        pytest.approx([low, high, low, low], abs=1e-6),
        pytest.approx([low, low, low, high], abs=1e-6),
    ]


@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1, -7.3, 1e-30, 1e6 / 3])
@pytest.mark.parametrize("group_size", [2, 3, 7, 8])
def test_equal_rewards_give_exactly_zero(reward: float, group_size: int) -> None:
    assert group_advantages(torch.full((1, group_size), reward)).tolist() == [[0.0] * group_size]


def test_nearly_equal_rewards_stay_small() -> None:
    # The std of 5e-13 is far below the floor of 1e-8, so rounding noise in a reward is no signal: 5e-13 / 1e-8.
    rewards = torch.tensor([[0.5, 0.5 + 1e-12]], dtype=torch.float64)
    assert group_advantages(rewards).tolist() == [pytest.approx([-5e-5, 5e-5], rel=1e-3)]


def test_the_floor_does_not_bend_rewards_that_differ() -> None:
    # deviation 5e-4, std 5e-4: the floor takes a share of 2e-5
    assert group_advantages(torch.tensor([[0.0, 0.001]], dtype=torch.float64)).tolist() == [
        pytest.approx([-0.99998, 0.99998], abs=1e-6)
    ]


def test_large_rewards_keep_their_differences() -> None:
    rewards = torch.tensor([[1e9, 1e9 + 1.0]], dtype=torch.float64)
    assert group_advantages(rewards).tolist() == [pytest.approx([-1.0, 1.0], abs=1e-6)]


def test_has_signal() -> None:
    assert has_signal(torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 1.0]])).tolist() == [False, True, False]


@pytest.mark.parametrize("shape", [(4,), (3, 1), (2, 2, 2)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"rewards must be \[P, G\] with G >= 2, got"):
        group_advantages(torch.zeros(shape))
