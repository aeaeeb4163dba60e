"""Figures of what shared weights know."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ablation.rank_statistics import PARTS, SCORES, Interval, Ranking
from nas.report.figures import WIDTH, new_grid, styled
from nas.report.labels import Label, name_points
from nas.report.palette import INK, QUIET

TITLES = {"loss": "shared-weight loss", "accuracy": "shared-weight accuracy", "parameters": "parameter count"}
_COLOURS = {"loss": "#1c6fb4", "accuracy": "#86a5ec", "parameters": "#b4bcc7"}
_DOT, _BEST, _CHOSEN, _FOUND = "#1c6fb4", "#e8790c", "#c2255c", "#18804f"
_CUT = 0.02  # share of the cells beyond either axis


@styled
def plot_scatter(rankings: Sequence[Ranking]) -> Figure:
    """True accuracy over the loss with shared weights, a panel for every run, less loss to the right."""
    columns = min(2, len(rankings))
    figure, grid = new_grid(
        math.ceil(len(rankings) / columns), columns, 3.4 if columns == 1 else 2.9,
        left=0.55, right=0.13, top=0.32, bottom=0.5, between=(0.3, 0.75), sharey=True,
    )  # fmt: skip
    for axes, ranking in zip(grid.flat, rankings, strict=False):
        _plot_cells(axes, ranking)
        axes.set_xlabel("loss with shared weights (less is right)")
    low, high = _limits(rankings)
    grid[0, 0].set_ylim(low, high)
    for axes, ranking in zip(grid.flat, rankings, strict=False):
        _mark(axes, ranking)
        axes.tick_params(length=3, labelleft=True)
        _title(axes, ranking)
    for axes in grid[:, 0]:
        axes.set_ylabel("true accuracy, %")
    for axes in grid.flat[len(rankings) :]:
        axes.set_axis_off()
    return figure


def _title(axes: Axes, ranking: Ranking) -> None:
    found = ranking.correlation()
    axes.set_title(f"{shortened(ranking.name, 34)}: τ {found.tau.value:.2f}, ρ {found.rho.value:.2f}")


def _limits(rankings: Sequence[Ranking]) -> tuple[float, float]:
    """Ends of the axis of accuracies: most cells of all runs, and those that are marked."""
    marked = [a for r in rankings for a in (r.largest.accuracy, r.found.accuracy, r.choice().accuracy)]
    low = min(min(marked), *(float(np.quantile(r.truth, _CUT)) for r in rankings))
    high = max(max(marked), *(float(r.truth.max()) for r in rankings))
    margin = 0.06 * (high - low) or 0.5
    return low - margin, high + margin


def _plot_cells(axes: Axes, ranking: Ranking) -> None:
    loss = np.where(np.isfinite(ranking.loss), ranking.loss, np.nan)
    if np.isnan(loss).all():
        return
    marked = [m.loss for m in (ranking.largest, ranking.found) if math.isfinite(m.loss)]
    left = max([float(np.nanquantile(loss, 1 - _CUT)), *marked])
    right = min([float(np.nanmin(loss)), *marked])
    margin = 0.05 * (left - right) or 0.1
    axes.set_xlim(left + margin, right - margin)
    many = len(loss) > 400
    for mask, colour in ((~ranking.best, _DOT), (ranking.best, _BEST)):
        axes.scatter(
            loss[mask], ranking.truth[mask], s=8 if many else 18, color=colour, linewidth=0,
            alpha=0.35 if many and colour == _DOT else 0.7,
        )  # fmt: skip


def _mark(axes: Axes, ranking: Ranking) -> None:
    """Name the largest cell, the cell of lowest loss and the found one, once where they are the same."""
    first = ranking.cells.index(ranking.choice().cell)
    points = [
        ("lowest loss", float(ranking.loss[first]), float(ranking.truth[first]), "D", _CHOSEN),
        ("largest", ranking.largest.loss, ranking.largest.accuracy, "s", INK),
        ("found", ranking.found.loss, ranking.found.accuracy, "^", _FOUND),
    ]
    named: dict[tuple[float, float], Label] = {}
    for text, x, y, marker, colour in points:
        if not math.isfinite(x):
            continue
        if (x, y) in named:
            named[x, y] = named[x, y]._replace(text=f"{named[x, y].text}, {text}")
            continue
        named[x, y] = Label(x, y, text, colour)
        axes.plot([x], [y], marker, color=colour, markersize=6.5, markeredgecolor="white", zorder=4)
    (right, left), (low, high) = sorted(axes.get_xlim()), axes.get_ylim()
    inside = (
        (ranking.loss >= right) & (ranking.loss <= left) & (ranking.truth >= low) & (ranking.truth <= high)
    )
    crowd = np.column_stack([ranking.loss, ranking.truth])[inside]
    if named:
        name_points(axes, list(named.values()), [(x, y) for x, y in crowd.tolist()])


@styled
def plot_correlations(rankings: Sequence[Ranking]) -> Figure:
    """Kendall's tau and Spearman's rho of every run, over all cells and in the best tenth, with intervals."""
    names = [shortened(ranking.name, 24) for ranking in rankings]
    row, gap = 0.17, 0.16
    step = len(SCORES) * row + gap
    figure, (grid,) = new_grid(
        1, 4, len(rankings) * step, left=0.25 + 0.072 * max(map(len, names)), right=0.42, top=0.62,
        bottom=0.3, between=(0.3, 0),
    )  # fmt: skip
    panels = [(kind, part) for kind in ("tau", "rho") for part in PARTS]
    for axes, (kind, part) in zip(grid, panels, strict=True):
        for i, ranking in enumerate(rankings):
            for j, score in enumerate(SCORES):
                interval: Interval = getattr(ranking.correlation(score, part), kind)
                _plot_bar(axes, i * step + gap / 2 + (j + 0.5) * row, row, interval, _COLOURS[score])
        axes.set(ylim=(len(rankings) * step, 0), xlim=_span(rankings, kind, part))
        axes.axvline(0, color=QUIET, linewidth=0.8)
        axes.set_yticks([(i + 0.5) * step for i in range(len(names))], names if axes is grid[0] else [])
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
        axes.tick_params(length=0)
        symbol = {"tau": "τ", "rho": "ρ"}[kind]
        axes.set_title(f"{symbol}, {part}", size=9)
    _key(figure, grid[0])
    return figure


def _plot_bar(axes: Axes, y: float, height: float, interval: Interval, colour: str) -> None:
    if math.isnan(interval.value):
        axes.text(0, y, " –", size=7.5, color=QUIET, va="center_baseline")
        return
    axes.barh(y, interval.value, 0.84 * height, color=colour)
    axes.plot(interval[1:], [y, y], color=INK, linewidth=1, solid_capstyle="butt")
    end = max(interval.value, 0 if math.isnan(interval.high) else interval.high, 0)
    axes.annotate(
        f"{interval.value:z.2f}", (end, y), xytext=(3, 0), textcoords="offset points", size=7.5, color=INK,
        va="center_baseline", annotation_clip=False,
    )  # fmt: skip


def _span(rankings: Sequence[Ranking], kind: str, part: str) -> tuple[float, float]:
    """Ends of an axis of correlations, with room for the number at the end of the longest bar."""
    ends = [value for r in rankings for s in SCORES for value in getattr(r.correlation(s, part), kind)]
    known = [value for value in ends if not math.isnan(value)] or [0.0]
    low, high = min(0.0, *known), max(0.2, *known)
    return low - 0.02 * (low < 0), high + 0.24 * (high - low)


def _key(figure: Figure, axes: Axes) -> None:
    """Names of the colours, above the panels."""
    height = figure.get_figheight()
    x = axes.get_position().x0
    for score in SCORES:
        figure.text(x, 1 - 0.17 / height, "■", color=_COLOURS[score], size=10, va="center")
        figure.text(x + 0.14 / WIDTH, 1 - 0.17 / height, TITLES[score], color=INK, size=8.5, va="center")
        x += (0.42 + 0.075 * len(TITLES[score])) / WIDTH


def shortened(name: str, most: int) -> str:
    """The end of a name that is too long."""
    return name if len(name) <= most else f"…{name[1 - most :]}"
