"""Search spaces: slots with candidate operations, and the network around them. They know modules only.

space = search_spaces.get("nasbench201")
genotype = space.parse("|nor_conv_3x3~0|+|nor_conv_3x3~0|skip_connect~1|+...")
model = space.network(genotype, channels=16, cells=5, num_classes=10)
"""

from __future__ import annotations

from recipes.registry import Registry
from search_spaces import operations
from search_spaces.cell import Cell, CellPlan, EdgeFactory
from search_spaces.darts import darts
from search_spaces.genotype import CellGenotype, Edge, Genotype, GenotypeError
from search_spaces.mobile import mobile, mobile_se
from search_spaces.nasbench201 import micro, nasbench201
from search_spaces.nasbench_macro import nasbench_macro
from search_spaces.nasnet import nasnet
from search_spaces.robust_darts import s1, s2, s3, s4
from search_spaces.skeleton import Size, Skeleton
from search_spaces.slot import ABSENT, Slot, require_slots
from search_spaces.space import SearchSpace

__all__ = [
    "ABSENT",
    "Cell",
    "CellGenotype",
    "CellPlan",
    "Edge",
    "EdgeFactory",
    "Genotype",
    "GenotypeError",
    "SearchSpace",
    "Size",
    "Skeleton",
    "Slot",
    "get",
    "names",
    "operations",
    "register",
]

_SPACES: Registry[SearchSpace] = Registry(
    "search space",
    {
        space.name: space
        for space in (nasbench201, darts, micro, s1, s2, s3, s4, mobile, mobile_se, nasbench_macro, nasnet)
    },
)
get, names = _SPACES.get, _SPACES.names


def register(space: SearchSpace) -> SearchSpace:
    """Add a search space under its name and return it.

    Raises:
        ValueError: the name is taken or malformed, or the slots are not those of a space.
    """
    if not isinstance(space, SearchSpace):
        what = f"the class {space.__name__}" if isinstance(space, type) else f"{space!r:.60}"
        raise ValueError(f"{what} is no search space, expected an object of a class derived from SearchSpace")
    name = getattr(space, "name", None)
    require_slots(name, getattr(space, "slots", None))
    return _SPACES.register(name, space)  # type: ignore[arg-type]
