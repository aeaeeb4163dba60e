"""Selection by what the supernet loses without a candidate."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nas.bilevel.architecture import Architecture
from nas.bilevel.policies import Policy, Probe
from nas.bilevel.rules.rule import MOST, Rule
from nas.bilevel.view import SearchView
from nas.seeding import generator, seed_everything
from search_spaces import ABSENT, Genotype, SearchSpace
from search_spaces.mixed_edge import Choice, Draw

_MORE = 1e3  # than candidates can be missed


class Perturbation(Rule):
    """One slot after another, in random order, keeps the candidate without which the supernet is least
    accurate on the validation part; between decisions the supernet is trained further.

    The supernet mixes all candidates of the slots that are open, with their probabilities, and a candidate
    is taken away by setting its weight to 0. Where a space keeps only some edges into a node (darts), nodes
    decide afterwards, and lose one edge after another, always the one that is missed least. Training goes on
    with a tenth of the learning rate at the start, without old momentum, on what the policy draws, with what
    is decided in its place; the logits stay as they are. Where a budget forbids what was decided, what was
    missed next is taken.

    Args:
        epochs: of training between two decisions.

    Source: Wang et al., 2021, "Rethinking architecture selection in differentiable NAS", arXiv 2108.04392.
    In the authors' code the logits are trained, too, and both kinds of cell decide at the same time.
    """

    name = "perturbation"
    minds_budget = False
    RATE = 0.1  # of the learning rate at the start of the search

    def __init__(self, epochs: int = 5) -> None:
        if not 0 <= epochs <= MOST:
            raise ValueError(f"epochs is {epochs}, expected 0 to {MOST}")
        self.epochs = epochs
        self.accuracies: list[dict[str, float]] = []  # of every decision, without each choice
        self.steps = 0  # of training
        self.decided: dict[int, int] = {}  # candidate by row; ABSENT where the edge is dropped
        self.dropped: list[int] = []  # rows, in the order in which their edges were dropped
        self.missed: dict[tuple[int, int], float] = {}  # 100 less the accuracy (%) without a candidate

    def pieces(self, search: SearchView) -> int:
        order = _order(search)
        training = max(0, len(order) - 1) * self.epochs * len(search.train)
        return sum(decision.looks for decision in order) + training

    def select(self, search: SearchView) -> Iterator[None]:
        self.decided, number = _only(search), 0
        self.dropped, self.missed = [], dict.fromkeys(self.decided.items(), 0.0)
        order = _order(search)
        for done, decision in enumerate(order, 1):  # those before an interruption, too
            if isinstance(decision, _Slot):
                accuracies = yield from self._look(search, number, decision.choices)
                row, candidate = decision.choices[accuracies.index(min(accuracies))]
                self.decided[row] = candidate
                self.missed |= {pair: 100 - a for pair, a in zip(decision.choices, accuracies, strict=True)}
                number += 1
            else:
                left = list(decision.rows)
                while len(left) > decision.kept:
                    accuracies = yield from self._look(search, number, [(row, ABSENT) for row in left])
                    self.dropped.append(left.pop(accuracies.index(max(accuracies))))
                    self.decided[self.dropped[-1]] = ABSENT
                    number += 1
            if done < len(order):
                yield from self._train(search, done * self.epochs * len(search.train))

    def _look(
        self, search: SearchView, number: int, choices: Sequence[tuple[int, int]]
    ) -> Generator[None, None, list[float]]:
        """The accuracies (%) without each choice, a candidate or a whole edge; those that are known are not
        found again."""
        if number == len(self.accuracies):
            self.accuracies.append({})
        found = self.accuracies[number]
        for row, candidate in choices[len(found) :]:
            weights = _with(search.architecture.probabilities(), self.decided)
            weights[row, slice(None) if candidate == ABSENT else candidate] = 0.0
            found[_name(search.space, row, candidate)] = search.score_draw(weights)[1]
            yield
        return list(found.values())

    def _train(self, search: SearchView, until: int) -> Iterator[None]:
        """Train the supernet until so many steps have been done in all, each a piece of work."""
        bilevel, options, length = search.bilevel, search.options, len(search.train)
        own = bilevel.policy
        if self.steps == 0:
            bilevel.weight_optimizer.state.clear()  # momentum
        while self.steps < until:
            epoch, start = divmod(self.steps, length)
            for batch in search.train.epoch(options.epochs + epoch, start):
                seed_everything(options.seed, "tuning", self.steps)
                for group in bilevel.weight_optimizer.param_groups:
                    group["lr"] = self.RATE * options.lr
                bilevel.policy = _Decided(own, self.decided)
                draws = generator(options.seed, "tuning draw", self.steps)
                bilevel.weight_step(batch, draws, options.epochs * length + self.steps, 1.0)
                bilevel.policy = own
                self.steps += 1
                yield

    def selected(self, search: SearchView) -> Genotype:
        scores = torch.full_like(search.architecture.logits, -_MORE, dtype=torch.float64)
        for (row, candidate), missed in self.missed.items():
            scores[row, candidate] = missed
        for place, row in enumerate(reversed(self.dropped), 1):  # below the edges that are kept
            scores[row] -= 2 * _MORE * place
        return search.budget.derive(search.architecture.among(scores))

    def considered(self, search: SearchView) -> list[dict[str, Any]]:
        return [
            {"genotype": f"without {name}", "accuracy": accuracy, "decision": number}
            for number, found in enumerate(self.accuracies, 1)
            for name, accuracy in found.items()
        ]

    def state(self) -> dict[str, Any]:
        return {"accuracies": self.accuracies, "steps": self.steps}

    def restore(self, state: dict[str, Any]) -> None:
        self.accuracies = [dict(found) for found in state["accuracies"]]
        self.steps = state["steps"]


class _Decided(Policy):
    """The paths of a policy, with what is decided in its place."""

    name = "decided"

    def __init__(self, policy: Policy, decided: dict[int, int]) -> None:
        self.policy, self.decided = policy, decided

    def paths(
        self, architecture: Architecture, generator: torch.Generator, step: int, progress: float
    ) -> Sequence[Draw]:
        return self._decided(self.policy.paths(architecture, generator, step, progress))

    def paths_on(
        self,
        probe: Probe,
        architecture: Architecture,
        generator: torch.Generator,
        step: int,
        progress: float,
    ) -> Sequence[Draw]:
        return self._decided(self.policy.paths_on(probe, architecture, generator, step, progress))

    def _decided(self, paths: Sequence[Draw]) -> Sequence[Draw]:
        decided = list[Draw]()
        for path in paths:
            if isinstance(path, Tensor):
                decided.append(_with(path, self.decided))
            else:
                assert not isinstance(path, Choice)
                decided.append([self.decided.get(row, chosen) for row, chosen in enumerate(path)])
        return decided


def _with(weights: Tensor, decided: dict[int, int]) -> Tensor:
    """A copy of weights (E, K) with what is decided."""
    weights = weights.detach().clone()
    for row, candidate in decided.items():
        weights[row] = 0.0
        if candidate != ABSENT:
            weights[row, candidate] = 1.0
    return weights


class _Slot(NamedTuple):
    """The decision of a slot: rows and candidates."""

    choices: list[tuple[int, int]]

    @property
    def looks(self) -> int:
        """How often the supernet is evaluated."""
        return len(self.choices)


class _Node(NamedTuple):
    """The decision of a node: rows of the edges into it, and how many are kept."""

    rows: list[int]
    kept: int

    @property
    def looks(self) -> int:
        """How often the supernet is evaluated."""
        return sum(range(self.kept + 1, len(self.rows) + 1))


def _order(search: SearchView) -> list[_Slot | _Node]:
    """All decisions, slots before nodes, both in random order."""
    space, draws = search.space, generator(search.options.seed, "decisions")
    slots = [
        _Slot([(row, candidate) for candidate in found]) for row, found in _open(search) if len(found) > 1
    ]
    nodes = [_Node(list(rows), kept) for rows, kept in space.contested()]
    return [
        *(slots[position] for position in torch.randperm(len(slots), generator=draws).tolist()),
        *(nodes[position] for position in torch.randperm(len(nodes), generator=draws).tolist()),
    ]


def _only(search: SearchView) -> dict[int, int]:
    """The candidate by row where no other can be derived."""
    return {row: found[0] for row, found in _open(search) if len(found) == 1}


def _open(search: SearchView) -> list[tuple[int, list[int]]]:
    """The row of every slot, and the candidates of it that can be derived."""
    names = [search.space.derivable(slot) for slot in search.space.slots]
    return [
        (row, [k for k in search.architecture.candidates(row) if slot.candidates[k] in names[row]])
        for row, slot in enumerate(search.space.slots)
    ]


def _name(space: SearchSpace, row: int, candidate: int) -> str:
    slot = space.slots[row]
    return slot.label if candidate == ABSENT else f"{slot.candidates[candidate]} in {slot.label}"
