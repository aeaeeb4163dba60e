"""One search, several budgets: an architecture for each."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from nas.bilevel.budget import Budget
from nas.bilevel.rules.rule import Rule
from nas.bilevel.view import SearchView
from nas.runs.files import write_json
from recipes.budget import format_cost
from search_spaces import Genotype, SearchSpace

FRONT = "front"  # a folder in that of a run
Value = TypeVar("Value")


class Front(Rule):
    """A rule of selection, applied under each of several budgets; it selects what it finds under the last.

    Args:
        rule: of which every budget gets a copy, unless its work is the same under all.
        budgets: ascending.
    """

    name = "front"

    def __init__(self, rule: Rule, budgets: Sequence[Budget]) -> None:
        self.budgets = list(budgets)
        # One for each budget, or one alone, whose work is done under the first.
        self.rules = [copy.deepcopy(rule) for _ in (budgets if rule.minds_budget else budgets[:1])]

    def pieces(self, search: SearchView) -> int:
        return sum(
            _under(search, budget, lambda rule=rule: rule.pieces(search))  # type: ignore[misc]
            for rule, budget in zip(self.rules, self.budgets, strict=False)
        )

    def select(self, search: SearchView) -> Iterator[None]:
        for rule, budget in zip(self.rules, self.budgets, strict=False):
            work = iter(rule.select(search))
            while _under(search, budget, lambda work=work: next(work, work) is not work):  # type: ignore[misc]
                yield

    def selected(self, search: SearchView) -> Genotype:
        return self.found(search)[-1]

    def found(self, search: SearchView) -> list[Genotype]:
        """The architecture of every budget."""
        return [
            _under(search, budget, lambda rule=rule: rule.selected(search))  # type: ignore[misc]
            for rule, budget in zip(itertools.cycle(self.rules), self.budgets, strict=False)
        ]

    def considered(self, search: SearchView) -> list[dict[str, Any]]:
        return _under(search, self.budgets[-1], lambda: self.rules[-1].considered(search))

    def describe(self, search: SearchView, accuracy_of: Callable[[Genotype], float]) -> dict[str, Any]:
        """The architectures of all budgets for result.json: `kind` of the budgets, and `rows` with limit,
        genotype, costs by kind, derived_accuracy (%), and whether no other is better (`pareto`)."""
        kind = next(k for k in self.budgets[0].limits if len({b.limits[k] for b in self.budgets}) > 1)
        rows: list[dict[str, Any]] = [
            {
                "limit": budget.limits[kind],
                "genotype": search.space.format(genotype),
                "costs": budget.cost(genotype),
                "derived_accuracy": accuracy_of(genotype),
            }
            for budget, genotype in zip(self.budgets, self.found(search), strict=True)
        ]
        points = [(row["costs"][kind], row["derived_accuracy"]) for row in rows]
        for row, best in zip(rows, pareto(points), strict=True):
            row["pareto"] = best
        return {"kind": kind, "rows": rows}

    def state(self) -> dict[str, Any]:
        return {"rules": [rule.state() for rule in self.rules]}

    def restore(self, state: dict[str, Any]) -> None:
        for rule, known in zip(self.rules, state["rules"], strict=True):
            if known:
                rule.restore(known)


def front_messages(front: Mapping[str, Any]) -> list[str]:
    """A line for each row of what `Front.describe` says."""
    kind = front["kind"]
    return [
        f"{format_cost(kind, row['costs'][kind])} of {format_cost(kind, row['limit'])}: {row['genotype']}"
        for row in front["rows"]
    ]


def write_front(folder: Path, space: SearchSpace, front: Mapping[str, Any]) -> None:
    """Write every architecture of what `Front.describe` says to the folder FRONT of a run."""
    (folder / FRONT).mkdir(exist_ok=True)
    limits = [row["limit"] for row in front["rows"]]
    names = [format_cost(front["kind"], limit).replace(" ", "").replace("µ", "u") for limit in limits]
    for row, name in zip(front["rows"], names, strict=True):
        limit = name if names.count(name) == 1 else row["limit"]
        content = space.parse(row["genotype"]).to_json() | {"text": row["genotype"]}
        write_json(folder / FRONT / f"{front['kind']}-{limit}.json", content)


def _under(search: SearchView, budget: Budget, function: Callable[[], Value]) -> Value:
    """What a function returns while the search has another budget."""
    before, search.budget = search.budget, budget
    try:
        return function()
    finally:
        search.budget = before


def pareto(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Which of the points (cost, gain) no other is at least as good as in both and better in one; of equal
    ones the first."""
    return [
        (cost, gain) not in points[:i]
        and not any((c, g) != (cost, gain) and c <= cost and g >= gain for c, g in points)
        for i, (cost, gain) in enumerate(points)
    ]
