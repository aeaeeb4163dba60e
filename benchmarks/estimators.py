"""Forward and backward of every estimator, against torch's: `python -m benchmarks.estimators`."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import torch
import torch.nn.functional as F

import estimators
from benchmarks import timing
from benchmarks.timing import Action, BenchmarkOptions, Report, timed
from nas.seeding import generator
from recipes.options import option

SHAPES = ((14, 8), (6, 5), (4096, 64))  # logits of darts (one kind of cell), of nasbench201, many


@dataclass(kw_only=True)
class EstimatorsOptions(BenchmarkOptions):
    """A draw and its backward pass, for logits of several shapes."""

    repeats: int = option(15, at_least=1)
    """Alternations; the medians over them are reported."""
    largest: int = 4096
    """Shapes with more rows of logits are left out."""


def run(options: EstimatorsOptions) -> Report:
    """All rows, shape by shape."""
    report = Report("estimators", options)
    for shape in SHAPES:
        if shape[0] <= options.largest:
            times = timing.alternate(actions(shape), options.repeats)
            reference = next(iter(times))
            report.add(timed(times, reference))
            report.add(*(timed(times, name, reference) for name in times if name != reference))
    return report


def actions(shape: tuple[int, int]) -> dict[str, Action]:
    """Torch's estimator first, then all of ours that differentiate their draws."""
    rng = generator(0, "estimators")
    logits = torch.randn(shape, generator=rng, requires_grad=True)
    gradient = torch.randn(shape, generator=rng)

    def torchs(call: int) -> None:
        torch.autograd.grad(F.gumbel_softmax(logits, hard=True), logits, gradient)

    def ours(name: str) -> Action:
        estimator = estimators.get(name)
        return lambda call: torch.autograd.grad(estimator(logits, rng), logits, gradient)

    size = "x".join(map(str, shape))
    names = [name for name in estimators.names() if estimators.family(name).signal == "gradient"]
    return {f"gumbel_softmax of torch, {size}": torchs} | {f"{name}, {size}": ours(name) for name in names}


if __name__ == "__main__":
    sys.exit(timing.main("estimators", EstimatorsOptions, run))
