"""Figures of a run: the derived cell, the probabilities of its operations, the curves.

Every function returns a figure that belongs to the caller; `to_svg` and `to_png` render it. The
look does not depend on the user's matplotlib configuration, and nothing here opens a window.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from itertools import combinations, product
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, PathPatch, Polygon, Rectangle
from matplotlib.path import Path
from matplotlib.ticker import MaxNLocator
from PIL import Image

from search_spaces import CellGenotype, Edge, Genotype

Metrics = Sequence[Mapping[str, Any]]
Point = tuple[float, float]

# One hue per family (grey: no weights, orange: pooling, blue and green: convolutions), and within
# a family the larger kernel is the darker one.
OPERATION_COLOURS: dict[str, str] = {
    "none": "#c9ced6",
    "skip_connect": "#7b8494",
    "avg_pool_3x3": "#f5b25c",
    "max_pool_3x3": "#d9691b",
    "nor_conv_1x1": "#85c4ea",
    "nor_conv_3x3": "#1c6fb4",
    "sep_conv_3x3": "#6cc58d",
    "sep_conv_5x5": "#18804f",
    "dil_conv_3x3": "#86a5ec",
    "dil_conv_5x5": "#3a52bd",
}

_INK, _QUIET, _FAINT = "#1f2933", "#66707d", "#e8ebef"
_SERIES = {
    "train": ("train", "#8792a1"),
    "valid": ("validation", "#7a4bb5"),
    "derived": ("derived cell", "#c2255c"),
    "test": ("test", "#c2255c"),
}
_WIDTH = 9.0  # inches: 900 px at 100 dpi

_styled = style.context(
    [
        "default",
        {
            "axes.axisbelow": True,
            "axes.edgecolor": _QUIET,
            "axes.grid": True,
            "axes.labelcolor": _QUIET,
            "axes.linewidth": 0.8,
            "axes.spines.right": False,
            "axes.spines.top": False,
            "axes.titlecolor": _INK,
            "axes.titlelocation": "left",
            "axes.titlesize": 10,
            "axes.titleweight": "bold",
            "font.monospace": ["DejaVu Sans Mono", "Menlo", "Consolas", "monospace"],
            "font.sans-serif": ["DejaVu Sans", "Verdana", "Helvetica", "sans-serif"],
            "font.size": 9,
            "grid.color": _FAINT,
            "lines.linewidth": 1.8,
            "lines.solid_capstyle": "round",
            "svg.fonttype": "none",
            "svg.hashsalt": "figure",
            "text.color": _INK,
            "text.parse_math": False,
            "xtick.color": _QUIET,
            "xtick.labelsize": 8,
            "ytick.color": _QUIET,
            "ytick.labelsize": 8,
        },
    ]
)


# Rendering


@_styled
def to_svg(figure: Figure) -> str:
    """The figure as an `<svg>` element, to be inlined in HTML or saved; equal figures, equal text."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", metadata=nothing)
    text = buffer.getvalue()
    # Without the prolog, the names of groups, which would repeat from figure to figure, and digits
    # beyond a hundredth of a point.
    text = re.sub(r'<g id="\w+">', "<g>", text[text.index("<svg") :])
    return re.sub(r' d="[^"]+"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), text)


@_styled
def to_png(figure: Figure, dpi: int = 200) -> bytes:
    """The figure as a PNG file of `dpi` pixels per inch."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def to_pixels(figure: Figure, dpi: int = 100) -> np.ndarray:
    """The figure as an image, uint8 (H, W, 3)."""
    return np.array(Image.open(io.BytesIO(to_png(figure, dpi))).convert("RGB"))


def _figure(width: float, height: float) -> Figure:
    """An empty figure, sizes in inches."""
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    return figure


# Cells: everything below is drawn in inches


_BOX = (0.5, 0.44)  # a node
_PORT = 0.16  # between two edges that meet on the same side of a node
_HEAD = 0.10  # length of an arrow head
_LABEL_SIZE = 8.0  # points
_LABEL_HEIGHT = 0.24
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
        first, spacing = (2.4, 2.4) if self.inputs == 1 else (2.0, 1.66)
        self.nodes: list[Point] = [
            (left, self.stack * (1 if node == 0 else -1))
            if node < self.inputs
            else (left + first + spacing * (node - self.inputs), 0.0)
            for node in range(nodes)
        ]
        last = self.nodes[-1][0]
        self.output: Point | None = (last + 1.05, 0.0) if cell.concat else None
        self.width = (self.output or self.nodes[-1])[0] + left
        self.sides = self._choose_sides()
        self.levels = self._stack_levels()
        self.curves = self._route()
        self.top = max([self.stack + _BOX[1] / 2, *(self._height(e) for e in self._arcs(1))]) + 0.26
        lowest = max([self.stack + _BOX[1] / 2, *(self._height(e) for e in self._arcs(-1))])
        self.bus = -lowest - 0.32
        self.bottom = self.bus - 0.2 if cell.concat else -lowest - 0.26

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

        def cost(sides: Sequence[int]) -> tuple[int, int]:
            same = [(a, b) for (a, s), (b, t) in combinations(zip(arcs, sides, strict=True), 2) if s == t]
            return sum(self._cross(a, b) for a, b in same), sum(self._overlap(a, b) for a, b in same)

        best = min(product(*options), key=cost)
        return dict(zip(arcs, best, strict=True))

    def _arcs(self, side: int) -> list[Edge]:
        return [edge for edge, s in self.sides.items() if s == side]

    def _stack_levels(self) -> dict[Edge, int]:
        """Level of every arc, such that arcs with a common stretch have different ones."""
        levels: dict[Edge, int] = {}
        for edge in sorted(self.sides, key=lambda e: self._column(e.target) - self._column(e.source)):
            below = [
                levels[other]
                for other in levels
                if self.sides[other] == self.sides[edge] and self._overlap(edge, other)
            ]
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


@_styled
def draw_cell(genotype: Genotype) -> Figure:
    """The architecture: one panel per kind of cell, every edge with its operation."""
    layouts = [CellLayout(cell) for cell in genotype.cells]
    title = 0.32 if len(layouts) > 1 else 0.0
    heights = [layout.top - layout.bottom + title for layout in layouts]
    width, height = max(layout.width for layout in layouts), sum(heights)
    figure = _figure(width, height)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.set_axis_off()
    y = height
    for layout, panel in zip(layouts, heights, strict=True):
        if title:
            axes.text(0.2, y - 0.2, f"{layout.cell.name} cell", size=11, weight="bold", va="center")
        _draw_panel(axes, layout, y - title - layout.top)
        y -= panel
    return figure


def _draw_panel(axes: Axes, layout: CellLayout, line: float) -> None:
    """Draw a cell whose nodes stand at the height `line`."""
    last = len(layout.nodes) - 1
    if layout.output is not None:
        _draw_concat(axes, layout, line)
    for curve in layout.curves:
        _draw_curve(axes, curve, line)
    for node, (x, y) in enumerate(layout.nodes):
        caption = ""
        if node < layout.inputs:
            caption = "input" if layout.inputs == 1 else ("cₖ₋₂", "cₖ₋₁")[node]
        elif node == last and layout.output is None:
            caption = "output"
        _draw_node(axes, (x, y + line), str(node), caption)
    if layout.output is not None:
        _draw_node(axes, (layout.output[0], layout.output[1] + line), "output", "concat")
    for curve, (x, y) in zip(layout.curves, layout.labels(), strict=True):
        operation = curve.edge.operation
        axes.text(
            x,
            y + line,
            operation,
            size=_LABEL_SIZE,
            family="monospace",
            color=_QUIET if operation == "none" else _INK,
            ha="center",
            va="center_baseline",
            zorder=5,
            bbox={
                "boxstyle": "round,pad=0.3",
                "facecolor": "white",
                "edgecolor": OPERATION_COLOURS[operation],
                "linewidth": 1.1,
            },
        )


def _draw_node(axes: Axes, centre: Point, name: str, caption: str) -> None:
    (x, y), (w, h) = centre, _BOX
    w += 0.14 if name == "output" else 0
    axes.add_patch(
        FancyBboxPatch(
            (x - w / 2, y - h / 2),
            w,
            h,
            boxstyle="round,pad=0,rounding_size=0.1",
            facecolor="#e3e8ef" if caption else "#f3f5f8",
            edgecolor=_INK,
            linewidth=1.1,
            zorder=4,
        )
    )
    inside: dict[str, Any] = {"ha": "center", "va": "center_baseline", "zorder": 5}
    size = 11 if len(name) < 3 else 8.5
    axes.text(x, y + (0.07 if caption else 0), name, size=size, weight="bold", **inside)
    axes.text(x, y - 0.12, caption, size=7.5 if len(caption) > 4 else 9, color=_QUIET, **inside)


def _draw_curve(axes: Axes, curve: _Curve, line: float) -> None:
    colour = OPERATION_COLOURS[curve.edge.operation]
    none = curve.edge.operation == "none"
    points = [(x, y + line) for x, y in curve.controls]
    codes = [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4]
    axes.add_patch(
        PathPatch(
            Path(points, codes),
            facecolor="none",
            edgecolor=colour,
            linewidth=1.4 if none else 2.2,
            linestyle=(0, (4, 2.5)) if none else "solid",
            zorder=2,
        )
    )
    _draw_head(axes, points[3], (curve.tip[0], curve.tip[1] + line), colour)


def _draw_head(axes: Axes, start: Point, tip: Point, colour: str) -> None:
    """A triangle that points from `start` to `tip`."""
    dx, dy = 0.5 * (tip[0] - start[0]), 0.5 * (tip[1] - start[1])
    sides = [(start[0] - dy, start[1] + dx), (start[0] + dy, start[1] - dx)]
    axes.add_patch(Polygon([tip, *sides], closed=True, facecolor=colour, linewidth=0, zorder=3))


def _draw_concat(axes: Axes, layout: CellLayout, line: float) -> None:
    """Thin lines that collect the concatenated nodes and lead to the output."""
    assert layout.output is not None
    end, bus, r = layout.output[0], layout.bus + line, 0.12
    foot = line - _BOX[1] / 2
    lines: list[tuple[list[Point], list[Any]]] = []
    for node in layout.cell.concat:
        x = layout.nodes[node][0]
        lines.append(
            (
                [(x, foot), (x, bus + r), (x, bus), (x + r, bus), (end - r, bus)],
                [Path.MOVETO, Path.LINETO, Path.CURVE3, Path.CURVE3, Path.LINETO],
            )
        )
    lines.append(
        (
            [(end - r, bus), (end, bus), (end, bus + r), (end, foot - _HEAD)],
            [Path.MOVETO, Path.CURVE3, Path.CURVE3, Path.LINETO],
        )
    )
    for points, codes in lines:
        patch = PathPatch(Path(points, codes), facecolor="none", edgecolor="#b4bbc6", linewidth=1.0, zorder=1)
        axes.add_patch(patch)
    _draw_head(axes, (end, foot - _HEAD), (end, foot), "#b4bbc6")


# Probabilities


@_styled
def draw_probabilities(
    probabilities: np.ndarray,
    operations: Sequence[str],
    edge_labels: Sequence[str],
    epochs: Sequence[int],
) -> Figure:
    """The share of every operation over the epochs, one small panel per edge.

    Args:
        probabilities: (T, E, K), sums to 1 over the last dimension.
        operations: names (K,).
        edge_labels: titles of the panels (E,).
        epochs: epoch (T,) of each of the T rows.
    """
    shown = np.unique(np.linspace(0, len(epochs) - 1, min(len(epochs), 64)).round().astype(int))
    shares, x = probabilities[shown], np.asarray(epochs, float)[shown]
    if len(x) == 1:
        shares, x = shares.repeat(2, 0), x[0] + np.array([-0.5, 0.5])
    count = len(edge_labels)
    columns = min(count, max(3, round(math.sqrt(1.6 * count))))
    rows = math.ceil(count / columns)
    panel = 0.95 if columns > 4 else 1.35
    legend_columns = len(operations) if len(operations) <= 5 else math.ceil(len(operations) / 2)
    top = 0.32 + 0.2 * math.ceil(len(operations) / legend_columns)
    bottom, gap = 0.5, 0.42
    height = top + rows * panel + (rows - 1) * gap + bottom
    figure = _figure(_WIDTH, height)
    grid = figure.subplots(
        rows,
        columns,
        sharex=True,
        sharey=True,
        squeeze=False,
        gridspec_kw={
            "left": 0.062,
            "right": 0.985,
            "top": 1 - top / height,
            "bottom": bottom / height,
            "wspace": 0.16,
            "hspace": gap / panel,
        },
    )
    colours = [OPERATION_COLOURS[operation] for operation in operations]
    for i, axes in enumerate(grid.flat):
        if i >= count:
            axes.set_axis_off()
            continue
        axes.stackplot(x, shares[:, i].T, colors=colours, edgecolor="white", linewidth=0.3)
        axes.set(xlim=(x[0], x[-1]), ylim=(0, 1), yticks=(0, 0.5, 1), yticklabels=("0", "0.5", "1"))
        axes.set_title(edge_labels[i], size=9 if columns <= 4 else 8, pad=4)
        axes.grid(False)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=2)
        axes.xaxis.set_major_locator(MaxNLocator(3, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
        if i + columns >= count:
            axes.set_xlabel("epoch", size=8)
            axes.xaxis.set_tick_params(labelbottom=True)
    figure.legend(
        handles=[Rectangle((0, 0), 1, 1, color=colour) for colour in colours],
        labels=list(operations),
        loc="upper center",
        ncols=legend_columns,
        frameon=False,
        prop={"family": "monospace", "size": 8.5},
        handlelength=1,
        handleheight=1,
        columnspacing=1.6,
        borderaxespad=0.1,
    )
    return figure


@_styled
def draw_heatmap(probabilities: np.ndarray, operations: Sequence[str], edge_labels: Sequence[str]) -> Figure:
    """The probability of every operation at one moment, as a table of edges by operations.

    Args:
        probabilities: (E, K), sums to 1 over the last dimension.
        operations: names (K,).
        edge_labels: names of the rows (E,).
    """
    edges, count = probabilities.shape
    left, top, cell_width, cell_height = 1.15, 0.85, 0.78, 0.3
    width, height = left + count * cell_width + 0.65, top + edges * cell_height + 0.1
    figure = _figure(width, height)
    axes = figure.add_axes(
        (left / width, 0.1 / height, count * cell_width / width, edges * cell_height / height)
    )
    colour_map = matplotlib.colormaps["Blues"]
    axes.imshow(probabilities, cmap=colour_map, vmin=0, vmax=1.1, aspect="auto")
    for (row, column), value in np.ndenumerate(probabilities):
        best = value == probabilities[row].max()
        axes.text(
            column,
            row,
            f"{value:.2f}",
            size=8,
            weight="bold" if best else "normal",
            color="white" if value > 0.6 else _INK,
            ha="center",
            va="center",
        )
    axes.set_xticks(
        range(count), operations, rotation=30, ha="left", rotation_mode="anchor", family="monospace"
    )
    axes.set_yticks(range(edges), edge_labels)
    axes.xaxis.tick_top()
    axes.tick_params(length=0, labelcolor=_INK)
    axes.spines[:].set_visible(False)
    axes.grid(False)
    return figure


# Curves over epochs


class _Line(NamedTuple):
    """Values (N,) at epochs (N,), with the label at its end."""

    name: str
    colour: str
    epochs: list[int]
    values: list[float]
    dashed: bool = False


@_styled
def draw_curves(metrics: Metrics) -> Figure:
    """Losses and accuracies (%) over the epochs, of a search or of a final training."""
    figure = _figure(_WIDTH, 3.1)
    grid = figure.subplots(
        1, 2, gridspec_kw={"left": 0.05, "right": 0.855, "top": 0.88, "bottom": 0.15, "wspace": 0.5}
    )
    for axes, suffix, title, digits in zip(
        grid, ("loss", "accuracy"), ("loss", "accuracy, %"), (3, 1), strict=True
    ):
        lines = [_read(metrics, f"{key}_{suffix}", *_SERIES[key]) for key in _SERIES]
        axes.set_title(title)
        _draw_lines(axes, metrics, lines, digits)
    return figure


@_styled
def draw_entropy(metrics: Metrics) -> Figure:
    """Mean entropy (nats) of the operations' probabilities over the epochs of a search."""
    figure = _figure(_WIDTH / 2, 2.6)
    axes = figure.add_axes((0.1, 0.18, 0.68, 0.68))
    axes.set_title("mean entropy, nats")
    lines = [_read(metrics, "entropy", "entropy", "#7a4bb5")]
    if metrics and metrics[-1].get("probabilities"):
        choices = len(metrics[-1]["probabilities"][0])
        epochs = [line["epoch"] for line in metrics]
        uniform = [math.log(choices)] * len(epochs)
        lines.append(_Line("uniform", "#aab2bd", epochs, uniform, dashed=True))
    most = max((value for line in lines for value in line.values), default=1.0)
    _draw_lines(axes, metrics, lines, 2, limits=(0, 1.08 * most or None))
    return figure


@_styled
def draw_skips(metrics: Metrics) -> Figure:
    """Edges of the derived cell that hold `skip_connect` and `none`, per kind of cell."""
    figure = _figure(_WIDTH / 2, 2.6)
    kinds = list(metrics[-1]["skip_connects"]) if metrics else []
    grid = figure.subplots(
        max(1, len(kinds)),
        1,
        sharex=True,
        squeeze=False,
        gridspec_kw={"left": 0.08, "right": 0.7, "top": 0.86, "bottom": 0.18, "hspace": 0.5},
    )
    most = max((n for m in metrics for f in ("skip_connects", "nones") for n in m[f].values()), default=0)
    for axes, kind in zip(grid.flat, kinds, strict=False):
        lines = []
        for field, operation in (("nones", "none"), ("skip_connects", "skip_connect")):
            epochs, counts = [m["epoch"] for m in metrics], [float(m[field][kind]) for m in metrics]
            lines.append(_Line(operation, OPERATION_COLOURS[operation], epochs, counts, operation == "none"))
        axes.set_title("edges of the derived cell" if len(kinds) == 1 else f"{kind} cell")
        _draw_lines(axes, metrics, lines, 0, limits=(-0.25, max(2, most) + 0.25), steps=True)
        if axes is not grid.flat[-1]:
            axes.set_xlabel("")
    return figure


def _read(metrics: Metrics, field: str, name: str, colour: str) -> _Line:
    """The finite values of a field."""
    known = [(m["epoch"], float(m[field])) for m in metrics if m.get(field) is not None]
    finite = [(epoch, value) for epoch, value in known if math.isfinite(value)]
    return _Line(name, colour, [epoch for epoch, _ in finite], [value for _, value in finite])


def _draw_lines(
    axes: Axes,
    metrics: Metrics,
    lines: Sequence[_Line],
    digits: int,
    limits: tuple[float | None, float | None] = (None, None),
    steps: bool = False,
) -> None:
    """Draw lines over epochs, each with its name and last value (`digits` decimals) at its right.

    Args:
        limits: of the vertical axis; None: where the values end.
        steps: draw counts, which jump from value to value.
    """
    lines = [line for line in lines if line.epochs]
    for line in lines:
        axes.plot(
            line.epochs,
            line.values,
            color=line.colour,
            linestyle=(0, (4, 2.5)) if line.dashed else "solid",
            drawstyle="steps-mid" if steps else "default",
            marker="o" if len(line.epochs) == 1 else None,
            markersize=4,
        )
    last = max((m["epoch"] for m in metrics), default=1)
    axes.set_xlim((1, last) if last > 1 else (0.5, 1.5))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=steps, steps=[1, 2, 5, 10]))
    axes.set_xlabel("epoch")
    axes.tick_params(length=3)
    axes.set_ylim(*limits)
    _label_ends(axes, lines, digits)


