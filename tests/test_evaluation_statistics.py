"""pass@k and the bootstrap, against numbers worked out elsewhere."""

import math

import numpy as np
import pytest

from gruppo.evaluation.statistics import Estimate, bootstrap_interval, paired_difference, pass_at_k


@pytest.mark.parametrize(
    ("n", "c", "k", "expected"),
    [
        (8, 0, 1, 0.0),
        (8, 3, 1, 0.375),
        (8, 3, 2, 1 - 10 / 28),
        (8, 3, 5, 1 - 1 / 56),
        (8, 3, 6, 1.0),
        (8, 8, 8, 1.0),
        (10, 1, 10, 1.0),
        (200, 5, 100, 0.9703083947657067),
    ],
)
def test_pass_at_k_is_one_minus_the_ratio_of_binomials(n: int, c: int, k: int, expected: float) -> None:
    assert pass_at_k(n, c, k) == pytest.approx(expected, abs=1e-12)
    assert pass_at_k(n, c, k) == pytest.approx(1 - math.comb(n - c, k) / math.comb(n, k), abs=1e-12)


@pytest.mark.parametrize(("n", "c", "k"), [(8, 9, 1), (8, -1, 1), (8, 2, 9), (8, 2, 0)])
def test_pass_at_k_refuses_what_cannot_be(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match="pass_at_k"):
        pass_at_k(n, c, k)


def test_pass_at_k_is_unbiased() -> None:
    """Over all ways in which 3 of 6 draws at p = 0.4 can pass, its mean is 1 - 0.6^3."""
    mean = sum(math.comb(6, c) * 0.4**c * 0.6 ** (6 - c) * pass_at_k(6, c, 3) for c in range(7))
    assert mean == pytest.approx(1 - 0.6**3, abs=1e-12)


def test_bootstrap_matches_the_normal_interval_of_a_large_sample() -> None:
    values = np.random.default_rng(5).normal(10.0, 2.0, size=400)
    estimate = bootstrap_interval(values, seed=0)
    half = 1.96 * values.std() / 20
    assert estimate.value == pytest.approx(values.mean())
    assert estimate.low == pytest.approx(values.mean() - half, abs=0.01)
    assert estimate.high == pytest.approx(values.mean() + half, abs=0.01)


def test_bootstrap_of_a_coin_has_the_binomial_quantiles() -> None:
    """50 of 100: the resampled count is Binomial(100, 1/2), whose 2.5 % and 97.5 % quantiles are 40 and 60."""
    estimate = bootstrap_interval([1.0] * 50 + [0.0] * 50, seed=1)
    assert (estimate.value, estimate.low, estimate.high) == (0.5, 0.4, 0.6)


def test_bootstrap_is_the_same_for_the_same_seed_and_chunks_do_not_show() -> None:
    values = np.linspace(0, 1, 4001)
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)
    picks = np.random.default_rng(3).integers(4001, size=(1000, 4001))
    low, high = np.quantile(values[picks].mean(axis=1), [0.025, 0.975])
    estimate = bootstrap_interval(values, seed=3, draws=1000)
    assert (estimate.low, estimate.high) == (pytest.approx(low, abs=1e-12), pytest.approx(high, abs=1e-12))


def test_paired_difference_is_narrower_than_the_difference_of_independent_samples() -> None:
    """Each problem gains exactly 0.25: whatever the spread of the problems, the interval has no width."""
    before = np.linspace(0, 0.75, 40)
    assert paired_difference(before, before + 0.25) == Estimate(0.25, pytest.approx(0.25), pytest.approx(0.25))
    with pytest.raises(ValueError, match="40 problems before and 39 after"):
        paired_difference(before, before[1:])


def test_paired_difference_sees_direction() -> None:
    difference = paired_difference([0.0, 0.0, 1.0, 0.5], [1.0, 0.5, 1.0, 0.5], seed=0)
    assert difference.value == 0.375
    assert 0.0 <= difference.low < 0.375 < difference.high <= 1.0
    assert paired_difference([1.0, 0.5], [0.5, 0.5]).value == -0.25


@pytest.mark.parametrize("values", [[], [[0.5]], [0.5, math.nan]])
def test_bootstrap_refuses_what_is_no_sample(values: list[float]) -> None:
    with pytest.raises(ValueError, match="wanted"):
        bootstrap_interval(values)


def test_an_estimate_reads_well_and_survives_json() -> None:
    estimate = Estimate(0.238, 0.2104, 0.2657)
    assert str(estimate) == "0.238 [0.21, 0.27]"
    assert Estimate.from_json(estimate.to_json()) == estimate
    assert bootstrap_interval([1.0, 1.0, 1.0]) == Estimate(1.0, 1.0, 1.0)
