"""Advantages against numbers worked out by hand."""

from typing import get_args

import pytest
import torch

from gruppo.algorithm.advantages import SCALES, group_advantages, has_signal
from gruppo.algorithm.kl import ESTIMATORS
from gruppo.algorithm.losses import LOSSES
from gruppo.config.schema import AdvantageScale, KLEstimator, LossName


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


REWARDS = torch.tensor([[0.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 8.0], [3.0, 3.0, 3.0, 3.0]], dtype=torch.float64)
# All twelve: sum 22, squares 2 + 64 + 36 = 102, variance 8.5 - (22 / 12)^2 = 5.138889, std 2.266912


@pytest.mark.parametrize(
    ("scale", "first", "second"),
    [
        ("none", [-0.5, 0.5, 0.5, -0.5], [-2.0, -2.0, -2.0, 6.0]),
        ("leave_one_out", [-2 / 3, 2 / 3, 2 / 3, -2 / 3], [-8 / 3, -8 / 3, -8 / 3, 8.0]),
        ("batch", [-0.220564, 0.220564, 0.220564, -0.220564], [-0.882258, -0.882258, -0.882258, 2.646773]),
        ("std", [-1.0, 1.0, 1.0, -1.0], [-0.577350, -0.577350, -0.577350, 1.732051]),
    ],
)
def test_every_scale(scale: str, first: list[float], second: list[float]) -> None:
    advantages = group_advantages(REWARDS, scale)
    assert advantages.dtype == torch.float64
    assert advantages.tolist() == [pytest.approx(first, abs=1e-6), pytest.approx(second, abs=1e-6), [0.0] * 4]


def test_the_baseline_of_leave_one_out_is_the_mean_of_the_others() -> None:
    rewards = torch.randn(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    others = torch.stack([rewards[:, [j for j in range(6) if j != i]].mean(dim=1) for i in range(6)], dim=1)
    torch.testing.assert_close(group_advantages(rewards, "leave_one_out"), rewards - others, atol=1e-12, rtol=0)


def test_clipped() -> None:
    advantages = group_advantages(REWARDS, "none", clip=1.5)
    assert advantages.tolist() == [[-0.5, 0.5, 0.5, -0.5], [-1.5, -1.5, -1.5, 1.5], [0.0] * 4]


def test_whole_numbers_give_float32() -> None:
    assert group_advantages(torch.tensor([[0, 1]])).dtype == torch.float32


def test_no_such_scale() -> None:
    with pytest.raises(ValueError, match="scale must be one of std, none, batch, leave_one_out, got 'rank'"):
        group_advantages(REWARDS, "rank")


def test_the_options_have_the_names_of_the_formulas() -> None:
    assert get_args(AdvantageScale) == tuple(SCALES)
    assert get_args(LossName) == tuple(LOSSES)
    assert set(get_args(KLEstimator)) == {*ESTIMATORS, "k3_weighted", "exact", "exact_forward"}
