"""REINFORCE with a critic that is learned from past draws: unbiased, and from values of the loss alone."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from estimators.base import ScoreEstimator, jacobian_product, per_row


class _Memory(NamedTuple):
    """The last M draws, oldest first.

    Attributes:
        chosen: (*P, M, L), the candidates.
        losses: (*P, M).
        steps: (M,), the number of the step that a draw was made in, ascending.
    """

    chosen: Tensor
    losses: Tensor
    steps: Tensor


class ReinforceCritic(ScoreEstimator):
    """reinforce_loo on f(D_i) - b(D_i), plus the gradient of E b(D), which is known.

    The critic b is fitted to past draws by kernel ridge regression, to their losses less the mean of their
    step, as every step has another batch. With L choices and k(D, D') = prod over l of
    (1 + rho <D_l, D'_l>), the all-subsets kernel, which counts common candidates in all interactions,

        b(D) = <slope, D> + sum over m of beta_m k(D, D_m),   beta = C (C K C + lambda 1)^-1 C y,

    C taking out the mean of each step. b is linear in every D_l and these are independent, so that E b is b
    at the probabilities pi, and its gradient is exact:

        J(pi_l) (slope_l + rho sum over m of beta_m D_(m,l) prod over l' != l of (1 + rho <pi_l', D_(m,l')>)).

    Unbiased for every f, since b knows the past only: whatever the memory holds, the expected value of
    (f - b) s is the gradient of E f less that of E b. Without a memory this is `reinforce_loo`. Needs N >= 2.

    Ours. Its parts are known: control variates with a known mean for the score function (MuProp, Gu et al.,
    2016; Q-Prop, Gu et al., 2017; action-dependent baselines, Wu et al., 2018), regression on past values
    (control functionals, Oates et al., 2017), on top of leave-one-out (Titsias & Shi, 2022; Shi et al.,
    2022), the kernel (Shawe-Taylor & Cristianini, 2004). docs/estimators.md says what is not.

    Args:
        memory: most draws that are remembered, at least 1; a step costs their number cubed.
        rho: weight of an interaction, by its order; default: 2 / L.
        ridge: lambda; default: rho. It is at least what keeps rounding from making the fit impossible.
        slope: whether b also has a moving average of the gradients at the draws, which then are needed.
    """

    name = "reinforce_critic"
    learns = True

    def __init__(
        self,
        tau: float | None = None,
        memory: int = 500,
        rho: float | None = None,
        ridge: float | None = None,
        slope: bool = False,
    ) -> None:
        super().__init__(tau)
        if not 1 <= memory <= 5_000:
            raise ValueError(f"memory is {memory}, expected an integer from 1 to 5,000")
        for name, value, most in (("rho", rho, 1), ("ridge", ridge, 1e6)):
            if value is not None and not 0 < value <= most:
                raise ValueError(f"{name} is {value:g}, expected a number above 0 and at most {most:g}")
        self.memory, self.rho, self.ridge = memory, rho, ridge
        if slope:
            self.signal = "both"
        self.slope: Tensor | None = None  # (..., K), the moving average
        self.step = 0  # that were learned from
        self._past: _Memory | None = None
        self._beta: Tensor | None = None  # (*P, M), of the memory as it is

    def gradient(
        self,
        logits: Tensor,
        draws: Tensor,
        losses: Tensor,
        mean: Tensor | None = None,
        at_draws: Tensor | None = None,
    ) -> Tensor:
        n, problems = self.require_draws(losses), losses.dim() - 1
        pi = logits.detach().double().softmax(-1)
        residuals = losses.detach().to(pi)
        scores = draws.detach().double() - pi
        known = torch.zeros_like(pi)
        if self.slope is not None:
            slope = self.slope.to(pi.device)
            residuals = residuals - (slope * draws.detach().double()).flatten(1 + problems).sum(-1)
            known = known + slope
        if self._past is not None:
            past = _Memory(*(part.to(pi.device) for part in self._past))
            choices = pi.dim() - (draws.dim() - 2 - problems) - 1  # dimensions of pi before them
            flat = pi.reshape(*pi.shape[:choices], -1, pi.shape[-1])
            found = self._gradient_of_mean(flat, past)
            known = known + found.reshape(*found.shape[:-2], *pi.shape[choices:])
            residuals = residuals - self._critic(_chosen(draws, problems), past, pi.shape[-1]).movedim(-1, 0)
        weights = (residuals - residuals.mean(0)) * (n / (n - 1))
        estimate = (per_row(weights, scores) * scores).mean(0) + jacobian_product(pi, known)
        if mean is None:
            self.learn(logits, draws, losses, at_draws)
        return estimate.to(logits.dtype)

    def learn(self, logits: Tensor, draws: Tensor, losses: Tensor, at_draws: Tensor | None = None) -> None:
        if self.signal == "both" and at_draws is None:
            raise ValueError(f"'{self.name}' with a slope needs the gradients at the draws")
        values = losses.detach().double().movedim(0, -1)
        if not values.isfinite().all() or (at_draws is not None and not at_draws.isfinite().all()):
            return  # nothing to learn from, and nothing to remember
        self.step += 1
        chosen = _chosen(draws, losses.dim() - 1).to(torch.int16)
        steps = torch.full(values.shape[-1:], self.step, device=values.device)
        new = _Memory(chosen, values, steps)
        if self._past is not None:
            dims = (-2, -1, -1)
            new = _Memory(
                *(torch.cat([a, b.to(a.device)], d) for a, b, d in zip(self._past, new, dims, strict=True))
            )
        keep = slice(max(0, len(new.steps) - self.memory), None)
        self._past = _Memory(new.chosen[..., keep, :], new.losses[..., keep], new.steps[keep])
        self._beta = None
        if self.signal == "both" and at_draws is not None:
            now, rate = at_draws.detach().double().mean(0), max(0.1, 1 / self.step)
            self.slope = now if self.slope is None else (1 - rate) * self.slope + rate * now

    def _critic(self, chosen: Tensor, past: _Memory, candidates: int) -> Tensor:
        """The kernel part of b (*P, N) at choices (*P, N, L) among K candidates."""
        new, old = (_one_hot(choices, candidates) for choices in (chosen, past.chosen))
        kernel = self._kernel(new, old, chosen.shape[-1])
        return (kernel * self._coefficients(past, candidates).unsqueeze(-2)).sum(-1)

    def _gradient_of_mean(self, pi: Tensor, past: _Memory) -> Tensor:
        """The kernel part of what J(pi) is applied to in the gradient of E b; pi and result (*P, L, K)."""
        beta = self._coefficients(past, pi.shape[-1])
        index = past.chosen.long().mT  # (*P, L, M)
        shape = torch.broadcast_shapes(pi.shape[:-2], index.shape[:-2])
        pi, index = pi.expand(*shape, *pi.shape[-2:]), index.expand(*shape, *index.shape[-2:])
        rho = self._rho(index.shape[-2])
        factors = 1 + rho * pi.gather(-1, index)
        others = factors.prod(-2, keepdim=True) / factors
        return torch.zeros_like(pi).scatter_add_(-1, index, rho * beta.unsqueeze(-2) * others)

    def _coefficients(self, past: _Memory, candidates: int) -> Tensor:
        """beta (*P, M), of the memory and the slope as they are."""
        if self._beta is None:
            x, choices = _one_hot(past.chosen, candidates), past.chosen.shape[-1]
            y = past.losses
            if self.slope is not None:
                slope = self.slope.to(y.device).reshape(*y.shape[:-1], x.shape[-1], 1)
                y = y - (x.double() @ slope).squeeze(-1)
            _, group, counts = past.steps.unique(return_inverse=True, return_counts=True)
            system = _centred(_centred(self._kernel(x, x, choices), group, counts).mT, group, counts)
            ridge = self._rho(choices) if self.ridge is None else self.ridge
            least = 1e-14 * len(group) * (1 + self._rho(choices)) ** choices
            system.diagonal(dim1=-2, dim2=-1).add_(max(ridge, least))
            right = _centred(y.unsqueeze(-1), group, counts)
            solved = torch.cholesky_solve(right, torch.linalg.cholesky(system))
            self._beta = _centred(solved, group, counts).squeeze(-1)
        return self._beta

    def _kernel(self, x: Tensor, y: Tensor, choices: int) -> Tensor:
        """k (*P, N, M) of L one-hot choices (*P, N, L K) and (*P, M, L K)."""
        return (math.log1p(self._rho(choices)) * (x @ y.mT).double()).exp()

    def _rho(self, choices: int) -> float:
        return 2 / choices if self.rho is None else self.rho

    def state(self) -> dict[str, Any]:
        if self._past is None:
            return {}
        state: dict[str, Any] = {"step": self.step, **self._past._asdict()}
        return state if self.slope is None else state | {"slope": self.slope}

    def load_state(self, state: dict[str, Any]) -> None:
        known = {"step", *_Memory._fields}
        if state and set(state) - {"slope"} != known:
            raise ValueError(
                f"the estimator '{self.name}' has no state {sorted(state)}, expected {sorted(known)}"
            )
        self.step = state.get("step", 0)
        self._past = _Memory(*(state[name] for name in _Memory._fields)) if state else None
        self.slope, self._beta = state.get("slope"), None


def _chosen(draws: Tensor, problems: int) -> Tensor:
    """The candidates (*P, N, L) that one-hot draws (N, *P, ..., K) choose."""
    chosen = draws.detach().argmax(-1)
    return chosen.reshape(*chosen.shape[: 1 + problems], -1).movedim(0, -2)


def _one_hot(chosen: Tensor, candidates: int) -> Tensor:
    """(..., L) to (..., L K), in float32: what they have in common are small integers."""
    return torch.nn.functional.one_hot(chosen.long(), candidates).float().flatten(-2)


def _centred(x: Tensor, group: Tensor, counts: Tensor) -> Tensor:
    """x (..., M, N) less the mean over the members of a group; group (M,), counts of the groups."""
    sums = x.new_zeros(*x.shape[:-2], len(counts), x.shape[-1]).index_add_(-2, group, x)
    return x - (sums / counts.unsqueeze(-1)).index_select(-2, group)
