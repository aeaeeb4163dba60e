"""Figures, tables and the page of the comparison on tasks."""

from __future__ import annotations

import dataclasses
import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from nas.report import page
from nas.report.figures import new_grid, styled
from nas.report.labels import name_ends
from nas.report.palette import INK, estimator_colour, readable
from recipes.ablation import TasksOptions
from studies.tasks.latent_tree import ListOps, majority
from studies.tasks.polynomial import Polynomial
from studies.tasks.task_grid import RAO_SAMPLES, Comparison, Result, Setting, Task
from studies.tasks.vae import MnistVAE

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
    means = np.array([[sign * _mean(panel.values[name]) for panel in panels] for name in names])
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
    means = {name: _mean(values) for name, values in panel.values.items()}
    behind = {name: abs(mean - best(means.values())) for name, mean in means.items()}
    return {name for name in behind if behind[name] > 5 * float(np.median(list(behind.values()))) > 0}


def _plot_rows(axes: Axes, panel: Panel, names: Sequence[str], digits: int, far: set[str]) -> None:
    """Plot the dots; of those `far` away only the value is written, at the edge that they lie behind."""
    for row, name in enumerate(names):
        values, shade = panel.values[name], estimator_colour(name)
        mean, deviation = _mean(values), _std(values)
        if name in far:
            right = mean > np.median([_mean(other) for other in panel.values.values()])
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
                [_mean(panel.others[name])],
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


@styled
def plot_training(comparisons: Sequence[Comparison]) -> Figure:
    """Excess of the expected loss over the polynomials' optimum while training, in % of its range."""
    figure, (grid,) = new_grid(
        1, len(comparisons), 2.5, sharey=True, left=0.5, right=1.04, top=0.5, bottom=0.5, between=(1.1, 0)
    )
    ends: list[list[tuple[float, str, str]]] = []
    for axes, comparison in zip(grid, comparisons, strict=True):
        task = comparison.task
        assert isinstance(task, Polynomial)
        ends.append([])
        for name, runs in comparison.runs.items():
            curves = np.array([[excess(task, value) for value in run["curve"]] for run in runs.values()])
            steps = next(iter(runs.values()))["steps"]
            low, high = curves.min(0), curves.max(0)
            axes.fill_between(steps, low, high, color=estimator_colour(name), alpha=0.18, linewidth=0)
            axes.plot(steps, curves.mean(0), color=estimator_colour(name), linewidth=1.5)
            last = float(curves[:, -1].mean())
            ends[-1].append((last, f"{name} {last:.2g}", estimator_colour(name)))
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_xlim(0, task.steps)
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 5, 10]))
        axes.set_title(f"p = {task.power:g}")
    for axes, names in zip(grid, ends, strict=True):  # whose common limits are final now
        name_ends(axes, names, 7.5)
    grid[0].set_ylabel("excess loss, % of the range")
    return figure


def excess(task: Polynomial, loss: float) -> float:
    """How far an expected loss is above the optimum, in % of the range between best and worst: the
    mean probability (%) of the worse value."""
    return 100 * (loss - task.optimum) / (task.worst - task.optimum)


def write(comparisons: Sequence[Comparison], options: TasksOptions, folder: Path) -> None:
    """Write report.html, results.csv and results.md into `folder`."""
    families = {
        c.task.family: [d for d in comparisons if d.task.family == c.task.family] for c in comparisons
    }
    pictures: list[page.Picture] = []
    tables: list[page.Table] = []
    for family, parts in families.items():
        pictures += _PICTURES[family](parts)
        tables += [_result_table(family, parts), _grid_table(family, parts)]
    page.write(
        folder,
        kind="Estimator ablation",
        title="Tasks with discrete latent variables",
        lead=_lead(comparisons, options),
        pictures=pictures,
        tables=tables,
        records=_records(comparisons, options.seed),
        configuration={
            **dataclasses.asdict(options),
            "torch": torch.__version__,
            "platform": platform.platform(),
        },
    )


