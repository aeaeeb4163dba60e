"""Candidates by what they contribute to the accuracy of the supernet: their Shapley values.

The players of the game are all candidates that are left; what a set of them is worth is the accuracy of the
supernet in which the others have the weight 0. A candidate's value is the mean, over orders in which all
leave, of the accuracy that is lost as it leaves.

Source: Xiao et al., 2022, "Shapley-NAS: discovering operation contribution for neural architecture search",
CVPR.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nas import distributed
from nas.bilevel.rules.rule import MOST, Rule
from nas.bilevel.shrinkings.shrinking import Pair, Shrinking, nones
from nas.bilevel.view import SearchView
from nas.seeding import generator, seed_everything
from nas.steps import evaluating
from search_spaces import Genotype


@dataclass(frozen=True)
class Game:
    """How contributions are estimated.

    Args:
        permutations: orders in which the candidates leave.
        images: of the validation part, for each order others, in whole batches.
        truncate: the rest of an order counts for nothing once the accuracy is below this times that of all.
    """

    permutations: int
    images: int
    truncate: float

    def __post_init__(self) -> None:
        for name, value in (("permutations", self.permutations), ("images", self.images)):
            if not 1 <= value <= MOST:
                raise ValueError(f"{name} is {value}, expected 1 to {MOST}")
        if not 0 <= self.truncate <= 1:
            raise ValueError(f"truncate is {self.truncate}, expected a number from 0 to 1")

    @torch.no_grad()
    def credits(self, search: SearchView, number: int) -> Tensor:
        """What each candidate (E, K) loses, in accuracy from 0 to 1, in order `number`: float64, 0 where
        there is none, and after the order was truncated."""
        architecture = search.architecture
        seed_everything(search.options.seed, "shapley", number)
        draws = generator(search.options.seed, "shapley order", number)
        players = [(row, k) for row in range(search.space.num_slots) for k in architecture.candidates(row)]
        count = min(math.ceil(self.images / search.valid.batch_size), len(search.valid))
        batches = list(itertools.islice(search.valid.endless(number * count), count))
        images, target = (torch.cat(parts) for parts in zip(*batches, strict=True))
        weights = architecture.probabilities().clone()
        found = torch.zeros(weights.shape, dtype=torch.float64)

        def accuracy() -> float:
            _, output = search.bilevel.loss(weights.clone(), (images, target))
            share = search.task.correct(output, target).double().cpu() / len(target)
            distributed.average([share])
            return float(share)

        with evaluating(search.supernet):
            everything = before = accuracy()
            for player in torch.randperm(len(players), generator=draws).tolist():
                weights[players[player]] = 0.0
                now = accuracy()
                found[players[player]] = before - now
                before = now
                if now < self.truncate * everything:
                    break
        return found


def careful(credits: Tensor) -> Tensor:
    """Mean minus standard deviation (E, K) of credits (N, E, K): what a candidate contributes for sure."""
    return credits.mean(0) - credits.std(0, correction=0)


class ByShapley(Shrinking):
    """Takes out `none` at most: after every epoch from the warm-up to the last but one, the logits move
    towards the candidates that contribute most, in place of architecture steps.

    A score is the mean of a candidate's credits minus their standard deviation; the scores of a kind of cell
    are standardised. The logits move by `step` times a running mean of them.

    Args:
        momentum: of the running mean, which starts near 0.
        keep_none: whether `none` is not taken out before the first step.

    Source: see above; 10 permutations after each of 25 epochs there, on the DARTS space without `none`.
    """

    name = "shapley"
    learns = False

    def __init__(
        self,
        permutations: int = 10,
        images: int = 1024,
        truncate: float = 0.5,
        momentum: float = 0.8,
        step: float = 0.1,
        keep_none: bool = True,
    ) -> None:
        self.game = Game(permutations, images, truncate)
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum is {momentum}, expected a number of at least 0 and below 1")
        if step <= 0:
            raise ValueError(f"step is {step}, expected a number above 0")
        self.momentum, self.step, self.keep_none = momentum, step, keep_none
        self.mean: Tensor | None = None  # (E, K)

    def after(self, search: SearchView, epoch: int) -> Iterator[Pair]:
        if epoch == 0 and not self.keep_none:
            yield from nones(search)
        if not max(1, search.options.warmup) <= epoch < search.options.epochs:
            return
        count = self.game.permutations
        credits = torch.stack([self.game.credits(search, epoch * count + n) for n in range(count)])
        logits = search.architecture.logits
        score = self._standardised(search, careful(credits)).to(logits.dtype)
        if self.mean is None:
            draws = generator(search.options.seed, "shapley start")
            self.mean = 1e-3 * torch.randn(logits.shape, generator=draws, dtype=logits.dtype)
        self.mean = self.momentum * self.mean + (1 - self.momentum) * score
        with torch.no_grad():
            logits.add_(self.mean, alpha=self.step)

    def _standardised(self, search: SearchView, scores: Tensor) -> Tensor:
        """Scores (E, K) with the mean 0 and the standard deviation 1 over the candidates of each kind of
        cell."""
        found = torch.zeros_like(scores)
        for cell in search.space.cell_names:
            rows = [row for row, slot in enumerate(search.space.slots) if slot.cell == cell]
            players = [(row, k) for row in rows for k in search.architecture.candidates(row)]
            index = tuple(torch.tensor(players).T)
            values = scores[index]
            spread = values.std() if len(values) > 1 else values.new_zeros(())
            if spread > 0:
                found[index] = (values - values.mean()) / spread
        return found

    def state(self) -> dict[str, Any]:
        return super().state() | ({} if self.mean is None else {"mean": self.mean})

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self.mean = state.get("mean")


class ShapleyRule(Rule):
    """The architecture within the budget of the candidates that contribute most to the supernet in which the
    search ends: by the mean of their credits minus the standard deviation."""

    name = "shapley"
    minds_budget = False

    def __init__(self, permutations: int = 10, images: int = 1024, truncate: float = 0.5) -> None:
        self.game = Game(permutations, images, truncate)
        self.credits: list[Tensor] = []

    def pieces(self, search: SearchView) -> int:
        return self.game.permutations

    def select(self, search: SearchView) -> Iterator[None]:
        first = search.options.epochs * self.game.permutations
        while len(self.credits) < self.game.permutations:
            self.credits.append(self.game.credits(search, first + len(self.credits)))
            yield

    def selected(self, search: SearchView) -> Genotype:
        return search.budget.derive(search.architecture.among(careful(torch.stack(self.credits))))

    def state(self) -> dict[str, Any]:
        return {"credits": self.credits}

    def restore(self, state: dict[str, Any]) -> None:
        self.credits = list(state["credits"])
