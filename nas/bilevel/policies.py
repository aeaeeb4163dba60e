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


POLICIES: Registry[type[Policy]] = Registry(
    "policy", {p.name: p for p in (DrawPolicy, UniformPolicy)}, Policy
)
