"""Figures of the estimators' bias and spread against exact gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LogNorm, Normalize
from matplotlib.figure import Figure

from ablation.objectives import OBJECTIVES
from estimators import family
from nas.report.figures import heat_map, new_grid, styled
from nas.report.labels import Label, name_ends, name_points
from nas.report.palette import INK, QUIET, estimator_colour

Records = Sequence[Mapping[str, Any]]


def label(estimator: str) -> str:
    """The name of an estimator, with its draws where one estimate takes several; a method is its own."""
    if "," in estimator:  # with settings of its own
        return estimator
    draws = family(estimator).default_draws
    return estimator if draws == 1 else f"{estimator} ×{draws}"


def usual_tau(estimator: str) -> float:
    """Temperature 1, or, where an estimator does not take it, the one that its schedule begins with."""
    cls = family(estimator.partition(",")[0])
    return 1.0 if cls.tau_range[0] <= 1 <= cls.tau_range[1] else cls.default_schedule.start


# Bias against spread


def plot_plane(axes: Axes, right: float, upper: float, arcs: Sequence[float]) -> list[Label]:
    """Prepare `axes` for standard deviations (up to `right`) and biases (up to `upper`) of estimators.

    Args:
        arcs: root mean squared errors that are each shown as an arc.

    Returns:
        Labels of the exact gradient and of the estimate 0.
    """
    axes.set(xlim=(-0.02 * right, right), ylim=(-0.04 * upper, upper))
    axes.grid(False)
    axes.tick_params(length=3)
    angles = np.linspace(0, np.pi / 2, 200)
    for rmse in arcs:
        axes.plot(rmse * np.sin(angles), rmse * np.cos(angles), color="#dce1e7", linewidth=1, zorder=0)
    axes.plot([0], [0], "o", markersize=8, color=INK, clip_on=False, zorder=5)
    axes.plot([0], [1], "D", markersize=5, color="white", markeredgecolor=QUIET, clip_on=False, zorder=4)
    return [Label(0, 0, "exact", INK), Label(0, 1, "zero", QUIET)]


Interval = tuple[float, float, float]


def plot_point(axes: Axes, name: str, text: str, std: Interval, bias: Interval) -> Label:
    """A dot with the intervals (value, low, high) of its standard deviation and bias; returns its label."""
    shade, x, y = estimator_colour(name), std[0], bias[0]
    axes.plot(std[1:], [y, y], color=shade, linewidth=1, alpha=0.6)
    axes.plot([x, x], bias[1:], color=shade, linewidth=1, alpha=0.6)
    axes.plot([x], [y], "o", color=shade, markersize=6.5, markeredgecolor="white", zorder=4, clip_on=False)
    return Label(x, y, text, shade)


@styled
def plot_trade_off(records: Records) -> Figure:
    """Bias against standard deviation, a panel per objective: each estimator a line over temperatures.

    Args:
        records: rows of results.csv for one number of candidates, all temperatures.
    """
    objectives = list(dict.fromkeys(record["objective"] for record in records))
    figure, grid = new_grid(
        math.ceil(len(objectives) / 2), 2, 2.75, left=0.54, right=0.13, top=0.3, bottom=0.5,
        between=(0.52, 0.55),
    )  # fmt: skip
    for i, (axes, objective) in enumerate(zip(grid.flat, objectives, strict=False)):
        _plot_objective(axes, [record for record in records if record["objective"] == objective], key=i == 0)
        axes.set_title(OBJECTIVES[objective].title)
        if i % 2 == 0:
            axes.set_ylabel("bias")
        if i + 2 >= len(objectives):
            axes.set_xlabel("standard deviation of an estimate")
    for axes in grid.flat[len(objectives) :]:
        axes.set_axis_off()
    return figure


def _plot_objective(axes: Axes, records: Records, key: bool) -> None:
    """One panel of `plot_trade_off`; with `key` it also names the temperatures of one line."""
    shown = [record for record in records if record["tau"] >= 0.5]
    right = 1.12 * max([1.0, *(record["std"] for record in shown)])
    upper = 1.2 * max([1.0, *(record["bias"] for record in shown)])
    axes.set_xlim(0, right)
    names = plot_plane(axes, right, upper, axes.get_xticks().tolist())
    avoid: list[tuple[float, float]] = []
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for record in sorted(records, key=lambda record: record["tau"]):
        lines.setdefault(record["estimator"], []).append(record)
    longest = max(lines, key=lambda name: abs(lines[name][0]["bias"] - lines[name][-1]["bias"]))
    for name in dict.fromkeys(record["estimator"] for record in records):
        shade = estimator_colour(name)
        line = lines[name]
        ends = [(record["std"], record["bias"]) for record in line]
        for i, (start, end) in enumerate(pairwise(ends)):
            axes.plot(*zip(start, end, strict=True), color=shade, linewidth=0.7 + 0.5 * i, alpha=0.75)
            avoid += np.linspace(start, end, 12).tolist()
        for record in line:
            if record["tau"] == usual_tau(name):
                std, bias = (
                    (record[key], record[f"{key}_low"], record[f"{key}_high"]) for key in ("std", "bias")
                )
                names.append(plot_point(axes, name, label(name), std, bias))
            elif key and name == longest and record in (line[0], line[-1]):
                names.append(Label(record["std"], record["bias"], f"τ = {record['tau']:g}", shade))
    name_points(axes, names, avoid)


# More candidates


@styled
def plot_candidates(records: Records) -> Figure:
    """Bias and standard deviation over the number of candidates K, a row per objective."""
    objectives = list(dict.fromkeys(record["objective"] for record in records))
    figure, grid = new_grid(
        len(objectives), 2, 3.0, left=0.4, right=1.26, top=0.35, bottom=0.45, between=(1.45, 0.65)
    )
    for row, objective in zip(grid, objectives, strict=True):
        chosen = [record for record in records if record["objective"] == objective]
        for axes, metric, word in zip(row, ("bias", "std"), ("bias", "standard deviation"), strict=True):
            _plot_metric(axes, chosen, metric)
            axes.set_title(f"{OBJECTIVES[objective].title}: {word}", size=9.5)
    for axes in grid[-1]:
        axes.set_xlabel("candidates K")
    return figure


def _plot_metric(axes: Axes, records: Records, metric: str) -> None:
    """One panel of `plot_candidates`."""
    counts = sorted({record["candidates"] for record in records})
    ends = []
    for name in dict.fromkeys(record["estimator"] for record in records):
        shade = estimator_colour(name)
        line = sorted((r for r in records if r["estimator"] == name), key=lambda r: r["candidates"])
        x, y, low, high = (
            [r[key] for r in line] for key in ("candidates", metric, f"{metric}_low", f"{metric}_high")
        )
        axes.fill_between(x, low, high, color=shade, alpha=0.1, linewidth=0)
        axes.plot(x, y, color=shade, marker="o", markersize=3)
        ends.append((y[-1], label(name), shade))
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.minorticks_off()
    axes.set_xlim(counts[0], counts[-1] * 1.04)
    axes.set_ylim(bottom=-0.02 * axes.get_ylim()[1])
    axes.tick_params(length=3)
    name_ends(axes, ends)


# Ranking


@styled
def plot_ranking(records: Records) -> Figure:
    """RMSE and mean cosine of single estimates, estimators by objectives."""
    objectives = list(dict.fromkeys(record["objective"] for record in records))
    value = {(r["estimator"], r["objective"]): r for r in records}
    names = list(dict.fromkeys(record["estimator"] for record in records))
    names.sort(key=lambda name: -sum(value[name, o]["draw_cosine"] for o in objectives))
    figure, (pair,) = new_grid(
        1, 2, 0.27 * len(names), left=1.3, right=0.45, top=0.92, bottom=0.1, between=(0.35, 0)
    )
    for axes, metric, title, colours, norm in (
        (pair[0], "rmse", "root mean squared error of one estimate", "Blues", LogNorm(0.25, 8)),
        (pair[1], "draw_cosine", "mean cosine with the exact gradient", "Greens", Normalize(0, 1.2)),
    ):
        table = np.array([[value[name, o][metric] for o in objectives] for name in names])
        heat_map(
            axes,
            table,
            {label(name): estimator_colour(name) for name in names},
            dict.fromkeys(objectives, INK),
            partial(_shade, matplotlib.colormaps[colours], norm),
        )
        axes.set_title(title, pad=10)
    pair[1].set_yticklabels([])
    return figure


def _shade(colours: Colormap, norm: Normalize, number: float) -> Any:
    return colours(norm(max(number, 1e-9)))
