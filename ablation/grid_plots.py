"""Figures of a grid of searches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ablation import baselines
from ablation.comparison import Estimate, Paired, estimate
from ablation.gradient_plots import label, plot_plane, plot_point
from ablation.zero_cost import NO_SCORES, CellScores
from nas.report.figures import WIDTH, heat_map, new_figure, new_grid, styled
from nas.report.labels import name_ends, name_points
from nas.report.palette import FAINT, INK, QUIET, estimator_colour, readable
from nas.tables import Truth

Records = Sequence[Mapping[str, Any]]

# Methods that share an estimator share its colour, and differ by these.
_MARKERS = "oDs^vP"
_MARKS = ((0, (3, 2)), (0, (1, 1.5)))  # lines of what is found without a search, and of the largest cell
_LINES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (5, 1.5, 1, 1.5)))


def methods(records: Records) -> list[str]:
    """The methods, in order of appearance."""
    return list(dict.fromkeys(record["method"] for record in records))


def values(records: Records, method: str, name: str) -> list[float]:
    """The figures of a method's runs, in the order of the seeds."""
    return [record[name] for record in records if record["method"] == method]


def style(method: str, everyone: Sequence[str]) -> tuple[str, str, Any]:
    """Colour, marker and line of a method; the last two tell it from others of its estimator."""
    family = [m for m in everyone if m.partition(",")[0] == method.partition(",")[0]]
    i = family.index(method)
    return estimator_colour(method), _MARKERS[i % len(_MARKERS)], _LINES[i % len(_LINES)]


def name_width(names: Sequence[str], size: float) -> float:
    """Inches that the longest of `names` takes in letters of `size` points, with a little room."""
    return 0.2 + 0.0088 * size * max(map(len, names))


def by_epoch(
    rows: Records, chosen: Callable[[Mapping[str, Any]], bool], name: str
) -> tuple[list[int], np.ndarray]:
    """Epochs (T,), and mean, lower and upper end of its interval over runs (T, 3) of a figure."""
    found: dict[int, list[float]] = {}
    for row in rows:
        if chosen(row):
            found.setdefault(row["epoch"], []).append(row[name])
    means = [estimate(found[epoch]) for epoch in sorted(found)]
    return sorted(found), np.array([(m.mean, m.low, m.high) for m in means])


# The answer


@styled
def plot_answer(records: Records, known: Truth | None, scores: CellScores = NO_SCORES) -> Figure:
    """Accuracy of the cells that were found: a dot per search, mean and interval per method.

    Above them, where there is a table, how the cells of the space are distributed, its optimum, and what
    would be found without a search.
    """
    names = sorted(methods(records), key=lambda m: -np.mean(values(records, m, "accuracy")))
    top, row, bottom, left, right = 0.1, 0.42, 0.5, max(1.6, name_width(names, 9)), 1.1
    above = 0 if known is None else 1.25
    height = top + above + row * len(names) + bottom
    figure = new_figure(WIDTH, height)
    box = (left / WIDTH, bottom / height, (WIDTH - left - right) / WIDTH, row * len(names) / height)
    axes = figure.add_axes(box)
    found = np.array([record["accuracy"] for record in records])
    low, high = _limits(found, known)
    axes.set(xlim=(low, high), ylim=(len(names) - 0.45, -0.55), xlabel="test accuracy of the found cell (%)")
    for i, name in enumerate(names):
        _plot_row(axes, i, name, values(records, name, "accuracy"), low, names)
    axes.set_yticks(range(len(names)), names)
    for tick, name in zip(axes.get_yticklabels(), names, strict=True):
        tick.set(color=readable(estimator_colour(name)), size=9)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.tick_params(length=0)
    if known is not None:
        histogram = figure.add_axes((box[0], box[1] + box[3], box[2], above / height), sharex=axes)
        _plot_space(histogram, axes, known, records, low, high, scores)
    return figure


def _limits(found: np.ndarray, known: Truth | None) -> tuple[float, float]:
    """Ends of the axis: the better cells of the space and most of what was found."""
    lowest, highest = float(np.quantile(found, 0.1)), float(found.max())
    if known is not None:
        lowest = max(
            min(lowest, float(np.quantile(known.accuracies, 0.5))), np.quantile(known.accuracies, 0.2)
        )
        highest = max(highest, known.optimum[1].accuracy)
    margin = 0.05 * max(highest - lowest, 0.1)
    return lowest - margin, highest + margin


