"""Coordinate ascent by the shared weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nas.bilevel.rules.rule import Rule, start, variants
from nas.bilevel.view import SearchView
from search_spaces import Genotype


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
