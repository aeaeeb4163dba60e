"""What a term, a shrinking and a rule of selection see of a search."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch

from nas.bilevel.architecture import Architecture
from nas.bilevel.budget import Budget
from nas.bilevel.growth import Growth
from nas.data import Batches, DataSet
from nas.task import Task
from recipes import SearchOptions
from search_spaces import Genotype, SearchSpace
from search_spaces.mixed_edge import Draw
from search_spaces.skeleton import Skeleton

if TYPE_CHECKING:
    from nas.bilevel.steps import Bilevel


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
    def bilevel(self) -> Bilevel:
        """The steps of the search; a rule adds the images of its own trainings to their `work`."""

    def score(self, genotype: Genotype) -> tuple[float, float]:
        """Loss and accuracy (%) of an architecture with the shared weights, on the validation part."""

    def score_draw(self, draw: Draw) -> tuple[float, float]:
        """`score` of what a supernet takes, such as a mixture (E, K)."""
