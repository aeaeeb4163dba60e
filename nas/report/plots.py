"""Figures of a run: the probabilities of the operations, and the curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from nas.report.figures import INK, OPERATION_COLOURS, WIDTH, new_figure, styled

Metrics = Sequence[Mapping[str, Any]]

_SERIES = {
    "train": ("train", "#8792a1"),
    "valid": ("validation", "#7a4bb5"),
    "derived": ("derived cell", "#c2255c"),
    "test": ("test", "#c2255c"),
}


# Probabilities


@styled
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
    figure = new_figure(WIDTH, height)
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


@styled
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
    figure = new_figure(width, height)
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
            color="white" if value > 0.6 else INK,
            ha="center",
            va="center",
        )
    axes.set_xticks(
        range(count), operations, rotation=30, ha="left", rotation_mode="anchor", family="monospace"
    )
    axes.set_yticks(range(edges), edge_labels)
    axes.xaxis.tick_top()
    axes.tick_params(length=0, labelcolor=INK)
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


@styled
def draw_curves(metrics: Metrics) -> Figure:
    """Losses and accuracies (%) over the epochs, of a search or of a final training."""
    figure = new_figure(WIDTH, 3.1)
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


@styled
def draw_entropy(metrics: Metrics) -> Figure:
    """Mean entropy (nats) of the operations' probabilities over the epochs of a search."""
    figure = new_figure(WIDTH / 2, 2.6)
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


@styled
def draw_skips(metrics: Metrics) -> Figure:
    """Edges of the derived cell that hold `skip_connect` and `none`, per kind of cell."""
    figure = new_figure(WIDTH / 2, 2.6)
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
            color=readable(line.colour),
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


def readable(colour: str) -> str:
    """The colour, darkened where text in it would be too faint on white."""
    r, g, b = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    factor = min(1.0, 120 / (0.3 * r + 0.59 * g + 0.11 * b))
    return "#" + "".join(f"{round(c * factor):02x}" for c in (r, g, b))


@styled
def draw_baseline(accuracy: float, random_accuracies: Sequence[float]) -> Figure:
    """Test accuracy (%) of an architecture beside those of random ones, trained alike."""
    values = np.asarray(random_accuracies, float)
    mean, deviation = values.mean(), values.std(ddof=1) if len(values) > 1 else 0.0
    figure = new_figure(WIDTH, 1.5)
    axes = figure.add_axes((0.14, 0.36, 0.83, 0.5))
    axes.axvspan(mean - deviation, mean + deviation, 0, 0.55, color="#edf0f4")
    axes.plot([mean, mean], [-0.55, 0.55], color="#9aa3b0", linewidth=1.2)
    axes.plot(values, np.zeros(len(values)), "o", color="#66707d", alpha=0.6, markersize=7, markeredgewidth=0)
    axes.plot([accuracy], [1], "D", color="#c2255c", markersize=8)
    axes.set(ylim=(-0.7, 1.6), xlabel="test accuracy, %")
    axes.margins(x=0.06)
    axes.set_yticks([0, 1], [f"{len(values)} random", "this cell"], size=9, color=INK)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="y")
    return figure
