"""The gapped straight-through estimator."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from estimators.base import CategoricalEstimator, draw_with_gradient, jacobian_product, widen


class GappedStraightThrough(CategoricalEstimator):
    """D ~ Cat(pi); backward J(softmax(theta' / tau)) g / tau, theta' led by D with a gap.

    theta' raises the logit of D to the maximum and lowers every other to at most the maximum minus
    `gap`, so that what is differentiated agrees with what was drawn, without Gumbel noise.

    Source: Fan, Chi, Rudnicky & Ramadge, 2022, arXiv 2206.07235.

    Args:
        gap: of the logits, at least 0; theirs is 1.
    """

    name = "gst"

    def __init__(self, tau: float | None = None, gap: float = 1.0) -> None:
        super().__init__(tau)
        if not 0 <= gap < math.inf:
            raise ValueError(f"gap is {gap:g}, expected a number of at least 0")
        self.gap = gap

    def given(self, logits: Tensor, draw: Tensor, generator: torch.Generator | None) -> Tensor:
        theta, tau = widen(logits.detach()), self.tau
        top = theta.amax(-1, keepdim=True)
        shifted = torch.where(draw.bool(), top, theta.minimum(top - self.gap))

        def vjp(g: Tensor) -> Tensor:
            return jacobian_product((shifted / tau).softmax(-1), g) / tau

        return draw_with_gradient(logits, draw, vjp)
