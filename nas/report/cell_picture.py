"""The picture of an architecture: its cells, every edge with its operation, or its chain of blocks.

Everything is laid out in inches.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations, product
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, PathPatch, Polygon
from matplotlib.path import Path

from nas.report.chain_picture import plot_chain
from nas.report.figures import new_figure, styled
from nas.report.palette import INK, QUIET, operation_colour
from search_spaces import CellGenotype, Edge, Genotype

Point = tuple[float, float]

_BOX = (0.5, 0.44)  # a node
_PORT = 0.16  # between two edges that meet on the same side of a node
_HEAD = 0.10  # length of an arrow head
_LABEL_SIZE = 8.0  # points
_LABEL_HEIGHT = 0.24
_FREE = 10  # arcs of which all ways to lie above and below are tried
_LEVEL = 0.40  # between arcs that lie above each other


class _Curve(NamedTuple):
    """An edge as a cubic Bezier curve; the arrow head starts where the curve ends."""

    edge: Edge
    controls: tuple[Point, Point, Point, Point]
    tip: Point

    def at(self, u: np.ndarray) -> np.ndarray:
        """Points (N, 2) at the parameters `u` (N,) in [0, 1]."""
        weights = np.stack([(1 - u) ** 3, 3 * u * (1 - u) ** 2, 3 * u**2 * (1 - u), u**3], 1)
        points: np.ndarray = weights @ np.array(self.controls)
        return points


class CellLayout:
    """Where nodes and edges of a cell lie.

    The nodes stand on a line; edges between neighbours are straight and all others arch above or
    below it, whichever crosses fewest others. Two inputs stand one above the other instead: edges
    from the upper one stay above the line, those from the lower one below it.

    Attributes:
        nodes: centre of every node.
        output: centre of the box that concatenates nodes, or None.
        curves: the edges.
        width, top, bottom: extent; the line of the nodes is at height 0.
    """

    def __init__(self, cell: CellGenotype) -> None:
        self.cell = cell
        nodes = 1 + max(max(edge.target for edge in cell.edges), *cell.concat, 0)
        self.inputs = min(edge.target for edge in cell.edges)
        self.stack = 0.0 if self.inputs == 1 else 0.42
        left = 0.2 + _BOX[0] / 2
        # Two edges slant towards the first node after stacked inputs: they need more room.
        before, spacing = (2.4, 2.4) if self.inputs == 1 else (2.0, 1.66)
        self.nodes: list[Point] = [
            (left, self.stack * (1 if node == 0 else -1))
            if node < self.inputs
            else (left + before + spacing * (node - self.inputs), 0.0)
            for node in range(nodes)
        ]
        end = self.nodes[-1][0]
        self.output: Point | None = (end + 1.05, 0.0) if cell.concat else None
        self.width = (self.output or self.nodes[-1])[0] + left
        self.sides = self._choose_sides()
        self.levels = self._stack_levels()
        self.curves = self._route()
        margin = 0.26
        self.top = max([self.stack + _BOX[1] / 2, *(self._height(e) for e in self._arcs(1))]) + margin
        lowest = max([self.stack + _BOX[1] / 2, *(self._height(e) for e in self._arcs(-1))])
        self.bus = -lowest - 0.32
        self.bottom = self.bus - 0.2 if cell.concat else -lowest - margin

    def _column(self, node: int) -> int:
        return max(0, node - self.inputs + 1)

    def _is_arc(self, edge: Edge) -> bool:
        return self._column(edge.target) - self._column(edge.source) > 1

    def _overlap(self, a: Edge, b: Edge) -> bool:
        """Whether the two arcs have a stretch of the line in common."""
        return max(self._column(a.source), self._column(b.source)) < self._column(min(a.target, b.target))

    def _cross(self, a: Edge, b: Edge) -> bool:
        """Whether the two arcs cross if they lie on the same side."""
        (s1, t1), (s2, t2) = sorted((self._column(e.source), self._column(e.target)) for e in (a, b))
        return s1 < s2 < t1 < t2

    def _choose_sides(self) -> dict[Edge, int]:
        """1 (above) or -1 (below) for every arc."""
        arcs = [edge for edge in self.cell.edges if self._is_arc(edge)]
        stacked = self.inputs > 1
        options: list[tuple[int, ...]] = [
            ((1,) if e.source == 0 else (-1,)) if stacked and e.source < self.inputs else (1, -1)
            for e in arcs
        ]

        def cost(sides: Iterable[int]) -> tuple[int, int]:
            same = [(a, b) for (a, s), (b, t) in combinations(zip(arcs, sides, strict=False), 2) if s == t]
            return sum(self._cross(a, b) for a, b in same), sum(self._overlap(a, b) for a, b in same)

        if sum(len(option) > 1 for option in options) <= _FREE:
            return dict(zip(arcs, min(product(*options), key=cost), strict=True))
        sides: list[int] = []  # too many to try all: one arc after another
        for option in options:
            sides.append(min(option, key=lambda side: cost([*sides, side])))
        return dict(zip(arcs, sides, strict=True))

    def _arcs(self, side: int) -> list[Edge]:
        return [edge for edge, s in self.sides.items() if s == side]

    def _stack_levels(self) -> dict[Edge, int]:
        """Level of every arc, such that arcs with a common stretch have different ones."""
        levels: dict[Edge, int] = {}
        for edge in sorted(self.sides, key=lambda e: self._column(e.target) - self._column(e.source)):
            near = [e for e in levels if self.sides[e] == self.sides[edge] and self._overlap(edge, e)]
            below = [levels[other] for other in near]
            levels[edge] = max(below, default=-1) + 1
        return levels

    def _height(self, edge: Edge) -> float:
        """Distance of the top of an arc from the line."""
        return 0.86 + 0.6 * self.stack + _LEVEL * self.levels[edge]

    def _port(self, node: int, edge: Edge) -> float:
        """Horizontal position at which an arc meets a node: inner arcs stay inside outer ones."""
        arcs = [e for e in self._arcs(self.sides[edge]) if node in (e.source, e.target)]
        arriving = sorted((e for e in arcs if e.target == node), key=lambda e: -e.source)
        leaving = sorted((e for e in arcs if e.source == node), key=lambda e: -e.target)
        ports = arriving + leaving
        return self.nodes[node][0] + _PORT * (ports.index(edge) - (len(ports) - 1) / 2)

    def _route(self) -> list[_Curve]:
        curves = []
        for edge in self.cell.edges:
            (x0, y0), (x3, y3) = self.nodes[edge.source], self.nodes[edge.target]
            if edge in self.sides:
                side = self.sides[edge]
                x0, x3 = self._port(edge.source, edge), self._port(edge.target, edge)
                y0, tip = y0 + side * _BOX[1] / 2, (x3, y3 + side * _BOX[1] / 2)
                y3 = tip[1] + side * _HEAD
                y = (8 * side * self._height(edge) - y0 - y3) / 6
                curves.append(_Curve(edge, ((x0, y0), (x0, y), (x3, y), (x3, y3)), tip))
            else:
                x0, tip = x0 + _BOX[0] / 2, (x3 - _BOX[0] / 2, y3 + _PORT * np.sign(y0))
                x3, y3 = tip[0] - _HEAD, tip[1]
                x = (x0 + x3) / 2
                curves.append(_Curve(edge, ((x0, y0), (x, y0), (x, y3), (x3, y3)), tip))
        return curves

    def labels(self) -> list[Point]:
        """Centre of every edge's label: on its curve, in the middle or where it hides no other."""
        curves = [curve.at(np.linspace(0, 1, 80)) for curve in self.curves]
        placed: list[np.ndarray] = []
        for i, own in enumerate(curves):
            size = np.array([label_width(self.curves[i].edge.operation), _LABEL_HEIGHT])
            others = np.concatenate([c for j, c in enumerate(curves) if j != i] or [own[:0]])
            costs = [
                (np.abs(others - point) < size / 2 + 0.04).all(1).sum()
                + 100 * sum((np.abs(other - point) < size + 0.04).all() for other in placed)
                + np.abs(own[40] - point).sum()
                for point in own[16:64]
            ]
            placed.append(own[16 + int(np.argmin(costs))])
        return [(float(x), float(y)) for x, y in placed]


