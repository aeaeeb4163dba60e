"""Figures of a run: the probabilities of the operations, and the curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from nas.report.figures import WIDTH, bare, heat_map, new_figure, new_grid, styled
from nas.report.labels import name_ends
from nas.report.palette import INK, QUIET, name_colour, operation_colour
from search_spaces import SearchSpace

Metrics = Sequence[Mapping[str, Any]]

_SERIES = {
    "train": ("train", "#8792a1"),
    "valid": ("validation", "#7a4bb5"),
    "derived": ("derived", "#c2255c"),
    "test": ("test", "#c2255c"),
}
_DASHED = (0, (4, 2.5))


# Probabilities


def shares(space: SearchSpace, probabilities: Sequence[Sequence[Sequence[float]]]) -> np.ndarray:
    """Probabilities by operation: (T, E, N), N = len(space.operations), NaN where it is no candidate.

    Args:
        probabilities: T moments of E rows; a row has an entry for each candidate of its slot.
    """
    table = np.full((len(probabilities), space.num_slots, len(space.operations)), np.nan)
    for e, slot in enumerate(space.slots):
        columns = [space.operations.index(name) for name in slot.candidates]
        table[:, e, columns] = [moment[e][: len(columns)] for moment in probabilities]
    return table


@styled
def plot_probabilities(
    space: SearchSpace, probabilities: Sequence[Sequence[Sequence[float]]], epochs: Sequence[int]
) -> Figure:
    """The share of every operation over the epochs, one small panel per slot; a line for each where they have
    weights that do not exclude each other.

    Args:
        probabilities: of T moments; see `shares`.
        epochs: epoch (T,) of each moment.
    """
    shown = np.unique(np.linspace(0, len(epochs) - 1, min(len(epochs), 64)).round().astype(int))
    table, x = shares(space, [probabilities[i] for i in shown]), np.asarray(epochs, float)[shown]
    if len(x) == 1:
        table, x = table.repeat(2, 0), x[0] + np.array([-0.5, 0.5])
    exclusive = np.allclose(np.nansum(table, -1), 1, atol=1e-3)  # else they are no shares of a whole
    labels = space.labels
    columns = min(len(labels), 7, max(3, round(math.sqrt(1.6 * len(labels)))))
    small = columns > 4
    legend_columns = _legend_columns(space.operations)
    figure, grid = new_grid(
        math.ceil(len(labels) / columns), columns, 0.95 if small else 1.35, sharex=True, sharey=True,
        left=0.56, right=0.14, bottom=0.5, between=(0.2, 0.42),
        top=0.32 + 0.2 * math.ceil(len(space.operations) / legend_columns),
    )  # fmt: skip
    for i, axes in enumerate(grid.flat):
        if i >= len(labels):
            axes.set_axis_off()
            continue
        there = np.flatnonzero(~np.isnan(table[0, i]))
        colours = [operation_colour(space.operations[n]) for n in there]
        if exclusive:
            axes.stackplot(x, table[:, i, there].T, colors=colours, edgecolor="white", linewidth=0.3)
        else:
            for n, colour in zip(there, colours, strict=True):
                axes.plot(x, table[:, i, n], color=colour, linewidth=1.2)
        axes.set(xlim=(x[0], x[-1]), ylim=(0, 1), yticks=(0, 0.5, 1), yticklabels=("0", "0.5", "1"))
        axes.set_title(labels[i], size=8 if small else 9, pad=4)
        bare(axes)
        axes.tick_params(length=2)
        axes.xaxis.set_major_locator(MaxNLocator(3, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
        if i + columns >= len(labels):
            axes.set_xlabel("epoch", size=8)
            axes.xaxis.set_tick_params(labelbottom=True)
    figure.legend(
        [Rectangle((0, 0), 1, 1, color=operation_colour(name)) for name in space.operations],
        space.operations, loc="upper center", ncols=legend_columns, frameon=False, handlelength=1,
        prop={"family": "monospace", "size": 8.5}, handleheight=1, columnspacing=1.6, borderaxespad=0.1,
    )  # fmt: skip
    return figure


def _legend_columns(names: Sequence[str]) -> int:
    """How many names of operations stand beside each other, in rows of nearly equal length."""
    most = max(1, int((WIDTH * 72 - 10) / (8.5 * (0.602 * max(map(len, names)) + 3.2))))
    return math.ceil(len(names) / math.ceil(len(names) / most))


@styled
def plot_heat_map(space: SearchSpace, probabilities: Sequence[Sequence[float]]) -> Figure:
    """The probability of every operation at one moment, as a table of slots by operations.

    Args:
        probabilities: E rows; see `shares`.
    """
    (table,) = shares(space, [probabilities])
    left, top = 0.25 + 0.075 * max(map(len, space.labels)), 0.3 + 0.05 * max(map(len, space.operations))
    width = left + 0.78 * table.shape[1] + 0.65
    figure, grid = new_grid(1, 1, 0.3 * len(table), left=left, right=0.65, top=top, bottom=0.1, width=width)
    blues = matplotlib.colormaps["Blues"]
    rows, columns = (dict.fromkeys(names, INK) for names in (space.labels, space.operations))
    best = table == np.nanmax(table, 1, keepdims=True)
    heat_map(grid[0, 0], table, rows, columns, lambda share: blues(share / 1.1), bold=best)
    return figure


# Curves over epochs


class Line(NamedTuple):
    """Values (N,) at epochs (N,), with the label at its end."""

    name: str
    colour: str
    epochs: list[int]
    values: list[float]
    dashed: bool = False


@styled
def plot_curves(metrics: Metrics) -> Figure:
    """Losses and accuracies (%) over the epochs, of a search or of a final training."""
    figure, grid = new_grid(1, 2, 2.3, left=0.45, right=1.3, top=0.35, bottom=0.45, between=(1.45, 0))
    measures = (("loss", "loss", 3), ("accuracy", "accuracy, %", 1))
    for axes, (suffix, title, digits) in zip(grid[0], measures, strict=True):
        lines = [_read(metrics, f"{key}_{suffix}", *_SERIES[key]) for key in _SERIES]
        axes.set_title(title)
        plot_lines(axes, metrics, lines, digits)
    return figure


@styled
def plot_entropy(metrics: Metrics) -> Figure:
    """Mean entropy (nats) of the operations' probabilities over the epochs of a search."""
    figure, grid = new_grid(1, 1, 1.77, left=0.45, right=1.0, top=0.36, bottom=0.47, width=WIDTH / 2)
    grid[0, 0].set_title("mean entropy, nats")
    lines = [_read(metrics, "entropy", "entropy", "#7a4bb5")]
    if metrics and metrics[-1].get("probabilities"):
        epochs, rows = [line["epoch"] for line in metrics], metrics[-1]["probabilities"]
        exclusive = np.allclose([sum(row) for row in rows], 1, atol=1e-3)  # else each is by itself
        uniform = float(np.mean([math.log(len(row) if exclusive else 2) for row in rows]))
        lines.append(Line("uniform", "#aab2bd", epochs, [uniform] * len(epochs), dashed=True))
    most = max((value for line in lines for value in line.values), default=1.0)
    plot_lines(grid[0, 0], metrics, lines, 2, limits=(0, 1.08 * most or None))
    return figure


