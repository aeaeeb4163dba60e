"""True accuracy over cost: searches among what is found without them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ablation import baselines
from ablation.comparison import estimate
from ablation.grid_plots import Records, methods, name_width, style, values
from ablation.zero_cost import NO_SCORES, CellScores
from nas.report.figures import WIDTH, new_grid, styled
from nas.report.labels import Label, name_ends, name_points
from nas.report.palette import INK, QUIET, readable
from nas.tables import Truth

LEAST = 100  # trainings that the axis reaches at least
MANY = 8  # methods that have their names in the picture; of more it has numbers, and the names below
_LETTERS, _ROW = 8.0, 0.175  # of the names below: size in points, height of a line in inches
# Muted, as the colours of estimators are for searches.
_STYLES: dict[str, tuple[str, Any]] = {
    baselines.RANDOM: ("#7d8793", "-"),
    baselines.TOP: ("#8f7a3c", (0, (5, 1.5))),
    baselines.EVOLUTION: ("#5f6fa3", (0, (1.5, 1.2))),
    baselines.LOCAL: ("#3f7f83", (0, (5, 1.5, 1, 1.5))),
}
_SHADES = ("#9b5a79", "#5d8a4e", "#b06f4a", "#6a5c99")  # of zero-cost scores


@styled
def plot_cost(records: Records, known: Truth, scores: CellScores = NO_SCORES) -> Figure:
    """Accuracy over trainings from scratch: curves of what is found without a search with the ends of 95 % of
    the attempts, lines for the largest cell and the optimum, every search as a point at its cost.

    More methods than `MANY` are numbered, the best mean first, and named below. Zero-cost scores have curves
    without these ends: most of them leave nothing to chance.
    """
    names, optimum = methods(records), known.optimum[1].accuracy
    costs = baselines.budgets(max(LEAST, *(record["evaluations"] for record in records)))
    right = max(1.55, name_width(baselines.ways(scores), 8))
    below = _rows(names) * _ROW + 0.15 if len(names) > MANY else 0.0
    figure, grid = new_grid(1, 1, 4.6, left=0.54, right=right, top=0.33, bottom=0.5 + below)
    axes: Axes = grid[0, 0]
    axes.set_xscale("log")
    axes.set_xlim(0.7, costs[-1])
    ticks = [tick for tick in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 10_000) if tick <= costs[-1]]
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    largest = baselines.find(known, baselines.LARGEST, 1)
    low = _lowest(records, known, largest.mean)
    axes.set_ylim(low - 0.03 * (optimum - low), optimum + 0.05 * (optimum - low))
    axes.set_title("true accuracy of the best cell found (%)")
    axes.set_xlabel("cost in trainings from scratch")
    axes.tick_params(length=3)

    axes.axhline(optimum, color=INK, linewidth=1)
    axes.axhline(largest.mean, color=QUIET, linewidth=1, linestyle=(0, (1, 1.5)))
    ends = [(optimum, "optimum", INK), (largest.mean, baselines.LARGEST, QUIET)]
    lines = [(x, y) for y in (optimum, largest.mean) for x in np.geomspace(1, costs[-1], 80)]
    for name, (shade, line) in (_STYLES | _score_styles(scores)).items():
        found = np.array([baselines.find(known, name, cost, scores) for cost in costs])
        first = int(np.searchsorted(costs, baselines.POPULATION)) if name == baselines.EVOLUTION else 0
        if name in _STYLES:
            axes.fill_between(
                costs[first:], found[first:, 1], found[first:, 2], color=shade, alpha=0.06, linewidth=0
            )
            for end in found[first:, 1:].T:
                axes.plot(costs[first:], end, color=shade, linestyle=line, linewidth=0.7, alpha=0.55)
        axes.plot(costs, found[:, 0], color=shade, linestyle=line, linewidth=1.5)
        ends.append((float(found[-1, 0]), name, shade))
        lines += list(zip(costs, found[:, 0].tolist(), strict=True))
    labels = _plot_searches(axes, records, names, low, lines)
    if len(names) > MANY:
        means = {name: float(np.mean(values(records, name, "accuracy"))) for name in names}
        labels = _name_below(figure, labels, means)
    name_points(axes, labels, lines)
    name_ends(axes, ends)
    return figure


def _columns(names: list[str]) -> int:
    """How many columns the names below the picture have: two where the longest leaves room for that."""
    return 2 if name_width(names, _LETTERS) + 0.8 < WIDTH / 2 else 1


def _rows(names: list[str]) -> int:
    return math.ceil(len(names) / _columns(names))


def _name_below(figure: Figure, labels: list[Label], accuracies: dict[str, float]) -> list[Label]:
    """Write the methods and their mean accuracies below, the best first; returns their numbers as labels."""
    order = sorted(labels, key=lambda label: -accuracies[label.text])
    rows, (width, height) = _rows(list(accuracies)), figure.get_size_inches()
    for i, label in enumerate(order):
        column, row = divmod(i, rows)
        x, y = 0.54 + column * (width - 0.54) / 2, (rows - row) * _ROW - 0.07
        shade = readable(label.colour)
        for right, text in ((0.12, f"{i + 1}"), (0.55, f"{accuracies[label.text]:.2f}")):
            figure.text(
                (x + right) / width, y / height, text, size=_LETTERS, color=shade, ha="right", va="center"
            )
        figure.text((x + 0.66) / width, y / height, label.text, size=_LETTERS, color=shade, va="center")
    return [label._replace(text=f"{i + 1}") for i, label in enumerate(order)]


def _score_styles(scores: CellScores) -> dict[str, tuple[str, Any]]:
    """Colour and line of the ways of zero-cost scores: a colour for each, dots where local search follows."""
    names = list(scores.values)
    shades = {name: _SHADES[i % len(_SHADES)] for i, name in enumerate(names)}
    return {
        way: (shades[name], (0, (1, 1)) if baselines.is_simulated(way) else "-")
        for way in baselines.ways(scores)
        if (name := baselines.score_of(way)) is not None
    }


def _lowest(records: Records, known: Truth, largest: float) -> float:
    """Lower end of the axis: most searches, the largest cell, and random search from two trainings on."""
    found = np.quantile([record["accuracy"] for record in records], 0.1)
    chance = max(known.best_of(2), np.quantile(known.accuracies, 0.2))
    return float(min(found, largest, chance, known.optimum[1].accuracy - 0.1))


def _plot_searches(
    axes: Axes, records: Records, names: list[str], low: float, lines: list[tuple[float, float]]
) -> list[Label]:
    """Every search at its cost, methods of one cost beside each other, and their means with intervals.

    Adds to `lines` what names should leave free; returns the name of every method for its mean.
    """
    costs = {name: float(np.median(values(records, name, "evaluations"))) for name in names}
    labels = []
    for name in names:
        beside = [other for other in names if costs[other] == costs[name]]
        step = min(0.1, 0.5 / len(beside))
        shift = np.exp(step * (beside.index(name) - (len(beside) - 1) / 2))
        shade, marker, _ = style(name, names)
        found, at = values(records, name, "accuracy"), values(records, name, "evaluations")
        axes.scatter(
            np.array(at) * shift, np.maximum(found, low), s=16, color=shade, alpha=0.45, linewidth=0,
            marker=marker, zorder=3,
        )  # fmt: skip
        mean, x = estimate(found), costs[name] * shift
        axes.plot([x, x], [max(mean.low, low), max(mean.high, low)], color=shade, linewidth=2.2, zorder=4)
        axes.plot(
            [x], [max(mean.mean, low)], marker, color=shade, markersize=8, markeredgecolor="white", zorder=5
        )
        labels.append(Label(float(x), max(mean.mean, low), name, shade))
        lines += [(float(a) * shift, max(y, low)) for a, y in zip(at, found, strict=True)]
        if mean.runs > 1:
            lines += [(float(x), y) for y in np.linspace(max(mean.low, low), max(mean.high, low), 6)]
    return labels