def label_width(text: str) -> float:
    """Width in inches of an edge's label with its padding, in a font of constant width."""
    return (0.602 * len(text) + 0.9) * _LABEL_SIZE / 72


@styled
def plot_cell(genotype: Genotype) -> Figure:
    """The architecture: one panel per kind of cell, every edge with its operation; or a chain."""
    if genotype.is_chain:
        return plot_chain(genotype)
    layouts = [CellLayout(cell) for cell in genotype.cells]
    title = 0.32 if len(genotype.cells) > 1 else 0.0
    heights = [layout.top - layout.bottom + title for layout in layouts]
    width, height = max(layout.width for layout in layouts), sum(heights)
    figure = new_figure(width, height)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.set_axis_off()
    y = height
    for layout, panel in zip(layouts, heights, strict=True):
        if title:
            axes.text(0.2, y - 0.2, f"{layout.cell.name} cell", size=11, weight="bold", va="center")
        _plot_panel(axes, layout, y - title - layout.top)
        y -= panel
    return figure


def _plot_panel(axes: Axes, layout: CellLayout, line: float) -> None:
    """Plot a cell whose nodes stand at the height `line`."""
    last = len(layout.nodes) - 1
    if layout.output is not None:
        _plot_concat(axes, layout, line)
    for curve in layout.curves:
        _plot_curve(axes, curve, line)
    for node, (x, y) in enumerate(layout.nodes):
        caption = ""
        if node < layout.inputs:
            caption = "input" if layout.inputs == 1 else ("cₖ₋₂", "cₖ₋₁")[node]
        elif node == last and layout.output is None:
            caption = "output"
        _plot_node(axes, (x, y + line), str(node), caption)
    if layout.output is not None:
        _plot_node(axes, (layout.output[0], layout.output[1] + line), "output", "concat")
    for curve, (x, y) in zip(layout.curves, layout.labels(), strict=True):
        operation = curve.edge.operation
        frame = {"boxstyle": "round,pad=0.3", "facecolor": "white", "edgecolor": operation_colour(operation)}
        axes.text(
            x, y + line, operation, size=_LABEL_SIZE, family="monospace", ha="center", va="center_baseline",
            color=QUIET if operation == "none" else INK, zorder=5, bbox={**frame, "linewidth": 1.1},
        )  # fmt: skip