@styled
def plot_terms(metrics: Metrics) -> Figure:
    """Values of the terms of the objective, at the logits and their most probable draw, over the epochs."""
    figure, grid = new_grid(1, 1, 1.9, left=0.6, right=2.2, top=0.36, bottom=0.47)
    grid[0, 0].set_title("terms of the objective")
    lines = []
    for name in metrics[-1]["terms"]:
        rows = [{"epoch": line["epoch"], "value": line.get("terms", {}).get(name)} for line in metrics]
        lines.append(_read(rows, "value", name, name_colour(name)))
    plot_lines(grid[0, 0], metrics, lines, 3)
    return figure


@styled
def plot_watched(metrics: Metrics, field: str, title: str) -> Figure:
    """A number that a search measures of itself, now and then, over the epochs."""
    figure, grid = new_grid(1, 1, 1.77, left=0.55, right=1.0, top=0.36, bottom=0.47, width=WIDTH / 2)
    grid[0, 0].set_title(title)
    plot_lines(grid[0, 0], metrics, [_read(metrics, field, "", "#7a4bb5")], 3)
    return figure


@styled
def plot_skips(metrics: Metrics) -> Figure:
    """Edges of the derived cell that hold `skip_connect` and `none`, per kind of cell."""
    kinds = list(metrics[-1]["skip_connects"]) if metrics else []
    rows = max(1, len(kinds))
    figure, grid = new_grid(
        rows, 1, 1.77 if rows == 1 else 0.7, sharex=True, left=0.36, right=1.35, top=0.36, bottom=0.47,
        between=(0, 0.37), width=WIDTH / 2,
    )  # fmt: skip
    fields = [("nones", "none"), ("skip_connects", "skip_connect")]
    fields = [(field, name) for field, name in fields if metrics and metrics[-1].get(field)]
    most = max((n for m in metrics for field, _ in fields for n in m[field].values()), default=0)
    for axes, kind in zip(grid.flat, kinds, strict=False):
        epochs = [m["epoch"] for m in metrics]
        lines = [
            Line(name, operation_colour(name), epochs, [float(m[f][kind]) for m in metrics], name == "none")
            for f, name in fields
        ]
        axes.set_title("edges of the derived cell" if len(kinds) == 1 else f"{kind} cell")
        plot_lines(axes, metrics, lines, 0, limits=(-0.25, max(2, most) + 0.25), steps=True)
        if axes is not grid.flat[-1]:
            axes.set_xlabel("")
    return figure


