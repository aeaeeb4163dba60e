"""How far a table of accuracies can be trusted.

Accuracies of S seeds are arrays (S, n), in %: a row for every seed, a column for every cell. The seeds are
the same for all cells. What a seed adds to all cells alike orders nothing, so noise is what remains of an
accuracy without the means of its cell and of its seed:

    residual_sc = x_sc - mean_c - mean_s + mean,   noise^2 = sum residual^2 / ((S - 1) (n - 1)).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata

from nas.tables.agreement import correlation, top

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


class Reliability(NamedTuple):
    """What a table says about the differences between cells.

    Attributes:
        spread: standard deviation of the cells' means, in %.
        deviation: mean over the cells of the sample standard deviation over seeds, in %.
        noise: standard deviation of one training without what its seed does to all cells, in %.
        seed_correlation: mean Spearman correlation between two seeds.
        reliability: share of the variance of the cells' means that is not noise; Cronbach's alpha, which is
            the intraclass correlation ICC(3, S). 1 is a table without noise; chance can take it below 0.
        cells: n.
    """

    spread: float
    deviation: float
    noise: float
    seed_correlation: float
    reliability: float
    cells: int


def reliability(samples: np.ndarray) -> Reliability:
    """The statistics of accuracies (S, n) of at least two seeds and two cells.

    Source of the reliability: Shrout & Fleiss, 1979, "Intraclass correlations", Psychological Bulletin 86.
    """
    seeds, cells = samples.shape
    means, variance = samples.mean(0), noise(samples) ** 2
    spread = float(means.var(ddof=1))
    ranks = rankdata(samples, axis=1)
    pairs = [correlation(ranks[i], ranks[j]) for i in range(seeds) for j in range(i)]
    return Reliability(
        spread=math.sqrt(spread),
        deviation=float(samples.std(0, ddof=1).mean()),
        noise=math.sqrt(variance),
        seed_correlation=float(np.mean(pairs)),
        reliability=1 - variance / seeds / spread if spread else math.nan,
        cells=cells,
    )


def noise(samples: np.ndarray) -> float:
    """Standard deviation (%) of one of the accuracies (S, n), without the means of cells and seeds."""
    residual = samples - samples.mean(0) - samples.mean(1, keepdims=True) + samples.mean()
    seeds, cells = samples.shape
    return math.sqrt(float((residual**2).sum()) / ((seeds - 1) * (cells - 1)))


def standard_error(samples: np.ndarray) -> float:
    """Standard error (%) of the difference between two of the best cells, from accuracies (S, n).

    The noise is that of the top tenth: worse cells are noisier.
    """
    best = samples[:, top(samples.mean(0), 0.1)]
    return noise(best) * math.sqrt(2 / len(samples))


def held_out(samples: np.ndarray, count: int) -> float:
    """Accuracy (%) in one seed of the `count` cells that are best in the mean of the others, averaged over
    the seeds: what is left of the best of accuracies (S, n) without the luck that made them the best."""
    found = []
    for seed, own in enumerate(samples):
        order = np.argsort(-np.delete(samples, seed, 0).mean(0), kind="stable")
        found.append(own[order[:count]].mean())
    return float(np.mean(found))


def tied(accuracies: np.ndarray, margin: float) -> np.ndarray:
    """Which cells (n,) are at most `margin` below the best."""
    mask: np.ndarray = accuracies >= accuracies.max() - margin
    return mask


def running_deviation(accuracies: np.ndarray, deviations: np.ndarray, window: int) -> np.ndarray:
    """Root mean square (n,) of the deviations of the `window` cells around each, by accuracy.

    Args:
        accuracies: (n,), in any order; the result has the same.
        deviations: (n,), of the same cells.
        window: odd number of cells; it is cut at both ends.
    """
    order = np.argsort(-accuracies, kind="stable")
    sums = np.concatenate([[0.0], np.cumsum(deviations[order] ** 2)])
    place = np.arange(len(order))
    low, high = np.maximum(place - window // 2, 0), np.minimum(place + window // 2 + 1, len(order))
    result = np.empty(len(order))
    result[order] = np.sqrt((sums[high] - sums[low]) / (high - low))
    return result