def _plot_node(axes: Axes, centre: Point, name: str, caption: str) -> None:
    (x, y), (w, h) = centre, _BOX
    w += 0.14 if name == "output" else 0
    box = FancyBboxPatch(
        (x - w / 2, y - h / 2), w, h, boxstyle="round,pad=0,rounding_size=0.1", edgecolor=INK, linewidth=1.1,
        facecolor="#e3e8ef" if caption else "#f3f5f8", zorder=4,
    )  # fmt: skip
    axes.add_patch(box)
    inside: dict[str, Any] = {"ha": "center", "va": "center_baseline", "zorder": 5}
    size = 11 if len(name) < 3 else 8.5
    axes.text(x, y + (0.07 if caption else 0), name, size=size, weight="bold", **inside)
    axes.text(x, y - 0.12, caption, size=7.5 if len(caption) > 4 else 9, color=QUIET, **inside)


def _plot_curve(axes: Axes, curve: _Curve, line: float) -> None:
    colour = operation_colour(curve.edge.operation)
    none = curve.edge.operation == "none"
    points = [(x, y + line) for x, y in curve.controls]
    path = Path(points, [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4])
    width, dashes = (1.4, (0, (4, 2.5))) if none else (2.2, "solid")
    axes.add_patch(
        PathPatch(path, facecolor="none", edgecolor=colour, linewidth=width, linestyle=dashes, zorder=2)
    )
    _plot_head(axes, points[3], (curve.tip[0], curve.tip[1] + line), colour)


def _plot_head(axes: Axes, start: Point, tip: Point, colour: str) -> None:
    """A triangle that points from `start` to `tip`."""
    dx, dy = 0.5 * (tip[0] - start[0]), 0.5 * (tip[1] - start[1])
    sides = [(start[0] - dy, start[1] + dx), (start[0] + dy, start[1] - dx)]
    axes.add_patch(Polygon([tip, *sides], closed=True, facecolor=colour, linewidth=0, zorder=3))


def _plot_concat(axes: Axes, layout: CellLayout, line: float) -> None:
    """Thin lines that collect the concatenated nodes and lead to the output."""
    assert layout.output is not None
    end, bus, r = layout.output[0], layout.bus + line, 0.12
    foot = line - _BOX[1] / 2
    move, to, curve = Path.MOVETO, Path.LINETO, Path.CURVE3
    turn = [(end - r, bus), (end, bus), (end, bus + r), (end, foot - _HEAD)]
    paths = [Path(turn, [move, curve, curve, to])]
    for node in layout.cell.concat:
        x = layout.nodes[node][0]
        corner = [(x, foot), (x, bus + r), (x, bus), (x + r, bus), (end - r, bus)]
        paths.append(Path(corner, [move, to, curve, curve, to]))
    for path in paths:
        axes.add_patch(PathPatch(path, facecolor="none", edgecolor="#b4bbc6", linewidth=1.0, zorder=1))
    _plot_head(axes, (end, foot - _HEAD), (end, foot), "#b4bbc6")
