"""A shrinking of your own: which candidates a search gives up on the way, here the worst of some trials.

python examples/own_shrinking.py
python train_search.py --plugins examples/own_shrinking.py --shrink trials:count=40
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

import nas
from nas.bilevel import SearchView, Shrinking
from nas.bilevel.shrinkings.shrinking import Pair, may_go, require_all_edges
from nas.seeding import generator


class Trials(Shrinking):
    """After every epoch with architecture steps `count` random architectures of what is left are tried with
    the shared weights, and the candidate goes with which they were least accurate, on average over epochs.

    What `after` yields is taken out at once: no estimator, policy or rule draws it from then on. Randomness
    comes from the seed and the epoch, so that a continued run does the same; what is remembered is in
    `state`, which every checkpoint holds: tensors, numbers and texts, in lists and dicts.
    """

    name = "trials"

    def __init__(self, count: int = 20) -> None:
        if count < 1:
            raise ValueError(f"count is {count}, expected at least 1")
        self.count = count
        self.sums: torch.Tensor | None = None  # (2, E, K): accuracies in %, and how many there are

    def prepare(self, search: SearchView) -> None:
        require_all_edges(search, self.name)

    def after(self, search: SearchView, epoch: int) -> Iterator[Pair]:
        if epoch <= search.options.warmup:
            return
        slots, left = range(search.space.num_slots), search.architecture.candidates
        if self.sums is None:
            self.sums = torch.zeros(2, *search.architecture.logits.shape)
        g = generator(search.options.seed, self.name, epoch)
        for _ in range(self.count):
            draw = [left(row)[int(torch.randint(len(left(row)), (), generator=g))] for row in slots]
            accuracy = search.score_draw(draw)[1]
            for row in slots:
                self.sums[:, row, draw[row]] += torch.tensor([accuracy, 1.0])
        means = self.sums[0] / self.sums[1]  # not a number where there was no trial
        pairs = [(row, k) for row in slots for k in left(row) if self.sums[1, row, k] > 0]
        worst_first = sorted(pairs, key=lambda pair: float(means[pair]))
        yield from [pair for pair in worst_first if may_go(search, *pair)][:1]

    def state(self) -> dict[str, Any]:
        return super().state() | ({} if self.sums is None else {"sums": self.sums})

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self.sums = state.get("sums")


nas.register_shrinking("trials", Trials)


def main() -> None:
    """Say what goes when."""
    result = nas.search(
        "micro", data="digits", shrink="trials:count=10", epochs=6, channels=4, train_limit=600
    )
    for gone in result.search.shrinking.named(result.space):
        print(f"after epoch {gone['epoch']}: {gone['slot']} without {gone['candidate']}")
    print(f"found {result}")


if __name__ == "__main__":
    main()
