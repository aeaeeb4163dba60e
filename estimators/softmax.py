"""The continuous relaxation of DARTS."""

from __future__ import annotations

import torch
from torch import Tensor

from estimators.base import Estimator, widen


class Softmax(Estimator):
    """Dense mixture softmax(theta / tau) with its ordinary gradient; nothing is sampled.

    Source: Liu et al., 2019, "DARTS: Differentiable Architecture Search", eq. 2, arXiv 1806.09055.
    """

    name = "softmax"
    discrete = False
    stochastic = False

    def sample(self, logits: Tensor, generator: torch.Generator | None) -> Tensor:
        return (widen(logits) / self.tau).softmax(-1).to(logits.dtype)
