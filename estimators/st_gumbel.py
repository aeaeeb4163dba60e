"""The straight-through Gumbel-softmax estimator."""

from __future__ import annotations

import torch
from torch import Tensor

from estimators.base import (
    CategoricalEstimator,
    draw_with_gradient,
    gumbel,
    gumbel_given_argmax,
    jacobian_product,
    one_hot_argmax,
    widen,
)
from estimators.schedule import Schedule


class StraightThroughGumbel(CategoricalEstimator):
    """D = onehot(argmax(theta + G)); backward J(softmax((theta + G) / tau)) g / tau, same G.

    The default schedule is that of GDAS (Dong & Yang, 2019, arXiv 1910.04465): 10 to 0.1.

    Sources: Jang et al., 2017, arXiv 1611.01144; Maddison et al., 2017, arXiv 1611.00712.
    """

    name = "st_gumbel"
    default_schedule = Schedule(10.0, 0.1)

    def sample(self, logits: Tensor, generator: torch.Generator | None) -> Tensor:
        theta = widen(logits.detach())
        perturbed = theta + gumbel(theta, generator)
        return self._at(logits, perturbed, one_hot_argmax(perturbed))

    def given(self, logits: Tensor, draw: Tensor, generator: torch.Generator | None) -> Tensor:
        return self._at(logits, gumbel_given_argmax(widen(logits.detach()), draw, 1, generator)[0], draw)

    def _at(self, logits: Tensor, perturbed: Tensor, draw: Tensor) -> Tensor:
        """`draw`, the arg-max of theta + G = `perturbed`; (..., K) each."""
        tau = self.tau

        def vjp(g: Tensor) -> Tensor:
            return jacobian_product((perturbed / tau).softmax(-1), g) / tau

        return draw_with_gradient(logits, draw, vjp)
