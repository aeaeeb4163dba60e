"""Figures of what estimates are worth over what they cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ablation.cost import name_of, winners
from ablation.objectives import OBJECTIVES
from nas.report.figures import new_grid, styled
from nas.report.labels import name_ends
from nas.report.palette import FAINT, QUIET, estimator_colour

Records = Sequence[Mapping[str, Any]]


@styled
def plot_costs(records: Records, metric: str = "rmse") -> Figure:
    """A metric over the cost of an estimate, a panel per objective, a line per estimator over its draws."""
    objectives = list(dict.fromkeys(record["objective"] for record in records))
    figure, grid = new_grid(
        math.ceil(len(objectives) / 2), 2, 2.6, left=0.54, right=1.72, top=0.3, bottom=0.5, between=(2.0, 0.5)
    )
    for i, (axes, objective) in enumerate(zip(grid.flat, objectives, strict=False)):
        _plot_objective(axes, [r for r in records if r["objective"] == objective], objective, metric)
        axes.set_title(OBJECTIVES[objective].title)
        if i % 2 == 0:
            axes.set_ylabel({"rmse": "root mean squared error"}.get(metric, metric))
        if i + 2 >= len(objectives):
            axes.set_xlabel("cost of an estimate, forward passes")
    for axes in grid.flat[len(objectives) :]:
        axes.set_axis_off()
    return figure


def _plot_objective(axes: Axes, records: Records, objective: str, metric: str) -> None:
    best, ends = winners(records, objective, metric), []
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for record in sorted(records, key=lambda record: record["cost"]):
        lines.setdefault(name_of(record), []).append(record)
    for name, line in lines.items():
        cost, value = [record["cost"] for record in line], [record[metric] for record in line]
        if name not in best:
            axes.plot(cost, value, color=FAINT, linewidth=0.9, marker="o", markersize=2, zorder=1)
            continue
        shade = estimator_colour(name)
        style = "--" if name.endswith("systematic") else "-"
        axes.plot(cost, value, style, color=shade, linewidth=1.6, marker="o", markersize=3.5, zorder=3)
        ends.append((value[-1], name, shade))
    axes.axhline(1, color=QUIET, linewidth=0.7, linestyle=":", zorder=0)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    ticks = [2**i for i in range(9)]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlim(0.9, 1.04 * max(record["cost"] for record in records))
    floor = min(max(record[metric], 0.02) for record in records)
    axes.set_ylim(0.8 * floor, 1.25 * max(record[metric] for record in records))
    levels = [level for level in (0.03, 0.1, 0.3, 1, 3, 10) if 0.8 * floor <= level]
    axes.set_yticks(levels, [f"{level:g}" for level in levels])
    axes.tick_params(length=3)
    name_ends(axes, [(max(height, floor), name, shade) for height, name, shade in ends])
