"""Ways to take candidates out of a search by what it has learned."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from nas.bilevel.information import ByInformation
from nas.bilevel.shapley import ByShapley
from nas.bilevel.shrinking import Pair, Shrinking, may_go, require_kept
from nas.bilevel.te_nas import ByTraining
from nas.bilevel.untrained import ByZeroCost
from nas.bilevel.view import SearchView
from recipes import InputError
from recipes.registry import Registry


class NoShrinking(Shrinking):
    """Every candidate stays to the end."""

    name = "none"

    def after(self, search: SearchView, epoch: int) -> Iterator[Pair]:
        yield from ()


class ByProbability(Shrinking):
    """One candidate after another, evenly over the epochs after the warm-up: always that of the least
    probability in its slot, as a running mean over epochs, among those that are left.

    Args:
        keep: candidates that every slot keeps.
        decay: of the running mean, which moves by 1 - decay after every epoch.
    """

    name = "probability"

    def __init__(self, keep: int = 1, decay: float = 0.8) -> None:
        _require_positive(keep)
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


class Stages(Shrinking):
    """Two stages of equal length: at the half of the search every slot keeps the candidates of its largest
    logits, which they keep, too; in the first epochs of each stage only the weights are trained.

    Args:
        keep: candidates of every slot in the second stage.
        freeze: epochs without architecture steps at the start of each stage.

    Source: Chen et al., 2021, "DrNAS: Dirichlet neural architecture search", arXiv 2006.10355, the
    progressive search.
    """

    name = "stages"

    def __init__(self, keep: int = 3, freeze: int = 10) -> None:
        _require_positive(keep)
        if freeze < 0:
            raise ValueError(f"freeze is {freeze}, expected an integer of at least 0")
        self.keep, self.freeze = keep, freeze

    def prepare(self, search: SearchView) -> None:
        require_kept(search, self.name, self.keep)
        half, options = search.options.epochs // 2, search.options
        for name, value in (("`warmup_epochs`", options.warmup), ("freeze", self.freeze)):
            if value >= half:
                raise InputError(
                    f"`shrink={self.name}` chooses after {half} epochs by what is learned until then, and "
                    f"{name} is {value}: make it smaller"
                )

    def rests(self, search: SearchView, epoch: int) -> bool:
        half = search.options.epochs // 2
        return epoch < self.freeze or half <= epoch < half + self.freeze

    def after(self, search: SearchView, epoch: int) -> Iterator[Pair]:
        if epoch != search.options.epochs // 2:
            return
        logits = search.architecture.logits.detach()
        for row in range(search.space.num_slots):
            left = search.architecture.candidates(row)
            for k in sorted(left, key=logits[row].tolist().__getitem__):
                if len(search.architecture.candidates(row)) > self.keep and may_go(search, row, k):
                    yield row, k


def _require_positive(keep: int) -> None:
    if keep < 1:
        raise ValueError(f"keep is {keep}, expected an integer of at least 1")


SHRINKINGS: Registry[type[Shrinking]] = Registry(
    "shrinking",
    {
        s.name: s
        for s in (NoShrinking, ByProbability, Stages, ByInformation, ByShapley, ByZeroCost, ByTraining)
    },
    Shrinking,
)
