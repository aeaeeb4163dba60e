"""How far the estimates of a gradient are from the gradient.

In units of the norm of the exact gradient:

    bias  |E g - gradient|,    std  sqrt(E |g - E g|^2),    rmse  sqrt(E |g - gradient|^2),

with rmse^2 = bias^2 + std^2. Over n draws the mean of |g - gradient|^2 and the variance with divisor
n - 1 are unbiased, and so is their difference, which is taken as bias^2: the squared norm of the mean
error itself would be too large by std^2 / n. Where the difference is negative by chance, bias is 0.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_TINY = 1e-300  # keeps the cosine of a zero estimate at 0


class Measured(NamedTuple):
    """What n estimates say about each of P problems; (P,) each, in units of the exact gradient's norm.

    Attributes:
        bias2: squared bias, without the part that n draws leave to chance; may be negative.
        variance: trace of the covariance of a single estimate.
        mse: mean squared error of a single estimate; bias2 + variance.
        cosine: of the mean estimate with the exact gradient; also rid of the length that chance adds.
        length: norm of the mean estimate, likewise.
        draw_cosine: mean cosine of single estimates with the exact gradient; an estimate of 0 counts 0.
        draws: n.
    """

    bias2: Tensor
    variance: Tensor
    mse: Tensor
    cosine: Tensor
    length: Tensor
    draw_cosine: Tensor
    draws: int

    def metrics(self) -> dict[str, Tensor]:
        """All of them by name, (P,) each."""
        return {
            "bias": self.bias2.clamp_min(0).sqrt(),
            "std": self.variance.sqrt(),
            "rmse": self.mse.sqrt(),
            "mse": self.mse,
            "cosine": self.cosine,
            "length": self.length,
            "draw_cosine": self.draw_cosine,
            "standard_error": (self.variance / self.draws).sqrt(),
        }


class Errors:
    """Running sums over the estimates of P gradients.

    Args:
        exact: the gradients (P, L, K).
        noise: squared standard errors (P,) of `exact` where it is an unbiased estimate itself,
            independent of what is added; they are taken out of bias and norm.
    """

    def __init__(self, exact: Tensor, noise: Tensor | None = None) -> None:
        self.exact = exact
        self.noise = torch.zeros_like(exact[:, 0, 0]) if noise is None else noise
        self.estimate = torch.zeros_like(exact)
        self.squared_error = torch.zeros_like(exact[:, 0, 0])
        self.cosine = torch.zeros_like(exact[:, 0, 0])
        self.count = 0

    def add(self, estimates: Tensor) -> None:
        """Add estimates (N, P, L, K)."""
        self.estimate += estimates.sum(0)
        self.squared_error += _dot(estimates - self.exact, estimates - self.exact).sum(0)
        lengths = _dot(estimates, estimates).sqrt().clamp_min(_TINY)
        self.cosine += (_dot(estimates, self.exact) / lengths).sum(0)
        self.count += len(estimates)

    def measured(self) -> Measured:
        """What the estimates say; needs at least two."""
        n = self.count
        exact2 = (_dot(self.exact, self.exact) - self.noise).clamp_min(_TINY)
        mean, mse = self.estimate / n, self.squared_error / n
        # Rounding may leave the variance of equal estimates a little below zero.
        variance = (mse - _dot(mean - self.exact, mean - self.exact)).clamp_min(0) * n / (n - 1)
        along = _dot(mean, self.exact) / exact2.sqrt()
        length2 = (_dot(mean, mean) - variance / n).maximum(along.square())
        return Measured(
            bias2=(mse - variance - self.noise) / exact2,
            variance=variance / exact2,
            mse=(mse - self.noise) / exact2,
            cosine=along / length2.sqrt().clamp_min(_TINY),
            length=(length2 / exact2).sqrt(),
            draw_cosine=self.cosine / n / exact2.sqrt(),
            draws=n,
        )


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products (...) of (..., L, K)."""
    return (a * b).sum((-2, -1))
