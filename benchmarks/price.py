"""What a gradient costs beside a pass without one, and what a critic costs: `python -m benchmarks.price`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import torch

import estimators
from benchmarks import subjects, timing
from benchmarks.timing import Action, BenchmarkOptions, Report, timed
from nas.seeding import generator
from recipes import SearchOptions, one_of
from recipes.options import option

SIZES: dict[str, dict[str, Any]] = {  # space: of its supernet
    "micro": {"channels": 4, "batch_size": 32},
    "nasbench201": {"channels": 16, "cells": 5, "batch_size": 16},
    "darts": {"channels": 16, "cells": 8, "batch_size": 8},
}
MEMORIES = (256, 500, 1000)
CHOICES, CANDIDATES = 28, 8  # those of darts


@dataclass(kw_only=True)
class PriceOptions(BenchmarkOptions):
    """Passes of supernets over random images of 32 x 32, and estimates of reinforce_critic."""

    repeats: int = option(9, at_least=1)
    """Alternations; the medians over them are reported."""
    spaces: tuple[str, ...] = tuple(SIZES)
    """Search spaces: micro, nasbench201 or darts."""
    memories: tuple[int, ...] = MEMORIES
    """Draws that the critic remembers."""


def run(options: PriceOptions) -> Report:
    """All rows, space by space."""
    report = Report("price", options)
    for space in options.spaces:
        one_of("search space", space, SIZES)
    for space in options.spaces:
        times = timing.alternate(passes(space), options.repeats)
        first = next(iter(times))
        report.add(timed(times, first), *(timed(times, name, first) for name in times if name != first))
    critics = {f"reinforce_critic, memory {memory}": critic(memory) for memory in options.memories}
    times = timing.alternate(critics, options.repeats)
    report.add(*(timed(times, name) for name in times))
    return report


def passes(space: str) -> dict[str, Action]:
    """A pass without a gradient, one with the exact gradient at the draw, one of all candidates."""
    options = SearchOptions(space=space, train_limit=128, **SIZES[space])
    search = subjects.search(options, subjects.random_images(128))
    bilevel, batch = search.bilevel, next(iter(search.valid))
    batch = batch[0][: search.options.batch_size], batch[1][: search.options.batch_size]
    logits = search.architecture.masked().detach()
    estimator = search.architecture.estimator

    def drawn(call: int) -> torch.Tensor:
        return estimator(logits, generator(0, "price", call))

    def without(call: int) -> None:
        with torch.no_grad():
            bilevel.loss(drawn(call).argmax(-1).tolist(), batch)

    return {
        f"{space}, a draw without a gradient": without,
        f"{space}, a draw with its exact gradient": lambda call: bilevel.gradient_at(drawn(call), batch),
        f"{space}, the mixture of all candidates": lambda call: bilevel.gradient_at(
            logits.softmax(-1), batch
        ),
    }


def critic(memory: int) -> Action:
    """An estimate from four draws with a full memory, and learning from them."""
    estimator = estimators.get(f"reinforce_critic:memory={memory}")
    rng = generator(0, "critic")
    logits = torch.randn(CHOICES, CANDIDATES, generator=rng)
    draws = estimator(logits.expand(memory + 4, CHOICES, CANDIDATES), rng)
    losses = torch.randn(memory + 4, generator=rng)
    for start in range(0, memory, 4):
        estimator.learn(logits, draws[start : start + 4], losses[start : start + 4])
    return lambda call: estimator.gradient(logits, draws[-4:], losses[-4:])


if __name__ == "__main__":
    sys.exit(timing.main("price", PriceOptions, run))
