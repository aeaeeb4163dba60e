"""The cells that shared weights are asked to order, and one such order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from tqdm import tqdm

from ablation.parameter_count import counter
from ablation.rank_statistics import Mark, Ranking, choice, correlations, orders_of
from ablation.shared_scores import Score, ScoreFile, fingerprint
from nas.bilevel.search import Search
from nas.genotypes import cells_of
from nas.tables import Truth
from nas.tables.agreement import top
from nas.tables.lookup import distinct, enumerable
from search_spaces import Genotype
from search_spaces.cost import NetworkSize
from search_spaces.space import EnumerableSpace

CELLS = 1_000  # scored unless told otherwise
RANDOM = (10, 50)  # cells of the random searches beside
BEST = 0.1  # share of the space that the second part is


@dataclass(frozen=True, eq=False)
class Field:
    """The cells that are scored, the same for all searches of a space and all their epochs.

    Attributes:
        table: their true accuracies.
        space: theirs.
        everyone: the D connected cells that compute something different.
        truths: their true accuracies (D,) in %.
        drawn: which of them are scored (n,).
        best: which of these (n,) are in the best tenth of all that differ.
    """

    table: Truth
    space: EnumerableSpace
    everyone: Sequence[Genotype]
    truths: np.ndarray
    drawn: np.ndarray
    best: np.ndarray

    @classmethod
    def of(cls, table: Truth, cells: int | None = None, seed: int = 0) -> Field:
        """At most so many cells (None: 1,000) of the space of a table, drawn at random."""
        space = enumerable(table.space)
        everyone = distinct(space)
        truths = np.array([table.lookup(cell).accuracy for cell in everyone])
        drawn = np.random.default_rng(seed).permutation(len(everyone))[: cells or CELLS]
        return cls(table, space, everyone, truths, drawn, top(truths, BEST)[drawn])

    @cached_property
    def _by_form(self) -> dict[str, Genotype]:
        return {self.space.canonical(cell): cell for cell in self.everyone}

    def alike(self, cell: Genotype) -> Genotype | None:
        """The one of the cells that computes the same; None where there is none: it ignores its input."""
        return self._by_form.get(self.space.canonical(cell))


class Ranker:
    """Orders the cells of a field with the weights of one search, as often as these change.

    Args:
        search: whose supernet scores them.
        scores: where scores are looked up and kept.
        run: what the search is called there.
        name: what pictures call it.
        progress: whether to show a bar; None: on a terminal.
    """

    def __init__(
        self, search: Search, field: Field, scores: ScoreFile, run: str, name: str, progress: bool | None
    ) -> None:
        self.search, self.field, self.scores, self.run = search, field, scores, run
        self.name, self.progress = name, progress
        channels, height, width = search.dataset.train.shape
        cells = cells_of(field.space, search.options.cells)
        size = NetworkSize(search.options.channels, cells, search.task.outputs, channels, (height, width))
        self._count = counter(field.space, size)
        self._sizes = np.array([self._count(cell) for cell in field.everyone])

    def rank(self, found: Genotype, epoch: int | None, step: int | None) -> Ranking:
        """The ranking by the weights that the search has now.

        Args:
            found: the cell that the search has found, or would find now.
            epoch, step: see Ranking.
        """
        field, space = self.field, self.field.space
        weights = fingerprint(self.search.supernet.state_dict())
        chosen, largest = [field.everyone[i] for i in field.drawn], field.everyone[int(self._sizes.argmax())]
        alike = field.alike(found)
        wanted = [*chosen, largest, *([] if alike is None else [alike])]
        at = self.name if epoch is None else f"{self.name}, epoch {epoch}"
        scores = self._scored(wanted, weights, at)

        def score(cell: Genotype) -> Score:
            return scores[space.format(cell)]

        loss, accuracy = np.array([score(cell) for cell in chosen]).T
        truth, parameters = field.truths[field.drawn], self._sizes[field.drawn]
        orders = orders_of(loss, accuracy, parameters)
        table, texts = field.table, [space.format(cell) for cell in chosen]
        optimum = table.optimum[1].accuracy
        shown = np.nan if alike is None else score(alike)[0]
        return Ranking(
            name=self.name,
            space=space.name,
            epoch=epoch,
            step=step,
            weights=weights,
            differ=len(field.everyone),
            cells=texts,
            truth=truth,
            loss=loss,
            accuracy=accuracy,
            parameters=parameters,
            best=field.best,
            correlations=correlations(orders, truth, field.best),
            choices=[choice(name, order, truth, texts, optimum) for name, order in orders.items()],
            largest=Mark(space.format(largest), table.lookup(largest).accuracy, score(largest)[0]),
            found=Mark(space.format(found), table.lookup(found).accuracy, float(shown)),
            optimum=optimum,
            random={n: table.best_of(n) for n in RANDOM},
            source=table.source,
        )

    def _scored(self, cells: Sequence[Genotype], weights: str, name: str) -> dict[str, Score]:
        """Scores by cell with the weights of that fingerprint, after those cells that had none got theirs."""
        known = self.scores.of(self.run, weights)
        named = {self.field.space.format(cell): cell for cell in cells}
        missing = {text: cell for text, cell in named.items() if text not in known}
        with tqdm(
            total=len(named), initial=len(named) - len(missing), desc=f"scoring with {name}", unit="cell",
            disable=None if self.progress is None else not self.progress, leave=None,
        ) as bar:  # fmt: skip
            for text, cell in missing.items():
                score = self.search.score_uncounted(cell)
                self.scores.add(self.run, weights, text, score, self._count(cell))
                bar.update()
        return known
