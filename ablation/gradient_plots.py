"""Figures of the estimators' bias and spread against exact gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse

from ablation.objectives import OBJECTIVES
from estimators import family
from nas.report.figures import INK, QUIET, WIDTH, new_figure, styled
from nas.report.labels import Label, place
from nas.report.palette import colour
from nas.report.plots import readable, spread

Records = Sequence[Mapping[str, Any]]


def label(estimator: str) -> str:
    """The name of an estimator, with its draws where one estimate takes several."""
    draws = family(estimator).default_draws
    return estimator if draws == 1 else f"{estimator} ×{draws}"


# Bias against spread


@styled
def draw_trade_off(records: Records) -> Figure:
    """Bias against standard deviation, a panel per objective: each estimator a line over temperatures.

    Args:
        records: rows of results.csv for one number of candidates, all temperatures.
    """
    objectives = list(dict.fromkeys(record["objective"] for record in records))
    rows, panel, gap, top, bottom = math.ceil(len(objectives) / 2), 2.75, 0.55, 0.3, 0.5
    height = top + rows * panel + (rows - 1) * gap + bottom
    figure = new_figure(WIDTH, height)
    grid = figure.subplots(
        rows,
        2,
        squeeze=False,
        gridspec_kw={
            "left": 0.06,
            "right": 0.985,
            "top": 1 - top / height,
            "bottom": bottom / height,
            "wspace": 0.13,
            "hspace": gap / panel,
        },
    )
    for i, (axes, objective) in enumerate(zip(grid.flat, objectives, strict=False)):
        _draw_panel(axes, [record for record in records if record["objective"] == objective], key=i == 0)
        axes.set_title(OBJECTIVES[objective].title)
        if i % 2 == 0:
            axes.set_ylabel("bias")
        if i + 2 >= len(objectives):
            axes.set_xlabel("standard deviation of an estimate")
    for axes in grid.flat[len(objectives) :]:
        axes.set_axis_off()
    return figure


def _draw_panel(axes: Axes, records: Records, key: bool) -> None:
    """One objective of `draw_trade_off`; with `key` it also names the temperatures of one line."""
    shown = [record for record in records if record["tau"] >= 0.5]
    right = 1.12 * max(1.0, *(record["std"] for record in shown))
    upper = 1.2 * max(1.0, *(record["bias"] for record in shown))
    axes.set(xlim=(-0.02 * right, right), ylim=(-0.03 * upper, upper))
    axes.grid(False)
    axes.tick_params(length=3)
    for radius in axes.get_xticks():
        axes.add_patch(Ellipse((0, 0), 2 * radius, 2 * radius, fill=False, color="#dce1e7", zorder=0))
    names = [Label(0, 0, "exact", colour("exact")), Label(0, 1, "zero", QUIET)]
    axes.plot([0], [0], "o", markersize=8, color=colour("exact"), clip_on=False)
    axes.plot([0], [1], "D", markersize=5, color="white", markeredgecolor=QUIET, clip_on=False, zorder=4)
    avoid: list[tuple[float, float]] = []
    for name in dict.fromkeys(record["estimator"] for record in records):
        line = sorted((r for r in records if r["estimator"] == name), key=lambda record: record["tau"])
        ends = [(record["std"], record["bias"]) for record in line]
        for i, (start, end) in enumerate(pairwise(ends)):
            axes.plot(*zip(start, end, strict=True), color=colour(name), linewidth=0.7 + 0.5 * i, alpha=0.75)
            avoid += np.linspace(start, end, 12).tolist()
        for record in line:
            if record["tau"] == 1:
                _draw_point(axes, record)
                names.append(Label(record["std"], record["bias"], label(name), colour(name)))
            elif key and name == "reinmax_rao" and record in (line[0], line[-1]):
                text = f"τ = {record['tau']:g}"
                names.append(Label(record["std"], record["bias"], text, colour(name)))
    place(axes, names, avoid)


def _draw_point(axes: Axes, record: Mapping[str, Any]) -> None:
    """A dot with the intervals of its bias and standard deviation."""
    x, y, shade = record["std"], record["bias"], colour(record["estimator"])
    axes.plot([record["std_low"], record["std_high"]], [y, y], color=shade, linewidth=0.9, alpha=0.6)
    axes.plot([x, x], [record["bias_low"], record["bias_high"]], color=shade, linewidth=0.9, alpha=0.6)
    axes.plot([x], [y], "o", color=shade, markersize=6, markeredgecolor="white", zorder=4)


# More candidates


@styled
def draw_candidates(records: Records) -> Figure:
    """Bias and standard deviation over the number of candidates K, a row per objective."""
    objectives = list(dict.fromkeys(record["objective"] for record in records))
    rows, panel, gap, top, bottom = len(objectives), 3.0, 0.65, 0.35, 0.45
    height = top + rows * panel + (rows - 1) * gap + bottom
    figure = new_figure(WIDTH, height)
    grid = figure.subplots(
        rows,
        2,
        squeeze=False,
        gridspec_kw={
            "left": 0.045,
            "right": 0.86,
            "top": 1 - top / height,
            "bottom": bottom / height,
            "wspace": 0.5,
            "hspace": gap / panel,
        },
    )
    for row, objective in zip(grid, objectives, strict=True):
        chosen = [record for record in records if record["objective"] == objective]
        for axes, metric, word in zip(row, ("bias", "std"), ("bias", "standard deviation"), strict=True):
            _draw_candidates(axes, chosen, metric)
            axes.set_title(f"{OBJECTIVES[objective].title}: {word}", size=9.5)
    for axes in grid[-1]:
        axes.set_xlabel("candidates K")
    return figure


def _draw_candidates(axes: Axes, records: Records, metric: str) -> None:
    """One panel of `draw_candidates`."""
    counts = sorted({record["candidates"] for record in records})
    ends = []
    for name in dict.fromkeys(record["estimator"] for record in records):
        line = sorted((r for r in records if r["estimator"] == name), key=lambda r: r["candidates"])
        x = [r["candidates"] for r in line]
        axes.fill_between(
            x,
            [r[f"{metric}_low"] for r in line],
            [r[f"{metric}_high"] for r in line],
            color=colour(name),
            alpha=0.1,
            linewidth=0,
        )
        axes.plot(x, [r[metric] for r in line], color=colour(name), marker="o", markersize=3)
        ends.append((line[-1][metric], name))
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.minorticks_off()
    axes.set_xlim(counts[0], counts[-1] * 1.04)
    axes.set_ylim(bottom=-0.02 * axes.get_ylim()[1])
    axes.tick_params(length=3)
    figure = axes.figure
    assert figure is not None
    low, high = axes.get_ylim()
    gap = 0.15 / (axes.get_position().height * figure.get_figheight())  # type: ignore[union-attr]
    ends.sort()
    places = spread([(value - low) / (high - low) for value, _ in ends], gap)
    for i, ((_, name), height) in enumerate(zip(ends, places, strict=True)):
        axes.annotate(
            label(name),
            (1, max(height, i * gap)),
            xycoords="axes fraction",
            xytext=(6, 0),
            textcoords="offset points",
            color=readable(colour(name)),
            size=8,
            va="center_baseline",
            annotation_clip=False,
        )


# Ranking


@styled
def draw_ranking(records: Records) -> Figure:
    """RMSE and mean cosine of single estimates, estimators by objectives."""
    objectives = list(dict.fromkeys(record["objective"] for record in records))
    value = {(r["estimator"], r["objective"]): r for r in records}
    names = list(dict.fromkeys(record["estimator"] for record in records))
    names.sort(key=lambda name: -sum(value[name, o]["draw_cosine"] for o in objectives))
    left, top, cell, gap, right = 1.3, 0.92, 0.27, 0.35, 0.45
    height = top + cell * len(names) + 0.1
    side = (WIDTH - left - gap - right) / 2
    figure = new_figure(WIDTH, height)
    for i, (metric, title, colours, norm) in enumerate(
        (
            ("rmse", "root mean squared error of one estimate", "Blues", LogNorm(0.25, 8)),
            ("draw_cosine", "mean cosine with the exact gradient", "Greens", Normalize(0, 1.2)),
        )
    ):
        axes = figure.add_axes(
            ((left + i * (side + gap)) / WIDTH, 0.1 / height, side / WIDTH, cell * len(names) / height)
        )
        table = np.array([[value[name, o][metric] for o in objectives] for name in names])
        axes.imshow(np.maximum(table, 1e-9), cmap=matplotlib.colormaps[colours], norm=norm, aspect="auto")
        for (row, column), number in np.ndenumerate(table):
            axes.text(
                column,
                row,
                f"{number:.2f}",
                size=8,
                ha="center",
                va="center_baseline",
                color="white" if norm(max(number, 1e-9)) > 0.6 else INK,
            )
        axes.set_xticks(range(len(objectives)), objectives, rotation=35, ha="left", rotation_mode="anchor")
        axes.set_yticks(range(len(names)), [label(name) if i == 0 else "" for name in names])
        for tick, name in zip(axes.get_yticklabels(), names, strict=True):
            tick.set(color=readable(colour(name)), size=9)
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.tick_params(axis="x", labelcolor=INK)
        axes.spines[:].set_visible(False)
        axes.grid(False)
        axes.set_title(title, pad=10)
    return figure
