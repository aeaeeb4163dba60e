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
from ablation.zero_cost import NO_SCORES, CellScores
from nas.tables import Truth
from nas.tables.lookup import enumerable
from search_spaces.cost import NetworkSize
from search_spaces.space import EnumerableSpace

RANDOM, LARGEST, TOP = "random search", "largest cell", "top by parameters"
EVOLUTION, LOCAL = "evolution", "local search"
WAYS = (RANDOM, LARGEST, TOP, EVOLUTION, LOCAL)
_TOP, _FROM = "top by ", f"{LOCAL} from "  # and the name of a zero-cost score
REPETITIONS = 1000  # of a simulation
SCORED = 100  # of one in which chance only decides between cells of equal score
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


def ways(scores: CellScores = NO_SCORES) -> tuple[str, ...]:
    """WAYS, and two for every zero-cost score: to train the cells of highest score, and local search led by
    the score. Both train only one of the cells that compute the same, which they know to."""
    return (*WAYS, *(way + name for name in scores.values for way in (_TOP, _FROM)))


def is_simulated(way: str) -> bool:
    """Whether what a way finds comes from simulated attempts."""
    return way == EVOLUTION or way.startswith(LOCAL)


def score_of(way: str) -> str | None:
    """The zero-cost score of one of `ways`; None of one of WAYS."""
    return None if way in WAYS else way.removeprefix(_TOP).removeprefix(_FROM)


def find(known: Truth, way: str, trainings: int, scores: CellScores = NO_SCORES) -> Outcome:
    """What a way finds with a budget.

    A way that goes by scores pays for scoring all cells first, with as many trainings as see so many images;
    where nothing is left then, it trains random cells instead.

    Args:
        way: one of `ways(scores)`; LARGEST trains at most one cell, whatever the budget.

    Raises:
        ValueError: `trainings` is below 1, or there is no such way.
    """
    if trainings < 1:
        raise ValueError(f"trainings is {trainings}, expected an integer of at least 1")
    if way not in ways(scores):
        raise ValueError(f"unknown way {way!r}, expected one of {ways(scores)}")
    left = trainings - scoring_cost(known, way, scores)
    if left < 1:
        return _find(known, RANDOM, trainings, scores)
    return _find(known, way, 1 if way == LARGEST else left, scores)


def scoring_cost(known: Truth, way: str, scores: CellScores) -> int:
    """What a way spends on scores before it trains a cell, in trainings, rounded."""
    score = score_of(way)
    if score is None or known.images_per_training is None:
        return 0
    return round(scores.images[score] / known.images_per_training)


def best(known: Truth, trainings: int, scores: CellScores = NO_SCORES) -> tuple[str, Outcome]:
    """The way that finds most on average with a budget, the first of equals. Raises ValueError."""
    found = {way: find(known, way, trainings, scores) for way in ways(scores)}
    way = max(found, key=lambda way: round(found[way].mean, 9))
    return way, found[way]


@lru_cache(maxsize=16384)
def _find(known: Truth, way: str, trainings: int, scores: CellScores) -> Outcome:
    if way == RANDOM or (way, trainings) == (LOCAL, 1) or (way == EVOLUTION and trainings <= POPULATION):
        return best_of_random(known.accuracies, trainings)
    if way in (LARGEST, TOP):
        return best_of_top(known.accuracies, layout(enumerable(known.space)).parameters, trainings)
    score = score_of(way)
    if score is not None and not is_simulated(way):
        cells = different(enumerable(known.space))[1]
        return best_of_top(known.accuracies[cells], scores.values[score], trainings)
    length = SHORTEST
    while length < min(trainings, LONGEST):
        length *= 2
    return Outcome(*_simulated(known, way, length, scores)[min(trainings, length) - 1].tolist())


# Exactly


