"""The Dirichlet relaxation of DrNAS."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Dirichlet

from estimators.base import Estimator, widen

_SMALLEST = 1e-3  # a concentration of 0, which very negative logits would reach, has no distribution


class DirichletRelaxation(Estimator):
    """Dense relaxed draw from Dirichlet(elu(theta) + 1) with its pathwise gradient.

    There is no temperature, and, unlike with softmax, a common shift of the logits matters.

    Source: Chen et al., 2021, "DrNAS", arXiv 2006.10355.
    """

    name = "dirichlet"
    discrete = False
    tau_range = (1.0, 1.0)

    def sample(self, logits: Tensor, generator: torch.Generator | None) -> Tensor:
        concentration = _concentration(widen(logits))
        missing = concentration == 0
        with _global_generator(generator, logits.device):
            draw: Tensor = Dirichlet(concentration, validate_args=False).rsample()
        draw = draw.masked_fill(missing, 0.0)
        total = torch.where(missing.any(-1, keepdim=True), draw.sum(-1, keepdim=True), 1.0)
        return (draw / total).to(logits.dtype)

    def probabilities(self, logits: Tensor) -> Tensor:
        concentration = _concentration(widen(logits))
        return concentration / concentration.sum(-1, keepdim=True)


def _concentration(theta: Tensor) -> Tensor:
    """Concentrations (..., K); 0, where a Dirichlet distribution is that of the other entries, at -inf."""
    return (F.elu(theta) + 1).clamp_min(_SMALLEST).masked_fill(theta == -torch.inf, 0.0)


@contextmanager
def _global_generator(generator: torch.Generator | None, device: torch.device) -> Iterator[None]:
    """Let the global generator, which torch.distributions draws from, follow `generator`."""
    if generator is None:
        yield
        return
    seed = int(torch.randint(2**62, (1,), generator=generator, device=device))
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
