"""How often a group carries a signal, at any group size, from a few scored completions per problem.

Legend: P problems, n completions of a problem, c of them that pass, g a group size, p a problem's pass rate,
M points of the grid.

The pass rates p of the problems are taken to be Beta-distributed, so that c is beta-binomial (Skellam 1948). The chance
that a group of g has rewards that differ is then

    1 - E[p^g] - E[(1 - p)^g],    E[p^g] = prod_{i < g} (a + i) / (a + b + i),

and pass@k is 1 - E[(1 - p)^k]. Putting c / n in for p would be biased: a problem of which none of 8 passed is not one
of p = 0.

1. The fit is no single point: mean m and correlation r of the Beta (a = m (1 - r) / r, b = (1 - m)(1 - r) / r) lie on
   a grid, weighted by likelihood and by a flat prior (over arcsin sqrt m, Jeffreys' for one rate, and over sqrt r). So
   every figure has an interval, also where nothing passed.
2. Where rewards take more than two values, "passes" is "has the commonest reward", and those that have not are equal
   to each other with a chance k that is counted over pairs: a group of them has no signal with k^(g - 1). With two
   values k is 1 and the formula is the one above.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gruppo.evaluation.statistics import LEVEL, Estimate

Floats = NDArray[np.float64]
MEANS, CORRELATIONS = 96, 64
_DRAWS = 8_000
FIRST_STEPS = 10
"""Steps of a run that the predicted share of groups with a signal is for."""


@dataclass(frozen=True)
class RateFit:
    """Beta distributions of pass rates, each with its weight."""

    a: Floats
    """[M]."""
    b: Floats
    """[M]."""
    weights: Floats
    """[M], of sum 1."""
    others_equal: float = 1.0
    """k: the chance that two completions that do not pass have equal rewards."""

    def pass_at(self, k: int) -> Estimate:
        """The chance that one of k completions passes."""
        return self._estimate(1.0 - _moment(self.b, self.a, k))

    def signal(self, group_size: int) -> Estimate:
        """The share of groups whose rewards differ."""
        return self._estimate(self._signal(group_size))

    def predicted(self, group_size: int, groups: int) -> Estimate:
        """The same, with the interval of what so many groups will show."""
        shares = self._signal(group_size)
        generator = np.random.default_rng(0)
        drawn = shares[generator.choice(len(shares), size=_DRAWS, p=self.weights)]
        shown = generator.binomial(groups, np.clip(drawn, 0.0, 1.0)) / groups
        tail = (1.0 - LEVEL) / 2
        low, high = np.quantile(shown, [tail, 1.0 - tail])
        return Estimate(float(self.weights @ shares), float(low), float(high))

    def _signal(self, group_size: int) -> Floats:
        failing = self.others_equal ** (group_size - 1) * _moment(self.b, self.a, group_size)
        return 1.0 - _moment(self.a, self.b, group_size) - failing

    def _estimate(self, values: Floats) -> Estimate:
        order = np.argsort(values)
        cumulative = np.cumsum(self.weights[order])
        tail = (1.0 - LEVEL) / 2
        low, high = (values[order[min(np.searchsorted(cumulative, q), len(order) - 1)]] for q in (tail, 1.0 - tail))
        return Estimate(float(self.weights @ values), float(low), float(high))


def fit_rates(passes: Sequence[int], samples: Sequence[int], others_equal: float = 1.0) -> RateFit:
    """The fit to c passes [P] of n completions [P].

    Raises ValueError for no problems, or for more passes than completions.
    """
    if not passes or any(not 0 <= c <= n for c, n in zip(passes, samples, strict=True)):
        raise ValueError(f"fit_rates: got {list(passes)} passes of {list(samples)} completions")
    mean = np.sin((np.arange(MEANS) + 0.5) / MEANS * math.pi / 2) ** 2
    correlation = ((np.arange(CORRELATIONS) + 0.5) / CORRELATIONS) ** 2
    m, r = (part.ravel() for part in np.meshgrid(mean, correlation, indexing="ij"))
    a, b = m * (1.0 - r) / r, (1.0 - m) * (1.0 - r) / r
    likelihood = np.zeros_like(a)
    for (c, n), count in Counter(zip(passes, samples)).items():
        likelihood += count * (_log_rising(a, c) + _log_rising(b, n - c) - _log_rising(a + b, n))
    weights = np.exp(likelihood - likelihood.max())
    return RateFit(a, b, weights / weights.sum(), others_equal)


def fit_rewards(rewards: Sequence[Floats]) -> RateFit:
    """The fit to rewards [P] of [n], whatever their values: what counts is which are equal."""
    values = Counter(float(value) for group in rewards for value in group)
    common = values.most_common(1)[0][0]
    equal = pairs = 0
    for group in rewards:
        others = Counter(float(value) for value in group if value != common)
        total = sum(others.values())
        pairs += total * (total - 1)
        equal += sum(count * (count - 1) for count in others.values())
    others_equal = 1.0 if len(values) <= 2 else equal / max(1, pairs)
    passes = [int(np.sum(group == common)) for group in rewards]
    return fit_rates(passes, [len(group) for group in rewards], others_equal)


def _log_rising(x: Floats, count: int) -> Floats:
    """[M], log of x (x + 1) ... (x + count - 1)."""
    total = np.zeros_like(x)
    for i in range(count):
        total += np.log(x + i)
    return total


def _moment(a: Floats, b: Floats, power: int) -> Floats:
    """[M], E[p^power] under Beta(a, b)."""
    return np.exp(_log_rising(a, power) - _log_rising(a + b, power))
