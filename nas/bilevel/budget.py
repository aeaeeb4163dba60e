"""Budgets of the derived network: what it costs, whether that is within the limits, and the best one that
is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nas.bilevel.skips import skip_limits
from nas.data import DataSet
from nas.genotypes import cells_of
from nas.latency_table import LatencyTable
from recipes import InputError, SearchOptions
from recipes.budget import KINDS, format_cost, parse_budget, parse_budgets
from search_spaces import Genotype, SearchSpace
from search_spaces.cost import CostTable, NetworkSize, count_costs, count_macs, count_parameters
from search_spaces.derivation import derive, fit
from search_spaces.slot import ABSENT

_CHECKED = 2  # architectures whose networks are built to see whether a space is additive
_ENDLESS = 2**62


@dataclass(frozen=True)
class Budget:
    """The limits of a search, none by default.

    Args:
        space: what is searched.
        size: of the network that the limits speak of.
        costs: of all architectures, by kind; may be missing where there are no limits.
        limits: by kind.
        counts: further limits of additive tables that are no costs: nothing draws the search there.
    """

    space: SearchSpace
    size: NetworkSize
    costs: Mapping[str, CostTable]
    limits: Mapping[str, int]
    counts: tuple[tuple[CostTable, int], ...] = ()

    @property
    def _bounds(self) -> list[tuple[CostTable, int]]:
        """All tables that have limits, with these."""
        return [*((self.costs[kind], limit) for kind, limit in self.limits.items()), *self.counts]

    def derive(self, scores: Tensor) -> Genotype:
        """The architecture of the highest sum of scores (E, K) that is within the limits."""
        best = self.space.discretise(scores)
        if not self._bounds:
            return best
        choice = self.space.choice(best)
        if self.space.is_connected(best) and self._holds(choice):
            return best
        found = derive(self.space, scores, *self._room())
        if found is None:
            raise InputError(self._unreachable())
        return self._genotype(found)

    def fit(self, genotype: Genotype) -> Genotype | None:
        """The architecture if it is within the limits, or as soon as edges that lead nowhere are `none`; else
        None."""
        if not self._bounds:
            return genotype
        choice = self.space.choice(genotype)
        found = fit(self.space, choice, *self._room())
        return genotype if found == choice else None if found is None else self._genotype(found)

    def cost(self, genotype: Genotype) -> dict[str, int]:
        """What the derived network costs, by kind."""
        choice = self.space.choice(genotype)
        return {kind: table.of(choice) for kind, table in self.costs.items()}

    def only(self, kind: str, limit: int) -> Budget:
        """The same with another limit of one kind."""
        return replace(self, limits={**self.limits, kind: limit})

    def reaches(self, left: Tensor) -> bool:
        """Whether an architecture of some candidates alone is within the limits.

        Args:
            left: (E, K), bool: where there is one of them.
        """
        if not self._bounds:
            return True
        scores = torch.zeros(left.shape).masked_fill(~left, -math.inf)
        return derive(self.space, scores, *self._room()) is not None

    def around(self, scores: Tensor, genotype: Genotype) -> Tensor:
        """The scores, with those of a genotype raised above all others: `discretise` then gives it back."""
        raised = scores.clone()
        above = float(scores.max() - scores.min()) + 1.0
        for row, k in enumerate(self.space.path(genotype)):
            if k != ABSENT:
                raised[row, k] += above
        return raised

    def require_reachable(self) -> None:
        """Raise InputError where the space has rules or costs of its own that limits cannot know, or nothing
        in it is within the limits."""
        if not self._bounds:
            return
        draws = torch.Generator().manual_seed(0)
        for _ in range(_CHECKED):
            scores = torch.randn(self.space.num_slots, self.space.width, generator=draws)
            genotype = self.space.discretise(scores)
            tables, _ = self._room()
            found = derive(self.space, scores, tables, [_ENDLESS] * len(tables))
            connected = self.space.is_connected(genotype)
            if connected and (found is None or self._genotype(found) != genotype):
                raise InputError(
                    f"the space '{self.space.name}' derives by rules of its own, which budgets do not know: "
                    "drop `budget`, and give `max_skips=None`"
                )
            if not self.limits:
                continue
            with torch.device("meta"):
                network = self.size.network(self.space, genotype)
            counted = {
                "parameters": count_parameters(network), "macs": count_macs(network, self.size.shape),
            }  # fmt: skip
            if counted != {kind: self.cost(genotype)[kind] for kind in counted}:
                raise InputError(
                    f"the networks of the space '{self.space.name}' do not cost the sum of their candidates: "
                    "budgets do not fit it"
                )
        if derive(self.space, torch.zeros_like(scores), *self._room()) is None:
            raise InputError(self._unreachable())

    def reach(self, kind: str) -> tuple[int, int]:
        """The least and the most that an architecture costs."""
        table = self.costs[kind]
        ends = []
        for sign in (-1, 1):
            choice = derive(self.space, sign * table.table.double(), [table.table], [_ENDLESS])
            assert choice is not None
            ends.append(table.of(choice))
        return ends[0], ends[1]

    def _unreachable(self) -> str:
        few = f" with `max_skips={self.counts[0][1]}`" if self.counts else ""
        if not self.limits:
            return f"the space '{self.space.name}' has no architecture{few}: raise it"
        size = self.size
        place = f"channels={size.channels}, cells={size.cells}, images of {size.image_size[0]} pixels"
        ranges = {kind: self.reach(kind) for kind in self.limits}
        reaches = "; ".join(
            f"{KINDS[kind]}: {format_cost(kind, low)} to {format_cost(kind, high)}"
            for kind, (low, high) in ranges.items()
        )
        low = [kind for kind, limit in self.limits.items() if limit < ranges[kind][0]]
        asked = " ".join(f"{kind}={format_cost(kind, limit)}" for kind, limit in self.limits.items())
        what = "no architecture of" if low else "no single architecture of"
        return (
            f"`budget` {asked}: {what} the space '{self.space.name}'{few} is within it; at {place} networks "
            f"have {reaches}: raise it, or make the network smaller"
        )

    def _room(self) -> tuple[list[Tensor], list[int]]:
        """The tables that have limits, and what these leave to the candidates."""
        room = [limit - table.fixed for table, limit in self._bounds]
        return [table.table for table, _ in self._bounds], room

    def _holds(self, choice: list[int]) -> bool:
        return all(table.of(choice) <= limit for table, limit in self._bounds)

    def _genotype(self, choice: list[int]) -> Genotype:
        return self.space.genotype(
            [
                None if k == ABSENT else slot.candidates[k]
                for slot, k in zip(self.space.slots, choice, strict=True)
            ]
        )


def build(
    space: SearchSpace,
    options: SearchOptions,
    dataset: DataSet,
    outputs: int,
    latencies: LatencyTable | None = None,
) -> tuple[Budget, list[Budget]]:
    """The budget of a search, and those that it derives an architecture for each of, ascending.

    With several budgets of one kind the search keeps the largest. Raises InputError if nothing in the space
    does.

    Args:
        outputs: of the networks.
        latencies: of the machine that networks are meant for.
    """
    limits = parse_budget(options.budget)
    kind, several = parse_budgets(options.budgets) if options.budgets is not None else ("", [])
    if several:
        limits[kind] = several[-1]
    height, width = dataset.test.pixels.shape[-2:]
    image_size = (height, width) if options.budget_image_size is None else (options.budget_image_size,) * 2
    size = NetworkSize(
        options.budget_channels or options.channels,
        cells_of(space, options.budget_cells or options.cells),
        outputs,
        dataset.in_channels,
        image_size,
        options.planned_size or 0,
    )
    costs = count_costs(space, size) if limits or latencies else {}
    if latencies is not None:
        latencies.require_size(size)
        costs["latency"] = latencies.costs
    budget = Budget(space, size, costs, limits, skip_limits(space, options.max_skips))
    budget.require_reachable()
    budgets = [budget.only(kind, limit) for limit in several]
    for one in budgets[:-1]:
        one.require_reachable()
    return budget, budgets