def best_of_random(accuracies: np.ndarray, trainings: int) -> Outcome:
    """The best of `trainings` cells drawn uniformly and independently, of `accuracies` (n,).

    The j-th lowest accuracy or less is the best with probability (j / n)^m.
    """
    n = len(accuracies)
    return _outcome(np.sort(accuracies), (np.arange(1, n + 1) / n) ** trainings)


def best_of_top(accuracies: np.ndarray, scores: np.ndarray, trainings: int) -> Outcome:
    """The best of the `trainings` cells of highest score, of `accuracies` (n,) and `scores` (n,).

    Of the cells that are tied for the last k places, any k are taken: of g cells, the j-th lowest accuracy or
    less is the best of them with probability C(j, k) / C(g, k).
    """
    m = min(trainings, len(accuracies))
    last = np.sort(scores)[-m]
    sure, tied = accuracies[scores > last], np.sort(accuracies[scores == last])
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


@lru_cache(maxsize=32)
def _simulated(known: Truth, way: str, length: int, scores: CellScores) -> np.ndarray:
    """Mean and the ends of 95 % of the attempts (T, 3) with 1 to `length` trainings."""
    space, score = enumerable(known.space), score_of(way)
    if score is not None:
        around, cells = different(space)
        found = local_search(
            known.accuracies[cells], around, length, scores=scores.values[score], repetitions=SCORED
        )
    else:
        simulate = evolution if way == EVOLUTION else local_search
        found = simulate(known.accuracies, layout(space), length)
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
    scores: np.ndarray | None = None,
    repetitions: int = REPETITIONS,
    seed: int = 0,
) -> np.ndarray:
    """The best accuracy so far (R, T) of local search, after each of T trainings.

    From a random cell, its neighbours are trained in random order, and the first better one takes its place;
    where there is none, a random cell that was not trained yet does. No cell is trained twice. More trainings
    prolong the attempts that fewer begin.

    Args:
        accuracies: (n,).
        scores: (n,), take the place of chance wherever it is asked: the first cell, and the next where no
            neighbour is better, is that of highest score which was not trained yet, and neighbours are
            trained from the highest score down. Chance decides between equal ones.
        repetitions: attempts, R.
    """
    values = accuracies.tolist()
    found = np.zeros((repetitions, trainings))
    for repetition in range(repetitions):
        rng = random.Random(f"{seed} {repetition}")
        ranked = None if scores is None else _ranked(scores, rng)
        order = _climb(values, cells, min(trainings, len(values)), rng, ranked)
        found[repetition, : len(order)] = accuracies[order]
        if scores is not None and len(np.unique(scores)) == len(scores):  # all attempts are the same
            found[:] = found[repetition]
            break
    best: np.ndarray = np.maximum.accumulate(found, axis=1)
    return best


def _ranked(scores: np.ndarray, rng: random.Random) -> np.ndarray:
    """The cells (n,) from the highest score down, equal ones in random order."""
    ties = np.random.default_rng(rng.getrandbits(64)).random(len(scores))
    return np.lexsort((ties, -scores))


def _climb(
    accuracies: Sequence[float],
    cells: Layout,
    trainings: int,
    rng: random.Random,
    ranked: np.ndarray | None = None,
) -> list[int]:
    """The cells that an attempt of local search trains, at most as many as there are, led by the order
    `ranked` (n,) if given."""
    order: dict[int, None] = {}
    if ranked is not None:
        starts, places = iter(ranked.tolist()), ranked.argsort().tolist()
    while len(order) < trainings:
        here = rng.randrange(len(accuracies)) if ranked is None else next(starts)
        if here in order:
            continue
        order[here] = None
        at_the_top = False
        while not at_the_top and len(order) < trainings:
            around = cells.neighbours[here, : cells.degrees[here]].tolist()
            if ranked is None:
                rng.shuffle(around)
            else:
                around.sort(key=places.__getitem__)
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
    count = counter(space, NetworkSize(space.channels, space.fewest_cells, 10, 3, (32, 32)))
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


