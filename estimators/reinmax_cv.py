"""ReinMax with a control variate of conditional Gumbel noise, as a baseline."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from estimators.base import (
    CategoricalEstimator,
    checked_samples,
    draw_with_gradient,
    gumbel_given_argmax,
    jacobian_product,
    widen,
)


class ReinMaxCV(CategoricalEstimator):
    """D ~ Cat(pi); backward ReinMax + eta (mean over M of S(G_i) - S(G_0)), S(G) = J(p) g / tau.

    p = softmax((log m + G) / tau), m = (pi + D) / 2, ReinMax at temperature 1, and G_0, G_1, ... independent
    Gumbel noise given D. This is the exact form of the published baseline: given D the correction has mean 0,
    so that the mean is ReinMax's. For the same reason it is uncorrelated with ReinMax, which is a function of
    D, and **can only add variance**: eta^2 (1 + 1/M) E Var(S | D). It is here to be compared with.

    Source: Wang & Bui, 2026, arXiv 2603.08257; eta and tau are those of their repository for 8 x 4 latents.

    Args:
        eta: weight of the correction.
        samples: M.
    """

    name = "reinmax_cv"

    def __init__(self, tau: float | None = None, eta: float = 1.5, samples: int = 100) -> None:
        super().__init__(tau)
        if not math.isfinite(eta):
            raise ValueError(f"eta is {eta:g}, expected a number")
        self.eta, self.inner_samples = eta, checked_samples(samples)

    def given(self, logits: Tensor, draw: Tensor, generator: torch.Generator | None) -> Tensor:
        theta, tau, eta = widen(logits.detach()), self.tau, self.eta
        pi = theta.softmax(-1)
        midpoint = (pi + draw) / 2
        noisy = gumbel_given_argmax(midpoint.log(), draw, self.inner_samples + 1, generator)
        p = (noisy / tau).softmax(-1)

        def vjp(g: Tensor) -> Tensor:
            smooth = jacobian_product(p, g) / tau
            reinmax = 2 * jacobian_product(midpoint, g) - jacobian_product(pi, g) / 2
            return reinmax + eta * (smooth[1:].mean(0) - smooth[0])

        return draw_with_gradient(logits, draw, vjp)
