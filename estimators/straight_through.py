"""The straight-through estimator."""

from __future__ import annotations

import torch
from torch import Tensor

from estimators.base import CategoricalEstimator, draw_with_gradient, jacobian_product, widen


class StraightThrough(CategoricalEstimator):
    """D ~ Cat(softmax(theta)); backward J(softmax(theta / tau)) g / tau.

    A first-order approximation of the gradient (Liu et al., 2023, theorem 3.1): exact at tau = 1
    for a loss that is linear in D.

    Source: Bengio et al., 2013, arXiv 1308.3432.
    """

    name = "st"

    def given(self, logits: Tensor, draw: Tensor, generator: torch.Generator | None) -> Tensor:
        theta, tau = widen(logits.detach()), self.tau

        def vjp(g: Tensor) -> Tensor:
            return jacobian_product((theta / tau).softmax(-1), g) / tau

        return draw_with_gradient(logits, draw, vjp)
