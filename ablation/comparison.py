"""Statistics of a few runs per method: intervals by bootstrap, and pairs of runs with equal seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import bootstrap, permutation_test

RESAMPLES = 10_000


class Estimate(NamedTuple):
    """A mean over runs, its standard deviation (None of a lone run) and 95 % interval of the mean."""

    mean: float
    std: float | None
    low: float
    high: float
    runs: int

    def __str__(self) -> str:
        spread = "" if self.std is None else f" ± {self.std:.2f}"
        return f"{self.mean:.2f}{spread}"


class Paired(NamedTuple):
    """Mean difference of runs with equal seeds, its 95 % interval, and the p-value of no difference.

    Attributes:
        p: two-sided, over all ways to swap the two runs of a seed, or `RESAMPLES` of them where there are
            more; at least `least_p` of the number of seeds.
    """

    mean: float
    low: float
    high: float
    p: float
    runs: int


def estimate(values: Sequence[float]) -> Estimate:
    """Mean of `values` (n,), n >= 1; the interval is the percentile bootstrap's."""
    data = np.asarray(values, float)
    std = float(data.std(ddof=1)) if len(data) > 1 else None
    return Estimate(float(data.mean()), std, *_interval(data), len(data))


def paired(values: Sequence[float], reference: Sequence[float]) -> Paired:
    """`values` - `reference`, (n,) each, of the same n >= 1 seeds in the same order."""
    difference = np.asarray(values, float) - np.asarray(reference, float)
    p = 1.0
    if len(difference) > 1 and difference.any():
        p = permutation_test(
            (difference,), np.mean, permutation_type="samples", n_resamples=RESAMPLES, vectorized=True,
            random_state=0,
        ).pvalue  # fmt: skip
    return Paired(float(difference.mean()), *_interval(difference), float(p), len(difference))


def least_p(runs: int) -> float:
    """The p-value of so many pairs that all differ in one direction."""
    return 2 / 2**runs if 2**runs <= RESAMPLES else 2 / (RESAMPLES + 1)


def difference(values: Sequence[float], others: Sequence[float]) -> tuple[float, float, float]:
    """mean of `values` (n,) - mean of `others` (m,), which are not paired, with the ends of its 95 % interval
    by the percentile bootstrap of both."""
    a, b = np.asarray(values, float), np.asarray(others, float)
    rng = np.random.default_rng(0)
    drawn = [data[rng.integers(len(data), size=(RESAMPLES, len(data)))].mean(-1) for data in (a, b)]
    low, high = np.quantile(drawn[0] - drawn[1], [0.025, 0.975])
    return float(a.mean() - b.mean()), float(low), float(high)


def _interval(data: np.ndarray) -> tuple[float, float]:
    """95 % interval of the mean; a lone value, or equal ones, have no width."""
    if np.ptp(data) == 0:
        return float(data[0]), float(data[0])
    result = bootstrap((data,), np.mean, n_resamples=RESAMPLES, method="percentile", random_state=0)
    return float(result.confidence_interval.low), float(result.confidence_interval.high)
