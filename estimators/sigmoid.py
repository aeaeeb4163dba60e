"""The collaborative relaxation of FairDARTS."""

from __future__ import annotations

import torch
from torch import Tensor

from estimators.base import Estimator, widen


class Sigmoid(Estimator):
    """A weight of its own for every candidate, sigmoid(theta), with its ordinary gradient; nothing is drawn.

    Candidates do not compete: any number of them can have a weight near one. There is no temperature, and a
    common shift of the logits matters.

    Source: Chu et al., 2020, "Fair DARTS: Eliminating Unfair Advantages in Differentiable Architecture
    Search", arXiv 1911.12126.
    """

    name = "sigmoid"
    discrete = False
    stochastic = False
    exclusive = False
    tau_range = (1.0, 1.0)

    def sample(self, logits: Tensor, generator: torch.Generator | None) -> Tensor:
        return widen(logits).sigmoid().to(logits.dtype)

    def probabilities(self, logits: Tensor) -> Tensor:
        return widen(logits).sigmoid()
