"""Random problems small enough for their exact gradient: all outcomes are enumerated.

A problem has L independent choices among K candidates, logits theta ~ N(0, 1) of shape (L, K), and a
loss f of the one-hot draw D (L, K). P problems are one batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from estimators.exact import mean_and_gradient
from nas.seeding import generator

Loss = Callable[[Tensor], Tensor]
"""Losses (..., P) of draws (..., P, L, K), one-hot or mixtures; problem p has coefficients of its own."""


class Problems(NamedTuple):
    """P problems with one loss, and what enumeration says about them.

    Attributes:
        logits: (P, L, K).
        loss: the losses of draws.
        mean: E f(D), (P,).
        gradient: of E f(D) with respect to the logits, (P, L, K).
    """

    logits: Tensor
    loss: Loss
    mean: Tensor
    gradient: Tensor


class Objective(NamedTuple):
    """A kind of loss; `build` draws the coefficients for shape (P, L, K)."""

    title: str
    build: Callable[[Sequence[int], torch.Generator], Loss]


def _normal(rng: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


def _apply(m: Tensor, x: Tensor) -> Tensor:
    """Matrices (P, I, J) times vectors (..., P, J): (..., P, I)."""
    return torch.einsum("pij,...pj->...pi", m, x)


def _linear_form(shape: Sequence[int], rng: torch.Generator) -> Loss:
    p, choices, k = shape
    a = _normal(rng, p, choices, k)
    return lambda d: (a * d).sum((-2, -1))


def _quadratic_form(shape: Sequence[int], rng: torch.Generator) -> Loss:
    p, choices, k = shape
    m = _normal(rng, p, choices * k, choices * k)

    return lambda d: (_apply(m, d.flatten(-2)) * d.flatten(-2)).sum(-1)


def _quadratic(shape: Sequence[int], rng: torch.Generator) -> Loss:
    linear, form = _linear_form(shape, rng), _quadratic_form(shape, rng)
    return lambda d: linear(d) + form(d)


def _cubic(shape: Sequence[int], rng: torch.Generator) -> Loss:
    linear, form = _linear_form(shape, rng), _quadratic_form(shape, rng)
    return lambda d: linear(d) * form(d)


def _tanh_network(shape: Sequence[int], rng: torch.Generator) -> Loss:
    p, choices, k = shape
    w, v = _normal(rng, p, 16, choices * k), _normal(rng, p, 16)
    return lambda d: (_apply(w, d.flatten(-2)).tanh() * v).sum(-1)


def _relu_network(shape: Sequence[int], rng: torch.Generator) -> Loss:
    """Two hidden layers of 16 units, weights scaled to keep the size of the signal."""
    p, choices, k = shape
    first, second = _normal(rng, p, 16, choices * k), _normal(rng, p, 16, 16) / 8**0.5
    v = _normal(rng, p, 16)
    return lambda d: (_apply(second, _apply(first, d.flatten(-2)).relu()).relu() * v).sum(-1)


def _polynomial(power: float) -> Callable[[Sequence[int], torch.Generator], Loss]:
    """mean over l of |X_l - 0.45|^power, where X_l = sum_k D_lk k / (K - 1) is one of K levels.

    For K = 2 these are the binary variables and the loss of polynomial programming in Liu et al., 2023,
    arXiv 2304.08612. Draws nothing from the generator: problems differ in their logits.
    """

    def build(shape: Sequence[int], rng: torch.Generator) -> Loss:
        levels = torch.linspace(0, 1, shape[-1], dtype=torch.float64)
        return lambda d: ((d * levels).sum(-1) - 0.45).abs().pow(power).mean(-1)

    return build


OBJECTIVES: dict[str, Objective] = {
    "linear": Objective("linear: a·D", _linear_form),
    "quadratic": Objective("quadratic: a·D + D·MD", _quadratic),
    "cubic": Objective("cubic: (a·D)(D·MD)", _cubic),
    "tanh": Objective("tanh MLP: v·tanh(WD)", _tanh_network),
    "power1.5": Objective("polynomial: Σ|X − c|^1.5", _polynomial(1.5)),
    "power2": Objective("polynomial: Σ|X − c|²", _polynomial(2)),
    "power3": Objective("polynomial: Σ|X − c|³", _polynomial(3)),
    "network": Objective("ReLU MLP of 3 choices", _relu_network),
}


def draw_problems(
    names: Sequence[str], count: int, choices: int, candidates: int, seed: int
) -> dict[str, Problems]:
    """`count` problems of every objective in `names`, all with the same logits (count, choices, candidates).

    Raises:
        ValueError: too many outcomes to enumerate.
    """
    shape = (count, choices, candidates)
    logits = _normal(generator(seed, "logits", choices, candidates), *shape)
    problems = {}
    for name in names:
        loss = OBJECTIVES[name].build(shape, generator(seed, f"coefficients of {name}", choices, candidates))
        problems[name] = Problems(logits, loss, *mean_and_gradient(logits, loss))
    return problems
