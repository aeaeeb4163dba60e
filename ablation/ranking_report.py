"""The report of what shared weights know: tables and text around the figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ablation import ranking_plots
from ablation.rank_statistics import PARTS, SCORES, Interval, Ranking
from ablation.ranking_plots import TITLES
from nas.report import page


def write(folder: Path, rankings: Sequence[Ranking], configuration: Mapping[str, Any]) -> None:
    """Write report.html, results.csv, results.md and pictures/ into `folder`.

    Args:
        rankings: of at least one run, all of one space, table and choice of cells; of a run with more than
            one the last is its end.
        configuration: shown at the end of the report.
    """
    runs: dict[str, list[Ranking]] = {}
    for ranking in rankings:
        runs.setdefault(ranking.name, []).append(ranking)
    ends, followed = [states[-1] for states in runs.values()], len(rankings) > len(runs)
    pictures, tables = _pictures(ends), [_correlations(ends), _choices(ends), _marks(ends)]
    if followed:
        pictures.insert(1, _epochs_picture(runs))
        tables.insert(1, _epochs_table(runs))
    page.write(
        folder,
        kind="Supernet ranking",
        title=f"What shared weights know: {rankings[0].space}",
        lead=_lead(ends, len(rankings)),
        pictures=pictures,
        tables=tables,
        records=records(rankings),
        configuration=configuration,
    )


def records(rankings: Sequence[Ranking]) -> list[dict[str, Any]]:
    """A row of results.csv for every ranking, score and part; what a score chooses stands with all cells."""
    rows = []
    for ranking in rankings:
        for found in ranking.correlations:
            row: dict[str, Any] = {"run": ranking.name, "epoch": ranking.epoch, "step": ranking.step}
            row |= {"weights": ranking.weights}
            row |= {"score": found.score, "part": found.part, "cells": found.cells}
            for name, interval in (("tau", found.tau), ("rho", found.rho), ("tau_lead", found.lead)):
                row |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
            if found.part == PARTS[0]:
                choice = ranking.choice(found.score)
                row |= {"chosen": choice.cell, "accuracy": choice.accuracy, "regret": choice.regret}
                row |= {"best_of_ten": choice.best_of_ten}
            rows.append(row)
    return rows


def _lead(rankings: Sequence[Ranking], states: int) -> str:
    """The first paragraph; `rankings` are those at the end of the runs, of `states` in all."""
    first, count = rankings[0], len(rankings)
    scored, differ = len(first.cells), first.differ
    what = (
        f"all {differ:,} cells that differ and connect input and output"
        if scored == differ
        else f"{scored:,} random ones of the {differ:,} cells that differ and connect input and output"
    )
    return (
        f"{what[0].upper()}{what[1:]} were run with the weights of {count} search{'es'[: 2 * (count > 1)]} "
        f"on the validation part, and their order compared with that of their true accuracies "
        f"({first.source})."
        + (f" {states} states of the weights were taken over the epochs." if states > count else "")
    )


def _pictures(rankings: Sequence[Ranking]) -> list[page.Picture]:
    return [
        page.Picture(
            "Rank correlations",
            ranking_plots.plot_correlations(rankings),
            f"Kendall's τ and Spearman's ρ with the true accuracy, over the "
            f"{len(rankings[0].cells):,} cells scored, and over the "
            f"{int(rankings[0].best.sum()):,} of them that are in the best tenth of the table. Lines are 95 "
            "% bootstrap intervals over the cells.",
        ),
        page.Picture(
            "Loss and true accuracy",
            ranking_plots.plot_scatter(rankings),
            "A dot is a cell, an orange one is in the best tenth of the table. Less loss is further right. "
            "Named: the cell of lowest loss, the cell of the space with the most parameters, and the cell "
            "that the search has found. The highest losses and the lowest accuracies, 2 % each, may lie "
            "outside.",
        ),
    ]


def _epochs_picture(runs: Mapping[str, Sequence[Ranking]]) -> page.Picture:
    return page.Picture(
        "Over the epochs",
        ranking_plots.plot_epochs(runs),
        "The order by the loss with shared weights after so many epochs of a search, on the same cells, and "
        "in grey that by the parameter count. Shade: 95 % bootstrap intervals over the cells. Regret: "
        "distance to the best of the table; a tenth of it may lie above the axis.",
    )


def _epochs_table(runs: Mapping[str, Sequence[Ranking]]) -> page.Table:
    rows = []
    for name, rankings in runs.items():
        states = [(ranking, "loss", _epoch(ranking)) for ranking in rankings]
        for ranking, score, at in [*states, (rankings[-1], "parameters", TITLES["parameters"])]:
            found = [ranking.correlation(score, part) for part in PARTS]
            chosen = ranking.choice(score)
            rows.append(
                [
                    name,
                    at,
                    f"{chosen.regret:.2f}",
                    f"{chosen.best_of_ten:.2f}",
                    f"{ranking.found.accuracy:.2f}" if score == "loss" else "",
                    *(_text(interval) for c in found for interval in (c.tau, c.rho)),
                ]
            )
    columns = [f"{symbol}, {part}" for part in PARTS for symbol in "τρ"]
    return page.Table(
        "Over the epochs",
        ("run", "by the loss at", "regret", "best of 10, %", "found, %", *columns),
        rows,
        "The order by the loss after epochs of the search, and that by the parameter count, on the same "
        "cells. Regret: of the first, in % to the best of the table. Best of 10: of its first ten. Found: "
        "what the search would have found then.",
    )


def _correlations(rankings: Sequence[Ranking]) -> page.Table:
    rows = []
    for ranking in rankings:
        for score in SCORES:
            row = [ranking.name, TITLES[score]]
            for part in PARTS:
                found = ranking.correlation(score, part)
                row += [_text(found.tau), _text(found.rho)]
            lead = ranking.correlation(score, PARTS[0]).lead
            rows.append([*row, "" if score == "parameters" else _text(lead, "+z.2f")])
    columns = ["run", "ordered by", *(f"{symbol}, {part}" for part in PARTS for symbol in "τρ")]
    return page.Table(
        "Rank correlations",
        [*columns, "τ beyond the parameter count"],
        rows,
        "Kendall's τ-b and Spearman's ρ with the true accuracy, and 95 % bootstrap intervals over the cells; "
        "– where too few cells differ. The last column is over all cells.",
    )


def _choices(rankings: Sequence[Ranking]) -> page.Table:
    first = rankings[0]
    rows = []
    for ranking in rankings:
        for score in SCORES:
            c = ranking.choice(score)
            figures = f"{c.accuracy:.2f}", f"{c.regret:.2f}", f"{c.best_of_ten:.2f}"
            rows.append([ranking.name, TITLES[score], *figures, c.cell])
    rows.append(["", "largest cell of the space", f"{first.largest.accuracy:.2f}",
                 f"{first.optimum - first.largest.accuracy:.2f}", "", first.largest.cell])  # fmt: skip
    for count, accuracy in first.random.items():
        rows.append(["", f"best of {count} random cells", f"{accuracy:.2f}",
                     f"{first.optimum - accuracy:.2f}", "", "(expected)"])  # fmt: skip
    among = "" if len(first.cells) == first.differ else ", among the cells scored"
    return page.Table(
        "What it would choose",
        ("run", "ordered by", "accuracy, %", "regret", "best of its first 10, %", "cell"),
        rows,
        f"True accuracy of the first cell in the order{among}, and its distance to the best of the table, "
        f"{first.optimum:.2f} %; where the order leaves cells equal, means over who comes first.",
    )


def _marks(rankings: Sequence[Ranking]) -> page.Table:
    rows = []
    for ranking in rankings:
        found = ranking.found
        better = int((ranking.loss < found.loss).sum())
        place = "–" if math.isnan(found.loss) else f"{better + 1:,} of {len(ranking.cells):,}"
        rows.append([ranking.name, _epoch(ranking), f"{found.accuracy:.2f}",
                     f"{ranking.optimum - found.accuracy:.2f}", place, found.cell])  # fmt: skip
    return page.Table(
        "What was found",
        ("run", "at", "accuracy, %", "regret", "place by loss", "cell"),
        rows,
        "The cell of a finished search, or the one that it would find now.",
    )


def _epoch(ranking: Ranking) -> str:
    if ranking.epoch is None:
        return "–"
    return f"epoch {ranking.epoch}" + (f", step {ranking.step}" if ranking.step else "")


def _text(interval: Interval, form: str = "z.2f") -> str:
    if math.isnan(interval.value):
        return "–"
    return f"{interval.value:{form}} ({interval.low:{form}} to {interval.high:{form}})"
