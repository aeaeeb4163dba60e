"""What a user would get without a supernet: cells trained from scratch, as many as cost what a search costs.

Every way is judged by a table of accuracies, in which looking a cell up stands for training it. Costs are
trainings from scratch.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from scipy.special import gammaln

from ablation.comparison import Estimate, estimate
from ablation.parameter_count import counter
from nas.tables import Truth
from nas.tables.lookup import enumerable
from search_spaces.space import EnumerableSpace

RANDOM, LARGEST, TOP = "random search", "largest cell", "top by parameters"
EVOLUTION, LOCAL = "evolution", "local search"
WAYS = (RANDOM, LARGEST, TOP, EVOLUTION, LOCAL)
REPETITIONS = 1000  # of a simulation
SHORTEST, LONGEST = 128, 1024  # trainings of a simulation; a larger budget counts as the longest
POPULATION, SAMPLE = 10, 3  # of the evolution, small as the budgets are


class Outcome(NamedTuple):
    """Accuracy (%) of the best cell that a way finds: the mean over attempts, and the ends between which 95 %
    of the attempts lie."""

    mean: float
    low: float
    high: float


class Layout(NamedTuple):
    """The n cells of a space, in the order of `space.all()`.

    Attributes:
        parameters: (n,), of the smallest network with the space's own number of channels.
        neighbours: (n, D), positions of the cells that differ in one slot; -1 beyond the last one.
        degrees: (n,), how many there are.
    """

    parameters: np.ndarray
    neighbours: np.ndarray
    degrees: np.ndarray


def find(known: Truth, way: str, trainings: int) -> Outcome:
    """What a way finds with a budget.

    Args:
        way: one of WAYS; LARGEST trains at most one cell, whatever the budget.

    Raises:
        ValueError: `trainings` is below 1, or there is no such way.
    """
    if trainings < 1:
        raise ValueError(f"trainings is {trainings}, expected an integer of at least 1")
    if way not in WAYS:
        raise ValueError(f"unknown way {way!r}, expected one of {WAYS}")
    return _find(known, way, 1 if way == LARGEST else trainings)


def best(known: Truth, trainings: int) -> tuple[str, Outcome]:
    """The way that finds most on average with a budget, the first of equals. Raises ValueError."""
    found = {way: find(known, way, trainings) for way in WAYS}
    way = max(found, key=lambda way: found[way].mean)
    return way, found[way]


@lru_cache(maxsize=16384)
def _find(known: Truth, way: str, trainings: int) -> Outcome:
    if way == RANDOM or (way, trainings) == (LOCAL, 1) or (way == EVOLUTION and trainings <= POPULATION):
        return best_of_random(known.accuracies, trainings)
    if way in (LARGEST, TOP):
        return best_of_largest(known.accuracies, layout(enumerable(known.space)).parameters, trainings)
    length = SHORTEST
    while length < min(trainings, LONGEST):
        length *= 2
    return Outcome(*_simulated(known, way, length)[min(trainings, length) - 1].tolist())


# Exactly


def best_of_random(accuracies: np.ndarray, trainings: int) -> Outcome:
    """The best of `trainings` cells drawn uniformly and independently, of `accuracies` (n,).

    The j-th lowest accuracy or less is the best with probability (j / n)^m.
    """
    n = len(accuracies)
    return _outcome(np.sort(accuracies), (np.arange(1, n + 1) / n) ** trainings)


def best_of_largest(accuracies: np.ndarray, parameters: np.ndarray, trainings: int) -> Outcome:
    """The best of the `trainings` cells with most parameters, of `accuracies` (n,) and `parameters` (n,).

    Of the cells that are tied for the last k places, any k are taken: of g cells, the j-th lowest accuracy or
    less is the best of them with probability C(j, k) / C(g, k).
    """
    m = min(trainings, len(accuracies))
    last = np.sort(parameters)[-m]
    sure, tied = accuracies[parameters > last], np.sort(accuracies[parameters == last])
    places, ranks = m - len(sure), np.arange(1, len(tied) + 1)
    enough = ranks >= places
    logs = gammaln(ranks[enough] + 1) - gammaln(ranks[enough] - places + 1)
    at_most = np.zeros(len(tied))
    at_most[enough] = np.exp(logs - logs[-1])
    return _outcome(np.maximum(tied, sure.max(initial=-np.inf)), at_most)


def _outcome(ascending: np.ndarray, at_most: np.ndarray) -> Outcome:
    """Of values (n,) in ascending order, and the probability (n,) of each or a lower one."""
    low, high = ascending[np.searchsorted(at_most, (0.025 - 1e-12, 0.975 - 1e-12))]
    return Outcome(float(np.diff(at_most, prepend=0.0) @ ascending), float(low), float(high))


# By simulation


@lru_cache(maxsize=16)
def _simulated(known: Truth, way: str, length: int) -> np.ndarray:
    """Mean and the ends of 95 % of the attempts (T, 3) with 1 to `length` trainings."""
    simulate = evolution if way == EVOLUTION else local_search
    found = simulate(known.accuracies, layout(enumerable(known.space)), length)
    ends = np.quantile(found, (0.025, 0.975), axis=0, method="inverted_cdf")
    return np.stack([found.mean(0), *ends], 1)


def evolution(
    accuracies: np.ndarray,
    cells: Layout,
    trainings: int,
    *,
    population: int = POPULATION,
    sample: int = SAMPLE,
    repetitions: int = REPETITIONS,
    seed: int = 0,
) -> np.ndarray:
    """The best accuracy so far (R, T) of regularised evolution, after each of T trainings.

    The population starts at random. Then the best of `sample` members drawn with replacement has a child, a
    neighbour drawn uniformly, which takes the place of the oldest member. A cell that is met again is trained
    again. More trainings prolong the attempts that fewer begin.

    Args:
        accuracies: (n,).
        repetitions: attempts, R.

    Source: Real et al., 2019, "Regularized evolution for image classifier architecture search", arXiv
    1802.01548.
    """
    rng, rows = np.random.default_rng(seed), np.arange(repetitions)[:, None]
    trained = np.empty((repetitions, max(trainings, population)), int)
    trained[:, :population] = rng.integers(len(accuracies), size=(repetitions, population))
    for step in range(population, trainings):
        members = trained[rows, step - population + rng.integers(population, size=(repetitions, sample))]
        parents = members[rows[:, 0], accuracies[members].argmax(1)]
        degrees = cells.degrees[parents]
        drawn = (rng.random(repetitions) * degrees).astype(int)
        trained[:, step] = np.where(degrees > 0, cells.neighbours[parents, drawn], parents)
    best: np.ndarray = np.maximum.accumulate(accuracies[trained[:, :trainings]], axis=1)
    return best


def local_search(
    accuracies: np.ndarray,
    cells: Layout,
    trainings: int,
    *,
    repetitions: int = REPETITIONS,
    seed: int = 0,
) -> np.ndarray:
    """The best accuracy so far (R, T) of local search, after each of T trainings.

    From a random cell, its neighbours are trained in random order, and the first better one takes its place;
    where there is none, a random cell that was not trained yet does. No cell is trained twice. More trainings
    prolong the attempts that fewer begin.

    Args:
        accuracies: (n,).
        repetitions: attempts, R.
    """
    values = accuracies.tolist()
    found = np.zeros((repetitions, trainings))
    for repetition in range(repetitions):
        order = _climb(values, cells, min(trainings, len(values)), random.Random(f"{seed} {repetition}"))
        found[repetition, : len(order)] = accuracies[order]
    best: np.ndarray = np.maximum.accumulate(found, axis=1)
    return best


def _climb(accuracies: Sequence[float], cells: Layout, trainings: int, rng: random.Random) -> list[int]:
    """The cells that an attempt of local search trains, at most as many as there are."""
    order: dict[int, None] = {}
    while len(order) < trainings:
        here = rng.randrange(len(accuracies))
        if here in order:
            continue
        order[here] = None
        at_the_top = False
        while not at_the_top and len(order) < trainings:
            around = cells.neighbours[here, : cells.degrees[here]].tolist()
            rng.shuffle(around)
            at_the_top = True
            for other in around:
                if len(order) == trainings and other not in order:
                    break
                order[other] = None
                if accuracies[other] > accuracies[here]:
                    here, at_the_top = other, False
                    break
    return list(order)


# Spaces


@lru_cache(maxsize=8)
def layout(space: EnumerableSpace) -> Layout:
    """Parameters and neighbours of all cells of a space."""
    cells = list(space.all())
    choices = np.array([space.choice(cell) for cell in cells])
    count = counter(space, cells=space.fewest_cells)
    return Layout(np.array([count(cell) for cell in cells]), *_neighbours(choices))


def _neighbours(choices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Neighbours (n, D) and their numbers (n,) of cells with these choices (n, E)."""
    n, slots = choices.shape
    columns, here = [], np.arange(n)
    for slot in range(slots):
        groups = np.unique(np.delete(choices, slot, 1), axis=0, return_inverse=True)[1].reshape(-1)
        candidates = choices[:, slot] - choices[:, slot].min()
        members = np.full((groups.max() + 1, candidates.max() + 1), -1)
        members[groups, candidates] = here
        columns.append(members[groups])
    table = np.concatenate(columns, 1)
    table[table == here[:, None]] = -1
    degrees = (table >= 0).sum(1)
    order = np.argsort(table < 0, axis=1, kind="stable")
    return np.take_along_axis(table, order, 1)[:, : max(1, degrees.max())], degrees


