"""The report of a table of accuracies: optimum, noise, and agreement with other tables."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from nas.report import page
from nas.tables import Truth, json_table
from nas.tables.agreement import Agreement, agreement, top
from nas.tables.lookup import enumerable
from studies.truth import truth_plots
from studies.truth import truth_statistics as statistics

BEST_NAMED = 10
LUCKY = (1, 5, 20, 50)
DRAWS = (1, 2, 5, 10, 20, 50, 100)


class Findings:
    """A table of accuracies and what follows from it. Arrays (n,) are in the order of `space.all()`.

    Statistics of noise are of the m cells that were trained: of those that compute the same, the table of
    nasbench201 has copies of one.

    Args:
        table: what `studies.truth.build.assemble` returns, with at least two seeds.
        references: other tables of the same space, by name.

    Attributes:
        known: the table as a `Truth`.
        texts, forms: every cell (n), and its canonical form.
        connected: (n,), whether the output of a cell depends on its input.
        samples: (S, m), accuracies in % of all seeds.
        trained: (n,), places of the cells in them.
        parameters: (n,), of the networks.
        error: standard error of the difference between two of the best cells, in %.
    """

    def __init__(self, table: Mapping[str, Any], references: Mapping[str, Truth]) -> None:
        self.known, self.references = json_table.from_table(table, "the table"), references
        space = enumerable(self.known.space)
        cells = list(space.all())
        self.texts = [space.format(cell) for cell in cells]
        self.forms = [space.canonical(cell) for cell in cells]
        self.connected = np.array(["0" in form for form in self.forms])  # 0 is the input
        self.trained = np.asarray(json_table.rows(table))
        self.samples = 100 * np.array(table["correct"]) / table["test_images"]
        self.parameters = np.array(table["parameters"])[self.trained]
        self.accuracies = self.known.accuracies
        self.stds = self.samples.std(0, ddof=1)[self.trained]
        self.seeds = len(self.samples)
        self.error = statistics.standard_error(self.samples)

    def tied(self, errors: float) -> tuple[int, int]:
        """How many cells are within so many standard errors of the best, and how many of them differ."""
        mask = statistics.tied(self.accuracies, errors * self.error)
        return int(mask.sum()), len({self.forms[i] for i in np.flatnonzero(mask)})

    def parts(self) -> dict[str, np.ndarray]:
        """The sets of cells that statistics are given for, as masks (n,)."""
        return {
            "all cells": np.ones(len(self.texts), bool),
            "connected cells": self.connected,
        }

    def agreements(self) -> Iterator[tuple[str, str, Agreement]]:
        """Reference, cells compared, and rank correlation with it."""
        for name, reference in self.references.items():
            best = top(reference.accuracies, 0.1)
            for part, mask in {**self.parts(), "best tenth there": best}.items():
                found = agreement(self.accuracies[mask], reference.accuracies[mask])
                yield name, part, found

    def records(self) -> list[dict[str, Any]]:
        """A row of results.csv for every cell, the best first."""
        order = np.argsort(-self.accuracies, kind="stable")
        ranks = np.searchsorted(-self.accuracies[order], -self.accuracies) + 1
        return [
            {
                "cell": self.texts[i],
                "rank": int(ranks[i]),
                "accuracy": float(self.accuracies[i]),
                "std": float(self.stds[i]),
                "parameters": int(self.parameters[i]),
                "connected": bool(self.connected[i]),
                **{name: float(reference.accuracies[i]) for name, reference in self.references.items()},
            }
            for i in order
        ]


def write(folder: Path, table: Mapping[str, Any], references: Mapping[str, Truth]) -> None:
    """Write report.html, results.csv and results.md into `folder`; arguments as for `Findings`."""
    found = Findings(table, references)
    space, (text, optimum) = found.known.space, found.known.optimum
    ties, different = found.tied(2)
    page.write(
        folder,
        kind="Ground truth",
        title=f"Every cell of {space} on {table['dataset']}",
        lead=f"All {len(found.texts):,} cells, trained from scratch with {found.seeds} seeds each and "
        f"tested on {table['test_images']:,} images. The best is {text} with {optimum.accuracy:.2f} ± "
        f"{optimum.std:.2f} %. Within two standard errors of it ({2 * found.error:.2f} %) are {ties:,} "
        f"cells, {different:,} of which compute something different.",
        pictures=_pictures(found),
        tables=list(_tables(found)),
        records=found.records(),
        configuration={
            "command": "ablate.py truth",
            "space": space,
            **table["recipe"],
            "seeds": found.seeds,
            "cells trained": len(table["cells"]),
            "version": table["version"],
            "torch": table["torch"],
        },
    )


def _pictures(found: Findings) -> list[page.Picture]:
    connected = found.connected
    known, apart = found.known, int((~connected).sum())
    pictures = [
        page.Picture(
            "From best to worst",
            truth_plots.plot_sorted(
                found.accuracies[connected], found.stds[connected], found.seeds, 2 * found.error
            ),
            "The band is one standard deviation over seeds, of cells around this rank. Right, red: at most "
            f"two standard errors of a difference ({2 * found.error:.2f} %) below the best. Not shown: "
            f"{apart:,} cells without a path from input to output, with "
            f"{found.accuracies[~connected].mean():.1f} % on average.",
        ),
        page.Picture(
            "Size",
            truth_plots.plot_parameters(found.accuracies[connected], found.parameters[connected]),
            "Connected cells, all but the lowest hundredth; the line is the best of each size.",
            half=True,
        ),
        page.Picture(
            "Random search",
            truth_plots.plot_random({n: known.best_of(n) for n in DRAWS if n > 1}, known.optimum[1].accuracy),
            "What the best of n cells drawn uniformly has, on average.",
            half=True,
        ),
    ]
    if found.references:
        columns = {name: reference.accuracies for name, reference in found.references.items()}
        figure: Figure = truth_plots.plot_references(found.accuracies, columns)
        caption = (
            "Drawn without the lowest 3 % of either table; ρ is Spearman's rank correlation of all cells."
        )
        pictures.append(page.Picture("Beside other tables", figure, caption))
    return pictures


def _tables(found: Findings) -> Iterator[page.Table]:
    yield _best(found)
    parts = found.parts()
    yield page.Table(
        "Distribution of the accuracies, %",
        ("cells", "number", "mean", *_quantile_names()),
        [
            _distribution(name, found.accuracies[mask])
            for name, mask in {**parts, "other cells": ~found.connected}.items()
            if mask.any()
        ],
    )
    noise = (
        "spread between cells",
        "std over seeds",
        "noise",
        "rank correlation of two seeds",
        "reliability",
    )
    yield page.Table(
        "Differences and noise",
        ("cells", "number", *noise),
        [
            _reliability(name, found.samples[:, np.unique(found.trained[mask])])
            for name, mask in parts.items()
        ],
        "Of the cells that were trained. Standard deviations in %. The spread is that of the cells' means; "
        "noise is what a seed adds to a cell, without what it adds to all. The reliability is the share of "
        "the variance of the means that is not noise (Cronbach's alpha).",
    )
    best = np.sort(found.samples.mean(0))[::-1]
    yield page.Table(
        "The best n cells without their luck, %",
        ("n", *map(str, LUCKY)),
        [
            ["accuracy in the table", *(_number(best[:n].mean()) for n in LUCKY)],
            [
                "in a seed that did not choose",
                *(_number(statistics.held_out(found.samples, n)) for n in LUCKY),
            ],
        ],
        "Means of so many cells that were trained. Below: chosen by all seeds but one, and looked up in that "
        "one.",
    )
    yield page.Table(
        "Expected accuracy of the best of n random cells, %",
        ("n", *map(str, DRAWS)),
        [["accuracy", *(_number(found.known.best_of(n)) for n in DRAWS)]],
    )
    if found.references:
        yield page.Table(
            "Rank correlation with other tables",
            ("table", "cells", "number", "Spearman", "Kendall"),
            [
                [name, part, f"{a.cells:,}", _number(a.spearman), _number(a.kendall)]
                for name, part, a in found.agreements()
            ],
        )
        yield page.Table(
            "The best of one table in the other",
            ("table", "its best cell", "its rank here", "rank there of the best cell here"),
            [_exchange(found, name, reference) for name, reference in found.references.items()],
        )


def _best(found: Findings) -> page.Table:
    order = np.argsort(-found.accuracies, kind="stable")
    ties = " and ".join(
        f"{cells:,} cells ({different:,} different ones) are within {words} of the best"
        for words, (cells, different) in (("one", found.tied(1)), ("two", found.tied(2)))
    )
    return page.Table(
        "The best cells",
        ("cell", "accuracy, %", "standard error", "parameters"),
        [
            [
                found.texts[i],
                f"{found.accuracies[i]:.2f} ± {found.stds[i]:.2f}",
                f"{found.stds[i] / math.sqrt(found.seeds):.2f}",
                f"{found.parameters[i]:,}",
            ]
            for i in order[:BEST_NAMED]
        ],
        f"Means over {found.seeds} seeds ± standard deviation of one training. The standard error of the "
        f"difference between two of the best cells is {found.error:.2f} %: {ties}.",
    )


def _exchange(found: Findings, name: str, reference: Truth) -> list[str]:
    space = enumerable(found.known.space)
    here, there = found.known.optimum[0], reference.optimum[0]
    ranks = found.known.lookup(space.parse(there)).rank, reference.lookup(space.parse(here)).rank
    return [name, there, *(f"{rank:,}" for rank in ranks)]


def _quantile_names() -> list[str]:
    names = {0.0: "lowest", 0.5: "median", 1.0: "highest"}
    return [names.get(q, f"{100 * q:g} %") for q in statistics.QUANTILES]


def _distribution(name: str, accuracies: np.ndarray) -> Sequence[str]:
    quantiles = np.quantile(accuracies, statistics.QUANTILES)
    return [name, f"{len(accuracies):,}", _number(accuracies.mean()), *map(_number, quantiles)]


def _reliability(name: str, samples: np.ndarray) -> Sequence[str]:
    found = statistics.reliability(samples)
    figures = map(_number, (found.spread, found.deviation, found.noise, found.seed_correlation))
    return [name, f"{found.cells:,}", *figures, _number(found.reliability, 3)]


def _number(value: float, digits: int = 2) -> str:
    return "–" if math.isnan(value) else f"{value:.{digits}f}"
