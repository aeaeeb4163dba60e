"""The accuracy of every cell of a space, looked up; and what random search would find in it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

import search_spaces
from recipes import one_of
from search_spaces import Genotype
from search_spaces.space import EnumerableSpace


def enumerable(name: str) -> EnumerableSpace:
    """The space of that name. Raises InputError where there is none, or it cannot be listed."""
    space = search_spaces.get(one_of("space of a table", name, enumerable_names()))
    assert isinstance(space, EnumerableSpace)
    return space


def enumerable_names() -> list[str]:
    """Names of the spaces that can be listed."""
    names = sorted(search_spaces.names())
    return [name for name in names if isinstance(search_spaces.get(name), EnumerableSpace)]


def positions(space: EnumerableSpace) -> dict[str, int]:
    """Every cell of a space, with its position in `space.all()`."""
    return {space.format(cell): i for i, cell in enumerate(space.all())}


def distinct(space: EnumerableSpace) -> list[Genotype]:
    """The cells whose output depends on their input, of those that compute the same the first."""
    found: dict[str, Genotype] = {}
    for cell in space.all():
        if space.is_connected(cell):
            found.setdefault(space.canonical(cell), cell)
    return list(found.values())


def fixed(values: np.ndarray) -> np.ndarray:
    """The values, not to be changed any more."""
    values.setflags(write=False)
    return values


class Known(NamedTuple):
    """What a table says about a cell.

    Attributes:
        accuracy: mean test accuracy in %.
        std: sample standard deviation over seeds in %, where the table has one.
        rank: 1 is the best; equal cells share the best of their ranks.
        cells: cells of the space.
    """

    accuracy: float
    std: float | None
    rank: int
    cells: int


@dataclass(frozen=True, eq=False)
class Truth:
    """The test accuracy of all n cells of a space, in the order of `space.all()`.

    Attributes:
        space: name of the space.
        source: where the numbers come from, in a few words.
        accuracies: (n,), mean test accuracy in %.
        stds: (n,), sample standard deviation over seeds in %, or None where there is no more than one.
        seeds: trainings of every cell, where known.
        images_per_training: training images that one training sees (steps times batch size), where known.
        recipe: options of the trainings, where known.
    """

    space: str
    source: str
    accuracies: np.ndarray
    stds: np.ndarray | None = None
    seeds: int | None = None
    images_per_training: int | None = None
    recipe: dict[str, Any] | None = None

    @cached_property
    def _cells(self) -> EnumerableSpace:
        return enumerable(self.space)

    @cached_property
    def _index(self) -> dict[str, int]:
        return positions(self._cells)

    @cached_property
    def _ascending(self) -> np.ndarray:
        return np.sort(self.accuracies)

    def lookup(self, genotype: Genotype) -> Known:
        """What is known about a cell. Raises GenotypeError if it is not of this space."""
        space = self._cells
        index = self._index.get(space.format(genotype)) if genotype.space == self.space else None
        if index is None:
            index = self._index[space.format(space.validate(genotype))]  # says what is wrong
        return self._known(index)

    @property
    def optimum(self) -> tuple[str, Known]:
        """The best cell, the first of equals, and what is known about it."""
        index = int(self.accuracies.argmax())
        text = next(text for text, position in self._index.items() if position == index)
        return text, self._known(index)

    def _known(self, index: int) -> Known:
        accuracy, cells = float(self.accuracies[index]), len(self.accuracies)
        better = cells - int(self._ascending.searchsorted(accuracy, "right"))
        std = None if self.stds is None else float(self.stds[index])
        return Known(accuracy, std, better + 1, cells)

    def beats_random(self, accuracy: float, evaluations: int) -> float:
        """Probability that `accuracy` is above the best of `evaluations` cells drawn uniformly, and
        independently; a tie counts half.

        With m draws and the share F(a) of cells of at most accuracy a, the best is at most a with
        probability F(a)^m. Hence (F(a-)^m + F(a)^m) / 2, where F(a-) leaves cells of accuracy a out.

        Raises:
            ValueError: `evaluations` is below 1.
        """
        _require_draws(evaluations)
        cells = len(self.accuracies)
        below, up_to = (
            float(self._ascending.searchsorted(accuracy, side)) / cells for side in ("left", "right")
        )
        return (below**evaluations + up_to**evaluations) / 2

    def best_of(self, evaluations: int) -> float:
        """Expected accuracy (%) of the best of `evaluations` cells drawn uniformly, and independently.

        With m draws from n cells, the j-th lowest accuracy is the best with probability
        (j / n)^m - ((j - 1) / n)^m.

        Raises:
            ValueError: `evaluations` is below 1.
        """
        _require_draws(evaluations)
        cells = len(self.accuracies)
        at_most = (np.arange(cells + 1) / cells) ** evaluations
        return float(np.diff(at_most) @ self._ascending)


def _require_draws(evaluations: int) -> None:
    if evaluations < 1:
        raise ValueError(f"evaluations is {evaluations}, expected an integer of at least 1")
