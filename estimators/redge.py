"""Estimators that reach a draw by denoising Gaussian noise, as published baselines."""

from __future__ import annotations

import torch
from torch import Tensor

from estimators.base import Estimator, categorical, draw_with_gradient, jacobian_product, widen

_CLEAN = 1e-4  # the share of the signal in the noise that the chain begins with


class ReDGE(Estimator):
    """D ~ Cat(p), p the end of a denoising chain from Gaussian noise; backward (dp / dtheta)^T g.

    With a_1 > ... > a_(N-1), linear from 1 - `noise` to 1e-4, s = 1 - a and x_(N-1) ~ N(0, 1):

        x_(t-1) = a_(t-1) q + s_(t-1) (x_t - a_t q) / s_t,   q = softmax(theta + a_t x_t / s_t^2),

    and p is the last such q, at x_1. The derivative goes through the whole chain. As noise goes to 1, this
    becomes `st`. The draws are Cat(softmax(theta)) only nearly: the mean of p is off by a total variation of
    some 0.01. There is no temperature; the noise takes its place.

    Source: Gourevitch et al., 2026, "Categorical reparameterization with denoising diffusion models",
    arXiv 2601.00781.

    Args:
        steps: N, at least 2.
        noise: 1 - a_1, from 0.001 to 0.9999.
    """

    name = "redge"
    tau_range = (1.0, 1.0)

    def __init__(self, tau: float | None = None, steps: int = 3, noise: float = 0.5) -> None:
        super().__init__(tau)
        if not 2 <= steps <= 1000:
            raise ValueError(f"steps is {steps}, expected an integer from 2 to 1000")
        if not 1e-3 <= noise <= 1 - _CLEAN:
            raise ValueError(f"noise is {noise:g}, expected a number from 0.001 to {1 - _CLEAN:g}")
        self.steps, self.noise = steps, noise

    def chain(self, theta: Tensor, x: Tensor) -> Tensor:
        """a_1 x_1 / s_1^2, what is added to theta (..., K) in the end, from x = x_(N-1); differentiable."""
        signal: list[float] = torch.linspace(
            1 - self.noise, _CLEAN, self.steps - 1, dtype=torch.float64
        ).tolist()
        for a, after in zip(signal[:0:-1], signal[-2::-1], strict=True):
            q = (theta + a / (1 - a) ** 2 * x).softmax(-1)
            x = after * q + (1 - after) / (1 - a) * (x - a * q)
        return signal[0] / (1 - signal[0]) ** 2 * x

    def sample(self, logits: Tensor, generator: torch.Generator | None) -> Tensor:
        theta = widen(logits.detach())
        start = torch.empty_like(theta, memory_format=torch.contiguous_format).normal_(generator=generator)
        with torch.no_grad():
            p_logits = theta + self.chain(theta, start)
        draw = categorical(p_logits, generator)
        return draw_with_gradient(
            logits, draw, lambda g: self.pull(theta, start, p_logits.softmax(-1), draw, g)
        )

    def pull(self, theta: Tensor, start: Tensor, p: Tensor, draw: Tensor, g: Tensor) -> Tensor:
        """The estimate (..., K) from g = df/dD: here ST for both ways on which theta reaches p."""
        v = jacobian_product(p, g)
        return v + self.through_the_chain(theta, start, v)

    def through_the_chain(self, theta: Tensor, start: Tensor, v: Tensor) -> Tensor:
        """(d chain / d theta)^T v, (..., K)."""
        with torch.enable_grad():
            leaf = theta.detach().requires_grad_()
            end = self.chain(leaf, start)
            if not end.requires_grad:  # a chain of one step is noise
                return torch.zeros_like(v)
            pulled: Tensor = torch.autograd.grad(end, leaf, v)[0]
            return pulled


class ReinDGE(ReDGE):
    """As `redge`, with ReinMax in place of ST where theta enters p directly.

    Backward J(p) g / 2 + <g, D - p> (D - p) / 2 + (d chain / dtheta)^T J(p) g. As noise goes to 1, this
    becomes `reinmax`.

    Source: as `redge`.

    Args:
        steps: N, at least 2.
        noise: 1 - a_1, from 0.001 to 0.9999.
    """

    name = "reindge"

    def __init__(self, tau: float | None = None, steps: int = 5, noise: float = 0.5) -> None:
        super().__init__(tau, steps, noise)

    def pull(self, theta: Tensor, start: Tensor, p: Tensor, draw: Tensor, g: Tensor) -> Tensor:
        v, score = jacobian_product(p, g), draw - p
        direct = (v + (g * score).sum(-1, keepdim=True) * score) / 2
        return direct + self.through_the_chain(theta, start, v)
