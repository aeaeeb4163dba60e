"""From a search to the architecture that it ends with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nas.bilevel.evolution import Evolution
from nas.bilevel.halving import Halving
from nas.bilevel.perturbation import Perturbation
from nas.bilevel.rule import MOST, Rule, drawn, likeliest, start, variants
from nas.bilevel.shapley import ShapleyRule
from nas.bilevel.view import SearchView
from recipes.registry import Registry
from search_spaces import Genotype, operations


class ArgMax(Rule):
    """The architecture within the budget that the log-probabilities speak for."""

    name = "argmax"

    def select(self, search: SearchView) -> Iterator[None]:
        yield from ()

    def selected(self, search: SearchView) -> Genotype:
        return likeliest(search)


class Sample(Rule):
    """The best of `count` drawn architectures, by the accuracy of the shared weights on the validation
    part."""

    name = "sample"

    def __init__(self, count: int) -> None:
        if not 1 <= count <= MOST:
            raise ValueError(f"count is {count}, expected 1 to {MOST}")
        self.count = count
        self.accuracies: list[float] = []

    def pieces(self, search: SearchView) -> int:
        return len(drawn(search, self.count))

    def select(self, search: SearchView) -> Iterator[None]:
        for genotype in drawn(search, self.count)[len(self.accuracies) :]:
            self.accuracies.append(search.score(genotype)[1])
            yield

    def selected(self, search: SearchView) -> Genotype:
        best = max(range(len(self.accuracies)), key=self.accuracies.__getitem__)
        return drawn(search, self.count)[best]

    def considered(self, search: SearchView) -> list[dict[str, Any]]:
        return [
            {"genotype": search.space.format(genotype), "accuracy": accuracy}
            for genotype, accuracy in zip(drawn(search, self.count), self.accuracies, strict=True)
        ]

    def state(self) -> dict[str, Any]:
        return {"accuracies": self.accuracies}

    def restore(self, state: dict[str, Any]) -> None:
        self.accuracies = list(state["accuracies"])


class Ascent(Rule):
    """Coordinate ascent from the arg-max architecture on the accuracy of the shared weights.

    One slot after another takes the candidate with which the architecture is most accurate on the validation
    part, until no slot has a better one. Where a space keeps only the strongest edges (darts), candidates
    take each other's place in the log-probabilities.
    """

    name = "ascent"

    def __init__(self) -> None:
        self.scores: dict[str, tuple[float, float]] = {}  # loss and accuracy, by the notation
        self.found = ""

    def select(self, search: SearchView) -> Iterator[None]:
        space = search.space
        logits = start(search)
        slot, settled = 0, 0  # so many slots in a row have no better candidate
        while settled < space.num_slots:
            around = (logits, *variants(search, logits, slot))
            fitted = [(one, search.budget.fit(space.discretise(one))) for one in around]
            line = [one for one, genotype in fitted if genotype is not None]  # the first is always within
            texts = [space.format(genotype) for _, genotype in fitted if genotype is not None]
            for text in texts:
                if text not in self.scores:
                    self.scores[text] = search.score(space.parse(text))
                    yield
            found = max(range(len(line)), key=lambda i: self.scores[texts[i]][1])
            logits, settled = line[found], settled + 1 if found == 0 else 1
            self.found = texts[found]
            slot = (slot + 1) % space.num_slots

    def selected(self, search: SearchView) -> Genotype:
        return search.space.parse(self.found)

    def considered(self, search: SearchView) -> list[dict[str, Any]]:
        return [
            {"genotype": text, "loss": loss, "accuracy": accuracy}
            for text, (loss, accuracy) in self.scores.items()
        ]

    def state(self) -> dict[str, Any]:
        return {"scores": self.scores, "found": self.found}

    def restore(self, state: dict[str, Any]) -> None:
        self.scores = {text: (loss, accuracy) for text, (loss, accuracy) in state["scores"].items()}
        self.found = state["found"]


RULES: Registry[type[Rule]] = Registry(
    "rule of selection",
    {r.name: r for r in (ArgMax, Sample, Ascent, Evolution, Perturbation, ShapleyRule, Halving)},
    Rule,
)


def collapse_warnings(genotype: Genotype) -> list[str]:
    """Warnings about a derived cell most of whose edges are skip-connects or nothing, or about a chain most
    of whose blocks are."""
    skips, nones = (operations.count(genotype, family) for family in ("skip", "none"))
    if genotype.is_chain:
        idle, blocks = sum(skips.values()), sum(len(cell.edges) for cell in genotype.cells)
        shallow = f"the network is shallow: {idle} of its {blocks} blocks are the identity"
        return [shallow] if 2 * idle > blocks else []
    return [
        f"the search has collapsed: {skips[cell.name]} skip_connect and {nones[cell.name]} none "
        f"on the {len(cell.edges)} edges of the cell '{cell.name}'"
        for cell in genotype.cells
        if 2 * (skips[cell.name] + nones[cell.name]) > len(cell.edges)
    ]
