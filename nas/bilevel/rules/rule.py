"""The contract of a rule of selection, and the architectures that rules look at."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor

from estimators.base import gumbel
from nas.bilevel.view import SearchView
from nas.genotypes import cells_of, planned_size_of
from nas.seeding import generator
from search_spaces import Genotype, SearchSpace
from search_spaces.skeleton import Skeleton
from search_spaces.space import EnumerableSpace

MOST = 100_000  # architectures that a rule looks at
ATTEMPTS = 20  # draws for each that is wanted, where a budget rejects some


class Rule(ABC):
    """Selects an architecture after the last epoch, at once or in many pieces of work.

    A rule may evaluate and train: the supernet and its optimizer are part of the checkpoint, and so is what
    `state` returns, so that a rule goes on after an interruption where it was.

    Attributes:
        minds_budget: whether `select` looks at the budget; if not, its work is done once for several.
    """

    name: ClassVar[str]
    minds_budget: ClassVar[bool] = True

    def prepare(self, search: SearchView) -> None:  # noqa: B027  (few need it)
        """Raise InputError, before the first step, where the work of `select` cannot be done."""

    @abstractmethod
    def select(self, search: SearchView) -> Iterator[None]:
        """Do the pieces of work that are not done yet, and yield after each of them."""

    @abstractmethod
    def selected(self, search: SearchView) -> Genotype:
        """The architecture, once `select` has ended."""

    def pieces(self, search: SearchView) -> int:
        """How many pieces of work there are in all, for the progress bar."""
        return 0

    def considered(self, search: SearchView) -> list[dict[str, Any]]:
        """What was looked at, for the report: rows with `genotype` and what was found about it."""
        return []

    def state(self) -> dict[str, Any]:
        """What the work done so far has brought: tensors, numbers and texts in dicts and lists."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a state. Raises ValueError if it is not this rule's."""
        if state:
            raise ValueError(f"the rule '{self.name}' has no state, got {sorted(state)}")


def derived_network(search: SearchView, genotype: Genotype) -> Skeleton:
    """A derived network in the size of the search."""
    return search.space.network(
        genotype,
        channels=search.options.channels,
        cells=cells_of(search.space, search.options.cells),
        num_classes=search.task.outputs,
        in_channels=search.dataset.in_channels,
        planned_size=planned_size_of(search.space, search.options.planned_size, search.dataset),
    )


def likeliest(search: SearchView) -> Genotype:
    """The architecture within the budget that the scores of the search speak for."""
    return search.budget.derive(search.architecture.scores())


def pool(search: SearchView, draws: int) -> list[Genotype]:
    """The arg-max of a search, what differs from it in one slot, and draws, all within the budget; of those
    that compute the same only the first."""
    space = search.space
    first, scores = likeliest(search), start(search)
    around = (space.discretise(v) for slot in range(space.num_slots) for v in variants(search, scores, slot))
    cells = [first, *within(search, around)] + (drawn(search, draws) if draws else [])
    if not isinstance(space, EnumerableSpace):
        return list(dict.fromkeys(cells))
    different: dict[str, Genotype] = {}
    for cell in cells:
        different.setdefault(space.canonical(cell), cell)
    return list(different.values())


def variants(search: SearchView, logits: Tensor, slot: int) -> Iterator[Tensor]:
    """The logits (E, K) with each candidate of a slot in the place of the best and the other way round."""
    best = int(logits[slot].argmax())
    for candidate in search.architecture.candidates(slot):
        changed = logits.clone()
        changed[slot, [best, candidate]] = logits[slot, [candidate, best]]
        yield changed


def start(search: SearchView) -> Tensor:
    """Scores (E, K) whose arg-max is the likeliest architecture within the budget: those of the search,
    unless their arg-max is another."""
    scores, first = search.architecture.scores(), likeliest(search)
    return scores if search.space.discretise(scores) == first else search.budget.around(scores, first)


def within(search: SearchView, genotypes: Iterable[Genotype]) -> Iterator[Genotype]:
    """Those of the architectures that are within the budget."""
    fitted = (search.budget.fit(genotype) for genotype in genotypes)
    return (genotype for genotype in fitted if genotype is not None)


def drawn(search: SearchView, count: int) -> list[Genotype]:
    """The different ones among `count` draws by the probabilities of a search, in their order.

    Draws above the budget are rejected; where `ATTEMPTS` times as many bring too few, there are fewer, and
    the likeliest architecture where they bring none.
    """
    draws = generator(search.options.seed, "derivation")
    scores = search.architecture.scores()
    attempts = (sample(search.space, scores, draws) for _ in range(count * ATTEMPTS))
    found = list(dict.fromkeys(itertools.islice(within(search, attempts), count)))
    return found or [likeliest(search)]


def sample(space: SearchSpace, log_p: Tensor, generator: torch.Generator) -> Genotype:
    """An architecture drawn from log-probabilities (E, K).

    Gumbel noise makes the arg-max of every edge a draw from its distribution; where a space keeps
    only the strongest edges (darts), these are drawn along with it.
    """
    return space.discretise(log_p + gumbel(log_p, generator))