# Searches beside them


def judged(records: Sequence[Mapping[str, Any]], known: Truth | None) -> list[dict[str, Any]]:
    """The records of searches, each with the best way to spend its cost without it, where there is a table.

    The way is the best at the median cost of the method; what it finds is the mean at the cost of the search.
    """
    if known is None:
        return [dict(record) for record in records]
    rows = []
    for record in records:
        costs = [r["evaluations"] for r in records if r["method"] == record["method"]]
        way, _ = best(known, round(float(np.median(costs))))
        mean = find(known, way, record["evaluations"]).mean
        rows.append(
            dict(record)
            | {"without": way, "without_accuracy": mean, "above_without": record["accuracy"] - mean}
        )
    return rows


def difference(records: Sequence[Mapping[str, Any]], method: str) -> Estimate:
    """A method's accuracies less what the best way finds without it, of records that are `judged`: mean and
    bootstrap interval over the seeds."""
    return estimate([record["above_without"] for record in records if record["method"] == method])


def median_cost(records: Sequence[Mapping[str, Any]]) -> int:
    """Median cost of searches, in trainings from scratch."""
    return round(float(np.median([record["evaluations"] for record in records])))


def yardsticks(known: Truth, evaluations: int) -> list[tuple[str, float]]:
    """Short names and accuracies (%) of what pictures show beside searches of this cost: random cells, the
    largest cell, and the best other way if it finds more than both."""
    shown = [
        (f"best of {evaluations} random", find(known, RANDOM, evaluations).mean),
        (LARGEST, find(known, LARGEST, 1).mean),
    ]
    way, found = best(known, evaluations)
    if way not in (RANDOM, LARGEST) and evaluations > 1:
        name = f"top {evaluations} by parameters" if way == TOP else f"{way} of {evaluations}"
        shown.append((name, found.mean))
    return shown


def budgets(most: int) -> list[int]:
    """Numbers of trainings for a curve from 1 to `most`, evenly on a logarithmic axis."""
    return sorted({round(x) for x in np.geomspace(1, most, 80)})


def curves(known: Truth, costs: Sequence[int]) -> list[dict[str, Any]]:
    """What every way finds with each of the budgets: rows with method, trainings, mean, low and high."""
    return [
        {"method": way, "trainings": cost, **find(known, way, cost)._asdict()}
        for way in WAYS
        for cost in costs
    ]
