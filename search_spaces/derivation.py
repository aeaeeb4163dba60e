"""The best architecture of a space under a budget, exactly.

Maximise the sum of the scores of the chosen candidates, subject to the sum of their costs, for one or several
kinds of cost. A space's own rules hold: a choice for every slot, or so many edges into every node. An edge
that leads nowhere costs nothing, because it can be `none`; where there is `none`, the output depends on the
input.

This is a multiple-choice knapsack problem. Dynamic programming goes through the nodes of every cell from its
output to its inputs, so that it is known whether a node leads to the output before its edges are chosen.
Partial choices that another one dominates are dropped, and those that cannot become better than a choice
already found, by the bound of the Lagrangian relaxation.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linprog
from torch import Tensor

from search_spaces import operations
from search_spaces.slot import ABSENT, Slot
from search_spaces.space import SearchSpace

_FEW = 20_000  # choices that need no bound
_BEAM = 256  # partial choices of the first pass, which finds a choice that others have to be better than
_COMPARED = 512  # partial choices that all others are compared with where there are several kinds of cost

Picks = list[tuple[int, int]]  # row and candidate


@dataclass(frozen=True)
class _Options:
    """What can be chosen at once: O options.

    Attributes:
        scores, costs: (O,), (O, J).
        picks: rows and candidates of each.
        feeds: (O,), the nodes that the edges of each come from, as bits.
    """

    scores: np.ndarray
    costs: np.ndarray
    picks: list[Picks]
    feeds: np.ndarray

    def without_dominated(self) -> _Options:
        """Those that no other is at least as good as in everything, with the same sources."""
        order = np.lexsort((*self.costs.T, -self.scores))
        kept: list[int] = []
        for i in order:
            mine = [j for j in kept if self.feeds[j] == self.feeds[i]]
            if not any((self.costs[j] <= self.costs[i]).all() for j in mine):
                kept.append(int(i))
        return _Options(self.scores[kept], self.costs[kept], [self.picks[i] for i in kept], self.feeds[kept])


@dataclass(frozen=True)
class _Stage:
    """A decision of the dynamic program.

    Attributes:
        target: the node that its edges lead to.
        options: where that leads to the output.
        dead: where it leads nowhere, and need not be anything.
        opens: nodes that lead to the output, as bits, where a cell begins.
        last_of_node: whether no other edge leads to the node.
        inputs: of the cell, as bits, where this is its last decision and one of them has to lead to the
            output.
    """

    target: int
    options: _Options
    dead: _Options
    opens: int | None
    last_of_node: bool
    inputs: int


def derive(
    space: SearchSpace, scores: Tensor, costs: Sequence[Tensor], limits: Sequence[int]
) -> list[int] | None:
    """The choice (E,), ABSENT where a slot has no edge, of the highest sum of scores within all limits; None
    if nothing is.

    Args:
        scores: (E, K), finite, e.g. log-probabilities.
        costs: (E, K) int64 for each kind of cost.
        limits: of the sum for each kind.
    """
    table = np.stack([cost.numpy() for cost in costs], -1)
    room = np.array(limits, np.int64)
    stages = _stages(space, scores.double().numpy(), table)
    found, multipliers = None, np.zeros(len(room))
    if math.prod(len(stage.options.picks) for stage in stages) > _FEW:
        multipliers = _multipliers(stages, room)
        found = _program(stages, room, multipliers, -np.inf, _BEAM)
    best = _program(stages, room, multipliers, -np.inf if found is None else found[0], None) or found
    if best is None:
        return None
    choice = [ABSENT] * space.num_slots
    for row, k in best[1]:
        choice[row] = k
    return fit(space, choice, costs, limits)


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


def _stages(space: SearchSpace, scores: np.ndarray, costs: np.ndarray) -> list[_Stage]:
    stages = []
    for cell in space.cell_names:
        rows = _rows(space, cell)
        may_end = any(_none(space, slot) is not None for _, slot in rows)
        inputs = sum(1 << node for node in _inputs(rows)) if may_end else 0
        opens: int | None = sum(1 << node for node in _outputs(space, cell))
        targets = sorted({slot.target for _, slot in rows}, reverse=True)
        for target in targets:
            into = [(row, slot) for row, slot in rows if slot.target == target]
            groups = [into] if space.edges_per_node else [[pair] for pair in into]
            for number, group in enumerate(groups, 1):
                last = number == len(groups)
                options, dead = _options(space, group, scores, costs)
                if not may_end:
                    dead = options
                closing = inputs if last and target == targets[-1] else 0
                stages.append(_Stage(target, options, dead, opens, last, closing))
                opens = None
    return stages


def _options(
    space: SearchSpace, group: Sequence[tuple[int, Slot]], scores: np.ndarray, costs: np.ndarray
) -> tuple[_Options, _Options]:
    """What a group of edges into a node can be if the node leads to the output, and if it does not."""
    count = min(space.edges_per_node or len(group), len(group))
    picks: list[Picks] = []
    feeds = []
    for edges in itertools.combinations(group, count):
        kinds = [[slot.candidates.index(name) for name in space.derivable(slot)] for _, slot in edges]
        for chosen in itertools.product(*kinds):
            picks.append([(row, k) for (row, _), k in zip(edges, chosen, strict=True)])
            sources = {
                slot.source
                for (_, slot), k in zip(edges, chosen, strict=True)
                if not _is_none(slot.candidates[k])
            }
            feeds.append(sum(1 << source for source in sources))
    values = np.array([sum(scores[row, k] for row, k in option) for option in picks])
    prices = np.array([sum(costs[row, k] for row, k in option) for option in picks], np.int64)
    every = _Options(values, prices, picks, np.array(feeds, np.int64))
    dead = every
    if len(group) == 1 and _none(space, group[0][1]) is not None:
        best = int(values.argmax())
        nothing = np.zeros(1, np.int64)
        dead = _Options(values[[best]], np.zeros_like(prices[:1]), [picks[best]], nothing)
    return every.without_dominated(), dead.without_dominated()


# The bound


def _relaxed(stages: Sequence[_Stage]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Scores and costs of all options of every stage, dead or alive."""
    return [
        (
            np.concatenate([stage.options.scores, stage.dead.scores]),
            np.concatenate([stage.options.costs, stage.dead.costs]),
        )
        for stage in stages
    ]


