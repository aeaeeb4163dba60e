"""The ReinMax estimator."""

from __future__ import annotations

import torch
from torch import Tensor

from estimators.base import Estimator, categorical, draw_with_gradient, jacobian_product, widen
from estimators.schedule import Schedule


class ReinMax(Estimator):
    """D ~ Cat(pi), pi = softmax(theta); backward 2 J((pi_tau + D) / 2) g - J(pi) g / 2.

    pi_tau = softmax(theta / tau). Heun's method makes the approximation second order at the cost
    of the straight-through estimator: at tau = 1 it is exact for losses quadratic in D.

    Source: Liu et al., 2023, "Bridging Discrete and Backpropagation: Straight-Through and
    Beyond", algorithm 2, arXiv 2304.08612.
    """

    name = "reinmax"
    tau_range = (1.0, 1e3)
    default_schedule = Schedule(1.0, 1.0)

    def sample(self, logits: Tensor, generator: torch.Generator | None) -> Tensor:
        theta, tau = widen(logits.detach()), self.tau
        draw = categorical(theta, generator)

        def vjp(g: Tensor) -> Tensor:
            midpoint = ((theta / tau).softmax(-1) + draw) / 2
            return 2 * jacobian_product(midpoint, g) - jacobian_product(theta.softmax(-1), g) / 2

        return draw_with_gradient(logits, draw, vjp)
