"""What a search does about skip connections: schedules of the strengths that its supernet has, how many of
them are derived, and how many there are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from estimators import Schedule
from recipes import InputError, SearchOptions
from search_spaces import Genotype, SearchSpace, operations
from search_spaces.cost import CostTable
from search_spaces.skeleton import Skeleton


@dataclass(frozen=True)
class StagedSchedule:
    """Schedules that follow each other, each in an equal part of a search."""

    parts: tuple[Schedule, ...]

    def __call__(self, progress: float) -> float:
        """The value at `progress` in [0, 1]."""
        place = progress * len(self.parts)
        stage = min(int(place + 1e-9), len(self.parts) - 1)  # a boundary may be missed by rounding
        return self.parts[stage](max(0.0, place - stage))


@dataclass(frozen=True)
class SkipSchedules:
    """Functions of the progress of a search alone; None where the supernet is without.

    Attributes:
        auxiliary: strength of the auxiliary skip connections (DARTS-).
        dropout: probability of the dropout behind skip connections (P-DARTS).
    """

    auxiliary: StagedSchedule | None
    dropout: StagedSchedule | None

    @staticmethod
    def of(options: SearchOptions, space: SearchSpace) -> SkipSchedules:
        """What the options ask for. Raises InputError where they cannot be read, or no edge can be a skip."""
        asked = {
            "auxiliary_skip": (options.auxiliary_skip, space.skip is not None),
            "skip_dropout": (options.skip_dropout, space.has_skips),
            "max_skips": (None if options.max_skips == "auto" else options.max_skips, space.has_skips),
            "stop_skips": (options.stop_skips or None, space.has_skips),
        }
        for name, (wanted, there) in asked.items():
            if wanted is not None and not there:
                raise InputError(f"`{name}`: no edge of the space '{space.name}' can be a skip: drop it")
        return SkipSchedules(
            _schedule("auxiliary_skip", options.auxiliary_skip, "from 0 to 100", lambda x: 0 <= x <= 100),
            _schedule("skip_dropout", options.skip_dropout, "from 0 to below 1", lambda x: 0 <= x < 1),
        )

    def move(self, supernet: Skeleton, progress: float) -> None:
        """Set the strengths of a supernet to those at `progress` in [0, 1]."""
        auxiliary, dropout = (0.0 if s is None else s(progress) for s in (self.auxiliary, self.dropout))
        supernet.set_skips(auxiliary, dropout)


def _schedule(
    name: str, text: str | None, words: str, fits: Callable[[float], bool]
) -> StagedSchedule | None:
    if text is None:
        return None
    try:
        schedules = tuple(Schedule.parse(part) for part in str(text).split(","))
    except ValueError:
        raise InputError(f"`{name}` is '{text}', expected a number or START:END") from None
    if not all(fits(schedule.start) and fits(schedule.end) for schedule in schedules):
        raise InputError(f"`{name}` is '{text}', expected numbers {words}")
    return StagedSchedule(schedules)


def most_skips(space: SearchSpace, genotype: Genotype) -> int:
    """Skip connections in that kind of normal cell of an architecture which has most of them.

    Source: Liang et al., 2019, "DARTS+: Improved Differentiable Architecture Search with Early Stopping",
    arXiv 1909.06035, which ends a search at two.
    """
    skips = operations.count(genotype, "skip")
    return max(skips[cell] for cell in space.normal_cells)


def limit_warnings(space: SearchSpace, probable: Genotype, derived: Genotype) -> list[str]:
    """A warning where most edges of the most probable cell are skip connections and fewer are derived: the
    limit hides a collapse."""
    edges = max(len(cell.edges) for cell in probable.cells if cell.name in space.normal_cells)
    most, kept = most_skips(space, probable), most_skips(space, derived)
    if kept >= most or 2 * most <= edges:
        return []
    return [
        f"the most probable cell has {most} skip connections on {edges} edges, the derived one {kept}: see "
        "max_skips"
    ]


def skip_limits(space: SearchSpace, most: int | Literal["auto"] | None) -> tuple[tuple[CostTable, int], ...]:
    """For every kind of normal cell, how many skip connections a choice has in it, and that these may be
    `most` (auto: what the space usually has); nothing where that is None."""
    most = space.usual_skips if most == "auto" else most
    if most is None:
        return ()
    limits = []
    for cell in space.normal_cells:
        table = torch.zeros(space.num_slots, space.width, dtype=torch.int64)
        for row, slot in enumerate(space.slots):
            for k, name in enumerate(slot.candidates):
                table[row, k] = slot.cell == cell and operations.family(name) == "skip"
        limits.append((CostTable(0, table), most))
    return tuple(limits)
