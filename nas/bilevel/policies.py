"""What a weight step trains."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch

from nas.bilevel.architecture import Architecture
from recipes.registry import Registry
from search_spaces.mixed_edge import Draw


class Policy(ABC):
    """Chooses the architectures of a weight step."""

    name: ClassVar[str]

    @abstractmethod
    def paths(
        self, architecture: Architecture, generator: torch.Generator, step: int, progress: float
    ) -> Sequence[Draw]:
        """The architectures that are trained on one batch; the step follows the mean of their gradients.

        Args:
            generator: seeded by the step, equal on all ranks unless each has draws of its own.
            step: number of the weight step, from 0.
            progress: of the search, in [0, 1].
        """


class DrawPolicy(Policy):
    """An architecture from the estimator, whose probabilities are those that are learned; a dense estimator's
    mixture."""

    name = "draw"

    def paths(
        self, architecture: Architecture, generator: torch.Generator, step: int, progress: float
    ) -> Sequence[Draw]:
        return [architecture.draw(generator)]


class UniformPolicy(Policy):
    """Any architecture with equal probability (SPOS: Guo et al., 2019, arXiv 1904.00420)."""

    name = "uniform"

    def paths(
        self, architecture: Architecture, generator: torch.Generator, step: int, progress: float
    ) -> Sequence[Draw]:
        return [architecture.uniform(generator)]


class FairPolicy(Policy):
    """Every candidate of every slot in one step: as many architectures as a slot has candidates, which hold
    the candidates of each slot in an order of its own. A slot with fewer candidates begins again.

    Source: Chu et al., 2021, "FairNAS: rethinking evaluation fairness of weight sharing neural architecture
    search", arXiv 1907.01845, strict fairness; there the gradients are added up, here their mean counts.
    """

    name = "fair"

    def paths(
        self, architecture: Architecture, generator: torch.Generator, step: int, progress: float
    ) -> Sequence[Draw]:
        width, orders = architecture.space.width, list[list[int]]()
        for slot in architecture.space.slots:
            order = torch.randperm(len(slot.candidates), generator=generator).tolist()
            orders.append([order[number % len(order)] for number in range(width)])
        return [list(path) for path in zip(*orders, strict=True)]


POLICIES: Registry[type[Policy]] = Registry(
    "policy", {p.name: p for p in (DrawPolicy, UniformPolicy, FairPolicy)}, Policy
)
