"""REINFORCE with double control variates, which needs the loss and its gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from estimators.base import ScoreEstimator, jacobian_product, per_row


class DoubleCV(ScoreEstimator):
    """N draws; reinforce_loo on d_i = f_i + alpha <mean of the other g_j, s_i>, less what that adds.

    With s = D - pi and g_i the gradient at D_i the estimate is mean over i of (d_i - mean of the other d_j)
    s_i - alpha J(pi) mean over i of g_i. Unbiased for every f and every alpha, as alpha depends on the past
    only. Needs N >= 2.

    alpha starts at 0, where this is `reinforce_loo`, and follows the value of least variance, as a ratio of
    moving averages; the authors follow it by gradient steps.

    Source: Titsias & Shi, 2022, "Double control variates for gradient estimation in discrete latent variable
    models", arXiv 2111.05300; here for categorical variables.

    Args:
        decay: weight of the past in the moving averages, from 0 to below 1.
    """

    name = "double_cv"
    signal = "both"
    learns = True

    def __init__(self, tau: float | None = None, decay: float = 0.99) -> None:
        super().__init__(tau)
        if not 0 <= decay < 1:
            raise ValueError(f"decay is {decay:g}, expected a number from 0 to below 1")
        self.decay = decay
        self.moments: Tensor | None = None  # (2, *P), of <A, B> and <B, B>

    def gradient(
        self,
        logits: Tensor,
        draws: Tensor,
        losses: Tensor,
        mean: Tensor | None = None,
        at_draws: Tensor | None = None,
    ) -> Tensor:
        a, b = self._parts(logits, draws, losses, at_draws)
        alpha = self.alpha().to(a.device)[(..., *(None for _ in range(draws.dim() - losses.dim())))]
        estimate = (a + alpha * b).to(logits.dtype)
        if mean is None:
            self._remember(a, b, losses)
        return estimate

    def learn(self, logits: Tensor, draws: Tensor, losses: Tensor, at_draws: Tensor | None = None) -> None:
        self._remember(*self._parts(logits, draws, losses, at_draws), losses)

    def alpha(self) -> Tensor:
        """The weight (*P) of the second control variate."""
        if self.moments is None:
            return torch.zeros((), dtype=torch.float64)
        both, square = self.moments
        return torch.where(square > 0, -both / square.clamp_min(torch.finfo(square.dtype).tiny), 0.0)

    def _parts(
        self, logits: Tensor, draws: Tensor, losses: Tensor, at_draws: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """A and B (..., K) of the estimate A + alpha B."""
        n = self.require_draws(losses)
        if at_draws is None:
            raise ValueError(f"'{self.name}' needs the gradients at the draws")
        pi = logits.detach().double().softmax(-1)
        f, g = losses.detach().to(pi), at_draws.detach().to(pi)
        scores = draws.detach().double() - pi
        mean = g.mean(0)
        others = (n * mean - g) / (n - 1)
        c = (others * scores).flatten(f.dim()).sum(-1)
        a, b = ((per_row((x - x.mean(0)) * (n / (n - 1)), scores) * scores).mean(0) for x in (f, c))
        return a, b - jacobian_product(pi, mean)

    def _remember(self, a: Tensor, b: Tensor, losses: Tensor) -> None:
        dims = losses.dim() - 1
        now = torch.stack([(x * b).flatten(dims).sum(-1) for x in (a, b)]).cpu()
        if not now.isfinite().all():
            return  # nothing to learn from, and nothing to remember
        before = torch.zeros_like(now) if self.moments is None else self.moments
        self.moments = self.decay * before + (1 - self.decay) * now

    def state(self) -> dict[str, Any]:
        return {} if self.moments is None else {"moments": self.moments}

    def load_state(self, state: dict[str, Any]) -> None:
        if set(state) - {"moments"}:
            raise ValueError(f"the estimator '{self.name}' has no state {sorted(state)}, expected moments")
        self.moments = state.get("moments")
