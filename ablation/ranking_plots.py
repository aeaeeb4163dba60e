"""Figures of what shared weights know."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ablation.rank_statistics import PARTS, SCORES, Interval, Ranking
from nas.report.figures import WIDTH, new_grid, styled
from nas.report.labels import Label, name_ends, name_points
from nas.report.palette import INK, QUIET

_COUNT, _RANDOM = "parameter count", "best of 10 random"
_SYMBOLS = {"tau": "τ", "rho": "ρ"}
TITLES = {"loss": "shared-weight loss", "accuracy": "shared-weight accuracy", "parameters": "parameter count"}
_COLOURS = {"loss": "#1c6fb4", "accuracy": "#86a5ec", "parameters": "#b4bcc7"}
_DOT, _BEST, _CHOSEN, _FOUND = "#1c6fb4", "#e8790c", "#c2255c", "#18804f"
_CUT = 0.02  # share of the cells beyond either axis
_RUNS = ("#1c6fb4", "#c2255c", "#18804f", "#e8790c", "#7a4bb5", "#8d5f33", "#74b9ef", "#d3ac06")
_LINES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)))  # of the first runs, of those whose colours come again, ...


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
    first = int(np.argsort(ranking.loss)[0])
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
        axes.set_title(f"{_SYMBOLS[kind]}, {part}", size=9)
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


@styled
def plot_epochs(runs: Mapping[str, Sequence[Ranking]]) -> Figure:
    """Rank correlations and regrets over the epochs of every run, with intervals, beside the parameter count.

    Args:
        runs: rankings by the name of their run, in the order of their epochs, on the same cells.
    """
    names, first = [shortened(name, 20) for name in runs], next(iter(runs.values()))[0]
    longest = max(map(len, [*names, _COUNT, _RANDOM]))
    figure, grid = new_grid(
        3, 2, 1.75, sharex=True, left=0.5, right=0.15 + 0.066 * longest, top=0.3, bottom=0.46,
        between=(0.45 + 0.066 * longest, 0.42),
    )  # fmt: skip
    panels = [(kind, part) for kind in ("tau", "rho") for part in PARTS]
    for axes, (kind, part) in zip(grid[:2].flat, panels, strict=True):
        lines = _Lines(axes)
        lines.level(_COUNT, _correlation(first, "parameters", part, kind))
        for i, name in enumerate(runs):
            lines.run(i, names[i], runs[name], [_correlation(r, "loss", part, kind) for r in runs[name]])
        axes.axhline(0, color=QUIET, linewidth=0.8)
        axes.set_title(f"{_SYMBOLS[kind]}, {part}")
        lines.name()
    for axes, of_ten in zip(grid[2], (False, True), strict=True):
        lines = _Lines(axes)
        lines.level(_COUNT, _alone(_regret(first, "parameters", of_ten)))
        if of_ten:
            lines.level(_RANDOM, _alone(first.optimum - first.random[10]), dashed=True)
        regrets = {name: [_regret(r, "loss", of_ten) for r in runs[name]] for name in runs}
        for i, name in enumerate(runs):
            lines.run(i, names[i], runs[name], [_alone(regret) for regret in regrets[name]])
        shown = [regret for found in regrets.values() for regret in found]
        high = max(float(np.quantile(shown, 0.9)), *(height for height, _, _ in lines.ends), 0.1)
        axes.set_ylim(-0.04 * high, 1.12 * high)
        what = "the best of its first 10" if of_ten else "the cell of lowest loss"
        axes.set_title(f"regret of {what}, %")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
        lines.name()
    return figure


def _correlation(ranking: Ranking, score: str, part: str, kind: str) -> Interval:
    interval: Interval = getattr(ranking.correlation(score, part), kind)
    return interval


def _regret(ranking: Ranking, score: str, of_ten: bool) -> float:
    """Distance (%) to the optimum of what a score chooses, or of the best of its first ten."""
    choice = ranking.choice(score)
    return ranking.optimum - choice.best_of_ten if of_ten else choice.regret


def _alone(value: float) -> Interval:
    """A figure without an interval."""
    return Interval(value, value, value)


class _Lines:
    """The lines of a panel over epochs, whose names go to its right end.

    Attributes:
        ends: height, name and colour of each so far.
    """

    def __init__(self, axes: Axes) -> None:
        self.axes, self.ends = axes, list[tuple[float, str, str]]()

    def level(self, name: str, interval: Interval, dashed: bool = False) -> None:
        """What does not change over the epochs."""
        if math.isnan(interval.value):
            return
        self.axes.axhspan(interval.low, interval.high, color=_COLOURS["parameters"], alpha=0.25, linewidth=0)
        self.axes.axhline(
            interval.value, color=QUIET, linewidth=1.2, linestyle=(0, (3, 2)) if dashed else "-", zorder=2
        )
        self.ends.append((interval.value, name, QUIET))

    def run(self, i: int, name: str, rankings: Sequence[Ranking], intervals: Sequence[Interval]) -> None:
        """What run number i has over its epochs."""
        shade, line = _RUNS[i % len(_RUNS)], _LINES[i // len(_RUNS) % len(_LINES)]
        x = [(r.epoch or 0) + (0.5 if r.step else 0.0) for r in rankings]  # within an epoch, in its middle
        value, low, high = np.array(intervals).T
        self.axes.fill_between(x, low, high, color=shade, alpha=0.1, linewidth=0)
        self.axes.plot(x, value, color=shade, linestyle=line, marker="o", markersize=3.2, zorder=3)
        if not math.isnan(value[-1]):
            self.ends.append((float(value[-1]), name, shade))

    def name(self) -> None:
        """Write the names; the limits are final."""
        self.axes.tick_params(length=3)
        self.axes.margins(x=0.02)
        name_ends(self.axes, self.ends)


def shortened(name: str, most: int) -> str:
    """The end of a name that is too long."""
    return name if len(name) <= most else f"…{name[1 - most :]}"
