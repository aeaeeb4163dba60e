"""The ways to take candidates out of a search, by their names."""

from __future__ import annotations

from nas.bilevel.shrinkings.information import ByInformation
from nas.bilevel.shrinkings.probability import ByProbability
from nas.bilevel.shrinkings.shapley import ByShapley
from nas.bilevel.shrinkings.shrinking import NoShrinking, Shrinking
from nas.bilevel.shrinkings.stages import Stages
from nas.bilevel.shrinkings.te_nas import ByTrainability
from nas.bilevel.shrinkings.untrained import ByZeroCost
from recipes.registry import Registry

SHRINKINGS: Registry[type[Shrinking]] = Registry(
    "shrinking",
    {
        s.name: s
        for s in (NoShrinking, ByProbability, Stages, ByInformation, ByShapley, ByZeroCost, ByTrainability)
    },
    Shrinking,
)
