"""The straight-through Gumbel-softmax estimator."""

from __future__ import annotations

import torch
from torch import Tensor

from estimators.base import (
    Estimator,
    draw_with_gradient,
    gumbel,
    jacobian_product,
    one_hot_argmax,
    widen,
)
from estimators.schedule import Schedule


class StraightThroughGumbel(Estimator):
    """D = onehot(argmax(theta + G)); backward J(softmax((theta + G) / tau)) g / tau, same G.

    The default schedule is that of GDAS (Dong & Yang, 2019, arXiv 1910.04465): 10 to 0.1.

    Sources: Jang et al., 2017, arXiv 1611.01144; Maddison et al., 2017, arXiv 1611.00712.
    """

    name = "st_gumbel"
    default_schedule = Schedule(10.0, 0.1)

    def sample(self, logits: Tensor, generator: torch.Generator | None) -> Tensor:
        theta, tau = widen(logits.detach()), self.tau
        perturbed = theta + gumbel(theta, generator)

        def vjp(g: Tensor) -> Tensor:
            return jacobian_product((perturbed / tau).softmax(-1), g) / tau

        return draw_with_gradient(logits, one_hot_argmax(perturbed), vjp)
