"""Figures of a grid of searches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ablation.comparison import Paired, estimate
from nas.report.figures import FAINT, INK, QUIET, WIDTH, new_figure, styled
from nas.report.labels import Label, place
from nas.report.palette import colour
from nas.report.plots import readable, spread
from nas.tables.truth import Truth

Records = Sequence[Mapping[str, Any]]

# Methods that share an estimator share its colour, and differ by these.
_MARKERS = "oDs^vP"
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
    return colour(method), _MARKERS[i % len(_MARKERS)], _LINES[i % len(_LINES)]


def _width(names: Sequence[str], size: float) -> float:
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
def draw_answer(records: Records, known: Truth | None) -> Figure:
    """Accuracy of the cells that were found: a dot per search, mean and interval per method.

    Above them, where there is a table, how the cells of the space are distributed, its optimum, and what
    random search would find.
    """
    names = sorted(methods(records), key=lambda m: -np.mean(values(records, m, "accuracy")))
    top, row, bottom, left, right = 0.1, 0.42, 0.5, max(1.6, _width(names, 9)), 1.1
    above = 0 if known is None else 1.1
    height = top + above + row * len(names) + bottom
    figure = new_figure(WIDTH, height)
    box = (left / WIDTH, bottom / height, (WIDTH - left - right) / WIDTH, row * len(names) / height)
    axes = figure.add_axes(box)
    found = np.array([record["accuracy"] for record in records])
    low, high = _limits(found, known)
    axes.set(xlim=(low, high), ylim=(len(names) - 0.45, -0.55), xlabel="test accuracy of the found cell (%)")
    for i, name in enumerate(names):
        _draw_row(axes, i, name, values(records, name, "accuracy"), low, names)
    axes.set_yticks(range(len(names)), names)
    for tick, name in zip(axes.get_yticklabels(), names, strict=True):
        tick.set(color=readable(colour(name)), size=9)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.tick_params(length=0)
    if known is not None:
        histogram = figure.add_axes((box[0], box[1] + box[3], box[2], above / height), sharex=axes)
        _draw_space(histogram, axes, known, records, low, high)
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


def _draw_row(
    axes: Axes, i: int, name: str, accuracies: Sequence[float], low: float, everyone: Sequence[str]
) -> None:
    """One method of `draw_answer`."""
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


def _draw_space(axes: Axes, rows: Axes, known: Truth, records: Records, low: float, high: float) -> None:
    """The distribution of the cells of the space, its optimum and the best of some random cells."""
    shown = known.accuracies[known.accuracies >= low]
    axes.hist(shown, bins=np.linspace(low, high, 70).tolist(), color=colour("random"), linewidth=0)
    axes.set_axis_off()
    axes.set_ylim(0, axes.get_ylim()[1] * 1.75)
    share = 100 * len(shown) / len(known.accuracies)
    axes.annotate(
        f"all {len(known.accuracies):,} cells of the space\n({share:.0f} % of them in sight)",
        (0, 0.98), xycoords="axes fraction", va="top", size=8, color=QUIET,
    )  # fmt: skip
    evaluations = round(float(np.median([record["evaluations"] for record in records])))
    marks = (
        (known.optimum[1].accuracy, "optimum ", INK, "-", 0.98),
        (known.best_of(evaluations), f"best of {evaluations} random cells ", QUIET, (0, (3, 2)), 0.72),
    )
    for x, text, shade, line, height in marks:
        rows.axvline(x, color=shade, linewidth=1, linestyle=line, zorder=1)
        axes.axvline(x, ymax=height, color=shade, linewidth=1, linestyle=line)
        axes.annotate(
            f"{text}{x:.2f} ", (x, height), xycoords=("data", "axes fraction"), ha="right", va="top", size=8,
            color=shade, bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.5},
        )  # fmt: skip


# Over time


@styled
def draw_anytime(curves: Records, known: Truth, evaluations: int) -> Figure:
    """True accuracy of the cell that would have been derived after every epoch, and the entropy."""
    names, chance_name = methods(curves), f"best of {evaluations} random"
    margin = _width([*names, chance_name], 8)
    figure = new_figure(WIDTH, 6.6)
    (upper, lower) = figure.subplots(
        2, 1, sharex=True,
        gridspec_kw={"left": 0.06, "right": 1 - margin / WIDTH, "top": 0.95, "bottom": 0.07, "hspace": 0.16},
    )  # fmt: skip
    ends: dict[str, list[tuple[float, str]]] = {"accuracy": [], "entropy": []}
    for axes, what in ((upper, "accuracy"), (lower, "entropy")):
        for name in names:
            shade, _, line = style(name, names)
            x, y = by_epoch(curves, lambda row, name=name: row["method"] == name, what)  # type: ignore[misc]
            axes.fill_between(x, y[:, 1], y[:, 2], color=shade, alpha=0.08, linewidth=0)
            axes.plot(x, y[:, 0], color=shade, linestyle=line)
            ends[what].append((float(y[-1, 0]), name))
        axes.tick_params(length=3)
    lower.set(xlabel="epoch", xlim=(min(x), max(x)))
    lower.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    every = np.array([row["accuracy"] for row in curves])
    optimum, chance = known.optimum[1].accuracy, known.best_of(evaluations)
    low = min(float(np.quantile(every, 0.15)), chance - 0.3 * (optimum - chance))
    upper.set_ylim(low - 0.03 * (optimum - low), optimum + 0.06 * (optimum - low))
    upper.set_title("true accuracy of the derived cell (%)")
    lower.set_title("entropy of an edge (nats)")
    ends["accuracy"] += [(optimum, "optimum"), (chance, chance_name)]
    upper.axhline(optimum, color=INK, linewidth=1)
    upper.axhline(chance, color=QUIET, linewidth=1, linestyle=(0, (3, 2)))
    for axes, what in ((upper, "accuracy"), (lower, "entropy")):
        _name_ends(axes, ends[what])
    return figure


def _name_ends(axes: Axes, ends: list[tuple[float, str]]) -> None:
    """Write names at the right ends of lines, apart from each other."""
    figure = axes.figure
    assert figure is not None
    low, high = axes.get_ylim()
    gap = 0.15 / (axes.get_position().height * figure.get_figheight())  # type: ignore[union-attr]
    ends = sorted(ends)
    heights = [min(max((value - low) / (high - low), 0.0), 1.0) for value, _ in ends]
    places = [min(place, 1 - i * gap) for i, place in enumerate(reversed(spread(heights, gap)))]
    for (_, name), height in zip(ends, reversed(places), strict=True):
        known = name.partition(",")[0]
        shade = (
            INK if known == "optimum" else QUIET if known.startswith("best of") else readable(colour(name))
        )
        axes.annotate(
            name, (1, height), xycoords="axes fraction", xytext=(6, 0), textcoords="offset points", size=8,
            color=shade, va="center_baseline", annotation_clip=False,
        )  # fmt: skip


# The architecture gradient


@styled
def draw_gradient_plane(gradients: Records) -> Figure:
    """Bias against standard deviation of every estimator, a panel for each moment of the searches."""
    moments = sorted({row["epoch"] for row in gradients})
    columns = min(len(moments), 2)
    lines = -(-len(moments) // columns)
    panel, gap, top, bottom = 3.3, 0.5, 0.35, 0.5
    height = top + lines * panel + (lines - 1) * gap + bottom
    figure = new_figure(WIDTH, height)
    grid = figure.subplots(
        lines, columns, sharex=True, sharey=True, squeeze=False,
        gridspec_kw={
            "left": 0.065, "right": 0.985, "top": 1 - top / height, "bottom": bottom / height,
            "wspace": 0.06, "hspace": gap / panel,
        },
    )  # fmt: skip
    names = list(dict.fromkeys(row["estimator"] for row in gradients))
    means = {
        (epoch, name, what): estimate(
            [row[what] for row in gradients if row["epoch"] == epoch and row["estimator"] == name]
        )
        for epoch in moments
        for name in names
        for what in ("bias", "std")
    }
    right = 1.35 * max(mean.high for (_, _, what), mean in means.items() if what == "std")
    upper = 1.12 * max(1.0, *(mean.high for (_, _, what), mean in means.items() if what == "bias"))
    for axes, epoch in zip(grid.flat, moments, strict=False):
        axes.set_xscale("symlog", linthresh=0.5, linscale=0.5)
        ticks = [tick for tick in (0, 0.5, 1, 2, 5, 10, 20, 50, 100) if tick < right]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.set(xlim=(-0.06, right), ylim=(-0.06 * upper, upper))
        axes.grid(False)
        axes.tick_params(length=3)
        for rmse in ticks[1:]:
            std = rmse * np.sin(np.linspace(0, np.pi / 2, 200))
            axes.plot(std, np.sqrt(rmse**2 - std**2), color="#dce1e7", linewidth=1, zorder=0)
        axes.axhline(0, color=INK, linewidth=0.8, zorder=1)
        axes.plot([0], [0], "o", color=colour("exact"), markersize=8, clip_on=False, zorder=5)
        axes.plot([0], [1], "D", color="white", markersize=5, markeredgecolor=QUIET, clip_on=False, zorder=4)
        labels = [Label(0, 0, "exact", colour("exact")), Label(0, 1, "zero", QUIET)]
        for name in names:
            x, y = means[epoch, name, "std"], means[epoch, name, "bias"]
            axes.plot([x.low, x.high], [y.mean, y.mean], color=colour(name), linewidth=1, alpha=0.6)
            axes.plot([x.mean, x.mean], [y.low, y.high], color=colour(name), linewidth=1, alpha=0.6)
            axes.plot(
                [x.mean], [y.mean], "o", color=colour(name), markersize=7, markeredgecolor="white", zorder=4,
                clip_on=False,
            )  # fmt: skip
            labels.append(Label(x.mean, y.mean, name, colour(name)))
        place(axes, labels, [(x, 0) for x in np.geomspace(0.02, right, 60)])
        norm = np.mean([row["norm"] for row in gradients if row["epoch"] == epoch])
        axes.set_title(f"after epoch {epoch}: norm of the exact gradient {norm:.3f}", size=9)
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
def draw_budget(gradients: Records) -> Figure:
    """Cosine of the mean of N estimates with the exact gradient over N, at the first and last moment."""
    moments = sorted({row["epoch"] for row in gradients})
    moments = [moments[0], moments[-1]] if len(moments) > 1 else moments
    figure = new_figure(WIDTH, 4.2)
    grid = figure.subplots(
        1, len(moments), squeeze=False,
        gridspec_kw={"left": 0.06, "right": 0.875, "top": 0.91, "bottom": 0.12, "wspace": 0.42},
    )[0]  # fmt: skip
    draws = np.geomspace(1, 1000, 61)
    names = list(dict.fromkeys(row["estimator"] for row in gradients))
    for axes, epoch in zip(grid, moments, strict=True):
        ends = []
        for name in names:
            rows = [row for row in gradients if row["epoch"] == epoch and row["estimator"] == name]
            lines = np.array([averaged_cosine(row, draws) for row in rows])
            band = np.array([estimate(column)[2:4] for column in lines.T])
            axes.fill_between(draws, band[:, 0], band[:, 1], color=colour(name), alpha=0.1, linewidth=0)
            axes.plot(draws, lines.mean(0), color=colour(name))
            ends.append((float(lines[:, -1].mean()), name))
        axes.set_xscale("log")
        axes.set_xticks([1, 10, 100, 1000], ["1", "10", "100", "1000"])
        axes.minorticks_off()
        axes.set(xlim=(1, 1000), xlabel="estimates averaged")
        axes.tick_params(length=3)
        axes.set_title(f"cosine with the exact gradient, after epoch {epoch}")
        axes.axhline(0, color=FAINT, linewidth=1)
        _name_ends(axes, ends)
    return figure


# Pairs


@styled
def draw_pairs(names: Sequence[str], pairs: Mapping[tuple[str, str], Paired]) -> Figure:
    """Mean difference of accuracy, row minus column, on equal seeds; bold where its interval is off 0."""
    longest = 0.075 * max(map(len, names))
    left, top, cell = 0.3 + longest, 0.3 + 0.65 * longest, 0.62
    width, height = left + cell * len(names) + longest, top + 0.36 * len(names) + 0.1
    figure = new_figure(width, height)
    axes = figure.add_axes(
        (left / width, 0.1 / height, cell * len(names) / width, 0.36 * len(names) / height)
    )
    table = np.array([[pairs[a, b].mean if a != b else 0.0 for b in names] for a in names])
    bound = max(float(np.abs(table).max()), 0.05)
    axes.imshow(table, cmap="RdBu", vmin=-2.2 * bound, vmax=2.2 * bound, aspect="auto")
    for row, a in enumerate(names):
        for column, b in enumerate(names):
            pair = pairs.get((a, b))
            sure = pair is not None and (pair.low > 0 or pair.high < 0)
            axes.text(
                column, row, "" if pair is None else f"{pair.mean:+z.2f}", size=8, ha="center",
                va="center_baseline", weight="bold" if sure else "normal",
            )  # fmt: skip
    axes.xaxis.tick_top()
    axes.set_xticks(range(len(names)), names, rotation=40, ha="left", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    for ticks in (axes.get_xticklabels(), axes.get_yticklabels()):
        for tick, name in zip(ticks, names, strict=True):
            tick.set(color=readable(colour(name)), size=8.5)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.grid(False)
    return figure
