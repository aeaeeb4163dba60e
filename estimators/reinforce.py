"""Score-function estimators: they need the value of the loss and no gradient of it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from estimators.base import Estimator, categorical, widen
from estimators.schedule import Schedule


class Reinforce(Estimator):
    """D ~ Cat(pi); estimate (f(D) - b)(D - pi), b a moving average of past losses.

    Unbiased for every f, since b does not depend on D; the first call only sets b.

    Source: Williams, 1992, "Simple statistical gradient-following algorithms", Machine Learning 8.
    """

    name = "reinforce"
    tau_range = (1.0, 1.0)
    default_schedule = Schedule(1.0, 1.0)
    uses_loss = True
    decay = 0.9

    def __init__(self, tau: float | None = None) -> None:
        super().__init__(tau)
        self.baseline: float | None = None

    def sample(self, logits: Tensor, generator: torch.Generator | None) -> Tensor:
        return categorical(widen(logits.detach()), generator).to(logits.dtype)

    def gradient(self, logits: Tensor, draws: Tensor, losses: Tensor) -> Tensor:
        values = losses.detach().to(logits.device, torch.float64)
        mean = float(values.mean())
        if not math.isfinite(mean):  # nothing to learn from, and nothing to remember
            return torch.full_like(logits, math.nan, requires_grad=False)
        if self.baseline is None:
            self.baseline = mean
            return torch.zeros_like(logits, requires_grad=False)
        estimate = _weighted_scores(logits, draws, values - self.baseline)
        self.baseline = self.decay * self.baseline + (1 - self.decay) * mean
        return estimate

    def state(self) -> dict[str, float]:
        return {} if self.baseline is None else {"baseline": self.baseline}

    def load_state(self, state: dict[str, float]) -> None:
        self.baseline = state.get("baseline")


class ReinforceLeaveOneOut(Estimator):
    """N draws; estimate mean over i of (f(D_i) - mean of the other losses)(D_i - pi).

    Unbiased for every f, since the baseline of a draw does not depend on it. Needs N >= 2.

    Source: Kool, van Hoof & Welling, 2019, "Buy 4 REINFORCE samples, get a baseline for free!".
    """

    name = "reinforce_loo"
    tau_range = (1.0, 1.0)
    default_schedule = Schedule(1.0, 1.0)
    uses_loss = True
    default_draws = 4
    fewest_draws = 2

    def sample(self, logits: Tensor, generator: torch.Generator | None) -> Tensor:
        return categorical(widen(logits.detach()), generator).to(logits.dtype)

    def gradient(self, logits: Tensor, draws: Tensor, losses: Tensor) -> Tensor:
        n = len(losses)
        if n < self.fewest_draws:
            raise ValueError(f"'{self.name}' needs at least {self.fewest_draws} draws, got {n}")
        values = losses.detach().to(logits.device, torch.float64)
        return _weighted_scores(logits, draws, (values - values.mean()) * (n / (n - 1)))


def _weighted_scores(logits: Tensor, draws: Tensor, weights: Tensor) -> Tensor:
    """Mean over N of weights (N,) times the scores draws - pi (N, ..., K), in the dtype of logits."""
    scores = draws.detach().double() - logits.detach().double().softmax(-1)
    shape = (-1, *(1 for _ in range(scores.dim() - 1)))
    return (weights.view(shape) * scores).mean(0).to(logits.dtype)