def _multipliers(stages: Sequence[_Stage], room: np.ndarray) -> np.ndarray:
    """Multipliers (J,) with which the Lagrangian bound of the whole problem is about the lowest.

    Any that are not negative give a valid bound.
    """
    kinds, count = len(room), len(stages)
    unit = np.maximum(np.abs(room), 1).astype(float)
    rows, right = [], []
    for number, (scores, costs) in enumerate(_relaxed(stages)):
        block = np.zeros((len(scores), kinds + count))
        block[:, :kinds] = -costs / unit  # t_i >= score - multipliers . cost
        block[:, kinds + number] = -1
        rows.append(block)
        right.append(-scores)
    objective = np.concatenate([room / unit, np.ones(count)])
    bounds = [(0, 1e9)] * kinds + [(None, None)] * count
    found = linprog(objective, np.concatenate(rows), np.concatenate(right), bounds=bounds, method="highs")
    best = found.x[:kinds] if found.x is not None else np.zeros(kinds)
    multipliers: np.ndarray = np.maximum(best, 0) / unit
    return multipliers


# The dynamic program


@dataclass
class _Partial:
    """S choices for the stages so far, with the nodes that lead to the output as bits."""

    scores: np.ndarray
    costs: np.ndarray
    alive: np.ndarray
    parent: np.ndarray
    option: np.ndarray

    def __getitem__(self, index: np.ndarray) -> _Partial:
        return _Partial(*(part[index] for part in vars(self).values()))