def _plot_row(
    axes: Axes, i: int, name: str, accuracies: Sequence[float], low: float, everyone: Sequence[str]
) -> None:
    """One method of `plot_answer`."""
    shade, marker, _ = style(name, everyone)
    mean = estimate(accuracies)
    inside = [a for a in accuracies if a >= low]
    offsets = np.linspace(-0.13, 0.13, len(accuracies)) if len(accuracies) > 1 else np.zeros(1)
    axes.scatter(
        inside, i + offsets[: len(inside)], s=20, color=shade, alpha=0.45, linewidth=0, marker=marker
    )
    axes.plot([max(mean.low, low), max(mean.high, low)], [i, i], color=shade, linewidth=2.4, zorder=3)
    if mean.mean >= low:
        axes.plot([mean.mean], [i], marker, color=shade, markersize=8.5, markeredgecolor="white", zorder=4)
    outside = sorted(a for a in accuracies if a < low)
    if outside:
        text = "◂ " + ", ".join(f"{a:.1f}" for a in outside)
        axes.annotate(
            text, (0, i), xycoords=("axes fraction", "data"), xytext=(3, 9), textcoords="offset points",
            size=7.5, color=readable(shade), va="center",
        )  # fmt: skip
    axes.annotate(
        str(mean), (1, i), xycoords=("axes fraction", "data"), xytext=(8, 0), textcoords="offset points",
        size=8.5, color=readable(shade), va="center", annotation_clip=False,
    )  # fmt: skip


def _plot_space(
    axes: Axes, rows: Axes, known: Truth, records: Records, low: float, high: float, scores: CellScores
) -> None:
    """The distribution of the cells of the space, its optimum and what is found without a search."""
    shown = known.accuracies[known.accuracies >= low]
    axes.hist(shown, bins=np.linspace(low, high, 70).tolist(), color=estimator_colour("random"), linewidth=0)
    axes.set_axis_off()
    axes.set_ylim(0, axes.get_ylim()[1] * 1.75)
    share = 100 * len(shown) / len(known.accuracies)
    axes.annotate(
        f"all {len(known.accuracies):,} cells of the space\n({share:.0f} % of them in sight)",
        (0, 0.98), xycoords="axes fraction", va="top", size=8, color=QUIET,
    )  # fmt: skip
    found = baselines.yardsticks(known, baselines.median_cost(records), scores)
    marks: list[tuple[float, str, str, Any, float]] = [
        (known.optimum[1].accuracy, "optimum ", INK, "-", 0.98)
    ]
    for i, (name, accuracy) in enumerate(sorted(found, key=lambda mark: -mark[1])):
        marks.append((accuracy, f"{name} ", QUIET, _MARKS[name == baselines.LARGEST], 0.76 - 0.2 * i))
    for x, text, shade, line, height in marks:
        rows.axvline(x, color=shade, linewidth=1, linestyle=line, zorder=1)
        axes.axvline(x, ymax=height, color=shade, linewidth=1, linestyle=line)
        axes.annotate(
            f"{text}{x:.2f} ", (x, height), xycoords=("data", "axes fraction"), ha="right", va="top", size=8,
            color=shade, bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.5},
        )  # fmt: skip


# Over time


