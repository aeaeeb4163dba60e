"""A bi-level problem of three classes and six images a batch, small enough for exact checks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import estimators
import search_spaces
from nas.bilevel.architecture import Architecture
from nas.bilevel.search import Search
from nas.bilevel.steps import Bilevel
from nas.task import Classification


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(seed: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    return torch.randn(6, 1, 8, 8, generator=rng(seed)).to(dtype), torch.tensor([0, 1, 2, 0, 1, 2])


def bilevel(
    space_name: str = "micro",
    estimator: str = "reinmax",
    dtype: torch.dtype = torch.float32,
    edge_gradient: str = "lean",
    **options: Any,
) -> Bilevel:
    torch.manual_seed(0)
    space = search_spaces.get(space_name)
    supernet = space.supernet(
        channels=4, cells=space.fewest_cells, num_classes=3, in_channels=1, edge_gradient=edge_gradient
    ).to(dtype)
    logits = torch.randn(space.num_slots, space.width, generator=rng(1)).to(dtype)
    architecture = Architecture(space, estimators.get(estimator), logits)
    return Bilevel(
        supernet,
        architecture,
        Classification(3),
        torch.optim.SGD(supernet.parameters(), 0.1),
        torch.optim.SGD([architecture.logits], 1.0),
        **options,
    )


def in_pieces(make: Callable[[], Search], epochs: int, pieces: bool) -> tuple[Search, list[dict[str, Any]]]:
    """A search after all its epochs, and their metrics; in `pieces`, each epoch has a search of its own that
    takes up the state of the one before."""
    search, lines = make(), []
    for epoch in range(epochs):
        if pieces and epoch:
            state, search = search.state(), make()
            search.restore(state)
        for _ in search.epoch(epoch, 0):
            pass
        lines.append(search.describe(epoch))
    return search, lines


def slow_in(names, *slow):
    """Parameters, of which some are slow."""
    return [pytest.param(name, marks=[pytest.mark.slow] if name in slow else []) for name in names]
