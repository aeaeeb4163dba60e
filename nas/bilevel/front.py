"""One search, several budgets: an architecture for each."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from nas.bilevel.budget import Budget
from nas.bilevel.rule import Rule
from nas.bilevel.view import SearchView
from search_spaces import Genotype

Value = TypeVar("Value")


class Front(Rule):
    """A rule of selection, applied under each of several budgets; it selects what it finds under the last.

    Args:
        rule: of which every budget gets a copy.
        budgets: ascending.
    """

    name = "front"

    def __init__(self, rule: Rule, budgets: Sequence[Budget]) -> None:
        self.budgets = list(budgets)
        self.rules = [copy.deepcopy(rule) for _ in budgets]

    def pieces(self, search: SearchView) -> int:
        return sum(
            _under(search, budget, lambda rule=rule: rule.pieces(search))  # type: ignore[misc]
            for rule, budget in zip(self.rules, self.budgets, strict=True)
        )

    def select(self, search: SearchView) -> Iterator[None]:
        for rule, budget in zip(self.rules, self.budgets, strict=True):
            work = iter(rule.select(search))
            while _under(search, budget, lambda work=work: next(work, work) is not work):  # type: ignore[misc]
                yield

    def selected(self, search: SearchView) -> Genotype:
        return self.found(search)[-1]

    def found(self, search: SearchView) -> list[Genotype]:
        """The architecture of every budget."""
        return [
            _under(search, budget, lambda rule=rule: rule.selected(search))  # type: ignore[misc]
            for rule, budget in zip(self.rules, self.budgets, strict=True)
        ]

    def considered(self, search: SearchView) -> list[dict[str, Any]]:
        return _under(search, self.budgets[-1], lambda: self.rules[-1].considered(search))

    def state(self) -> dict[str, Any]:
        return {"rules": [rule.state() for rule in self.rules]}

    def restore(self, state: dict[str, Any]) -> None:
        for rule, known in zip(self.rules, state["rules"], strict=True):
            if known:
                rule.restore(known)


def _under(search: SearchView, budget: Budget, function: Callable[[], Value]) -> Value:
    """What a function returns while the search has another budget."""
    before, search.budget = search.budget, budget
    try:
        return function()
    finally:
        search.budget = before


def pareto(rows: Sequence[Mapping[str, float]], cost: str, gain: str) -> list[bool]:
    """Which rows no other is at least as good as in both and better in one; of equal rows the first."""
    return [
        not any(
            (other[cost], -other[gain]) != (row[cost], -row[gain])
            and other[cost] <= row[cost]
            and other[gain] >= row[gain]
            for other in rows
        )
        and not any((rows[j][cost], rows[j][gain]) == (row[cost], row[gain]) for j in range(i))
        for i, row in enumerate(rows)
    ]
