"""The parameters of derived networks, counted without making their weights."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch

from search_spaces import Genotype, GenotypeError, SearchSpace

_CHECKED = 8  # random cells


def counter(
    space: SearchSpace,
    *,
    channels: int | None = None,
    cells: int,
    num_classes: int = 10,
    in_channels: int = 3,
) -> Callable[[Genotype], int]:
    """A function that counts the parameters of the derived network of a genotype.

    The networks of a space differ in the modules on their edges, so a few of them say what every candidate
    adds. Where a handful of random cells does not bear this out, every network is built, on the meta device.

    Args:
        channels, cells, num_classes, in_channels: see `SearchSpace.network`.
    """

    def count(genotype: Genotype) -> int:
        with torch.device("meta"):
            network = space.network(
                genotype, channels=channels, cells=cells, num_classes=num_classes, in_channels=in_channels
            )
        return sum(p.numel() for p in network.parameters())

    first = [slot.candidates[0] for slot in space.slots]
    try:
        base = count(space.genotype(first))
        costs = [
            [0, *(count(space.genotype(_with(first, row, name))) - base for name in slot.candidates[1:])]
            for row, slot in enumerate(space.slots)
        ]
    except GenotypeError:  # a space in which decisions depend on each other
        return count

    def add(genotype: Genotype) -> int:
        chosen = zip(costs, space.choice(genotype), strict=True)
        return base + sum(row[index] for row, index in chosen if index >= 0)

    rng = random.Random(0)
    tried = [space.random(rng) for _ in range(_CHECKED)]
    return add if all(add(genotype) == count(genotype) for genotype in tried) else count


def _with(names: list[str], row: int, name: str) -> list[str]:
    return [*names[:row], name, *names[row + 1 :]]
