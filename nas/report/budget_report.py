"""What the report of a search says about its budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from nas.report.figures import new_grid, styled
from nas.report.page import Picture, Tile
from nas.report.plots import Line, plot_lines
from recipes.budget import KINDS, split_cost

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
    """The latency of a trained network, where it was measured."""
    if (latency := result.get("latency")) is None:
        return []
    predicted = " ".join(split_cost("latency", latency["predicted"]))
    return [Tile("Latency", *split_cost("latency", latency["measured"]), f"measured; {predicted} predicted")]


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
        _, unit = split_cost(kind, rows[-1]["limit"])
        scale = float(rows[-1]["limit"]) / float(split_cost(kind, rows[-1]["limit"])[0])
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
