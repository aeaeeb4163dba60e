"""Score-function estimators: they need the value of the loss and no gradient of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from estimators.base import ScoreEstimator


class Reinforce(ScoreEstimator):
    """D ~ Cat(pi); estimate (f(D) - b)(D - pi), b a moving average of past losses.

    Unbiased for every f, since b does not depend on D; the first call only sets b.

    Source: Williams, 1992, "Simple statistical gradient-following algorithms", Machine Learning 8.

    Args:
        decay: weight of the past in b, from 0 to below 1.
    """

    name = "reinforce"
    default_draws = fewest_draws = 1

    def __init__(self, tau: float | None = None, decay: float = 0.9) -> None:
        super().__init__(tau)
        if not 0 <= decay < 1:
            raise ValueError(f"decay is {decay:g}, expected a number from 0 to below 1")
        self.decay = decay
        self.baseline: float | None = None

    def advantages(self, losses: Tensor, mean: Tensor | None = None) -> Tensor:
        losses = losses.detach()
        if mean is not None:
            return losses - mean
        now = losses.mean()
        if not now.isfinite():  # nothing to learn from, and nothing to remember
            return torch.full_like(losses, torch.nan)
        if self.baseline is None:
            self.baseline = float(now)
            return torch.zeros_like(losses)
        before = torch.full_like(now, self.baseline)
        self.baseline = float(self.decay * before + (1 - self.decay) * now)
        return losses - before

    def state(self) -> dict[str, Any]:
        return {} if self.baseline is None else {"baseline": self.baseline}

    def load_state(self, state: dict[str, Any]) -> None:
        if set(state) - {"baseline"}:
            raise ValueError(f"the estimator '{self.name}' has no state {sorted(state)}, expected baseline")
        self.baseline = state.get("baseline")


class ReinforceLeaveOneOut(ScoreEstimator):
    """N draws; estimate mean over i of (f(D_i) - mean of the other losses)(D_i - pi).

    Unbiased for every f, since the baseline of a draw does not depend on it. Needs N >= 2.

    Source: Kool, van Hoof & Welling, 2019, "Buy 4 REINFORCE samples, get a baseline for free!".
    """

    name = "reinforce_loo"

    def advantages(self, losses: Tensor, mean: Tensor | None = None) -> Tensor:
        n, losses = self.require_draws(losses), losses.detach()
        return (losses - losses.mean(0)) * (n / (n - 1))
