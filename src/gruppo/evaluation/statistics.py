"""pass@k and honest intervals, in numpy.

Legend: P problems, n completions of a problem, c of them that pass, D draws of the bootstrap.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

DRAWS = 10_000
LEVEL = 0.95
_CHUNK = 2_000_000
"""Resampled values held at a time; bounds the memory at 16 MB."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over problems and its interval."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        """As it stands in RUN/eval/*.json."""
        return {"value": self.value, "low": self.low, "high": self.high}

    @classmethod
    def from_json(cls, data: dict[str, float]) -> "Estimate":
        """An estimate as `to_json` wrote it."""
        return cls(data["value"], data["low"], data["high"])

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.2f}, {self.high:.2f}]"


def pass_at_k(n: int, c: int, k: int) -> float:
    """Unbiased estimate of the chance that at least one of k completions passes, from c passes among n.

    1 - C(n - c, k) / C(n, k) = 1 - prod_{i = n-c+1}^{n} (1 - k / i), the product being stable for large n.
    Chen et al. 2021, equation 1, https://arxiv.org/abs/2107.03374.
    Raises ValueError unless 0 <= c <= n and 1 <= k <= n.
    """
    if not 0 <= c <= n:
        raise ValueError(f"pass_at_k: got {c} passes among {n} completions")
    if not 1 <= k <= n:
        raise ValueError(f"pass_at_k: k = {k} needs at least that many completions, got {n}")
    if n - c < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(n - c + 1, n + 1)))


def bootstrap_interval(values: ArrayLike, seed: int = 0, draws: int = DRAWS, level: float = LEVEL) -> Estimate:
    """The mean of `values` [P] and its percentile bootstrap interval over problems.

    Draws P problems with replacement, `draws` times; the interval holds the middle `level` of their means.
    The same values and seed give the same interval. Values that are all equal give an interval of width 0.
    Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    Raises ValueError for no values, values that are not finite or more than one dimension.
    """
    array = _checked(values)
    means = np.concatenate(list(_resampled_means(array, seed, draws)))
    tail = (1.0 - level) / 2
    low, high = np.quantile(means, [tail, 1.0 - tail])
    mean = float(array.mean())
    # rounding in the means must not push an interval past the value it is about
    return Estimate(mean, min(float(low), mean), max(float(high), mean))


def paired_difference(
    before: ArrayLike, after: ArrayLike, seed: int = 0, draws: int = DRAWS, level: float = LEVEL
) -> Estimate:
    """Mean of after - before [P] on the same problems in the same order, with its bootstrap interval over
    problems.

    Raises ValueError when they are not as many.
    """
    old, new = _checked(before), _checked(after)
    if old.shape != new.shape:
        raise ValueError(f"paired_difference: got {len(old)} problems before and {len(new)} after")
    return bootstrap_interval(new - old, seed, draws, level)


def _checked(values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"wanted one value per problem and at least one problem, got the shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError("wanted finite values, got NaN or infinity")
    return array


def _resampled_means(values: NDArray[np.float64], seed: int, draws: int) -> Iterator[NDArray[np.float64]]:
    """The means of `draws` resamples [D], in chunks."""
    generator = np.random.default_rng(seed)
    rows = max(1, _CHUNK // len(values))
    for start in range(0, draws, rows):
        picks = generator.integers(len(values), size=(min(rows, draws - start), len(values)))
        yield values[picks].mean(axis=1)