@lru_cache(maxsize=8)
def different(space: EnumerableSpace) -> tuple[Layout, np.ndarray]:
    """The m cells that compute something different, as in `nas.tables.lookup.distinct`, and their positions
    (m,) in `space.all()`.

    Two of them are neighbours if cells that compute the same as they do differ in one slot.
    """
    numbers: dict[str, int] = {}
    everyone = layout(space)
    number = np.array(
        [
            numbers.setdefault(space.canonical(cell), len(numbers)) if space.is_connected(cell) else -1
            for cell in space.all()
        ]
    )
    first = np.unique(number, return_index=True)[1][-len(numbers) :]  # without those that are not connected
    here, there = np.repeat(number, everyone.degrees), number[everyone.neighbours[everyone.neighbours >= 0]]
    apart = (here >= 0) & (there >= 0) & (here != there)
    pairs = np.unique(np.stack([here[apart], there[apart]], 1), axis=0)
    degrees = np.bincount(pairs[:, 0], minlength=len(first))
    table = np.full((len(first), max(1, degrees.max())), -1)
    table[np.arange(table.shape[1]) < degrees[:, None]] = pairs[:, 1]
    return Layout(everyone.parameters[first], table, degrees), first


# Searches beside them


def judged(
    records: Sequence[Mapping[str, Any]], known: Truth | None, scores: CellScores = NO_SCORES
) -> list[dict[str, Any]]:
    """The records of searches, each with the best way to spend its cost without it, where there is a table.

    The way is the best at the median cost of the method; what it finds is the mean at the cost of the search.
    """
    if known is None:
        return [dict(record) for record in records]
    rows = []
    for record in records:
        costs = [r["evaluations"] for r in records if r["method"] == record["method"]]
        way, _ = best(known, round(float(np.median(costs))), scores)
        mean = find(known, way, record["evaluations"], scores).mean
        rows.append(
            dict(record)
            | {"without": way, "without_accuracy": mean, "above_without": record["accuracy"] - mean}
        )
    return rows


def difference(records: Sequence[Mapping[str, Any]], method: str) -> Estimate:
    """A method's accuracies less what the best way finds without it, of records that are `judged`: mean and
    interval over the seeds."""
    return estimate([record["above_without"] for record in records if record["method"] == method])


def median_cost(records: Sequence[Mapping[str, Any]]) -> int:
    """Median cost of searches, in trainings from scratch."""
    return round(float(np.median([record["evaluations"] for record in records])))


def yardsticks(known: Truth, evaluations: int, scores: CellScores = NO_SCORES) -> list[tuple[str, float]]:
    """Short names and accuracies (%) of what pictures show beside searches of this cost: random cells, the
    largest cell, and the best other way if it finds more than both."""
    shown = [
        (f"best of {evaluations} random", find(known, RANDOM, evaluations).mean),
        (LARGEST, find(known, LARGEST, 1).mean),
    ]
    way, found = best(known, evaluations, scores)
    if way not in (RANDOM, LARGEST):
        word = way.partition(" by ")[0].partition(" from ")[0]  # top, evolution, local search
        size = f"{word} {evaluations}" if way.startswith(_TOP) else f"{word} of {evaluations}"
        shown.append((way.replace(word, size, 1), found.mean))
    return shown


def budgets(most: int) -> list[int]:
    """Numbers of trainings for a curve from 1 to `most`, evenly on a logarithmic axis."""
    return sorted({round(x) for x in np.geomspace(1, most, 80)})


def curves(known: Truth, costs: Sequence[int], scores: CellScores = NO_SCORES) -> list[dict[str, Any]]:
    """What every way finds with each of the budgets: rows with method, trainings, mean, low and high."""
    return [
        {"method": way, "trainings": cost, **find(known, way, cost, scores)._asdict()}
        for way in ways(scores)
        for cost in costs
    ]
