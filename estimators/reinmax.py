"""The ReinMax estimator, and the family between straight-through and it."""

from __future__ import annotations

import torch
from torch import Tensor

from estimators.base import CategoricalEstimator, draw_with_gradient, jacobian_product, widen


class ReinMax(CategoricalEstimator):
    """D ~ Cat(pi), pi = softmax(theta); backward 2 J((pi_tau + D) / 2) g - J(pi) g / 2.

    pi_tau = softmax(theta / tau). Heun's method makes the approximation second order at the cost
    of the straight-through estimator: at tau = 1 it is exact for losses quadratic in D.

    Source: Liu et al., 2023, "Bridging Discrete and Backpropagation: Straight-Through and
    Beyond", algorithm 2, arXiv 2304.08612.
    """

    name = "reinmax"
    tau_range = (1.0, 1e3)

    def given(self, logits: Tensor, draw: Tensor, generator: torch.Generator | None) -> Tensor:
        theta, tau = widen(logits.detach()), self.tau

        def vjp(g: Tensor) -> Tensor:
            midpoint = ((theta / tau).softmax(-1) + draw) / 2
            return 2 * jacobian_product(midpoint, g) - jacobian_product(theta.softmax(-1), g) / 2

        return draw_with_gradient(logits, draw, vjp)


class ReinMaxBeta(CategoricalEstimator):
    """D ~ Cat(pi); backward J(pi_tau) g - beta J(pi) g + beta <g, s> s, with s = D - pi_tau.

    pi_tau = softmax(theta / tau). At tau = 1 this is (1 - beta) J(pi) g + beta <g, D - pi> (D - pi): `st` for
    beta = 0, `reinmax` for beta = 1/2 and the estimator of DARN (Gregor et al., 2014) for beta = 1, exact for
    a loss linear in D whatever beta, for a quadratic one only where beta = 1/2. For beta = 1/2 it is
    `reinmax` at every tau.

    Source: Shekhovtsov, 2023, "Cold analysis of Rao-Blackwellized straight-through Gumbel-softmax gradient
    estimator", ICML (ST-ZGR, tau = 1); the temperature is that of ReinMax.

    Args:
        beta: from 0, little spread, to 1.
    """

    name = "reinmax_beta"
    tau_range = (1.0, 1e3)

    def __init__(self, tau: float | None = None, beta: float = 0.25) -> None:
        super().__init__(tau)
        if not 0 <= beta <= 1:
            raise ValueError(f"beta is {beta:g}, expected a number from 0 to 1")
        self.beta = beta

    def given(self, logits: Tensor, draw: Tensor, generator: torch.Generator | None) -> Tensor:
        theta, tau, beta = widen(logits.detach()), self.tau, self.beta

        def vjp(g: Tensor) -> Tensor:
            p, pi = (theta / tau).softmax(-1), theta.softmax(-1)
            score = draw - p
            along = (g * score).sum(-1, keepdim=True)
            return jacobian_product(p, g) - beta * jacobian_product(pi, g) + beta * along * score

        return draw_with_gradient(logits, draw, vjp)
