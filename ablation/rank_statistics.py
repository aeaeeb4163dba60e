"""How scores of cells order them beside their true accuracies, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata

from ablation.baselines import best_of_top

FEWEST = 3  # cells
RESAMPLES = 1_000
_BLOCK = 1_024  # cells, so that a space of any size takes little memory
SCORES = ("loss", "accuracy", "parameters")  # what orders the cells
PARTS = ("all cells", "best tenth")


class Interval(NamedTuple):
    """A figure and its 95 % bootstrap interval over the cells; NaN where it does not exist."""

    value: float
    low: float
    high: float


class Correlation(NamedTuple):
    """How one score orders some of the cells.

    Attributes:
        score: one of SCORES; of a loss, less is better.
        part: one of PARTS.
        cells: how many.
        tau, rho: Kendall's tau-b and Spearman's rho with the true accuracy.
        lead: tau less that of the parameter count on the same cells.
    """

    score: str
    part: str
    cells: int
    tau: Interval
    rho: Interval
    lead: Interval


class Chosen(NamedTuple):
    """What one score would choose among the scored cells; means over the orders of equal ones.

    Attributes:
        score: one of SCORES.
        cell: the first by it, or how many are equal.
        accuracy: its true accuracy in %.
        regret: distance to the best in the table, in %.
        best_of_ten: true accuracy (%) of the best of its first ten.
    """

    score: str
    cell: str
    accuracy: float
    regret: float
    best_of_ten: float


class Mark(NamedTuple):
    """A cell of interest: its notation, true accuracy (%), and its loss with shared weights."""

    cell: str
    accuracy: float
    loss: float


@dataclass(frozen=True)
class Ranking:
    """How well the shared weights of one search order a space. Arrays are (n,), of the n cells scored.

    Attributes:
        name: of the search.
        epoch, step: where it is: epochs done, and steps of the next one; None of a Search that is no run.
        weights: fingerprint of its shared weights, as in scores.csv.
        differ: connected cells of the space that compute something different.
        cells: notations.
        truth: true accuracies in %.
        loss, accuracy: with the shared weights, on the validation part; accuracy in %.
        parameters: of the derived networks.
        best: which of them are in the best tenth of all that differ.
        correlations: by score and part.
        choices: by score.
        largest: the cell of the space with the most parameters, the first of equals.
        found: the cell that the search has found, or would find now.
        optimum: best accuracy in the table, in %.
        random: expected accuracy (%) of the best of so many random cells.
        source: where the true accuracies come from.
    """

    name: str
    space: str
    epoch: int | None
    step: int | None
    weights: str
    differ: int
    cells: list[str]
    truth: np.ndarray
    loss: np.ndarray
    accuracy: np.ndarray
    parameters: np.ndarray
    best: np.ndarray
    correlations: list[Correlation]
    choices: list[Chosen]
    largest: Mark
    found: Mark
    optimum: float
    random: dict[int, float]
    source: str

    def correlation(self, score: str = "loss", part: str = "all cells") -> Correlation:
        """The one of that score (see SCORES) and part (see PARTS)."""
        return next(c for c in self.correlations if (c.score, c.part) == (score, part))

    def choice(self, score: str = "loss") -> Chosen:
        """The one of that score."""
        return next(c for c in self.choices if c.score == score)


def orders_of(loss: np.ndarray, accuracy: np.ndarray, parameters: np.ndarray) -> dict[str, np.ndarray]:
    """Ranks (n,) by each of SCORES, from the worst up; a loss that is not a number is the worst."""
    usable = np.where(np.isnan(loss), np.inf, loss)
    return dict(zip(SCORES, (rankdata(-usable), rankdata(accuracy), rankdata(parameters)), strict=True))


def choice(score: str, order: np.ndarray, truth: np.ndarray, cells: Sequence[str], optimum: float) -> Chosen:
    """What a score chooses: the first of the cells (n,) by `order`, of which more is better."""
    first = np.flatnonzero(order == order.max())
    cell = cells[first[0]] if len(first) == 1 else f"({len(first)} are equal)"
    accuracy, best_of_ten = (best_of_top(truth, order, count).mean for count in (1, 10))
    return Chosen(score, cell, accuracy, optimum - accuracy, best_of_ten)


def correlations(orders: dict[str, np.ndarray], truth: np.ndarray, best: np.ndarray) -> list[Correlation]:
    """How each of the scores orders all cells and the best of them.

    The cells are resampled for the intervals, the same for all scores.

    Args:
        orders: scores (n,) by name, of which more is better; one is called `parameters`.
        truth: true accuracies (n,).
        best: which of the cells (n,) are the second part.
    """
    result = []
    for part, mask in zip(PARTS, (np.ones(len(truth), bool), best), strict=True):
        values = {name: order[mask] for name, order in orders.items()}
        true, count = truth[mask], int(mask.sum())
        rng = np.random.default_rng(0)
        samples = [rng.integers(0, count, count) for _ in range(RESAMPLES)] if count >= FEWEST else []
        times = [np.ones(count), *(np.bincount(sample, minlength=count) for sample in samples)]
        found = _correlated(values, true, np.array(times, np.float32))
        for name, (tau, rho) in found.items():
            lead = tau - found["parameters"][0]
            result.append(Correlation(name, part, count, *map(_interval, (tau, rho, lead))))
    return result


def _correlated(
    values: dict[str, np.ndarray], truth: np.ndarray, times: np.ndarray
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Kendall's tau-b and Spearman's rho (S,) of values (m,) by name and truth (m,) in S samples; NaN of
    fewer than FEWEST cells.

    With w_i, how often cell i is in a sample, and x_ij = sgn(x_i - x_j), the sums over pairs are products of
    matrices: tau-b is sum_ij w_i w_j x_ij y_ij over the root of those of x_ij^2 and y_ij^2, and the centred
    midranks that rho correlates are sum_j w_j x_ij / 2. The products are of integers, and exact.

    Args:
        times: w (S, m), float32.
    """
    samples, cells = times.shape
    if cells < FEWEST:
        return {name: (np.full(samples, np.nan), np.full(samples, np.nan)) for name in values}
    pairs, ranked = ({name: np.zeros(samples) for name in values} for _ in range(2))
    everything = [*values.values(), truth]
    squares = np.zeros((len(everything), samples))
    for start in range(0, cells, _BLOCK):
        block = slice(start, start + _BLOCK)
        weights = times[:, block].astype(float)
        signs = [np.sign(np.subtract.outer(v, v[block])).astype(np.float32) for v in everything]
        ranks = [(times @ matrix).astype(float) for matrix in signs]
        for i, name in enumerate(values):
            pairs[name] += ((times @ (signs[i] * signs[-1])) * weights).sum(1)
            ranked[name] += (ranks[i] * ranks[-1] * weights).sum(1)
        squares += [(rank**2 * weights).sum(1) for rank in ranks]
    *differ, total = (_differing(v, times) for v in everything)
    with np.errstate(invalid="ignore"):  # 0 / 0 where all are equal
        return {
            name: (pairs[name] / np.sqrt(differ[i] * total), ranked[name] / np.sqrt(squares[i] * squares[-1]))
            for i, name in enumerate(values)
        }


def _differing(values: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Ordered pairs (S,) of different values in samples that have them so often; see `_correlated`."""
    order = np.argsort(values)
    _, first = np.unique(values[order], return_index=True)
    alike = np.add.reduceat(times[:, order].astype(float), first, axis=1)
    return times.sum(1, dtype=float) ** 2 - (alike**2).sum(1)  # type: ignore[no-any-return]


def _interval(values: np.ndarray) -> Interval:
    """The first of the values (1 + R,), and the interval of the others."""
    others = values[1:][~np.isnan(values[1:])]
    if np.isnan(values[0]) or not len(others):
        return Interval(float(values[0]), np.nan, np.nan)
    low, high = np.percentile(others, [2.5, 97.5])
    return Interval(float(values[0]), float(low), float(high))
