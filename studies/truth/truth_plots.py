"""Figures of a table of accuracies."""

from __future__ import annotations

import math
from collections.abc import Mapping

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nas.report.figures import WIDTH, new_figure, new_grid, styled
from nas.report.palette import FAINT, INK, QUIET
from nas.tables.agreement import agreement
from studies.truth.truth_statistics import running_deviation, tied

LINE, BAND, BEST = "#1c6fb4", "#a9cdec", "#c2255c"
BEST_SHOWN = 25


@styled
def plot_sorted(accuracies: np.ndarray, stds: np.ndarray, seeds: int, margin: float) -> Figure:
    """Accuracies from best to worst; right, the best of them with their standard errors.

    Args:
        accuracies: mean accuracy (n,) of the cells, in %.
        stds: standard deviation over seeds (n,), in %.
        seeds: number of seeds.
        margin: distance below the best, in %, up to which cells count as tied with it.
    """
    order = np.argsort(-accuracies, kind="stable")
    deviations = running_deviation(accuracies, stds, 2 * (len(order) // 60) + 1)
    figure = new_figure(WIDTH, 3.2)
    left, right = figure.subplots(
        1, 2, width_ratios=(1.5, 1), gridspec_kw={"left": 0.052, "right": 0.985, "top": 0.89, "bottom": 0.15}
    )
    rank, y, d = np.arange(1, len(order) + 1), accuracies[order], deviations[order]
    left.fill_between(rank, y - d, np.minimum(y + d, 100), color=BAND, alpha=0.55, linewidth=0)
    left.plot(rank, y, color=LINE)
    floor = np.quantile(y - d, 0.01)
    left.set(xlim=(0.5, len(order) + 0.5), ylim=_widened(floor, y[0] + d[0]))
    left.set_title("all cells that connect input and output: accuracy, %")
    _plot_best(right, y, stds[order], seeds, margin)
    for axes in (left, right):
        axes.set_xlabel("rank")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        axes.tick_params(length=3)
    return figure


def _plot_best(axes: Axes, y: np.ndarray, stds: np.ndarray, seeds: int, margin: float) -> None:
    """The first cells of `plot_sorted`, sorted already."""
    count = min(BEST_SHOWN, len(y))
    rank, errors = np.arange(1, count + 1), stds[:count] / math.sqrt(seeds)
    ties = int(tied(y, margin).sum())
    colours = [BEST if i < ties else LINE for i in range(count)]
    axes.axhspan(y[0] - margin, y[0], color=BEST, alpha=0.07, linewidth=0)
    axes.vlines(rank, y[:count] - errors, y[:count] + errors, color=colours, linewidth=1.2, alpha=0.7)
    axes.scatter(rank, y[:count], color=colours, s=16, zorder=3)
    axes.set_xlim(0.3, count + 0.7)
    axes.set_title(f"the best {count}, with standard errors")
    axes.text(
        0.98, 0.96, f"{ties:,} tied with the best", transform=axes.transAxes, ha="right", va="top",
        color=BEST, size=8.5,
    )  # fmt: skip


@styled
def plot_parameters(accuracies: np.ndarray, parameters: np.ndarray) -> Figure:
    """Accuracy (%) of cells (n,) over the parameters (n,) of their networks, with the best of each size."""
    figure, ((axes,),) = new_grid(1, 1, 2.19, left=0.5, right=0.13, top=0.33, bottom=0.48, width=WIDTH / 2)
    sizes = np.unique(parameters)
    step = np.diff(sizes).min() if len(sizes) > 1 else 1
    shift = np.random.default_rng(0).uniform(-0.3, 0.3, len(parameters)) * step
    small = len(accuracies) > 1000
    figure.set_dpi(200)  # of the dots, which are an image
    axes.scatter(
        (parameters + shift) / 1000,
        accuracies,
        s=3 if small else 14,
        alpha=0.15 if small else 0.5,
        color=LINE,
        linewidth=0,
        rasterized=True,
    )
    best = [accuracies[parameters == size].max() for size in sizes]
    axes.plot(sizes / 1000, best, color=BEST, marker="o", markersize=3.5, linewidth=1.2)
    floor = np.quantile(accuracies, 0.01)
    axes.set_ylim(_widened(floor, max(best)))
    axes.set_title("accuracy, %")
    axes.set_xlabel("parameters, thousands")
    axes.tick_params(length=3)
    return figure


@styled
def plot_random(expected: Mapping[int, float], best: float) -> Figure:
    """Expected accuracy (%) of the best of n random cells, by n, beside the best of all."""
    figure, ((axes,),) = new_grid(1, 1, 2.19, left=0.5, right=0.13, top=0.33, bottom=0.48, width=WIDTH / 2)
    axes.axhline(best, color=BEST, linewidth=1.2)
    axes.plot(list(expected), list(expected.values()), color=QUIET, marker="o", markersize=3.5)
    axes.set_xscale("log")
    axes.set_xticks(list(expected), [str(count) for count in expected])
    axes.minorticks_off()
    low = min(expected.values())
    axes.set_ylim(_widened(low, best + 0.08 * (best - low)))
    axes.annotate(
        "best cell",
        (0.02, best),
        xycoords=axes.get_yaxis_transform(),
        xytext=(0, 3),
        textcoords="offset points",
        color=BEST,
        size=8.5,
    )
    axes.set_title("best of n random cells: expected accuracy, %")
    axes.set_xlabel("n")
    axes.tick_params(length=3)
    return figure


@styled
def plot_references(accuracies: np.ndarray, references: Mapping[str, np.ndarray]) -> Figure:
    """How many cells have which accuracy (%) here and in each of the references; all arrays (n,)."""
    panels = len(references)
    left, gap, right = 0.5, 0.3, 0.65
    side = min(3.5, (WIDTH - left - right - (panels - 1) * gap) / panels)
    width = left + panels * side + (panels - 1) * gap + right
    figure, (grid,) = new_grid(
        1, panels, side, left=left, right=right, top=0.32, bottom=0.5, between=(gap, 0), width=width
    )
    low, high = np.quantile(accuracies, 0.03), accuracies.max()
    for axes, (name, reference) in zip(grid, references.items(), strict=True):
        start, end = np.quantile(reference, 0.03), reference.max()
        extent = (*_widened(start, end), *_widened(low, high))
        inside = (reference >= start) & (accuracies >= low)
        bins = axes.hexbin(
            reference[inside],
            accuracies[inside],
            gridsize=34,
            extent=extent,
            mincnt=1,
            norm=LogNorm(1, max(2, len(accuracies) / 60)),
            cmap=matplotlib.colormaps["YlGnBu"],
            linewidths=0.1,
        )
        axes.axhline(accuracies.max(), color=FAINT, linewidth=0.8, zorder=0)
        axes.set(xlim=extent[:2], ylim=extent[2:])
        axes.set_title(f"{name}, ρ = {agreement(accuracies, reference).spearman:.2f}")
        axes.set_xlabel("accuracy there, %")
        axes.tick_params(length=3)
        if axes is not grid[0]:
            axes.set_yticklabels([])
    grid[0].set_ylabel("accuracy here, %")
    box = grid[-1].get_position()
    scale = figure.add_axes((box.x1 + 0.15 / width, box.y0, 0.1 / width, box.height))
    figure.colorbar(bins, cax=scale, format=lambda count, _: f"{count:,.0f}")
    scale.minorticks_off()
    scale.set_title("cells", size=8, weight="normal", color=INK)
    scale.tick_params(length=2)
    return figure


def _widened(low: float, high: float) -> tuple[float, float]:
    """The interval with a margin, also where it is a point."""
    margin = 0.04 * (high - low) or 0.5
    return low - margin, high + margin
