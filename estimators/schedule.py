"""Temperature schedules."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """A temperature that moves linearly from `start` to `end` over a run.

    Progress is measured in steps, not epochs, so a run of any length (one epoch included)
    begins exactly at `start` and finishes exactly at `end`.
    """

    start: float
    end: float

    @staticmethod
    def parse(text: str) -> Schedule:
        """The schedule written as `START:END`, or as one number. Raises ValueError."""
        start, separator, end = text.partition(":")
        found = Schedule(float(start), float(end if separator else start))
        if not (math.isfinite(found.start) and math.isfinite(found.end)):
            raise ValueError(f"{text!r:.60} is not finite")
        return found

    def __call__(self, progress: float) -> float:
        """Temperature at `progress` in [0, 1], the fraction of the run that lies behind."""
        return (1.0 - progress) * self.start + progress * self.end

    def at(self, step: int, steps: int) -> float:
        """Temperature of step `step` (0-based) in a run of `steps` steps; a lone step gets `end`."""
        return self(step / (steps - 1) if steps > 1 else 1.0)

    def __str__(self) -> str:
        return f"{self.start:g}" if self.start == self.end else f"{self.start:g}:{self.end:g}"
