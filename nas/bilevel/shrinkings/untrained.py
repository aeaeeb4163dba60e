"""All is decided before the first step, by what the untrained supernet promises."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from nas import device, distributed
from nas.bilevel.rules.rule import MOST, derived_network
from nas.bilevel.shrinkings.shrinking import Pair, Shrinking, require_all_edges
from nas.bilevel.view import SearchView
from nas.seeding import generator, seed_everything
from nas.zero_cost import SCORES, ZeroCost
from search_spaces import Genotype
from search_spaces.cell import candidates_in
from search_spaces.mixed_edge import Choice


class ByZeroCost(Shrinking):
    """Before the first step one architecture is chosen, and the rest is taken out.

    A proposal decides one slot after another, in random order: it keeps the candidate without which the
    supernet, which mixes all candidates of the slots that are open, has the lowest zero-cost score on a
    batch. Among the different proposals, the derived network of the highest score, summed up over batches, is
    chosen.

    Args:
        by: a score of `nas.zero_cost`, with one setting if wanted: naswot:images=256.
        proposals: how many.
        batches: that derived networks are scored on.

    Source: Xiang et al., 2021, "Zero-cost operation scoring in differentiable architecture search", arXiv
    2106.06799. Their normalisations take initial running statistics, those here the statistics of the batch.
    """

    name = "zero_cost"
    learns = False

    def __init__(self, by: str = "naswot", proposals: int = 10, batches: int = 100) -> None:
        for name, value in (("proposals", proposals), ("batches", batches)):
            if not 1 <= value <= MOST:
                raise ValueError(f"{name} is {value}, expected 1 to {MOST}")
        self.score: ZeroCost = SCORES.build(by)
        self.proposals, self.batches = proposals, batches

    def prepare(self, search: SearchView) -> None:
        require_all_edges(search, self.name)

    def after(self, search: SearchView, epoch: int) -> Iterator[Pair]:
        if epoch:
            return
        number = search.space.num_slots
        cells = [self._proposal(search, n, n * number) for n in range(self.proposals)]
        chosen = self._best(search, list(dict.fromkeys(cells)))
        for row, kept in enumerate(search.space.choice(chosen)):
            yield from ((row, k) for k in search.architecture.candidates(row) if k != kept)

    def _proposal(self, search: SearchView, number: int, first: int) -> Genotype:
        """An architecture within the budget; its slots look at one batch each, from number `first` on."""
        weights = search.architecture.probabilities().clone()
        scores = torch.zeros_like(weights)  # less one for every candidate of the slot that is better
        draws = generator(search.options.seed, "proposal", number)
        order = torch.randperm(len(weights), generator=draws).tolist()
        for row, batch in zip(order, search.valid.bundles(self.score.images, first), strict=False):
            without: dict[int, float] = {}
            for k in search.architecture.candidates(row):
                tried = weights.clone()
                tried[row, k] = 0.0
                without[k] = value_of(search, self.score, Mixture(search.supernet, tried), batch)
            best_first = sorted(without, key=lambda k: math.inf if math.isnan(without[k]) else without[k])
            weights[row] = 0.0
            weights[row, best_first[0]] = 1.0
            scores[row, best_first] = -torch.arange(len(best_first), dtype=scores.dtype)
        return search.tightest.derive(search.architecture.among(scores))

    def _best(self, search: SearchView, cells: list[Genotype]) -> Genotype:
        """The architecture whose untrained network has the highest sum of scores over batches."""
        sums: dict[Genotype, float] = {}
        for cell in cells if len(cells) > 1 else ():
            seed_everything(search.options.seed, "zero-cost")
            network = device.place(derived_network(search, cell), search.device, search.options.channels_last)
            batches = search.valid.bundles(self.score.images, 0)
            sums[cell] = sum(
                value_of(search, self.score, network, next(batches)) for _ in range(self.batches)
            )
        known = {cell: value for cell, value in sums.items() if not math.isnan(value)}
        return max(known, key=known.__getitem__, default=cells[0])


class Mixture(nn.Module):
    """A supernet as a network, with fixed weights (E, K) of its candidates; where that is 0, a candidate sees
    nothing of the image, so that its ReLUs tell no images apart."""

    def __init__(self, supernet: nn.Module, weights: Tensor) -> None:
        super().__init__()
        self.supernet, self.weights = supernet, weights

    def forward(self, x: Tensor) -> Tensor:
        with contextlib.ExitStack() as hooks:
            for row, k, operation in candidates_in(self.supernet):
                if self.weights[row, k] == 0:
                    hooks.callback(operation.register_forward_pre_hook(_blind).remove)
            out: Tensor = self.supernet(x, Choice(self.weights.to(x.device), None))
        return out


def _blind(operation: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    return (torch.zeros_like(inputs[0]),)


def value_of(search: SearchView, score: ZeroCost, network: nn.Module, batch: tuple[Tensor, Tensor]) -> float:
    """The score of a network on a batch; the mean over the ranks, which have a slice each."""
    value = torch.tensor([score(network, *batch, search.task)], dtype=torch.float64)
    distributed.average([value])
    search.bilevel.work.trained += min(score.images, len(batch[1])) * distributed.world()
    return float(value)
