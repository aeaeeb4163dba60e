"""Image files as one array of pixels, decoded by several threads and written one after the other."""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from nas.data.sources.pictures import Array, decode, scaled
from nas.data.sources.reading import WRITE_AHEAD, Plan, Reading, each_file


def write_pixels(
    file: IO[bytes] | mmap.mmap, paths: Sequence[Path], title: str, reading: Reading, plan: Plan
) -> dict[str, Any]:
    """Write the pixels of all files, of `plan.shape` and `plan.dtype`, from where `file` stands to its end;
    what is to be known of them, for JSON. Raises InputError."""
    start, summary = file.tell(), _Summary(plan)
    _, size, _, channels = plan.shape
    nothing = np.zeros((size, size, channels), plan.dtype)

    def decoded(path: Path) -> tuple[Array, float, float]:
        return decode(path, size, channels, plan.deep, plan.span)

    for i, found in each_file(paths, decoded, f"decoding {title}", reading, nothing.nbytes):
        if found is None:
            summary.bad.append(i)
            file.write(nothing.data)
        else:
            summary.add(*found)
            file.write(np.ascontiguousarray(found[0]).data)
    if summary.scale is not None:
        file.seek(start)
        _rescale(file, summary.scale)
    return summary.to_json()


def _rescale(file: IO[bytes] | mmap.mmap, scale: tuple[float, float]) -> None:
    """Make [0, 1] of the float32 values from where `file` stands to its end, part by part."""
    while part := file.read(WRITE_AHEAD):
        file.seek(-len(part), os.SEEK_CUR)
        file.write(scaled(np.frombuffer(part, np.float32), scale).data)


class _Summary:
    """What is to be known of files, as they are decoded."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.bad: list[int] = []
        self.low, self.high = np.inf, -np.inf
        self.outside = self.values = 0

    def add(self, pixels: Array, low: float, high: float) -> None:
        """Count the pixels of a file, whose values were from `low` to `high`."""
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.values += pixels.size
        if self.plan.deep and self.plan.span is not None:
            first, last = self.plan.span
            self.outside += int(((pixels < first) | (pixels > last)).sum())

    @property
    def scale(self) -> tuple[float, float] | None:
        """Values that become 0 and 1: those that are given, or the smallest and the largest there is."""
        if not self.plan.deep:
            return None
        return self.plan.span or (self.low, self.high if self.high > self.low else self.low + 1)

    def to_json(self) -> dict[str, Any]:
        """What is kept beside the pixels."""
        notes = list(self.plan.notes)
        if self.scale is not None:
            low, high = self.scale
            found = "as `pixel_range` says" if self.plan.span else "the values that occur"
            notes.append(f"pixel values {low:g} to {high:g}, {found}, are read as 0 to 1 in float32")
        if self.outside:
            share = f"{100 * self.outside / self.values:.3g} % of the pixels"
            notes.append(f"{share} are outside `pixel_range` and were cut off")
        reduced = None if self.plan.deep else self.plan.span
        return {"scale": self.scale, "reduced": reduced, "bad": self.bad, "notes": notes}