def _label_ends(axes: Axes, lines: Sequence[_Line], digits: int) -> None:
    """Write the name of every line beside its end, apart from each other."""
    figure = axes.figure
    assert figure is not None
    inches = axes.get_position().height * figure.get_figheight()  # type: ignore[union-attr]
    gap = 0.17 / inches
    low, high = axes.get_ylim()
    ordered = sorted(lines, key=lambda line: line.values[-1])
    heights = spread([(line.values[-1] - low) / (high - low) for line in ordered], gap)
    for line, height in zip(ordered, heights, strict=True):
        axes.annotate(
            f"{line.name} {line.values[-1]:.{digits}f}",
            (1, height),
            xycoords="axes fraction",
            xytext=(6, 0),
            textcoords="offset points",
            color=_readable(line.colour),
            size=8.5,
            va="center_baseline",
            annotation_clip=False,
        )


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


def _readable(colour: str) -> str:
    """The colour, darkened where text in it would be too faint on white."""
    r, g, b = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    factor = min(1.0, 120 / (0.3 * r + 0.59 * g + 0.11 * b))
    return "#" + "".join(f"{round(c * factor):02x}" for c in (r, g, b))


@_styled
def draw_baseline(accuracy: float, random_accuracies: Sequence[float]) -> Figure:
    """Test accuracy (%) of an architecture beside those of random ones, trained alike."""
    values = np.asarray(random_accuracies, float)
    mean, deviation = values.mean(), values.std(ddof=1) if len(values) > 1 else 0.0
    figure = _figure(_WIDTH, 1.5)
    axes = figure.add_axes((0.14, 0.36, 0.83, 0.5))
    axes.axvspan(mean - deviation, mean + deviation, 0, 0.55, color="#edf0f4")
    axes.plot([mean, mean], [-0.55, 0.55], color="#9aa3b0", linewidth=1.2)
    axes.plot(values, np.zeros(len(values)), "o", color="#66707d", alpha=0.6, markersize=7, markeredgewidth=0)
    axes.plot([accuracy], [1], "D", color="#c2255c", markersize=8)
    axes.set(ylim=(-0.7, 1.6), xlabel="test accuracy, %")
    axes.margins(x=0.06)
    axes.set_yticks([0, 1], [f"{len(values)} random", "this cell"], size=9, color=_INK)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="y")
    return figure
