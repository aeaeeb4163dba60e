"""Search, derive, retrain: joins estimators (tensors) and search spaces (modules).

    result = nas.search(space="micro", data="digits", estimator="reinmax", epochs=20)
    trained = nas.train(result.genotype, data="digits", epochs=30)

Importing this package registers the timm model `nas_net`.
"""

from __future__ import annotations

from nas.compat import prepare_torchvision

prepare_torchvision()

from nas.api import SearchResult, TrainResult, search, train  # noqa: E402
from nas.bilevel.policies import POLICIES  # noqa: E402
from nas.bilevel.rules.names import RULES  # noqa: E402
from nas.bilevel.shrinkings.names import SHRINKINGS  # noqa: E402
from nas.bilevel.terms import TERMS  # noqa: E402
from nas.conversion import convert  # noqa: E402
from nas.deploy.export import export  # noqa: E402
from nas.deploy.predict import Prediction, predict  # noqa: E402
from nas.training.model import load, nas_net, save  # noqa: E402
from nas.zero_cost import SCORES  # noqa: E402
from recipes import InputError  # noqa: E402

register_policy, register_rule, register_term = POLICIES.register, RULES.register, TERMS.register
register_zero_cost, register_shrinking = SCORES.register, SHRINKINGS.register

__all__ = [
    "InputError",
    "Prediction",
    "SearchResult",
    "TrainResult",
    "convert",
    "export",
    "load",
    "nas_net",
    "predict",
    "register_policy",
    "register_rule",
    "register_shrinking",
    "register_term",
    "register_zero_cost",
    "save",
    "search",
    "train",
]
