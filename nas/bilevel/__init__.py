"""The search: a supernet, its architecture parameters, and the two steps over them."""

from __future__ import annotations

from nas.bilevel.architecture import Architecture
from nas.bilevel.policies import Policy
from nas.bilevel.rules.rule import Rule
from nas.bilevel.search import Search
from nas.bilevel.shrinkings.shrinking import Shrinking
from nas.bilevel.steps import Bilevel
from nas.bilevel.terms import Term
from nas.bilevel.view import SearchView

__all__ = ["Architecture", "Bilevel", "Policy", "Rule", "Search", "SearchView", "Shrinking", "Term"]
