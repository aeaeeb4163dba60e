"""Names beside points and at the ends of lines, placed so that they cover nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes

from nas.report.palette import readable

_SIZE = 7.8  # points
_REACHES = (6, 12, 20, 30, 44, 60)  # points; a name further away than the first gets a line to its point
_ANGLES = np.arange(0, 2 * math.pi, math.pi / 8)


class Label(NamedTuple):
    """A name for the point (x, y), in data coordinates."""

    x: float
    y: float
    text: str
    colour: str


class _Box(NamedTuple):
    """A place for a name: lower left corner and size in points, and its distance from its point."""

    x: float
    y: float
    width: float
    height: float
    reach: float

    def overlaps(self, other: _Box) -> bool:
        beside = self.x < other.x + other.width + 2 and other.x < self.x + self.width + 2
        return beside and self.y < other.y + other.height + 1 and other.y < self.y + self.height + 1


def name_ends(axes: Axes, ends: Iterable[tuple[float, str, str]], size: float = 8.0) -> None:
    """Write names at the right of `axes`, whose limits are final, apart from each other.

    Args:
        ends: height in data coordinates, text and colour of each.
        size: of the letters, in points.
    """
    figure = axes.figure
    assert figure is not None
    ordered = sorted(ends)
    to_fraction = axes.transData + axes.transAxes.inverted()
    wanted = [to_fraction.transform((axes.get_xlim()[1], height))[1] for height, _, _ in ordered]
    gap = 1.42 * size / 72 * figure.dpi / axes.bbox.height
    heights = spread(np.clip(wanted, 0, 1).tolist(), gap)
    heights = [max(height, i * gap) for i, height in enumerate(heights)]
    heights = [min(height, 1 - i * gap) for i, height in enumerate(reversed(heights))][::-1]
    for (_, text, colour), height in zip(ordered, heights, strict=True):
        axes.annotate(
            text, (1, height), xycoords="axes fraction", xytext=(6, 0), textcoords="offset points", size=size,
            color=readable(colour), va="center_baseline", annotation_clip=False,
        )  # fmt: skip


def spread(positions: Sequence[float], gap: float) -> list[float]:
    """Ascending positions moved as little as needed to be `gap` apart.

    Neighbours that are too close form a block around their common centre, as often as needed.
    """
    blocks: list[list[float]] = []  # sum of the wanted positions of the block's first member, size
    for i, position in enumerate(positions):
        blocks.append([position - i * gap, 1.0])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] > blocks[-1][0] / blocks[-1][1]:
            total, size = blocks.pop()
            blocks[-1][0] += total
            blocks[-1][1] += size
    starts = [total / size for total, size in blocks for _ in range(int(size))]
    return [start + i * gap for i, start in enumerate(starts)]


def name_points(axes: Axes, labels: Sequence[Label], avoid: Sequence[tuple[float, float]]) -> None:
    """Write the labels into `axes`, whose limits are final.

    A few times in turn every label takes the cheapest place around its point, given those of the
    others: near it, inside the axes, off the others, off all points and off `avoid`.

    Args:
        avoid: further points to leave free, such as those of lines, in data coordinates.
    """
    figure = axes.figure
    assert figure is not None
    unit = 72 / figure.dpi
    points = axes.transData.transform([(label.x, label.y) for label in labels]) * unit
    lines = axes.transData.transform(np.reshape(avoid, (-1, 2))) * unit
    frame = _Box(axes.bbox.x0 * unit, axes.bbox.y0 * unit, axes.bbox.width * unit, axes.bbox.height * unit, 0)
    candidates = [_around(x, y, label.text) for (x, y), label in zip(points, labels, strict=True)]
    fixed = [[_cost(box, frame, points, lines) for box in boxes] for boxes in candidates]
    chosen = [boxes[0] for boxes in candidates]
    for _ in range(5):
        for i, boxes in enumerate(candidates):
            others = [*chosen[:i], *chosen[i + 1 :]]
            costs = [
                cost + 40 * sum(map(box.overlaps, others)) for box, cost in zip(boxes, fixed[i], strict=True)
            ]
            chosen[i] = boxes[int(np.argmin(costs))]
    to_data = axes.transData.inverted()
    for label, (x, y), box in zip(labels, points, chosen, strict=True):
        if box.reach > _REACHES[0]:
            edge = (np.clip(x, box.x, box.x + box.width), np.clip(y, box.y, box.y + box.height))
            end = to_data.transform(np.array(edge) / unit)
            axes.plot([label.x, end[0]], [label.y, end[1]], color=label.colour, linewidth=0.6, zorder=3)
        left, middle = to_data.transform(np.array([box.x, box.y + box.height / 2]) / unit)
        axes.text(
            left, middle, label.text, size=_SIZE, color=readable(label.colour), va="center_baseline",
            zorder=5, bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.65, "pad": 0.4},
        )  # fmt: skip


def _around(x: float, y: float, text: str) -> list[_Box]:
    """Places around a point, from near to far."""
    width, height = 0.6 * _SIZE * len(text), 1.05 * _SIZE
    boxes = []
    for reach in _REACHES:
        for u, v in zip(np.cos(_ANGLES), np.sin(_ANGLES), strict=True):
            left, low = x + reach * u - width * (1 - u) / 2, y + reach * v - height * (1 - v) / 2
            boxes.append(_Box(left, low, width, height, reach))
    return boxes


def _cost(box: _Box, frame: _Box, points: np.ndarray, lines: np.ndarray) -> float:
    """What a place costs without regard to other labels; `points` (N, 2) are of labels, `lines` (M, 2)."""
    right, top = box.x + box.width, box.y + box.height
    outside = box.x < frame.x + 1 or box.y < frame.y + 1
    outside |= right > frame.x + frame.width or top > frame.y + frame.height
    on_points, on_lines = _covered(box, points, 3), _covered(box, lines, 1)
    return 0.9 * box.reach + 1000 * outside + 25 * on_points + 2 * on_lines


def _covered(box: _Box, points: np.ndarray, margin: float) -> int:
    """How many of `points` (N, 2) lie in the box or within `margin` of it."""
    low = np.array([box.x - margin, box.y - margin])
    high = np.array([box.x + box.width + margin, box.y + box.height + margin])
    return int(((low < points) & (points < high)).all(1).sum())