def _polynomial_pictures(parts: Sequence[Comparison]) -> list[page.Picture]:
    task = parts[0].task
    assert isinstance(task, Polynomial)
    panels = []
    for part in parts:
        assert isinstance(part.task, Polynomial)
        final = {
            n: [excess(part.task, run["test"]) for run in runs.values()] for n, runs in part.runs.items()
        }
        panels.append(Panel(f"p = {part.task.power:g}", final, {}))
    return [
        page.Picture(
            "Polynomials: training",
            plot_training(parts),
            f"The exact expected loss of {task.variables} binary variables over the steps of Adam, as its "
            "excess over the best choice of all variables: 50 % is where training starts. Lines are means "
            "over the seeds, bands run from the lowest to the highest.",
        ),
        page.Picture(
            "Polynomials: final loss",
            plot_dots(panels, "excess loss, % of the range", best=min, digits=1, sharex=True),
            "After the last step: means with one standard deviation, strokes are the single seeds. Left is "
            "better.",
        ),
    ]


def _listops_pictures(parts: Sequence[Comparison]) -> list[page.Picture]:
    (part,) = parts
    task = part.task
    assert isinstance(task, ListOps)
    values = {name: [run["test"] for run in runs.values()] for name, runs in part.runs.items()}
    most_frequent = majority(task.data()[2])
    return [
        page.Picture(
            "ListOps: accuracy",
            plot_dots([Panel("Test", values, {})], "accuracy, %", best=max, digits=1),
            "Expressions evaluated by a tree LSTM whose tree is drawn through the estimator while training "
            "and is the most probable one when tested. Means with one standard deviation, strokes are the "
            f"single seeds. Right is better; the most frequent digit is right in {most_frequent:.1f} %.",
        )
    ]


def _vae_pictures(parts: Sequence[Comparison]) -> list[page.Picture]:
    panels = []
    for part in parts:
        assert isinstance(part.task, MnistVAE)
        values, others = (
            {name: [run[key] for run in runs.values()] for name, runs in part.runs.items()}
            for key in ("test", "train")
        )
        title = f"{part.task.latents} latents of {part.task.classes} classes"
        panels.append(Panel(title, values, others))
    return [
        page.Picture(
            "Auto-encoder: negative ELBO",
            plot_dots(panels, "nats an image", best=min, digits=1),
            "Filled dots: test images, means with one standard deviation, strokes are the single seeds. "
            "Rings: training images. An arrow points to what lies far outside. Left is better.",
        )
    ]


_PICTURES: Mapping[str, Callable[[Sequence[Comparison]], list[page.Picture]]] = {
    "polynomial": _polynomial_pictures,
    "listops": _listops_pictures,
    "vae": _vae_pictures,
}

_FIGURES = {
    "polynomial": ("Polynomials: final expected loss", ("test",), 5),
    "listops": ("ListOps: accuracy, %", ("test", "valid", "train"), 1),
    "vae": ("Auto-encoder: negative ELBO, nats", ("test", "train"), 1),
}


def _result_table(family: str, parts: Sequence[Comparison]) -> page.Table:
    """Mean ± std over the seeds, with the chosen temperature and learning rate."""
    heading, keys, digits = _FIGURES[family]
    columns, rows = ["estimator"], {name: [name] for name in parts[0].runs}
    for part in parts:
        title = _title(part)
        columns += [f"{title}{key}" for key in keys] if len(keys) > 1 else [title.strip()]
        columns.append("tau, lr")
        for name, runs in part.runs.items():
            for key in keys:
                rows[name].append(mean_and_std([run[key] for run in runs.values()], digits))
            setting = part.chosen[name]
            rows[name].append(f"{setting.tau:g}, {setting.lr:g}")
    columns.append("seconds a run")
    for name, row in rows.items():
        row.append(f"{_mean(_seconds(run for part in parts for run in part.runs[name].values())):.1f}")
    note = ""
    if family == "polynomial":
        bounds = (
            f"p = {c.task.power:g}: {c.task.optimum:.5f} and {(c.task.optimum + c.task.worst) / 2:.5f}"
            for c in parts
            if isinstance(c.task, Polynomial)
        )
        note = f"Optimum and start: {'; '.join(bounds)}."
    return page.Table(heading, columns, list(rows.values()), note)


