"""Stages that end with fewer candidates."""

from __future__ import annotations

from collections.abc import Iterator

from nas.bilevel.shrinkings.shrinking import Pair, Shrinking, may_go, nones, require_kept, require_positive
from nas.bilevel.view import SearchView
from nas.seeding import generator
from recipes import InputError
from search_spaces.cell import candidate_parameters


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
            require_positive(count)
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