def _program(
    stages: Sequence[_Stage], room: np.ndarray, multipliers: np.ndarray, known: float, beam: int | None
) -> tuple[float, Picks] | None:
    """The best choice and its score, if it is better than `known`; of the most promising `beam` partial
    choices only, where that is not None."""
    relaxed = _relaxed(stages)
    cheapest = _sums_from([costs.min(0) for _, costs in relaxed], len(room))
    bounds = _sums_from([(scores - costs @ multipliers).max() for scores, costs in relaxed], 0)
    nothing = np.zeros(1, np.int64)
    states = _Partial(np.zeros(1), np.zeros((1, len(room)), np.int64), nothing, nothing, nothing)
    least = known + 1e-9 * max(1.0, abs(known)) if np.isfinite(known) else known
    history = []
    for number, stage in enumerate(stages):
        if stage.opens is not None:
            states.alive = np.full(len(states.scores), stage.opens)
        states = _expanded(states, stage)
        bound = states.scores + bounds[number + 1] + (room - states.costs) @ multipliers
        fits = (states.costs + cheapest[number + 1] <= room).all(1)
        states = states[np.flatnonzero(fits & (bound > least))]
        if len(states.scores) == 0:
            return None
        states = _undominated(states)
        if beam is not None and len(states.scores) > beam:
            bound = states.scores - states.costs @ multipliers
            states = states[np.sort(np.argsort(-bound, kind="stable")[:beam])]
        history.append((states.parent, states.option))
    best = int(states.scores.argmax())
    score, picks = float(states.scores[best]), []
    for stage, (parent, option) in zip(reversed(stages), reversed(history), strict=True):
        k = int(option[best])
        count = len(stage.options.picks)
        picks += stage.options.picks[k] if k < count else stage.dead.picks[k - count]
        best = int(parent[best])
    return score, picks


def _sums_from(parts: Sequence[np.ndarray], width: int) -> list[np.ndarray]:
    """The sums of all parts from each on, and of none."""
    sums = [np.zeros(width) if width else np.zeros(())]
    for part in reversed(parts):
        sums.append(sums[-1] + part)
    return sums[::-1]


def _expanded(states: _Partial, stage: _Stage) -> _Partial:
    """All states with all options of a stage."""
    leads = (states.alive >> stage.target) & 1 == 1
    parts = []
    for which, options, first in (
        (np.flatnonzero(leads), stage.options, 0),
        (np.flatnonzero(~leads), stage.dead, len(stage.options.picks)),
    ):
        count = len(options.scores)
        parent = which.repeat(count)
        option = np.tile(np.arange(count), len(which))
        fed = options.feeds[option] if first == 0 else 0
        parts.append(
            _Partial(
                states.scores[parent] + options.scores[option],
                states.costs[parent] + options.costs[option],
                states.alive[parent] | fed,
                parent,
                option + first,
            )
        )
    joined = _Partial(
        *(np.concatenate(both) for both in zip(*(vars(p).values() for p in parts), strict=True))
    )
    if stage.last_of_node:
        joined.alive &= ~(1 << stage.target)
    if stage.inputs:
        joined = joined[np.flatnonzero(joined.alive & stage.inputs)]
    return joined


def _undominated(states: _Partial) -> _Partial:
    """The states without those that are no better than another in anything: all of these with one kind of
    cost, many with several."""
    order = np.lexsort((-states.scores, *states.costs.T[::-1], states.alive))
    states = states[order]
    if states.costs.shape[1] == 1:
        keep = np.zeros(len(order), bool)
        for alive in np.unique(states.alive):
            where = np.flatnonzero(states.alive == alive)
            scores = states.scores[where]
            before = np.concatenate([[-np.inf], np.maximum.accumulate(scores)[:-1]])
            keep[where] = scores > before
        return states[np.flatnonzero(keep)]
    same = (states.costs[1:] == states.costs[:-1]).all(1) & (states.alive[1:] == states.alive[:-1])
    states = states[np.flatnonzero(np.concatenate([[True], ~same]))]
    strong = np.sort(np.argsort(-states.scores, kind="stable")[:: max(1, len(states.scores) // _COMPARED)])
    dominated = np.zeros(len(states.scores), bool)
    for i in strong:
        no_better = (states.scores <= states.scores[i]) & (states.alive == states.alive[i])
        no_better &= (states.costs >= states.costs[i]).all(1)
        no_better[i] = False
        dominated |= no_better & ~dominated[i]
    return states[np.flatnonzero(~dominated)]
