"""Figures of the comparison on tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from nas.report.figures import new_grid, styled
from nas.report.labels import name_ends
from nas.report.palette import INK, estimator_colour, readable

ROW = 0.34  # inches


class Panel(NamedTuple):
    """One panel of dots: figures of every estimator, one for each seed.

    Attributes:
        values: shown as a filled dot with mean ± std and as small single ones.
        others: shown as a ring, with the same scale.
    """

    title: str
    values: Mapping[str, Sequence[float]]
    others: Mapping[str, Sequence[float]]


@styled
def plot_dots(
    panels: Sequence[Panel], label: str, *, best: Callable[..., Any], digits: int, sharex: bool = False
) -> Figure:
    """Estimators in rows, ordered by their mean rank, one panel beside the other.

    Args:
        label: of the horizontal axis.
        best: min or max, whichever is better; the best is on top.
        digits: decimals of the means that are written beside the dots.
        sharex: give all panels the same scale.
    """
    names = list(panels[0].values)
    sign = 1 if best is min else -1
    means = np.array([[sign * mean_of(panel.values[name]) for panel in panels] for name in names])
    ranks = np.nan_to_num(means, nan=np.inf).argsort(0).argsort(0).mean(1)
    names = [names[i] for i in ranks.argsort(kind="stable")]
    figure, (grid,) = new_grid(
        1, len(panels), ROW * len(names) + 0.07, sharex=sharex, sharey=True, left=1.04, right=0.14, top=0.38,
        bottom=0.5, between=(0.2, 0),
    )  # fmt: skip
    for axes, panel in zip(grid, panels, strict=True):
        _plot_rows(axes, panel, names, digits, set() if sharex else _far(panel, best))
        axes.set_title(panel.title)
        axes.set_xlabel(label)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(4 if len(panels) > 1 else 8, steps=[1, 2, 5, 10]))
    grid[0].set_yticks(range(len(names)), names, size=9, color=INK)
    grid[0].set_ylim(len(names) - 0.4, -0.75)
    return figure


def _far(panel: Panel, best: Callable[..., Any]) -> set[str]:
    """Estimators so far behind (five times the median) that on their scale the others would be one dot."""
    means = {name: mean_of(values) for name, values in panel.values.items()}
    behind = {name: abs(mean - best(means.values())) for name, mean in means.items()}
    return {name for name in behind if behind[name] > 5 * float(np.median(list(behind.values()))) > 0}


def _plot_rows(axes: Axes, panel: Panel, names: Sequence[str], digits: int, far: set[str]) -> None:
    """Plot the dots; of those `far` away only the value is written, at the edge that they lie behind."""
    for row, name in enumerate(names):
        values, shade = panel.values[name], estimator_colour(name)
        mean, deviation = mean_of(values), std_of(values)
        if name in far:
            right = mean > np.median([mean_of(other) for other in panel.values.values()])
            axes.annotate(
                f"{mean:.{digits}f} →" if right else f"← {mean:.{digits}f}",
                (1 if right else 0, row),
                xycoords=("axes fraction", "data"),
                ha="right" if right else "left",
                va="center",
                size=8.5,
                color=readable(shade),
            )
            continue
        if name in panel.others:
            axes.plot(
                [mean_of(panel.others[name])],
                [row],
                "o",
                markersize=7,
                markerfacecolor="white",
                markeredgecolor=shade,
                markeredgewidth=1.3,
            )
        axes.plot([mean - deviation, mean + deviation], [row, row], color=shade, linewidth=2.4)
        axes.plot(values, [row] * len(values), "|", color=shade, markersize=9, markeredgewidth=1)
        axes.plot([mean], [row], "o", color=shade, markersize=7, markeredgecolor="white")
        axes.annotate(
            f"{mean:.{digits}f}",
            (mean, row),
            xytext=(0, 5.5),
            textcoords="offset points",
            ha="center",
            size=7.5,
            color=readable(shade),
        )
    axes.margins(x=0.1)


class Curves(NamedTuple):
    """One panel of curves: values (seeds, T) of every estimator at the `steps` (T,)."""

    title: str
    steps: Sequence[int]
    values: Mapping[str, np.ndarray]


@styled
def plot_training(panels: Sequence[Curves], label: str) -> Figure:
    """Curves over the steps of training, means over the seeds, on a logarithmic scale.

    Args:
        label: of the vertical axis.
    """
    figure, (grid,) = new_grid(
        1, len(panels), 2.5, sharey=True, left=0.5, right=1.04, top=0.5, bottom=0.5, between=(1.1, 0)
    )
    for axes, panel in zip(grid, panels, strict=True):
        for name, curves in panel.values.items():
            shade = estimator_colour(name)
            axes.fill_between(panel.steps, curves.min(0), curves.max(0), color=shade, alpha=0.18, linewidth=0)
            axes.plot(panel.steps, curves.mean(0), color=shade, linewidth=1.5)
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set(xlim=(0, panel.steps[-1]), xlabel="step", title=panel.title)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 5, 10]))
    for axes, panel in zip(grid, panels, strict=True):  # whose common limits are final now
        ends = {name: float(curves[:, -1].mean()) for name, curves in panel.values.items()}
        name_ends(axes, [(y, f"{name} {y:.2g}", estimator_colour(name)) for name, y in ends.items()], 7.5)
    grid[0].set_ylabel(label)
    return figure


def mean_and_std(values: Sequence[float], digits: int) -> str:
    """E.g. "97.53 ± 0.21"; a lone value has no deviation."""
    mean = f"{mean_of(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {std_of(values):.{digits}f}"


def mean_of(values: Sequence[float]) -> float:
    return float(np.mean(values))


def std_of(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