@styled
def plot_anytime(curves: Records, known: Truth, evaluations: int, scores: CellScores = NO_SCORES) -> Figure:
    """True accuracy of the cell that would have been derived after every epoch, and the entropy.

    What is found without a search is a line where it is not far below the searches.
    """
    names, without = methods(curves), baselines.yardsticks(known, evaluations, scores)
    right = name_width([*names, *(name for name, _ in without)], 8)
    figure, grid = new_grid(
        2, 1, 2.7, sharex=True, left=0.54, right=right, top=0.33, bottom=0.46, between=(0, 0.43)
    )
    upper, lower = grid[:, 0]
    ends: list[list[tuple[float, str, str]]] = []
    for axes, what in ((upper, "accuracy"), (lower, "entropy")):
        ends.append([])
        for name in names:
            shade, _, line = style(name, names)
            x, y = by_epoch(curves, lambda row, name=name: row["method"] == name, what)  # type: ignore[misc]
            axes.fill_between(x, y[:, 1], y[:, 2], color=shade, alpha=0.08, linewidth=0)
            axes.plot(x, y[:, 0], color=shade, linestyle=line)
            ends[-1].append((float(y[-1, 0]), name, shade))
        axes.tick_params(length=3)
    first, last = (end(row["epoch"] for row in curves) for end in (min, max))
    lower.set(xlabel="epoch", xlim=(first, last) if first < last else (first - 0.5, last + 0.5))
    lower.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    every = np.array([row["accuracy"] for row in curves])
    optimum, largest = known.optimum[1].accuracy, dict(without)[baselines.LARGEST]
    reach = max(optimum - min(float(np.quantile(every, 0.15)), largest), 0.1)
    without = [(name, accuracy) for name, accuracy in without if accuracy > optimum - 2 * reach]
    low = optimum - max(reach, *(1.3 * (optimum - accuracy) for _, accuracy in without))
    upper.set_ylim(low - 0.03 * (optimum - low), optimum + 0.06 * (optimum - low))
    upper.set_title("true accuracy of the derived cell (%)")
    lower.set_title("entropy of an edge (nats)")
    undecided = [row["entropy"] for row in curves]  # the intervals of two searches would fill the axes
    lower.set_ylim(min(undecided) - 0.05, max(undecided) + 0.05)
    ends[0] += [(optimum, "optimum", INK), *((accuracy, name, QUIET) for name, accuracy in without)]
    upper.axhline(optimum, color=INK, linewidth=1)
    for name, accuracy in without:
        upper.axhline(accuracy, color=QUIET, linewidth=1, linestyle=_MARKS[name == baselines.LARGEST])
    name_ends(upper, ends[0])
    name_ends(lower, ends[1])
    return figure


# The architecture gradient


def mean_bias(rows: Records) -> Estimate:
    """The bias of an estimator over searches, the root of the mean square: that of a single search may be
    below 0 by chance, and the mean of the roots of the others is too large. Older runs have roots only."""
    if not all("bias2" in row for row in rows):
        return estimate([row["bias"] for row in rows])
    square = estimate([row["bias2"] for row in rows])
    mean, low, high = np.sqrt(np.maximum((square.mean, *square[2:4]), 0)).tolist()
    return square._replace(mean=mean, low=low, high=high)


