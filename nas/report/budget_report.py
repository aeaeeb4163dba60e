"""What the report of a search says about its budget."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from nas.report.figures import new_grid, styled
from nas.report.labels import Label, name_points
from nas.report.page import Picture, Table, Tile
from nas.report.plots import Line, plot_lines
from recipes.budget import KINDS, format_cost, split_cost

_EXPECTED, _LIKELY, _DERIVED = "#7a4bb5", "#8792a1", "#c2255c"
_AIM, _LIMIT, _MULTIPLIER = "#d3a5e0", "#1f2933", "#1c6fb4"


def tiles(result: Mapping[str, Any]) -> list[Tile]:
    """What the derived network costs, and may cost."""
    budget = result.get("budget", {})
    found = []
    for kind, cost in budget.get("costs", {}).items():
        limit = budget["limits"].get(kind)
        note = (
            KINDS[kind] if limit is None else f"{KINDS[kind]}, of {' '.join(split_cost(kind, limit))} allowed"
        )
        found.append(Tile("Derived network", *split_cost(kind, cost), note))
    return found


def final_tiles(result: Mapping[str, Any]) -> list[Tile]:
    """The latency of a trained network, where it is known."""
    if (latency := result.get("latency")) is None:
        return []
    if "measured" not in latency:
        return [Tile("Latency", *split_cost("latency", latency["predicted"]), "predicted, not measured")]
    predicted = " ".join(split_cost("latency", latency["predicted"]))
    return [Tile("Latency", *split_cost("latency", latency["measured"]), f"measured; {predicted} predicted")]


def front_tables(result: Mapping[str, Any]) -> list[Table]:
    """The architectures of several budgets."""
    if (front := result.get("front")) is None:
        return []
    kind, rows = front["kind"], front["rows"]
    kinds = [kind, *(k for k in rows[0]["costs"] if k != kind)]
    cells = [
        [
            format_cost(kind, row["limit"]),
            *(format_cost(k, row["costs"][k]) for k in kinds),
            f"{row['derived_accuracy']:.2f}",
            "yes" if row["pareto"] else "",
            row["genotype"],
        ]
        for row in rows
    ]
    names = ["budget", *kinds, "accuracy, %", "Pareto", "architecture"]
    note = (
        "Accuracy: of the shared weights on the validation part. Pareto: no other costs no more and is as "
        "accurate."
    )
    return [Table("An architecture for every budget", names, cells, note)]


def front_pictures(result: Mapping[str, Any]) -> list[Picture]:
    """Costs and accuracies of the architectures of several budgets."""
    if (front := result.get("front")) is None:
        return []
    caption = (
        "Every point is the architecture that was derived under a budget, from one search; the line joins "
        "those that are not beaten in both by another."
    )
    return [Picture("Pareto front", plot_front(front), caption)]


@styled
def plot_front(front: Mapping[str, Any]) -> Figure:
    """Accuracy with the shared weights (%) over the cost, a point for every budget."""
    kind, rows = front["kind"], front["rows"]
    size, unit = _unit(kind, max(row["costs"][kind] for row in rows))
    figure, grid = new_grid(1, 1, 2.8, left=0.6, right=0.6, top=0.25, bottom=0.5)
    axes = grid[0, 0]
    best = sorted((row["costs"][kind] / size, row["derived_accuracy"]) for row in rows if row["pareto"])
    axes.plot(*zip(*best, strict=True), color=_DERIVED, drawstyle="steps-post", linewidth=1.3)
    points: dict[tuple[float, float], list[str]] = {}
    for row in rows:  # several budgets may end in one architecture
        point = (row["costs"][kind] / size, row["derived_accuracy"])
        points.setdefault(point, []).append(format_cost(kind, row["limit"]))
    labels = []
    for (x, y), limits in points.items():
        colour = _DERIVED if (x, y) in best else _LIKELY
        axes.plot([x], [y], "o", color=colour, markersize=7)
        labels.append(Label(x, y, f"≤ {', '.join(limits)}", colour))
    axes.margins(0.12, 0.2)
    axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())
    axes.set_xlabel(f"{KINDS[kind]}, {unit}" if unit else KINDS[kind])
    axes.set_ylabel("accuracy, shared weights, %")
    line = []
    for (x, y), (right, up) in itertools.pairwise(best):
        line += [(float(along), y) for along in np.linspace(x, right, 60)]
        line += [(right, float(along)) for along in np.linspace(y, up, 60)]
    name_points(axes, labels, line)
    return figure


def _unit(kind: str, value: float) -> tuple[float, str]:
    """A unit that suits a cost, and its size."""
    unit = split_cost(kind, value)[1]
    sizes = {"ns": 1.0, "µs": 1e3, "ms": 1e6, "s": 1e9, "": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}
    return sizes[unit], unit


def pictures(metrics: Sequence[Mapping[str, Any]]) -> list[Picture]:
    """Costs and multipliers over the epochs, where there is a budget."""
    if not metrics or "budget" not in metrics[-1]:
        return []
    caption = (
        "What the network costs: expected by the probabilities, with the aim that goes down to the limit; "
        "their arg-max; and the likeliest architecture within the limit, which is derived. The multiplier "
        "weighs the violation in the architecture step; in the last quarter it follows the arg-max."
    )
    return [Picture("Budget", plot_budget(metrics), caption)]


@styled
def plot_budget(metrics: Sequence[Mapping[str, Any]]) -> Figure:
    """Costs with their limit, and the multiplier, over the epochs, a row for every kind."""
    kinds = list(metrics[-1]["budget"])
    figure, grid = new_grid(
        len(kinds), 2, 1.9, left=0.55, right=1.3, top=0.36, bottom=0.47, between=(1.75, 0.55)
    )
    epochs = [line["epoch"] for line in metrics]
    for (left, right), kind in zip(grid, kinds, strict=True):
        rows = [line["budget"][kind] for line in metrics]
        scale, unit = _unit(kind, rows[-1]["limit"])
        lines = [
            Line("expected", _EXPECTED, epochs, [row["expected"] / scale for row in rows]),
            Line("arg-max", _LIKELY, epochs, [row["likely"] / scale for row in rows]),
            Line("derived", _DERIVED, epochs, [row["derived"] / scale for row in rows]),
            Line("aim", _AIM, epochs, [row["aim"] / scale for row in rows], dashed=True),
            Line("limit", _LIMIT, epochs, [row["limit"] / scale for row in rows], dashed=True),
        ]
        left.set_title(f"{KINDS[kind]}, {unit}" if unit else KINDS[kind])
        most = max(value for line in lines for value in line.values)
        plot_lines(left, metrics, lines, 2, limits=(0, 1.08 * most))
        right.set_title("multiplier")
        values = [row["multiplier"] for row in rows]
        line = Line(kind, _MULTIPLIER, epochs, values)
        plot_lines(right, metrics, [line], 2, limits=(0, 1.08 * max(values) or 1.0))
        if kind != kinds[-1]:
            left.set_xlabel("")
            right.set_xlabel("")
    return figure
