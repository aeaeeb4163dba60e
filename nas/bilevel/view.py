"""What a term, a shrinking and a rule of selection see of a search."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from nas.bilevel.architecture import Architecture
from nas.bilevel.budget import Budget
from nas.bilevel.growth import Growth
from nas.bilevel.policies import Policy
from nas.data import Batches, DataSet
from nas.device import Precision
from nas.steps import StepResult, Work
from nas.task import Task
from recipes import SearchOptions
from search_spaces import Genotype, SearchSpace
from search_spaces.mixed_edge import Draw
from search_spaces.skeleton import Skeleton


class Steps(Protocol):
    """The part of `nas.bilevel.steps.Bilevel` that trains and tests shared weights.

    Attributes:
        work: the images of all passes so far, to which a rule adds those of its own trainings.
        policy: what a weight step trains.
        weight_optimizer: of the supernet.
        precision: makes the context of forward passes.
    """

    work: Work
    policy: Policy
    weight_optimizer: torch.optim.Optimizer
    precision: Precision

    def weight_step(
        self,
        train: tuple[Tensor, Tensor],
        generator: torch.Generator,
        step: int = 0,
        progress: float = 0.0,
    ) -> StepResult:
        """Train what the policy names on a batch."""

    def restart_logits(self, generator: torch.Generator) -> None:
        """Forget what architecture steps have learned."""

    def loss(self, draw: Draw, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Loss of a draw on a batch, and output (B, outputs)."""


class SearchView(Protocol):
    """A search, as `nas.bilevel.search.Search` is one.

    Attributes:
        space, architecture, supernet, dataset, task: what is searched.
        device: where.
        train, valid: batches of the two parts of the training images.
        budget: what the derived network may cost; a rule selects nothing above it.
        tightest: the budget, or the least of several.
        growth: the stages of the search, by the sizes of its supernet.
    """

    space: SearchSpace
    architecture: Architecture
    supernet: Skeleton
    dataset: DataSet
    task: Task
    device: torch.device
    train: Batches
    valid: Batches
    budget: Budget
    tightest: Budget
    growth: Growth

    @property
    def options(self) -> SearchOptions:
        """The options of the run."""

    @property
    def bilevel(self) -> Steps:
        """The steps of the search."""

    def score(self, genotype: Genotype) -> tuple[float, float]:
        """Loss and accuracy (%) of an architecture with the shared weights, on the validation part."""

    def score_draw(self, draw: Draw) -> tuple[float, float]:
        """`score` of what a supernet takes, such as a mixture (E, K)."""
