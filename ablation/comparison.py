"""Statistics of a few runs per method: Student's intervals, and pairs of runs with equal seeds.

A bootstrap of so few values is too narrow: of five that are normal its 95 % interval misses the mean in 16 of
100 cases.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit
from scipy.stats import permutation_test

RESAMPLES = 10_000


class Estimate(NamedTuple):
    """A mean over runs, its standard deviation (None of a lone run) and 95 % interval of the mean, NaN of a
    lone run."""

    mean: float
    std: float | None
    low: float
    high: float
    runs: int

    def __str__(self) -> str:
        spread = "" if self.std is None else f" ± {self.std:.2f}"
        return f"{self.mean:.2f}{spread}"


class Paired(NamedTuple):
    """Mean difference of runs with equal seeds, its 95 % interval (NaN of one), and the p-value of no
    difference.

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
    """Mean of `values` (n,), n >= 1, with Student's interval."""
    data = np.asarray(values, float)
    std = float(data.std(ddof=1)) if len(data) > 1 else None
    return Estimate(float(data.mean()), std, *_mean_and_interval(data)[1:], len(data))


def paired(values: Sequence[float], reference: Sequence[float]) -> Paired:
    """`values` - `reference`, (n,) each, of the same n >= 1 seeds in the same order."""
    difference = np.asarray(values, float) - np.asarray(reference, float)
    p = 1.0
    if len(difference) > 1 and difference.any():
        p = permutation_test(
            (difference,), np.mean, permutation_type="samples", n_resamples=RESAMPLES, vectorized=True,
            random_state=0,
        ).pvalue  # fmt: skip
    return Paired(float(difference.mean()), *_mean_and_interval(difference)[1:], float(p), len(difference))


def least_p(runs: int) -> float:
    """The p-value of so many pairs that all differ in one direction."""
    return 2 / 2**runs if 2**runs <= RESAMPLES else 2 / (RESAMPLES + 1)


def difference(values: Sequence[float], others: Sequence[float]) -> tuple[float, float, float]:
    """mean of `values` (n,) - mean of `others` (m,), which are not paired, with the ends of Welch's 95 %
    interval: NaN where one of them is alone."""
    return _mean_and_interval(np.asarray(values, float), -np.asarray(others, float))


def between(low: float, high: float, form: str = ".2f") -> str:
    """An interval in words; a dash where there is none."""
    return "–" if math.isnan(low) else f"{low:{form}} to {high:{form}}"


def _mean_and_interval(*samples: np.ndarray) -> tuple[float, float, float]:
    """The sum of the means of independent samples, and the ends of its 95 % interval: Student's of one,
    Welch's of several, whose variances may differ.

    Source: Welch, 1947, "The generalization of 'Student's' problem when several different population
    variances are involved", Biometrika 34.
    """
    mean, counts = float(sum(x.mean() for x in samples)), [len(x) for x in samples]
    if min(counts) < 2:
        return mean, math.nan, math.nan
    squares = [float(x.var(ddof=1)) / len(x) for x in samples]
    if not any(squares):
        return mean, mean, mean
    freedom = sum(squares) ** 2 / sum(v**2 / (n - 1) for v, n in zip(squares, counts, strict=True))
    half = float(stdtrit(freedom, 0.975)) * math.sqrt(sum(squares))
    return mean, mean - half, mean + half