def _grid_table(family: str, parts: Sequence[Comparison]) -> page.Table:
    """The validation figure of every setting; the chosen one is marked."""
    columns, rows = ["estimator, tau"], dict[str, list[str]]()
    for part in parts:
        columns += [f"{_title(part)}lr {lr:g}" for lr in part.task.lrs]
        for name, tried in part.tried.items():
            for setting, result in tried.items():
                mark = " *" if setting == part.chosen[name] else ""
                digits = _FIGURES[family][2]
                cells = rows.setdefault(f"{name}, {setting.tau:g}", [])
                cells.append(f"{result['validation']:.{digits}f}{mark}")
    what = {
        "polynomial": "final expected loss",
        "listops": "error on validation, %",
        "vae": "negative ELBO on validation, nats",
    }[family]
    return page.Table(
        f"{_FIGURES[family][0].partition(':')[0]}: grid",
        columns,
        [[name, *cells] for name, cells in rows.items()],
        f"One run each, {what}; lower is better, the chosen setting of each estimator has a star.",
    )


def _title(part: Comparison) -> str:
    task = part.task
    if isinstance(task, Polynomial):
        return f"p = {task.power:g} "
    return f"{task.classes}×{task.latents} " if isinstance(task, MnistVAE) else ""


def _records(comparisons: Sequence[Comparison], seed: int) -> list[dict[str, Any]]:
    """One row for each run: the grid's, then those of the chosen settings."""
    records = []
    for task, tried, chosen, runs in comparisons:
        for results in tried.values():
            for setting, result in results.items():
                records.append(_record(task, "grid", setting, task.selection_seed(seed), result))
        for name, by_seed in runs.items():
            for each, result in by_seed.items():
                records.append(_record(task, "chosen", chosen[name], each, result))
    return records


def _record(task: Task, part: str, setting: Setting, seed: int, result: Result) -> dict[str, Any]:
    figures = {key: value for key, value in result.items() if not isinstance(value, list)}
    return {"task": task.name, "part": part, **setting._asdict(), "seed": seed, **figures}


def _lead(comparisons: Sequence[Comparison], options: TasksOptions) -> str:
    seconds = {  # a run of the grid that is also one of those reported counts once
        (record["task"], record["estimator"], record["tau"], record["lr"], record["seed"]): record["seconds"]
        for record in _records(comparisons, options.seed)
    }
    budgets = []
    for task in (c.task for c in comparisons):
        if isinstance(task, Polynomial):
            budgets.append(f"{task.steps} steps with {task.draws} draws each on polynomials")
        elif isinstance(task, ListOps):
            budgets.append(f"{task.steps} steps of {task.batch_size} expressions on ListOps")
        elif isinstance(task, MnistVAE):
            budgets.append(f"{task.epochs} epoch{'s'[: task.epochs != 1]} of MNIST for the auto-encoder")
    return (
        f"Every estimator trains the same models: {', '.join(dict.fromkeys(budgets))}. Temperature and "
        "learning rate of each come from the same small grid, chosen on validation figures with one seed; "
        f"{options.seeds} seed{'s'[: options.seeds != 1]} of the chosen setting are reported. Temperatures "
        f"are constant; the Rao-Blackwellised estimators average {RAO_SAMPLES} samples. "
        f"{len(seconds)} runs, {sum(seconds.values()) / 3600:.2f} hours of training in all on a machine with "
        f"{os.cpu_count()} CPU cores."
    )


def mean_and_std(values: Sequence[float], digits: int) -> str:
    """E.g. "97.53 ± 0.21"; a lone value has no deviation."""
    mean = f"{_mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {_std(values):.{digits}f}"


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _std(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _seconds(results: Iterable[Result]) -> list[float]:
    return [result["seconds"] for result in results]
