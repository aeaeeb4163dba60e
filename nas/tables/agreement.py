"""How two sets of figures order the same cells: rank correlations."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy.stats import kendalltau, rankdata


def top(accuracies: np.ndarray, share: float) -> np.ndarray:
    """Which cells (n,) are the best `share`, at least two of them; ties of the last are among them."""
    count = min(len(accuracies), max(2, round(share * len(accuracies))))
    mask: np.ndarray = accuracies >= np.sort(accuracies)[-count]
    return mask


class Agreement(NamedTuple):
    """Rank correlations of n cells; NaN where all cells are equal."""

    spearman: float
    kendall: float
    cells: int


def agreement(accuracies: np.ndarray, reference: np.ndarray) -> Agreement:
    """Spearman's rho and Kendall's tau-b of two accuracies (n,) of the same cells."""
    if np.ptp(accuracies) == 0 or np.ptp(reference) == 0:
        return Agreement(math.nan, math.nan, len(reference))
    spearman = correlation(rankdata(accuracies), rankdata(reference))
    return Agreement(spearman, float(kendalltau(accuracies, reference).statistic), len(reference))


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's correlation of (n,) and (n,); NaN where one of them is constant."""
    a, b = a - a.mean(), b - b.mean()
    length = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / length if length else math.nan
