"""A whole short search, and how its cost grows: `python -m benchmarks.search`."""

from __future__ import annotations

import statistics
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

import nas
import search_spaces
from benchmarks import subjects, timing
from benchmarks.timing import BenchmarkOptions, Cost, Report, Row
from nas.report.figures import new_figure, to_png
from recipes import InputError, one_of
from recipes.options import option
from search_spaces.nasbench201 import DenseCellSpace

# The candidates of nasbench201, then others.
CANDIDATES = (
    "none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3",
    "max_pool_3x3", "sep_conv_3x3", "dil_conv_3x3",
)  # fmt: skip
BASE: dict[str, int] = {"channels": 8, "cells": 1, "candidates": 5, "batch_size": 32, "epochs": 2}
FACTORS: dict[str, tuple[int, ...]] = {
    "channels": (4, 8, 16, 32),
    "cells": (1, 2, 3, 4),
    "candidates": (2, 4, 5, 6, 8),
    "batch_size": (16, 32, 64, 128),
    "epochs": (1, 2, 4, 8),
}
REFERENCE = "random images"


@dataclass(kw_only=True)
class WholeSearchOptions(BenchmarkOptions):
    """Searches in nasbench201, each from start to report in a process of its own."""

    repeats: int = option(3, at_least=1)
    """Alternations; the medians over them are reported."""
    images: int = 512
    """Random images of 32 x 32, half of them for the architecture steps."""
    digits_epochs: int = 4
    """Epochs of the search on digits, otherwise that of `train_search.py` without options."""
    factors: tuple[str, ...] = tuple(FACTORS)
    """What is varied, one at a time."""
    points: int = 5
    """Values of a factor at most."""


def run(options: WholeSearchOptions) -> Report:
    """All rows; with --json also a plot beside it."""
    for factor in options.factors:
        one_of("factor", factor, FACTORS)
    searches: dict[str, dict[str, Any]] = {
        "digits": {"dataset": "digits", "epochs": options.digits_epochs},
        REFERENCE: BASE,
        "random images, dense": BASE | {"edge_gradient": "dense", "channels_last": False},
    }
    for factor in options.factors:
        for value in FACTORS[factor][: options.points]:
            if value != BASE[factor]:
                searches[f"{factor} {value}"] = BASE | {factor: value}
    costs: dict[str, list[Cost]] = {name: [] for name in searches}
    for _ in range(options.repeats):
        for name, changes in searches.items():
            costs[name].append(timing.in_fresh_process(search, options, changes))
            print(f"  {name}: {costs[name][-1].seconds:.3g} s", file=sys.stderr, flush=True)
    report = Report("search", options)
    seconds = {name: [cost.seconds for cost in found] for name, found in costs.items()}
    memory = {name: statistics.median(cost.bytes for cost in found) / 2**20 for name, found in costs.items()}
    for name in searches:
        report.add(timing.timed(seconds, name, REFERENCE if name != REFERENCE else None))
    for name, peak in memory.items():
        row = Row(f"peak memory, {name}", peak, "MiB")
        if name != REFERENCE:
            row = replace(row, ratio=peak / memory[REFERENCE], to=f"peak memory, {REFERENCE}")
        report.add(row)
    if options.json is not None:
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        picture = to_png(growth(options, medians, memory), dpi=100)
        try:
            Path(options.json).with_suffix(".png").write_bytes(picture)
        except OSError as error:
            raise InputError(f"cannot write the plot beside {options.json}: {error}") from None
    return report


def search(options: WholeSearchOptions, changes: dict[str, Any]) -> None:
    """The search with these options, on random images unless they name a data set."""
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    changes = dict(changes)
    count = changes.pop("candidates", 5)
    space: str | DenseCellSpace = f"dense_cells_{count}"
    if space not in search_spaces.names():
        space = DenseCellSpace(str(space), 4, 16, 5, CANDIDATES[:count])
    if "dataset" in changes:
        changes["data"] = changes.pop("dataset")
    else:
        changes["data"] = subjects.random_images(options.images)
    with tempfile.TemporaryDirectory() as folder:
        nas.search(space, out=Path(folder) / "run", device="cpu", tensorboard=False, **changes)


def growth(options: WholeSearchOptions, seconds: dict[str, float], memory: dict[str, float]) -> Figure:
    """Seconds and MiB against every factor, the others as in BASE."""
    columns = len(options.factors)
    figure = new_figure(2.4 * columns + 0.8, 4.6)
    for column, factor in enumerate(options.factors):
        values = FACTORS[factor][: options.points]
        names = [REFERENCE if value == BASE[factor] else f"{factor} {value}" for value in values]
        for row, (label, costs) in enumerate((("seconds", seconds), ("peak memory, MiB", memory))):
            axes = figure.add_subplot(2, columns, row * columns + column + 1)
            axes.plot(values, [costs[name] for name in names], marker="o")
            axes.set_ylim(0, 1.1 * max(costs[n] for n in costs if n != "digits"))
            axes.set_xlim(0, None)
            axes.set_xticks(values)
            if column == 0:
                axes.set_ylabel(label)
            if row == 1:
                axes.set_xlabel(factor.replace("_", " "))
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    sys.exit(timing.main("search", WholeSearchOptions, run))
