"""A rule of your own: how a search ends, here with the smallest architecture that is nearly the best.

python examples/own_rule.py
python train_search.py --plugins examples/own_rule.py --derive frugal:count=50,slack=2
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import nas
from nas.bilevel import Rule, SearchView
from nas.bilevel.rules.rule import drawn
from search_spaces import Genotype
from search_spaces.cell import candidate_parameters


class Frugal(Rule):
    """Of `count` drawn architectures, the one with fewest parameters whose accuracy with the shared weights
    is at most `slack` points below the best.

    A piece of work ends at each `yield`. A run that is asked to stop saves itself there, with what `state`
    returns: tensors, numbers and texts, in lists and dicts. Here these are the accuracies found so far; the
    continued run draws the same architectures and does the rest. An object serves one search.

    A rule may train, too: for the batches of `search.train.epoch(n)`, n from `search.options.epochs` on, it
    calls `search.bilevel.weight_step(batch, generator)`, the generator from `nas.seeding.generator(seed,
    "frugal", n, step)`. The learning rate is that of the last epoch, the end of the schedule. Weights and
    optimizers are in the checkpoint already.
    """

    name = "frugal"

    def __init__(self, count: int = 20, slack: float = 1.0) -> None:
        if count < 1 or not slack >= 0:
            raise ValueError(f"count is {count} and slack {slack}, expected at least 1 and at least 0")
        self.count, self.slack = count, slack
        self.accuracies: list[float] = []  # in %

    def pieces(self, search: SearchView) -> int:
        return len(drawn(search, self.count))

    def select(self, search: SearchView) -> Iterator[None]:
        for genotype in drawn(search, self.count)[len(self.accuracies) :]:
            self.accuracies.append(search.score(genotype)[1])
            yield

    def selected(self, search: SearchView) -> Genotype:
        rows = [row for row in self._rows(search) if row["accuracy"] >= max(self.accuracies) - self.slack]
        return min(rows, key=lambda row: row["parameters"])["cell"]  # type: ignore[no-any-return]

    def _rows(self, search: SearchView) -> list[dict[str, Any]]:
        sizes = candidate_parameters(search.supernet, search.space.num_slots, search.space.width)
        rows = []
        for cell, accuracy in zip(drawn(search, self.count), self.accuracies, strict=True):
            chosen = enumerate(search.space.choice(cell))
            parameters = sum(int(sizes[row, index]) for row, index in chosen if index >= 0)
            rows.append({"cell": cell, "accuracy": accuracy, "parameters": parameters})
        return rows

    def considered(self, search: SearchView) -> list[dict[str, Any]]:
        """The rows of a table in the report: `genotype`, and numbers."""
        rows = self._rows(search)
        return [{"genotype": search.space.format(row.pop("cell"))} | row for row in rows]

    def state(self) -> dict[str, Any]:
        return {"accuracies": self.accuracies}

    def restore(self, state: dict[str, Any]) -> None:
        self.accuracies = list(state["accuracies"])


nas.register_rule("frugal", Frugal)


def main() -> None:
    """Select by several rules from the same supernet."""
    result = nas.search("nasbench201", data="digits", epochs=4, channels=4, train_limit=600)
    for rule in ("argmax", "sample:20", "frugal:count=20,slack=2"):
        genotype = result.select(rule)
        print(f"{rule}: {result.space.format(genotype)}, {result.score(genotype)[1]:.1f} % (shared weights)")


if __name__ == "__main__":
    main()
