"""What the supernets of a grid know: `python ablate.py nas --rank-cells N`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ablation import ranking
from ablation.comparison import Estimate, between, estimate
from ablation.grid_plots import Records, methods, style, values
from ablation.rank_statistics import FEWEST, PARTS, Ranking
from ablation.ranker import Field
from nas.report import page
from nas.report.figures import new_grid, styled
from nas.report.palette import QUIET, estimator_colour, readable
from nas.tables import Truth
from recipes import InputError
from recipes.ablation import GridOptions

SUPERNET, PARAMETERS = "supernet", "parameters"
_FIGURES = {
    "tau": "τ, all cells",
    "rho_best": "ρ, best tenth",
    "regret": "regret of its first",
    "best_of_ten": "best of its first 10, %",
}


def require_sound(options: GridOptions, known: Truth | None) -> None:
    """Raise InputError where there is nothing to rank by, or too few cells."""
    if options.rank_cells == 0:
        return
    if options.rank_cells < FEWEST:
        raise InputError(f"`rank_cells` is {options.rank_cells}, expected 0 or at least {FEWEST}")
    if known is None:
        raise InputError("`rank_cells` is for a table of accuracies: drop it, or `evaluate=retrain`")


def figures(folders: Sequence[Path], known: Truth, options: GridOptions) -> list[dict[str, Any]]:
    """How the shared weights of finished searches order the cells of their space, for results.csv.

    The searches are ranked one after the other in this process, each on the kind of device of its run. All
    score the same cells.

    Returns:
        For each of `folders`, `supernet_X` and, for the parameter count on the same cells, `parameters_X`,
        where X is `tau` over all cells, `rho_best` in the best tenth, `regret` (%) of the first in the order,
        or `best_of_ten`, the accuracy (%) of the best of its first ten.

    Raises:
        InputError, InterruptionError: see `ranking.rank_folders`.
    """
    found = ranking.rank_folders(
        folders, Field.of(known, options.rank_cells), names=[folder.name for folder in folders],
        out=Path(options.out or ""), plugins=options.plugins, threads=options.threads,
    )  # fmt: skip
    return [_row(ranking) for (ranking,) in found]


def _row(ranking: Ranking) -> dict[str, Any]:
    row: dict[str, Any] = {"ranked_cells": len(ranking.cells)}
    for who, score in ((SUPERNET, "loss"), (PARAMETERS, "parameters")):
        chosen = ranking.choice(score)
        row |= {
            f"{who}_tau": ranking.correlation(score, PARTS[0]).tau.value,
            f"{who}_rho_best": ranking.correlation(score, PARTS[1]).rho.value,
            f"{who}_regret": chosen.regret,
            f"{who}_best_of_ten": chosen.best_of_ten,
        }
    return row


def is_ranked(records: Records) -> bool:
    """Whether the rows of results.csv hold `figures`."""
    return "ranked_cells" in records[0]


def picture(records: Records, known: Truth) -> page.Picture:
    """How the supernets of every method order the cells."""
    return page.Picture(
        "What the supernets know",
        plot(records, known),
        f"Order of {records[0]['ranked_cells']:,} cells by the loss with the shared weights of finished "
        "searches, against the true accuracy. Small: searches. Large: their mean with its 95 % "
        "interval. Grey: the parameter count on the same cells. Regret: distance to the best of the table; "
        "what is beyond the axis is at its end.",
    )


def table(records: Records) -> page.Table:
    """The same in numbers."""
    rows = [
        [name, *(_text(_mean(records, name, f"{SUPERNET}_{figure}")) for figure in _FIGURES)]
        for name in methods(records)
    ]
    counts: dict[tuple[str, ...], list[str]] = {}
    for name in methods(records):
        first = next(record for record in records if record["method"] == name)
        alone = tuple(_number(first[f"{PARAMETERS}_{figure}"]) for figure in _FIGURES)
        counts.setdefault(alone, []).append(name)
    for alone, names in counts.items():
        of = "" if len(counts) == 1 else f" ({', '.join(names)})"
        rows.append([f"parameter count{of}", *alone])
    return page.Table(
        "What the supernets know",
        ("method", *_FIGURES.values()),
        rows,
        f"How {records[0]['ranked_cells']:,} cells, the same for all searches, are ordered by their loss "
        "with the shared weights after the search, on the validation part: Kendall's τ-b and Spearman's ρ "
        "with the true accuracy, distance of the first to the best of the table, and the best of the first "
        "ten. Means over the seeds with 95 % intervals; – where too few cells differ.",
    )


def _mean(records: Records, method: str, name: str) -> Estimate | None:
    """Mean over the seeds where the figure exists; None where it does for none."""
    known = [value for value in values(records, method, name) if not math.isnan(value)]
    return estimate(known) if known else None


def _text(mean: Estimate | None) -> str:
    if mean is None:
        return "–"
    return f"{mean.mean:z.2f}" + f" ({between(mean.low, mean.high, 'z.2f')})" * (mean.runs > 1)


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:z.2f}"


@styled
def plot(records: Records, known: Truth) -> Figure:
    """Correlations and regrets: a dot per search, mean and interval per method, and the parameter count."""
    names, best = methods(records), known.optimum[1].accuracy
    left = max(1.0, 0.2 + 0.075 * max(map(len, names)))
    figure, (grid,) = new_grid(
        1, 4, 0.36 * len(names), left=left, right=0.15, top=0.35, bottom=0.35, between=(0.22, 0)
    )
    titles = ("τ, all cells", "ρ, best tenth", "regret of its first, %", "… of its best of 10, %")
    for axes, name, title in zip(grid, _FIGURES, titles, strict=True):
        found, counts = (
            {m: [_shown(v, name, best) for v in values(records, m, f"{who}_{name}")] for m in names}
            for who in (SUPERNET, PARAMETERS)
        )
        low, high = _limits([v for figures in (found, counts) for row in figures.values() for v in row], name)
        for i, method in enumerate(names):
            _plot_row(axes, i, found[method], min(counts[method][0], high), high, style(method, names))
        axes.axvline(0, color=QUIET, linewidth=0.8)
        axes.set(xlim=(low, high), ylim=(len(names) - 0.5, -0.5))
        axes.set_title(title, size=9)
        axes.set_yticks(range(len(names)), names if axes is grid[0] else [])
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
        axes.tick_params(length=0)
    for tick, name in zip(grid[0].get_yticklabels(), names, strict=True):
        tick.set(color=readable(estimator_colour(name)), size=9)
    return figure


def _shown(value: float, name: str, best: float) -> float:
    """A figure as the picture has it: accuracies as distances to the best of the table."""
    return best - value if name == "best_of_ten" else value


def _limits(shown: Sequence[float], name: str) -> tuple[float, float]:
    """Ends of an axis: all correlations, or most of the regrets."""
    every = np.array(shown)
    every = every[~np.isnan(every)] if not np.isnan(every).all() else np.zeros(1)
    if name in ("tau", "rho_best"):
        low, high = min(0.0, float(every.min())), max(0.0, float(every.max()))
    else:
        low, high = 0.0, float(np.quantile(every, 0.9))
    margin = 0.08 * max(high - low, 0.1)
    return low - margin, high + margin


def _plot_row(
    axes: Axes, i: int, searches: Sequence[float], count: float, high: float, look: tuple[str, str, Any]
) -> None:
    """One method in one panel, whose axis ends at `high`; `count` is what the parameter count has."""
    shade, marker, _ = look
    axes.plot([count, count], [i - 0.36, i + 0.36], color=QUIET, linewidth=1.4, zorder=2)
    found = [value for value in searches if not math.isnan(value)]
    if not found:
        axes.text(0, i, " –", size=7.5, color=QUIET, va="center_baseline")
        return
    mean = estimate(found)
    offsets = np.linspace(-0.13, 0.13, len(found)) if len(found) > 1 else np.zeros(1)
    axes.scatter(
        np.minimum(found, high), i + offsets, s=18, color=shade, marker=marker, alpha=0.45, linewidth=0,
        clip_on=False,
    )  # fmt: skip
    axes.plot(np.minimum(mean[2:4], high), [i, i], color=shade, linewidth=2.2, zorder=3)
    axes.plot(
        [min(mean.mean, high)], [i], marker, color=shade, markersize=8, markeredgecolor="white", zorder=4,
        clip_on=False,
    )  # fmt: skip
