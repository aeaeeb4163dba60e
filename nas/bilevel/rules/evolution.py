"""Selection by an evolutionary search on the shared weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from estimators.base import gumbel
from nas.bilevel.rules.rule import MOST, Rule, start, within
from nas.bilevel.view import SearchView
from nas.seeding import generator
from search_spaces import Genotype


class Evolution(Rule):
    """The most accurate of `count` architectures of an evolution, by shared weights on the validation part.

    An individual is a matrix of scores (E, K), and the architecture that they speak for: this way every
    individual is one of the space, whatever the space demands of its architectures. The first ones are the
    arg-max and draws by the probabilities of the search. Each of the others descends from the ten most
    accurate so far: by turns it takes every slot from one of two of them, or is one of them with each slot
    drawn anew with probability 0.1, and at least one slot. What occurs again, or is above the
    budget, is not scored.

    Args:
        count: individuals in all.
        first: how many of them are drawn.

    Source: Guo et al., 2020, "Single path one-shot neural architecture search with uniform sampling", arXiv
    1904.00420, algorithm 1; there whole generations take turns.
    """

    name = "evolution"
    PARENTS, MUTATION = 10, 0.1

    def __init__(self, count: int, first: int = 50) -> None:
        for name, value, least in (("count", count, 1), ("first", first, 1)):
            if not least <= value <= MOST:
                raise ValueError(f"{name} is {value}, expected {least} to {MOST}")
        self.count, self.first = count, first
        self.born = 0  # individuals so far
        self.scores: dict[str, tuple[float, float]] = {}  # loss and accuracy, by the notation
        self.parents: dict[str, Tensor] = {}  # the scores (E, K) of the most accurate, the best first

    def pieces(self, search: SearchView) -> int:
        return self.count

    def select(self, search: SearchView) -> Iterator[None]:
        for number in range(self.born, self.count):
            individual = self._individual(search, number)
            genotype = next(within(search, [search.space.discretise(individual)]), None)
            if genotype is not None and (text := search.space.format(genotype)) not in self.scores:
                self.scores[text] = search.score(genotype)
                self.parents[text] = individual
                best = sorted(self.parents, key=self._accuracy, reverse=True)[: self.PARENTS]
                self.parents = {name: self.parents[name] for name in best}
            self.born = number + 1
            yield

    def _individual(self, search: SearchView, number: int) -> Tensor:
        """The scores (E, K) of an individual: a function of its number and the parents."""
        scores = search.architecture.scores()
        if number == 0:
            return start(search)
        draws = generator(search.options.seed, "evolution", number)
        if number < self.first:
            return scores + gumbel(scores, draws)
        parents = list(self.parents.values())
        one, other = (parents[int(torch.randint(len(parents), (), generator=draws))] for _ in range(2))
        if number % 2:
            changed = torch.rand(len(scores), generator=draws) < 0.5
        else:
            changed = torch.rand(len(scores), generator=draws) < self.MUTATION
            changed[torch.randint(len(scores), (), generator=draws)] = True
            other = search.architecture.noise(draws)
        return torch.where(changed[:, None], other, one)

    def _accuracy(self, text: str) -> float:
        return self.scores[text][1]

    def selected(self, search: SearchView) -> Genotype:
        return search.space.parse(max(self.scores, key=self._accuracy))

    def considered(self, search: SearchView) -> list[dict[str, Any]]:
        return [
            {"genotype": text, "loss": loss, "accuracy": accuracy}
            for text, (loss, accuracy) in self.scores.items()
        ]

    def state(self) -> dict[str, Any]:
        return {"born": self.born, "scores": self.scores, "parents": self.parents}

    def restore(self, state: dict[str, Any]) -> None:
        self.born = state["born"]
        self.scores = {text: (loss, accuracy) for text, (loss, accuracy) in state["scores"].items()}
        self.parents = dict(state["parents"])
