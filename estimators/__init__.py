"""Gradient estimators for a categorical choice. They know tensors only.

est = estimators.get("reinmax", tau=1.0)            # or "gumbel_rao:samples=20"
d = est(logits, generator=g)      # (..., K) -> one-hot (..., K)
"""

from __future__ import annotations

from typing import TypeVar

from estimators.base import CategoricalEstimator, Estimator
from estimators.concrete import Concrete
from estimators.critic import ReinforceCritic
from estimators.dirichlet import DirichletRelaxation
from estimators.double_cv import DoubleCV
from estimators.gst import GappedStraightThrough
from estimators.gumbel_rao import GumbelRao
from estimators.redge import ReDGE, ReinDGE
from estimators.reinforce import Reinforce, ReinforceLeaveOneOut
from estimators.reinmax import ReinMax, ReinMaxBeta
from estimators.reinmax_cv import ReinMaxCV
from estimators.reinmax_rao import ReinMaxRao
from estimators.schedule import Schedule
from estimators.sigmoid import Sigmoid
from estimators.softmax import Softmax
from estimators.st_gumbel import StraightThroughGumbel
from estimators.straight_through import StraightThrough
from recipes.registry import Registry

__all__ = ["CategoricalEstimator", "Estimator", "Schedule", "family", "get", "names", "register"]

E = TypeVar("E", bound=type[Estimator])

_BUILTIN: tuple[type[Estimator], ...] = (
    ReinMax,
    ReinMaxBeta,
    ReinMaxRao,
    ReinMaxCV,
    StraightThrough,
    StraightThroughGumbel,
    GumbelRao,
    GappedStraightThrough,
    ReDGE,
    ReinDGE,
    Softmax,
    Concrete,
    DirichletRelaxation,
    Reinforce,
    ReinforceLeaveOneOut,
    DoubleCV,
    ReinforceCritic,
    Sigmoid,
)
_GUMBEL = "the straight-through Gumbel-softmax is st_gumbel"
_ELSEWHERE = {
    "gdas": f"{_GUMBEL}, and GDAS is st_gumbel with `edge_gradient=surrogate` (in a grid: "
    "st_gumbel,edge_gradient=surrogate); `preset=nasbench201-gdas` has its schedule",
    "darts": "the mixture of all candidates of DARTS is softmax; `preset=darts-first-order` and "
    "`preset=darts-second-order` have its recipe",
    "snas": "the relaxed draw of SNAS is concrete",
    "fairdarts": "the independent weights of FairDARTS are sigmoid; `preset=darts-fairdarts` has its recipe",
    "drnas": "the Dirichlet draw of DrNAS is dirichlet",
    "gumbel": _GUMBEL,
    "gumbel_softmax": f"{_GUMBEL}, the relaxed one concrete",
    "ste": "straight-through is st",
    "straight_through": "straight-through is st",
    "rebar": "it is not here; reinforce_loo and gumbel_rao are near",
    "enas": "its controller is not here; reinforce and reinforce_loo take the value of the loss as ENAS does",
    "random": "a search that does not learn is `policy=uniform` with a rule such as `derive=sample:50`",
}
"""What the methods and estimators of others are called here."""
_REGISTRY: Registry[type[Estimator]] = Registry(
    "estimator", {cls.name: cls for cls in _BUILTIN}, expects=Estimator, elsewhere=_ELSEWHERE
)


def names() -> list[str]:
    """Names of all estimators of a choice: those whose candidates exclude each other."""
    return [name for name in _REGISTRY.names() if family(name).exclusive]


def family(name: str) -> type[Estimator]:
    """The class behind `name`. Raises InputError when there is none."""
    return _REGISTRY.get(name)


def get(text: str, tau: float | None = None) -> Estimator:
    """The estimator `NAME` or `NAME:parameter=value,...` at temperature `tau` (default: the start of its
    schedule).

    Raises:
        InputError: unknown name or parameter; a value or a temperature outside the estimator's range.
    """
    return _REGISTRY.build(text, tau=tau)


def register(name: str, estimator: E) -> E:
    """Add a class of estimators, which takes on the name, and return it.

    Raises:
        ValueError: the name is taken or malformed, or the class has another one, is none of estimators, or
            does not take the temperatures of its own schedule.
    """
    if isinstance(estimator, type) and issubclass(estimator, Estimator):
        for tau in (estimator.default_schedule.start, estimator.default_schedule.end):
            if not estimator.tau_range[0] <= tau <= estimator.tau_range[1]:
                raise ValueError(
                    f"the schedule of {estimator.__name__} has the temperature {tau:g}, out of its tau_range "
                    f"{estimator.tau_range}"
                )
    _REGISTRY.register(name, estimator)
    return estimator
