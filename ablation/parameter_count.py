"""The parameters of derived networks, counted without making their weights."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch

from search_spaces import Genotype, SearchSpace
from search_spaces.cost import NetworkSize, count_costs, count_parameters

_CHECKED = 8  # random cells


def counter(space: SearchSpace, size: NetworkSize) -> Callable[[Genotype], int]:
    """A function that counts the parameters of the derived network of a genotype.

    It adds up those of the operations. Where a handful of random cells does not bear this out, as a space may
    build its networks otherwise, every network is built, on the meta device.
    """
    table = count_costs(space, size)["parameters"]

    def add(genotype: Genotype) -> int:
        return table.of(space.choice(genotype))

    def build(genotype: Genotype) -> int:
        with torch.device("meta"):
            return count_parameters(size.network(space, genotype))

    rng = random.Random(0)
    tried = [space.random(rng) for _ in range(_CHECKED)]
    return add if all(add(genotype) == build(genotype) for genotype in tried) else build
