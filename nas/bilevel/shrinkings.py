"""Ways to take candidates out of a search by what it has learned."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from nas.bilevel.information import ByInformation
from nas.bilevel.shapley import ByShapley
from nas.bilevel.shrinking import Pair, Shrinking, may_go, nones, require_kept
from nas.bilevel.te_nas import ByTraining
from nas.bilevel.untrained import ByZeroCost
from nas.bilevel.view import SearchView
from nas.seeding import generator
from recipes import InputError
from recipes.registry import Registry
from search_spaces.cell import candidate_parameters


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
    """Stages of equal length, by default two: at the end of each but the last every slot keeps the candidates
    of its largest logits; in the first epochs of each stage only the weights are trained.

    Args:
        keep: candidates of every slot in the stage that follows; of every stage but the first: 5:3.
        freeze: epochs without architecture steps at the start of each stage.
        restart: whether each stage begins with new logits; else candidates keep theirs.
        keep_none: whether `none` is a candidate at all, where slots have others.

    Source: Chen et al., 2021, "DrNAS: Dirichlet neural architecture search", arXiv 2006.10355, the
    progressive search; with new logits Chen et al., 2019, "Progressive Differentiable Architecture Search",
    arXiv 1904.12760.
    """

    name = "stages"

    def __init__(
        self, keep: int | str = 3, freeze: int = 10, restart: bool = False, keep_none: bool = True
    ) -> None:
        try:
            self.keep = [int(count) for count in str(keep).split(":")]
        except ValueError:
            raise ValueError(f"keep is '{keep}', expected an integer, or several: 5:3") from None
        for count in self.keep:
            _require_positive(count)
        if sorted(set(self.keep), reverse=True) != self.keep:
            raise ValueError(f"keep is {keep}, expected fewer from stage to stage")
        if freeze < 0:
            raise ValueError(f"freeze is {freeze}, expected an integer of at least 0")
        self.freeze, self.restart, self.keep_none = freeze, restart, keep_none

    def prepare(self, search: SearchView) -> None:
        for count in self.keep:
            require_kept(search, self.name, count)
        options, starts = search.options, self._starts(search)
        if (grown := len(search.growth.stages)) not in (1, len(starts)):
            raise InputError(
                f"`shrink={self.name}` has {len(starts)} stages, `grow` {grown}: give keep a number for each "
                "stage but the first"
            )
        first = starts[1]  # rounded down: no stage is shorter
        for name, value in (("`warmup_epochs`", options.warmup), ("freeze", self.freeze)):
            if value >= first:
                raise InputError(
                    f"`shrink={self.name}` chooses after {first} epochs by what is learned until then, and "
                    f"{name} is {value}: make it smaller"
                )

    def _starts(self, search: SearchView) -> list[int]:
        """The first epoch of each stage."""
        count = len(self.keep) + 1
        return [search.options.epochs * stage // count for stage in range(count)]

    def rests(self, search: SearchView, epoch: int) -> bool:
        return any(start <= epoch < start + self.freeze for start in self._starts(search))

    def begin(self, search: SearchView, epoch: int) -> None:
        if self.restart and epoch in self._starts(search)[1:]:
            search.bilevel.restart_logits(generator(search.options.seed, "logits", epoch))
            if search.options.prior:
                sizes = candidate_parameters(search.supernet, search.space.num_slots, search.space.width)
                search.architecture.start_near(sizes, search.options.prior)

    def after(self, search: SearchView, epoch: int) -> Iterator[Pair]:
        if epoch == 0 and not self.keep_none:
            yield from nones(search)
        ends = self._starts(search)[1:]
        if epoch not in ends:
            return
        keep, logits = self.keep[ends.index(epoch)], search.architecture.logits.detach()
        for row in range(search.space.num_slots):
            left = search.architecture.candidates(row)
            for k in sorted(left, key=logits[row].tolist().__getitem__):
                if len(search.architecture.candidates(row)) > keep and may_go(search, row, k):
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