@styled
def plot_gradient_plane(gradients: Records) -> Figure:
    """Bias against standard deviation of every estimator, a panel for each moment of the searches."""
    moments = sorted({row["epoch"] for row in gradients})
    columns = min(len(moments), 2)
    figure, grid = new_grid(
        -(-len(moments) // columns), columns, 3.3, sharex=True, sharey=True, left=0.58, right=0.13, top=0.35,
        bottom=0.5, between=(0.26, 0.5),
    )  # fmt: skip
    names = list(dict.fromkeys(row["estimator"] for row in gradients))
    stds, biases = dict[tuple[int, str], Estimate](), dict[tuple[int, str], Estimate]()
    for key in dict.fromkeys((row["epoch"], row["estimator"]) for row in gradients):
        rows = [row for row in gradients if (row["epoch"], row["estimator"]) == key]
        stds[key], biases[key] = estimate([row["std"] for row in rows]), mean_bias(rows)
    right = 1.35 * max(1.0, *(mean.mean for mean in stds.values()))
    upper = 1.12 * max(1.0, *(mean.mean for mean in biases.values()))
    ticks = [tick for tick in (0, 0.5, 1, 2, 5, 10, 20, 50, 100) if tick < right]
    for axes, epoch in zip(grid.flat, moments, strict=False):
        axes.set_xscale("symlog", linthresh=0.5, linscale=0.5)
        labels = plot_plane(axes, right, upper, ticks[1:])
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.set_xlim(-0.06, right)
        axes.axhline(0, color=INK, linewidth=0.8, zorder=1)
        for name in (name for name in names if (epoch, name) in stds):
            std, bias = stds[epoch, name], biases[epoch, name]
            intervals = (std.mean, std.low, std.high), (bias.mean, bias.low, bias.high)
            labels.append(plot_point(axes, name, label(name), *intervals))
        name_points(axes, labels, [(x, 0) for x in np.geomspace(0.02, right, 60)])
        norm = np.mean([row["norm"] for row in gradients if row["epoch"] == epoch])
        axes.set_title(f"after epoch {epoch}: norm of the true gradient {norm:.3f}", size=9)
    for axes in grid[-1]:
        axes.set_xlabel("standard deviation of an estimate")
    for axes in grid[:, 0]:
        axes.set_ylabel("bias")
    for axes in grid.flat[len(moments) :]:
        axes.set_axis_off()
    return figure


def averaged_cosine(row: Mapping[str, Any], draws: np.ndarray) -> np.ndarray:
    """Cosine with the exact gradient of the mean of N independent estimates, for N in `draws` (M,).

    In units of the exact gradient's norm the mean has length l, direction cosine c and standard deviation
    s / sqrt(N) around it, so that its component along the exact gradient is l c and its root mean squared
    length sqrt(l^2 + s^2 / N); their ratio is returned.
    """
    length = np.sqrt(row["length"] ** 2 + row["std"] ** 2 / draws)
    return row["cosine"] * row["length"] / np.maximum(length, 1e-12)  # type: ignore[no-any-return]


@styled
def plot_budget(gradients: Records) -> Figure:
    """Cosine of the mean of N estimates with the exact gradient over N, at the first and last moment."""
    moments = sorted({row["epoch"] for row in gradients})
    moments = [moments[0], moments[-1]] if len(moments) > 1 else moments
    names = list(dict.fromkeys(row["estimator"] for row in gradients))
    right = name_width([label(name) for name in names], 8)
    figure, (grid,) = new_grid(
        1, len(moments), 3.3, left=0.54, right=right, top=0.38, bottom=0.5, between=(right + 0.3, 0)
    )
    draws = np.geomspace(1, 1000, 61)
    for axes, epoch in zip(grid, moments, strict=True):
        ends = []
        lowest = min(row["cosine"] for row in gradients if row["epoch"] == epoch)
        axes.set_ylim(min(lowest, 0) - 0.05, 1.05)
        for name in names:
            rows = [row for row in gradients if row["epoch"] == epoch and row["estimator"] == name]
            if not rows:
                continue
            lines = np.array([averaged_cosine(row, draws) for row in rows])
            band = np.array([estimate(column)[2:4] for column in lines.T])
            axes.fill_between(
                draws, band[:, 0], band[:, 1], color=estimator_colour(name), alpha=0.1, linewidth=0
            )
            axes.plot(draws, lines.mean(0), color=estimator_colour(name))
            ends.append((float(lines[:, -1].mean()), label(name), estimator_colour(name)))
        axes.set_xscale("log")
        axes.set_xticks([1, 10, 100, 1000], ["1", "10", "100", "1000"])
        axes.minorticks_off()
        axes.set(xlim=(1, 1000), xlabel="estimates averaged")
        axes.tick_params(length=3)
        axes.set_title(f"cosine with the true gradient, after epoch {epoch}")
        axes.axhline(0, color=FAINT, linewidth=1)
        name_ends(axes, ends)
    return figure


# Pairs


@styled
def plot_pairs(names: Sequence[str], pairs: Mapping[tuple[str, str], Paired]) -> Figure:
    """Mean difference of accuracy, row minus column, on equal seeds; bold where p is at most 0.05."""
    longest = 0.075 * max(map(len, names))
    left, top = 0.3 + longest, 0.3 + 0.65 * longest
    width = left + 0.62 * len(names) + longest
    figure, grid = new_grid(
        1, 1, 0.36 * len(names), left=left, right=longest, top=top, bottom=0.1, width=width
    )
    table = np.array([[pairs[a, b].mean if a != b else np.nan for b in names] for a in names])
    sure = np.array([[a != b and pairs[a, b].p <= 0.05 for b in names] for a in names])
    bound = 2.2 * max(float(np.nanmax(np.abs(table))), 0.05)
    diverging, named = matplotlib.colormaps["RdBu"], {name: estimator_colour(name) for name in names}
    heat_map(
        grid[0, 0], table, named, named, lambda mean: diverging(0.5 + mean / bound / 2), text="+z.2f",
        bold=sure, size=8.5,
    )  # fmt: skip
    return figure
