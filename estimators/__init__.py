"""Gradient estimators for a categorical choice. They know tensors only.

est = estimators.get("reinmax", tau=1.0)
d = est(logits, generator=g)      # (..., K) -> one-hot (..., K)
"""

from __future__ import annotations

from estimators.base import Estimator
from estimators.concrete import Concrete
from estimators.dirichlet import DirichletRelaxation
from estimators.gst import GappedStraightThrough
from estimators.gumbel_rao import GumbelRao
from estimators.reinforce import Reinforce, ReinforceLeaveOneOut
from estimators.reinmax import ReinMax
from estimators.reinmax_rao import ReinMaxRao
from estimators.schedule import Schedule
from estimators.softmax import Softmax
from estimators.st_gumbel import StraightThroughGumbel
from estimators.straight_through import StraightThrough

__all__ = ["Estimator", "Schedule", "family", "get", "names"]

_REGISTRY: dict[str, type[Estimator]] = {
    cls.name: cls
    for cls in (
        ReinMax,
        ReinMaxRao,
        StraightThrough,
        StraightThroughGumbel,
        GumbelRao,
        GappedStraightThrough,
        Softmax,
        Concrete,
        DirichletRelaxation,
        Reinforce,
        ReinforceLeaveOneOut,
    )
}


def names() -> list[str]:
    """Names of all estimators."""
    return list(_REGISTRY)


def family(name: str) -> type[Estimator]:
    """The class behind `name`. Raises KeyError when there is none."""
    if name not in _REGISTRY:
        raise KeyError(f"unknown estimator {name!r}, expected one of {', '.join(_REGISTRY)}")
    return _REGISTRY[name]


def get(name: str, tau: float | None = None) -> Estimator:
    """The estimator `name` at temperature `tau` (default: the start of its schedule).

    Raises:
        KeyError: unknown name.
        ValueError: temperature outside the estimator's range.
    """
    return family(name)(tau)
