"""Tables and the page of the comparison on tasks."""

from __future__ import annotations

import dataclasses
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from nas.report import page
from studies.options import TasksOptions
from studies.tasks.task_grid import RAO_SAMPLES, Comparison, Result, Setting, Task
from studies.tasks.task_plots import mean_and_std, mean_of

Comparisons = Sequence[Comparison[Task]]


def write(comparisons: Comparisons, options: TasksOptions, folder: Path) -> None:
    """Write report.html, results.csv and results.md into `folder`."""
    families = dict.fromkeys(comparison.task.family for comparison in comparisons)
    pictures: list[page.Picture] = []
    tables: list[page.Table] = []
    for family in families:
        parts = [comparison for comparison in comparisons if comparison.task.family == family]
        pictures += parts[0].task.pictures(parts)
        tables += [_result_table(parts), _grid_table(parts)]
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


def _result_table(parts: Comparisons) -> page.Table:
    """Mean ± std over the seeds, with the chosen temperature and learning rate."""
    columns, rows = ["estimator"], {name: [name] for name in parts[0].runs}
    for part in parts:
        task, keys = part.task, part.task.figures
        columns += [f"{task.title} {key}".strip() for key in keys] if len(keys) > 1 else [task.title]
        columns.append("tau, lr")
        for name, runs in part.runs.items():
            for key in keys:
                rows[name].append(mean_and_std([run[key] for run in runs.values()], task.digits))
            setting = part.chosen[name]
            rows[name].append(f"{setting.tau:g}, {setting.lr:g}")
    columns.append("seconds a run")
    for name, row in rows.items():
        seconds = [run["seconds"] for part in parts for run in part.runs[name].values()]
        row.append(f"{mean_of(seconds):.1f}")
    first = parts[0].task
    return page.Table(first.heading, columns, list(rows.values()), first.note([part.task for part in parts]))


def _grid_table(parts: Comparisons) -> page.Table:
    """The validation figure of every setting; the chosen one is marked."""
    columns, rows = ["estimator, tau"], dict[str, list[str]]()
    for part in parts:
        columns += [f"{part.task.title} lr {lr:g}".strip() for lr in part.task.lrs]
        for name, tried in part.tried.items():
            for setting, result in tried.items():
                mark = " *" if setting == part.chosen[name] else ""
                cells = rows.setdefault(f"{name}, {setting.tau:g}", [])
                cells.append(f"{result['validation']:.{part.task.digits}f}{mark}")
    first = parts[0].task
    return page.Table(
        f"{first.heading.partition(':')[0]}: grid",
        columns,
        [[name, *cells] for name, cells in rows.items()],
        f"One run each, {first.validated}; lower is better, the chosen setting of each estimator has a star.",
    )


def _records(comparisons: Comparisons, seed: int) -> list[dict[str, Any]]:
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


def _lead(comparisons: Comparisons, options: TasksOptions) -> str:
    seconds = {  # a run of the grid that is also one of those reported counts once
        (record["task"], record["estimator"], record["tau"], record["lr"], record["seed"]): record["seconds"]
        for record in _records(comparisons, options.seed)
    }
    budgets = dict.fromkeys(comparison.task.budget for comparison in comparisons)
    return (
        f"Every estimator trains the same models: {', '.join(budgets)}. Temperature and "
        "learning rate of each come from the same small grid, chosen on validation figures with one seed; "
        f"{options.seeds} seed{'s'[: options.seeds != 1]} of the chosen setting are reported. Temperatures "
        f"are constant; the Rao-Blackwellised estimators average {RAO_SAMPLES} samples. "
        f"{len(seconds)} runs, {sum(seconds.values()) / 3600:.2f} hours of training in all on a machine with "
        f"{os.cpu_count()} CPU cores."
    )
