"""Search spaces: cell topology, candidate operations, macro skeleton. They know modules only.

space = search_spaces.get("nasbench201")
genotype = space.parse("|nor_conv_3x3~0|+|nor_conv_3x3~0|skip_connect~1|+...")
model = space.network(genotype, channels=16, cells=5, num_classes=10)
"""

from __future__ import annotations

from search_spaces.darts import darts
from search_spaces.genotype import CellGenotype, Edge, Genotype, GenotypeError
from search_spaces.nasbench201 import micro, nasbench201
from search_spaces.space import SearchSpace

__all__ = ["CellGenotype", "Edge", "Genotype", "GenotypeError", "SearchSpace", "get", "names"]

_REGISTRY: dict[str, SearchSpace] = {space.name: space for space in (nasbench201, darts, micro)}


def names() -> list[str]:
    """Names of all search spaces."""
    return list(_REGISTRY)


def get(name: str) -> SearchSpace:
    """The search space `name`. Raises KeyError when there is none."""
    if name not in _REGISTRY:
        raise KeyError(f"unknown search space {name!r}, expected one of {', '.join(_REGISTRY)}")
    return _REGISTRY[name]
