"""The Rao-Blackwellised straight-through Gumbel-softmax estimator."""

from __future__ import annotations

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
from estimators.schedule import Schedule


class GumbelRao(CategoricalEstimator):
    """D ~ Cat(pi); backward: mean over M draws of G given D of J(softmax((theta + G) / tau)) g / tau.

    Exactly the mean of `st_gumbel` at the same temperature, and never more variance.

    Source: Paulus, Maddison & Krause, 2021, arXiv 2010.04838. As there, M defaults to 100.

    Args:
        samples: M.
    """

    name = "gumbel_rao"
    default_schedule = Schedule(1.0, 0.5)

    def __init__(self, tau: float | None = None, samples: int = 100) -> None:
        super().__init__(tau)
        self.inner_samples = checked_samples(samples)

    def given(self, logits: Tensor, draw: Tensor, generator: torch.Generator | None) -> Tensor:
        theta, tau = widen(logits.detach()), self.tau
        p = (gumbel_given_argmax(theta, draw, self.inner_samples, generator) / tau).softmax(-1)

        def vjp(g: Tensor) -> Tensor:
            return jacobian_product(p, g).mean(0) / tau

        return draw_with_gradient(logits, draw, vjp)
