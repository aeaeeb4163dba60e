"""From a search to the architecture that it ends with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor

from nas.bilevel.view import SearchView
from nas.seeding import generator
from recipes.registry import Registry
from search_spaces import Genotype, SearchSpace

MOST = 100_000  # architectures that a rule looks at


class Rule(ABC):
    """Selects an architecture after the last epoch, at once or in many pieces of work.

    A rule may evaluate and train: the supernet and its optimizer are part of the checkpoint, and so is what
    `state` returns, so that a rule goes on after an interruption where it was.
    """

    name: ClassVar[str]

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


class ArgMax(Rule):
    """The architecture that the log-probabilities speak for."""

    name = "argmax"

    def select(self, search: SearchView) -> Iterator[None]:
        yield from ()

    def selected(self, search: SearchView) -> Genotype:
        return search.space.discretise(search.architecture.log_probabilities())


class Sample(Rule):
    """The best of `count` drawn architectures, by the accuracy of the shared weights on the validation
    part."""

    name = "sample"

    def __init__(self, count: int) -> None:
        if not 1 <= count <= MOST:
            raise ValueError(f"count is {count}, expected 1 to {MOST}")
        self.count = count
        self.accuracies: list[float] = []

    def drawn(self, search: SearchView) -> list[Genotype]:
        """The different ones among `count` draws, in their order."""
        draws = generator(search.options.seed, "derivation")
        log_p = search.architecture.log_probabilities()
        return list(dict.fromkeys(sample(search.space, log_p, draws) for _ in range(self.count)))

    def pieces(self, search: SearchView) -> int:
        return len(self.drawn(search))

    def select(self, search: SearchView) -> Iterator[None]:
        for genotype in self.drawn(search)[len(self.accuracies) :]:
            self.accuracies.append(search.score(genotype)[1])
            yield

    def selected(self, search: SearchView) -> Genotype:
        drawn = self.drawn(search)
        return drawn[max(range(len(drawn)), key=self.accuracies.__getitem__)]

    def considered(self, search: SearchView) -> list[dict[str, Any]]:
        return [
            {"genotype": search.space.format(genotype), "accuracy": accuracy}
            for genotype, accuracy in zip(self.drawn(search), self.accuracies, strict=True)
        ]

    def state(self) -> dict[str, Any]:
        return {"accuracies": self.accuracies}

    def restore(self, state: dict[str, Any]) -> None:
        self.accuracies = list(state["accuracies"])


RULES: Registry[type[Rule]] = Registry("rule of selection", {r.name: r for r in (ArgMax, Sample)}, Rule)


def sample(space: SearchSpace, log_p: Tensor, generator: torch.Generator) -> Genotype:
    """An architecture drawn from log-probabilities (E, K).

    Gumbel noise makes the arg-max of every edge a draw from its distribution; where a space keeps
    only the strongest edges (darts), these are drawn along with it.
    """
    return space.discretise(log_p - torch.empty_like(log_p).exponential_(generator=generator).log())


def collapse_warnings(genotype: Genotype) -> list[str]:
    """Warnings about a derived cell most of whose edges are skip-connects or nothing."""
    warnings = []
    for cell in genotype.cells:
        idle = {o: sum(e.operation == o for e in cell.edges) for o in ("skip_connect", "none")}
        if 2 * sum(idle.values()) > len(cell.edges):
            warnings.append(
                f"the search has collapsed: {idle['skip_connect']} skip_connect and {idle['none']} none "
                f"on the {len(cell.edges)} edges of the cell '{cell.name}'"
            )
    return warnings
