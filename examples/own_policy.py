"""A policy of your own: what a weight step trains, here strictly fair paths that give way to the estimator's.

python examples/own_policy.py
python train_search.py --plugins examples/own_policy.py --policy fair_first:epsilon=1:0.1
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import torch

import nas
from estimators import Schedule
from nas.bilevel import Architecture, Policy
from search_spaces.mixed_edge import Draw


class FairFirst(Policy):
    """K paths a step that hold every candidate of every slot (FairNAS: Chu et al., 2019, arXiv 1907.01845),
    each of which gives way to a draw of the estimator with probability 1 - epsilon.

    The step follows the mean gradient of its paths, each of which runs on the whole batch: K times the work.
    A path is a list with the index of a candidate for every slot, or a tensor of weights (E, K). No
    checkpoint holds a policy: be a function of (generator, step, progress) and the architecture alone.
    """

    name = "fair_first"

    def __init__(self, epsilon: Schedule = Schedule(1.0, 0.0)) -> None:  # noqa: B008  (immutable)
        if not (0 <= epsilon.start <= 1 and 0 <= epsilon.end <= 1):
            raise ValueError(f"epsilon is {epsilon}, expected probabilities")
        self.epsilon = epsilon

    def paths(
        self, architecture: Architecture, generator: torch.Generator, step: int, progress: float
    ) -> Sequence[Draw]:
        lines = [architecture.candidates(row) for row in range(architecture.space.num_slots)]
        most = max(map(len, lines))
        # A random order of the candidates of every slot, repeated where another slot has more of them.
        orders = [torch.randperm(len(line), generator=generator).tolist() for line in lines]
        fair = torch.rand(most, generator=generator) < self.epsilon(progress)
        paths = (
            [line[order[i % len(line)]] for line, order in zip(lines, orders, strict=True)]
            for i in range(most)
        )
        return [path if own else architecture.draw(generator) for path, own in zip(paths, fair, strict=True)]


nas.register_policy("fair_first", FairFirst)


def main() -> None:
    """Say how accurate cells are with the weights that each policy trains; the last costs 5 times as much."""
    for policy in ("draw", "uniform", "fair_first:epsilon=1:0.1"):
        options = {"epochs": 4, "channels": 4, "batch_size": 16, "train_limit": 700}
        result = nas.search("micro", data="digits", policy=policy, **options)
        mean = sum(result.score(result.space.random(Random(seed)))[1] for seed in range(30)) / 30
        print(f"{policy}: found {result}; mean of 30 random cells {mean:.1f} %")


if __name__ == "__main__":
    main()
