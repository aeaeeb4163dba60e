"""One candidate after another, the least probable first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from nas.bilevel.shrinkings.shrinking import Pair, Shrinking, may_go, require_kept, require_positive
from nas.bilevel.view import SearchView


class ByProbability(Shrinking):
    """One candidate after another, evenly over the epochs after the warm-up: always that of the least
    probability in its slot, as a running mean over epochs, among those that are left.

    Args:
        keep: candidates that every slot keeps.
        decay: of the running mean, which moves by 1 - decay after every epoch.
    """

    name = "probability"

    def __init__(self, keep: int = 1, decay: float = 0.8) -> None:
        require_positive(keep)
        if not 0 <= decay < 1:
            raise ValueError(f"decay is {decay}, expected a number of at least 0 and below 1")
        self.keep, self.decay = keep, decay
        self.mean: Tensor | None = None  # (E, K)

    def prepare(self, search: SearchView) -> None:
        require_kept(search, self.name, self.keep)

    def after(self, search: SearchView, epoch: int) -> Iterator[Pair]:
        options, architecture = search.options, search.architecture
        if epoch <= options.warmup:
            return
        p = architecture.probabilities()
        self.mean = p if self.mean is None else self.decay * self.mean + (1 - self.decay) * p
        widths = [len(slot.candidates) for slot in search.space.slots]
        all_of_them = sum(max(0, width - self.keep) for width in widths)
        due = all_of_them * (epoch - options.warmup) // (options.epochs - options.warmup)
        while len(self.taken) < due:
            found = self._least(search)
            if found is None:
                return
            yield found

    def _least(self, search: SearchView) -> Pair | None:
        """What goes next, if anything may."""
        architecture = search.architecture
        assert self.mean is not None
        shares: dict[Pair, float] = {}
        for row in range(search.space.num_slots):
            line = architecture.candidates(row)
            if len(line) > self.keep:
                total = self.mean[row, line].sum()
                shares |= {(row, k): float(self.mean[row, k] / total) for k in line}
        return next((pair for pair in sorted(shares, key=shares.__getitem__) if may_go(search, *pair)), None)

    def state(self) -> dict[str, Any]:
        return super().state() | ({} if self.mean is None else {"mean": self.mean})

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self.mean = state.get("mean")
