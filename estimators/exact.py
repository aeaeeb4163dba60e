"""The gradient of E f(D) by enumeration, for choices that have few outcomes."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

MOST_OUTCOMES = 4096


def count_outcomes(logits: Tensor) -> int:
    """How many outcomes the choices of logits (L, K) have; candidates at -inf do not exist."""
    return math.prod((logits > -torch.inf).sum(-1).tolist())


def outcomes(logits: Tensor) -> Tensor:
    """All outcomes of the choices of logits (L, K): one-hot (N, L, K), in the dtype of logits."""
    candidates = [row.nonzero().flatten() for row in logits > -torch.inf]
    chosen = torch.cartesian_prod(*candidates).view(-1, len(logits))
    return torch.nn.functional.one_hot(chosen, logits.shape[-1]).to(logits.dtype)


def mean_and_gradient(logits: Tensor, loss: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """E f(D) and its gradient with respect to the logits, D ~ Cat(softmax(logits)).

    Args:
        logits: (*P, L, K), of L choices in each of P problems, which all have the same candidates.
        loss: f; takes one-hot draws (N, *P, L, K) to losses (N, *P).

    Returns:
        the mean (*P) and the gradient (*P, L, K); the latter is 0 at candidates that do not exist.

    Raises:
        ValueError: more than MOST_OUTCOMES outcomes.
    """
    problems, logits = logits.shape[:-2], logits.detach()
    one = logits[(0,) * len(problems)]
    if (count := count_outcomes(one)) > MOST_OUTCOMES:
        raise ValueError(f"{len(one)} choices have {count} outcomes, expected <= {MOST_OUTCOMES}")
    draws = outcomes(one).view(-1, *(1 for _ in problems), *one.shape).expand(-1, *logits.shape)
    losses, probabilities = loss(draws), logits.softmax(-1)
    weights = (draws * probabilities).sum(-1).prod(-1)
    mean = (weights * losses).sum(0)
    return mean, torch.einsum("n...,n...lk->...lk", weights * (losses - mean), draws - probabilities)
