"""What the log-probabilities speak for."""

from __future__ import annotations

from collections.abc import Iterator

from nas.bilevel.rules.rule import Rule, likeliest
from nas.bilevel.view import SearchView
from search_spaces import Genotype


class ArgMax(Rule):
    """The architecture within the budget that the log-probabilities speak for."""

    name = "argmax"

    def select(self, search: SearchView) -> Iterator[None]:
        yield from ()

    def selected(self, search: SearchView) -> Genotype:
        return likeliest(search)
