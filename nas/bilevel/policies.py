"""What a weight step trains."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from estimators import Schedule
from estimators.base import one_hot_argmax
from nas import distributed
from nas.bilevel.architecture import Architecture
from recipes.registry import Registry
from search_spaces.mixed_edge import Draw

if TYPE_CHECKING:
    from nas.bilevel.steps import Bilevel
    from nas.bilevel.unroll import Batch

MOST_STEPS = 100  # of an adversary


class Probe:
    """The batch of a weight step, for policies that look at it. Every look is a pass through the supernet;
    what it finds is that of the batches of all ranks, unless each has draws of its own."""

    def __init__(self, bilevel: Bilevel, batch: Batch) -> None:
        self.bilevel, self.batch = bilevel, batch

    def loss(self, draw: Draw) -> float:
        """The loss of a draw."""
        with torch.no_grad():
            loss, _ = self.bilevel.loss(draw, self.batch)
        return float(self._of_all(loss.float()))

    def gradient(self, weights: Tensor) -> Tensor:
        """The gradient (E, K) of the loss by the weights (E, K) of a draw, both on the CPU."""
        _, _, at_weights = self.bilevel.gradient_at(weights, self.batch)
        return self._of_all(at_weights).to(weights)

    def _of_all(self, tensor: Tensor) -> Tensor:
        if self.bilevel.draw_per != "rank":
            distributed.average([tensor])
        return tensor


class Policy(ABC):
    """Chooses the architectures of a weight step."""

    name: ClassVar[str]

    def paths_on(
        self,
        probe: Probe,
        architecture: Architecture,
        generator: torch.Generator,
        step: int,
        progress: float,
    ) -> Sequence[Draw]:
        """`paths` for a batch: what a step trains. A policy that looks at it overrides this, too."""
        return self.paths(architecture, generator, step, progress)

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
        lines = [architecture.candidates(row) for row in range(architecture.space.num_slots)]
        width, orders = max(map(len, lines)), list[list[int]]()
        for line in lines:
            order = torch.randperm(len(line), generator=generator).tolist()
            orders.append([line[order[number % len(order)]] for number in range(width)])
        return [list(path) for path in zip(*orders, strict=True)]


class DensePolicy(Policy):
    """The sum of all candidates of every slot, divided by how many there were at the start, whatever is
    learned: single-level search, as in IS-DARTS (He et al., 2024, arXiv 2312.12648)."""

    name = "dense"

    def paths(
        self, architecture: Architecture, generator: torch.Generator, step: int, progress: float
    ) -> Sequence[Draw]:
        return [architecture.dense()]


class PerturbedPolicy(Policy):
    """The mixture of all candidates near the probabilities that are learned: each plus uniform noise from
    -epsilon to epsilon, clipped to [0, 1], with the sum 1 in every slot; where nothing is left, the
    likeliest. Where candidates do not exclude each other, there is no such sum.

    Source: Chen & Hsieh, 2020, "Stabilizing differentiable architecture search via perturbation-based
    regularization", arXiv 2002.05283, SDARTS-RS; epsilon rises from 0.03 to 0.3 there.
    """

    name = "perturbed"

    def __init__(self, epsilon: Schedule = Schedule(0.03, 0.3)) -> None:  # noqa: B008  (immutable)
        if not (0 <= epsilon.start <= 1 and 0 <= epsilon.end <= 1):
            raise ValueError(f"epsilon is {epsilon}, expected numbers from 0 to 1")
        self.epsilon = epsilon

    def paths(
        self, architecture: Architecture, generator: torch.Generator, step: int, progress: float
    ) -> list[Tensor]:
        p = architecture.probabilities()
        noise = 2 * torch.rand(p.shape, generator=generator, dtype=p.dtype) - 1
        return [_mixture(p + self.epsilon(progress) * noise, architecture)]


def _mixture(weights: Tensor, architecture: Architecture) -> Tensor:
    """Weights (E, K), clipped to [0, 1], 0 where there is no candidate, with the sum 1 in every slot if
    candidates exclude each other."""
    if architecture.mask is not None:
        weights = weights.masked_fill(~architecture.mask, -1.0)
    likeliest = one_hot_argmax(weights)
    clipped = weights.clamp(0, 1)
    if not architecture.estimator.exclusive:
        return clipped
    total = clipped.sum(-1, keepdim=True)
    return torch.where(total > 0, clipped / total, likeliest)


class AdversarialPolicy(PerturbedPolicy):
    """The mixture near the probabilities whose loss on the batch is highest, as far as it is found: from
    that of `perturbed` on, `steps` steps of 2 epsilon / steps along the signs of the gradient, each followed
    by a projection to within epsilon of the probabilities; these themselves, where their loss is higher.

    A step has a forward and a backward pass of all candidates, in addition to two forward passes.

    Source: Chen & Hsieh, 2020, arXiv 2002.05283, SDARTS-ADV, by the code of xiangning-chen/SmoothDARTS.
    """

    name = "adversarial"

    def __init__(self, epsilon: Schedule = Schedule(0.03, 0.3), steps: int = 7) -> None:  # noqa: B008
        super().__init__(epsilon)
        if not 1 <= steps <= MOST_STEPS:
            raise ValueError(f"steps is {steps}, expected 1 to {MOST_STEPS}")
        self.steps = steps

    def paths_on(
        self,
        probe: Probe,
        architecture: Architecture,
        generator: torch.Generator,
        step: int,
        progress: float,
    ) -> Sequence[Draw]:
        p, epsilon = architecture.probabilities(), self.epsilon(progress)
        (moved,) = self.paths(architecture, generator, step, progress)
        for _ in range(self.steps):
            moved = moved + 2 * epsilon / self.steps * probe.gradient(moved).sign()
            moved = _mixture(p + (moved - p).clamp(-epsilon, epsilon), architecture)
        return [p if probe.loss(p) > probe.loss(moved) else moved]


POLICIES: Registry[type[Policy]] = Registry(
    "policy",
    {
        policy.name: policy
        for policy in (DrawPolicy, UniformPolicy, FairPolicy, DensePolicy, PerturbedPolicy, AdversarialPolicy)
    },
    Policy,
)
