"""The best architecture of a space under a budget, exactly.

Maximise the sum of the scores of the chosen candidates, subject to the sum of their costs, for one or several
kinds of cost. A space's own rules hold: a choice for every slot, or so many edges into every node. An edge
that leads nowhere costs nothing, because it can be `none`; where there is `none`, the output depends on the
input.

This is an integer linear program, which HiGHS solves. Its columns say which nodes lead to the output, and
which candidates are chosen: into a node that does, or into one that does not. Costs are compared as integers
in the end: what the floating-point numbers of the solver let pass is excluded, and it solves again.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from torch import Tensor

from search_spaces import operations
from search_spaces.slot import ABSENT, Slot
from search_spaces.space import SearchSpace

_LARGEST_SCORE = 1e6  # in the program: HiGHS stops 1e-6 below the best sum at most
_LARGEST_COST = 1e4  # in the program: HiGHS lets 1e-6 more than a limit pass


def derive(
    space: SearchSpace, scores: Tensor, costs: Sequence[Tensor], limits: Sequence[int]
) -> list[int] | None:
    """The choice (E,), ABSENT where a slot has no edge, of the highest sum of scores within all limits; None
    if nothing is.

    Where several have the highest sum, it is the same one in every call.

    Args:
        scores: (E, K), e.g. log-probabilities; -inf where a candidate must not be chosen.
        costs: (E, K) int64 for each kind of cost.
        limits: of the sum for each kind.
    """
    program, picks = _Program(), dict[int, _Pick]()
    for cell in space.cell_names:
        picks |= _add_cell(program, space, cell, scores.tolist())
    for table, limit in zip((cost.tolist() for cost in costs), limits, strict=True):
        prices = {n: table[pick.row][pick.k] for n, pick in picks.items() if not pick.free}
        unit = max(1.0, max(map(abs, prices.values()), default=0) / _LARGEST_COST)
        program.add({n: price / unit for n, price in prices.items()}, most=(limit + 0.5) / unit)
    while (chosen := program.solve()) is not None:
        taken = [n for n in picks if n in chosen]
        choice = [ABSENT] * space.num_slots
        for n in taken:
            choice[picks[n].row] = picks[n].k
        found = fit(space, choice, costs, limits)
        if found is not None:
            return found
        program.add(_ones(taken), most=len(taken) - 1)
    return None


def fit(
    space: SearchSpace, choice: Sequence[int], costs: Sequence[Tensor], limits: Sequence[int]
) -> list[int] | None:
    """The choice itself if it is within all limits, or as soon as edges that lead nowhere are `none`; else
    None."""
    for candidate in (list(choice), without_dead_edges(space, choice)):
        taken = [(row, k) for row, k in enumerate(candidate) if k != ABSENT]
        rows, columns = [row for row, _ in taken], [k for _, k in taken]
        if all(int(c[rows, columns].sum()) <= limit for c, limit in zip(costs, limits, strict=True)):
            return candidate
    return None


def without_dead_edges(space: SearchSpace, choice: Sequence[int]) -> list[int]:
    """A choice with `none` on the edges that lead to no output of their cell, where `none` is a candidate."""
    changed = list(choice)
    for cell in space.cell_names:
        alive = set(_outputs(space, cell))
        for row, slot in reversed(_rows(space, cell)):
            if choice[row] == ABSENT or _is_none(slot.candidates[choice[row]]):
                continue
            if slot.target in alive:
                alive.add(slot.source)
            elif (k := _none(space, slot)) is not None:
                changed[row] = k
    return changed


# The decisions


def _rows(space: SearchSpace, cell: str) -> list[tuple[int, Slot]]:
    """Rows and slots of a kind of cell, by target."""
    rows = [(row, slot) for row, slot in enumerate(space.slots) if slot.cell == cell]
    return sorted(rows, key=lambda pair: pair[1].target)


def _outputs(space: SearchSpace, cell: str) -> Sequence[int]:
    """Nodes that the output of a cell is made of."""
    return space.concat or (max(slot.target for _, slot in _rows(space, cell)),)


def _inputs(rows: Sequence[tuple[int, Slot]]) -> set[int]:
    """Nodes that no edge leads to."""
    return {slot.source for _, slot in rows} - {slot.target for _, slot in rows}


def _is_none(name: str) -> bool:
    return operations.family(name) == "none"


def _none(space: SearchSpace, slot: Slot) -> int | None:
    """The candidate `none` of a slot, if a derived network can have it."""
    return next((slot.candidates.index(name) for name in space.derivable(slot) if _is_none(name)), None)


# The program


@dataclass(frozen=True)
class _Pick:
    """A column: the candidate of a slot.

    Attributes:
        free: whether it costs nothing, because it leads nowhere and can be `none`.
    """

    row: int
    k: int
    free: bool = False


@dataclass
class _Program:
    """Columns that are 0 or 1, whose sum of scores is to be the highest, and other sums of them that have
    bounds."""

    scores: list[float] = field(default_factory=list)
    lowest: list[bool] = field(default_factory=list)
    sums: list[tuple[Mapping[int, float], float, float]] = field(default_factory=list)

    def column(self, score: float = 0.0, lowest: bool = False) -> int:
        """The number of a new column, which is 1 if `lowest` is."""
        self.scores.append(score)
        self.lowest.append(lowest)
        return len(self.scores) - 1

    def add(self, factors: Mapping[int, float], least: float = -math.inf, most: float = math.inf) -> None:
        """Keep the sum of columns times their factors between two bounds."""
        self.sums.append((factors, least, most))

    def solve(self) -> set[int] | None:
        """The columns that are 1; None if no values keep to all bounds."""
        matrix = np.zeros((len(self.sums), len(self.scores)))
        for line, (factors, _, _) in zip(matrix, self.sums, strict=True):
            line[list(factors)] = list(factors.values())
        _, least, most = zip(*self.sums, strict=True)
        scores = np.array(self.scores)
        found = milp(
            -scores * (_LARGEST_SCORE / max(abs(scores).max(), 1e-300)),
            integrality=np.ones(len(scores)),
            bounds=Bounds(self.lowest, 1),
            constraints=LinearConstraint(matrix, least, most),
            options={"mip_rel_gap": 0},
        )
        if found.status == 2:
            return None
        if found.status != 0:
            raise RuntimeError(f"no architecture was found: {found.message}")
        return set(np.flatnonzero(found.x > 0.5).tolist())


def _add_cell(
    program: _Program, space: SearchSpace, cell: str, scores: Sequence[Sequence[float]]
) -> dict[int, _Pick]:
    """Add a kind of cell to a program; returns what the columns of its candidates are.

    `alive` has a column for each node; `live` and `dead` have those of the candidates into a node, `edges`
    those out of it that lead to the output.
    """
    rows, picks = _rows(space, cell), dict[int, _Pick]()
    outputs, may_end = _outputs(space, cell), any(_none(space, slot) is not None for _, slot in rows)
    nodes = sorted({node for _, slot in rows for node in (slot.source, slot.target)})
    alive = {node: program.column(lowest=node in outputs or not may_end) for node in nodes}
    live, dead, edges = (defaultdict[int, list[int]](list) for _ in range(3))
    for row, slot in rows:
        source, target = alive[slot.source], alive[slot.target]
        names = [slot.candidates.index(name) for name in space.derivable(slot)]
        names = [k for k in names if scores[row][k] > -math.inf]
        here = {program.column(scores[row][k]): _Pick(row, k) for k in names}
        live[slot.target] += here
        picks |= here
        program.add(_ones(here) | {target: -1}, most=0)
        if may_end:
            leading = [n for n, pick in here.items() if not _is_none(slot.candidates[pick.k])]
            edges[slot.source] += leading
            program.add(_ones(leading) | {source: -1}, most=0)
            free = _none(space, slot) is not None
            if free:
                names = sorted(names, key=scores[row].__getitem__, reverse=True)[:1]
            here = {program.column(scores[row][k]): _Pick(row, k, free) for k in names}
            dead[slot.target] += here
            picks |= here
            program.add(_ones(here) | {target: 1}, most=1)
    for node in nodes:
        into = sum(slot.target == node for _, slot in rows)
        count = min(space.edges_per_node or into, into)
        program.add(_ones(live[node]) | {alive[node]: -count}, 0, 0)
        if may_end:
            program.add(_ones(dead[node]) | {alive[node]: count}, count, count)
            if node not in outputs:
                program.add(_ones(edges[node]) | {alive[node]: -1}, least=0)
    if may_end:
        program.add(_ones(alive[node] for node in _inputs(rows)), least=1)
    return picks


def _ones(columns: Iterable[int]) -> dict[int, float]:
    return dict.fromkeys(columns, 1)
