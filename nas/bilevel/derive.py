"""From the probabilities of the operations to the architecture found."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from torch import Tensor

from recipes import InputError
from search_spaces import Genotype, SearchSpace


def parse_derive(text: str) -> int:
    """Number of sampled architectures: 0 for `argmax`, K for `sample:K`. Raises InputError."""
    if text == "argmax":
        return 0
    if (match := re.fullmatch("sample:([0-9]{1,6})", text)) and 1 <= int(match[1]) <= 100_000:
        return int(match[1])
    raise InputError(f"--derive is '{text}', expected argmax or sample:K with K from 1 to 100000")


def sample(space: SearchSpace, log_p: Tensor, generator: torch.Generator) -> Genotype:
    """An architecture drawn from log-probabilities (E, K).

    Gumbel noise makes the arg-max of every edge a draw from its distribution; where a space keeps
    only the strongest edges (darts), these are drawn along with it.
    """
    return space.discretise(log_p - torch.empty_like(log_p).exponential_(generator=generator).log())


def best_of(
    space: SearchSpace,
    log_p: Tensor,
    count: int,
    generator: torch.Generator,
    accuracy: Callable[[Genotype], float],
) -> Genotype:
    """The architecture of highest `accuracy` among `count` draws from log-probabilities (E, K)."""
    drawn = dict.fromkeys(sample(space, log_p, generator) for _ in range(count))
    return max(drawn, key=accuracy)


def collapse_warnings(genotype: Genotype) -> list[str]:
    """Warnings about a derived cell most of whose edges are skip-connects or nothing."""
    warnings = []
    for cell in genotype.cells:
        idle = {o: sum(e.operation == o for e in cell.edges) for o in ("skip_connect", "none")}
        if 2 * sum(idle.values()) > len(cell.edges):
            warnings.append(
                f"the search has collapsed: {idle['skip_connect']} skip_connect and {idle['none']} none "
                f"on the {len(cell.edges)} edges of the cell '{cell.name}'"
            )
    return warnings
