"""The best of drawn architectures, by the shared weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nas.bilevel.rules.rule import MOST, Rule, drawn
from nas.bilevel.view import SearchView
from search_spaces import Genotype


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