@styled
def plot_depth(metrics: Metrics, blocks: Mapping[str, int]) -> Figure:
    """Blocks of every stage of a chain that are more than the identity, over the epochs.

    Args:
        blocks: of every stage in all.
    """
    figure, grid = new_grid(1, 1, 1.77, left=0.36, right=1.35, top=0.36, bottom=0.47, width=WIDTH / 2)
    epochs = [m["epoch"] for m in metrics]
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.85, len(blocks)))
    lines = [
        Line(stage, to_hex(colour), epochs, [float(count - m["skip_connects"][stage]) for m in metrics])
        for (stage, count), colour in zip(blocks.items(), colours, strict=True)
    ]
    grid[0, 0].set_title("depth: blocks other than the identity")
    plot_lines(grid[0, 0], metrics, lines, 0, limits=(-0.25, max(blocks.values()) + 0.25), steps=True)
    return figure


def _read(metrics: Metrics, field: str, name: str, colour: str) -> Line:
    """The finite values of a field."""
    known = [(m["epoch"], float(m[field])) for m in metrics if m.get(field) is not None]
    finite = [(epoch, value) for epoch, value in known if math.isfinite(value)]
    return Line(name, colour, [epoch for epoch, _ in finite], [value for _, value in finite])


def plot_lines(
    axes: Axes,
    metrics: Metrics,
    lines: Sequence[Line],
    digits: int,
    limits: tuple[float | None, float | None] = (None, None),
    steps: bool = False,
) -> None:
    """Plot lines over epochs, each with its name and last value (`digits` decimals) at its right.

    Args:
        limits: of the vertical axis; None: where the values end.
        steps: the values are counts, which jump from value to value.
    """
    lines = [line for line in lines if line.epochs]
    for line in lines:
        axes.plot(
            line.epochs, line.values, color=line.colour, linestyle=_DASHED if line.dashed else "solid",
            drawstyle="steps-mid" if steps else "default", marker="o" if len(line.epochs) == 1 else None,
            markersize=4,
        )  # fmt: skip
    last = max((m["epoch"] for m in metrics), default=1)
    axes.set_xlim((1, last) if last > 1 else (0.5, 1.5))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=steps, steps=[1, 2, 5, 10]))
    axes.set_xlabel("epoch")
    axes.tick_params(length=3)
    axes.set_ylim(*limits)
    ends = [(line.values[-1], f"{line.name} {line.values[-1]:.{digits}f}", line.colour) for line in lines]
    name_ends(axes, ends, 8.5)


@styled
def plot_baseline(accuracy: float, random_accuracies: Sequence[float], largest: float) -> Figure:
    """Test accuracy (%) of an architecture beside those of random ones and of the largest, trained alike."""
    values = np.asarray(random_accuracies, float)
    mean, deviation = values.mean(), values.std(ddof=1) if len(values) > 1 else 0.0
    figure = new_figure(WIDTH, 1.7)
    axes = figure.add_axes((0.14, 0.32, 0.83, 0.6))
    rows = [f"{len(values)} random", "largest cell", "this cell"]
    axes.axvspan(mean - deviation, mean + deviation, 0, 1.25 / (len(rows) + 0.3), color="#edf0f4")
    axes.plot([mean, mean], [-0.55, 0.55], color="#9aa3b0", linewidth=1.2)
    axes.plot(values, np.zeros(len(values)), "o", color=QUIET, alpha=0.6, markersize=7, markeredgewidth=0)
    axes.plot([largest], [1], "s", color=QUIET, markersize=7)
    axes.plot([accuracy], [2], "D", color=_SERIES["test"][1], markersize=8)
    axes.set(ylim=(-0.7, len(rows) - 0.4), xlabel="test accuracy, %")
    axes.margins(x=0.06)
    axes.set_yticks(range(len(rows)), rows, size=9, color=INK)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="y")
    return figure
