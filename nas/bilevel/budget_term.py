"""The term of the architecture step that draws a search towards its budget.

The exact derivation keeps the limits whatever the search has found, so that this term needs no weight to be
tuned.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nas.bilevel.architecture import Architecture
from nas.bilevel.budget import Budget
from nas.bilevel.terms import Term


class BudgetTerm(Term):
    """Draws the expected cost towards its limit, with multipliers that are learned.

    With u = E[c] / A - 1, the term is that of the augmented Lagrangian: its gradient is max(0, m + rho u) du.
    After each step the multiplier m ascends: m <- max(0, m + eta u), where u is cut off at `FAR`. The aim A
    goes down to the limit from the expected cost that the search begins with, linearly in the first half of
    the architecture steps, so that the loss has a say in what becomes cheaper. In the last quarter of the
    search the u of the ascent is that of the most probable architecture.

    The expectation is exact: E[c] = c_0 + sum over slots and candidates of p c, where the candidates of a
    derived network are drawn by the probabilities of the search; where only some edges into a node are kept
    (darts), all sets of them are equally probable.

    Args:
        budget: with limits.
        architecture: as the search begins.
        begin: progress of the search at the first architecture step.
        steps: architecture steps of the whole search.

    Source: Nocedal & Wright, 2006, "Numerical Optimization", chapter 17 (the augmented Lagrangian); Luo et
    al., 2022, "LightNAS", arXiv 2208.10658 (the multiplier is learned on the arg-max).
    """

    name = "budget"
    RHO = 5.0
    RATE = 100.0  # a violation of 10 % in a tenth of the architecture steps moves the multiplier by 1
    FAR = 0.05
    LAST = 0.75  # of the search, from where on the arg-max counts

    def __init__(self, budget: Budget, architecture: Architecture, begin: float, steps: int) -> None:
        self.budget, self.estimator = budget, architecture.estimator
        self.begin, self.rate = begin, self.RATE / max(1, steps)
        self.limits = torch.tensor(list(budget.limits.values()), dtype=torch.float64)
        self.multipliers = torch.zeros(len(self.limits), dtype=torch.float64)
        space = budget.space
        allowed = [[name in space.derivable(slot) for name in slot.candidates] for slot in space.slots]
        self._derivable = torch.tensor([row + [False] * (space.width - len(row)) for row in allowed])
        count = space.edges_per_node
        into = [sum((s.cell, s.target) == (o.cell, o.target) for o in space.slots) for s in space.slots]
        self._kept = torch.tensor([min(1.0, (count or n) / n) for n in into], dtype=torch.float64)
        self._first = self.expected(architecture.masked().detach())

    def aim(self, progress: float) -> Tensor:
        """(J,) float64, the expected cost that the search is to have by now."""
        way = min(1.0, max(0.0, 2 * (progress - self.begin) / max(1 - self.begin, 1e-9)))
        return torch.maximum(self.limits, self._first + way * (self.limits - self._first))

    def expected(self, logits: Tensor) -> Tensor:
        """(J,) float64, the expected cost of each kind; has a graph to the logits (E, K), -inf where there is
        no candidate."""
        p = self.estimator.probabilities(logits).double()
        if self.budget.space.edges_per_node is not None or not self.estimator.exclusive:
            p = torch.where(self._derivable, p, 0.0)
            p = p / p.sum(-1, keepdim=True).clamp_min(torch.finfo(p.dtype).tiny)
        p = p * self._kept.unsqueeze(-1)
        tables = [self.budget.costs[kind] for kind in self.budget.limits]
        return torch.stack([t.fixed + (p * t.table).sum() for t in tables])

    def of_logits(self, logits: Tensor, progress: float) -> Tensor:
        wanted = self.multipliers + self.RHO * (self.expected(logits) / self.aim(progress) - 1)
        return (
            ((wanted.clamp_min(0).square() - self.multipliers.square()) / (2 * self.RHO))
            .sum()
            .to(logits.dtype)
        )

    def learn(self, architecture: Architecture, progress: float) -> None:
        with torch.no_grad():
            cost = self.expected(architecture.masked())
        if progress >= self.LAST:
            likely = self.budget.cost(self.budget.space.discretise(architecture.scores()))
            cost = torch.tensor([likely[kind] for kind in self.budget.limits], dtype=torch.float64)
        violation = (cost / self.aim(progress) - 1).clamp(-self.FAR, self.FAR)
        self.multipliers = (self.multipliers + self.rate * violation).clamp_min(0)

    def state(self) -> dict[str, Any]:
        return {"multipliers": self.multipliers.tolist()}

    def restore(self, state: dict[str, Any]) -> None:
        found = torch.tensor(state["multipliers"], dtype=torch.float64)
        if found.shape != self.multipliers.shape:
            raise ValueError(f"there are {len(found)} multipliers, expected {len(self.multipliers)}")
        self.multipliers = found

    def describe(self, architecture: Architecture, progress: float) -> dict[str, dict[str, float]]:
        """Limit, aim, expected cost, cost of the most probable and of the derived architecture, and
        multiplier, by kind."""
        with torch.no_grad():
            expected, aims = self.expected(architecture.masked()).tolist(), self.aim(progress).tolist()
        scores = architecture.scores()
        likely = self.budget.cost(self.budget.space.discretise(scores))
        derived = self.budget.cost(self.budget.derive(scores))
        return {
            kind: {
                "limit": limit,
                "aim": aims[j],
                "expected": expected[j],
                "likely": likely[kind],
                "derived": derived[kind],
                "multiplier": float(self.multipliers[j]),
            }
            for j, (kind, limit) in enumerate(self.budget.limits.items())
        }
