"""The concrete relaxation of SNAS."""

from __future__ import annotations

import torch
from torch import Tensor

from estimators.base import Estimator, gumbel, widen
from estimators.schedule import Schedule


class Concrete(Estimator):
    """Dense relaxed draw softmax((theta + G) / tau) with its ordinary gradient.

    Annealed towards one-hot draws over the run, as in SNAS.

    Sources: Xie et al., 2019, "SNAS", arXiv 1812.09926; Maddison et al., 2017, arXiv 1611.00712.
    """

    name = "concrete"
    discrete = False
    default_schedule = Schedule(1.0, 0.1)

    def sample(self, logits: Tensor, generator: torch.Generator | None) -> Tensor:
        theta = widen(logits)
        perturbed = theta + gumbel(theta, generator)
        return (perturbed / self.tau).softmax(-1).to(logits.dtype)
