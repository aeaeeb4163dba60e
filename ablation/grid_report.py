"""The report of a grid of searches: tables and text around the figures."""

from __future__ import annotations

import itertools
import platform
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ablation import baseline_plots, baselines, grid_plots, grid_ranking, grid_tables
from ablation.comparison import Paired, least_p, paired
from ablation.grid_plots import Records, methods, values
from ablation.zero_cost import NO_SCORES, CellScores
from nas.report import page
from nas.runs.files import write_text
from nas.tables import Truth
from nas.tables.lookup import enumerable_names
from recipes import presets
from recipes.ablation import LOCAL_JOBS, GridOptions


def write(
    folder: Path,
    records: Records,
    curves: Records,
    gradients: Records,
    known: Truth | None,
    options: GridOptions,
    scores: CellScores = NO_SCORES,
    randoms: Records = (),
    notes: str = "",
) -> None:
    """Write the report, results.csv and results.md, curves.csv, gradients.csv, baselines.csv and random.csv.

    Args:
        records: one row per search; see `ablation.grid_records.record`.
        curves, gradients: rows of `curves` and `gradients` there; may be empty.
        known: the table that the cells were looked up in, if any.
        scores: zero-cost scores of the cells of the table.
        randoms: one row per random cell that was trained, where there is no table.
        notes: see `ablation.grid_records.notes`.
    """
    names = methods(records)
    pairs = compare(records)
    records = baselines.judged(records, known, scores)
    write_text(folder / "baselines.csv", page.to_csv(_baselines(records, known, scores)))
    write_text(folder / "random.csv", page.to_csv(randoms))
    write_text(folder / "curves.csv", page.to_csv(curves))
    write_text(folder / "gradients.csv", page.to_csv(gradients))
    page.write(
        folder,
        kind="Estimator ablation",
        title=f"Gradient estimators in searches: {options.space} on {options.dataset}",
        lead=_lead(known, options) + notes,
        pictures=_pictures(records, curves, gradients, known, names, pairs, scores, randoms),
        tables=grid_tables.all_tables(records, gradients, known, names, pairs, scores, randoms),
        records=records,
        configuration=asdict(options),
    )


def compare(records: Records) -> dict[tuple[str, str], Paired]:
    """Differences of accuracy between all pairs of methods, on equal seeds."""
    names = methods(records)
    return {
        (a, b): paired(values(records, a, "accuracy"), values(records, b, "accuracy"))
        for a in names
        for b in names
        if a != b
    }


def _lead(known: Truth | None, options: GridOptions) -> str:
    how = (
        "each cell that was found trained from scratch"
        if known is None
        else f"each cell that was found looked up in the accuracies of all cells ({known.source})"
    )
    return (
        f"{options.seeds} search{'es'[: 2 * (options.seeds > 1)]} with each of {len(options.methods)} "
        f"method{'s'[: len(options.methods) != 1]} ({_seeds(options)}), {how}. torch {torch.__version__}, "
        f"{platform.machine()}, {_place(options)}.{_published(options)}{_without(known, options)}"
    )


def _published(options: GridOptions) -> str:
    """What the recipe of the searches is reported to reach."""
    words = [part for word in shlex.split(options.search) for part in word.split("=", 1)]
    names = [name for word, name in itertools.pairwise(words) if word == "--preset"]
    if not names or names[-1] not in presets.PUBLISHED:
        return ""
    return f" Published for the recipe {names[-1]}: {presets.published(names[-1])}."


def _seeds(options: GridOptions) -> str:
    first, last = options.first_seed, options.first_seed + options.seeds - 1
    return f"seeds {first} to {last}" if last > first else f"seed {first}"


def _without(known: Truth | None, options: GridOptions) -> str:
    """What the report cannot say about what would be found without a search: all of it, or at which cost."""
    if known is not None:
        if known.images_per_training or options.evaluations:
            return ""
        return (
            " The table does not say how many images its trainings saw: a search is taken to cost as much as "
            "one of them (--evaluations)."
        )
    why = (
        "there is no table of accuracies (--evaluate truth)"
        if options.space in enumerable_names()
        else f"the cells of the space '{options.space}' cannot be listed"
    )
    return (
        " What the largest cell, evolution, local search and zero-cost scores would reach at the same cost "
        f"is not known: {why}."
    )


def _baselines(records: Records, known: Truth | None, scores: CellScores) -> list[dict[str, Any]]:
    """Rows of baselines.csv: the curves of the picture, and the costs of the searches."""
    if known is None:
        return []
    costs = {record["evaluations"] for record in records} | {baselines.median_cost(records)}
    costs |= set(baselines.budgets(max(baseline_plots.LEAST, *costs)))
    return baselines.curves(known, sorted(costs), scores)


def _place(options: GridOptions) -> str:
    """Where the runs were done, and how many at once where that is known."""
    jobs = options.jobs or (LOCAL_JOBS if options.executor == "local" else None)
    where = "" if options.executor == "local" else f" on {options.executor.capitalize()}"
    return f"runs{where}" if jobs is None else f"{jobs} run{'s'[: jobs != 1]} at a time{where}"


def _pictures(
    records: Records,
    curves: Records,
    gradients: Records,
    known: Truth | None,
    names: Sequence[str],
    pairs: Mapping[tuple[str, str], Paired],
    scores: CellScores,
    randoms: Records,
) -> list[page.Picture]:
    pictures = [
        page.Picture(
            "What was found",
            grid_plots.plot_answer([*records, *randoms], known, scores),
            f"Small: searches{', and random cells' * bool(randoms)}. Large: their mean with its 95 % "
            "interval. Numbers: mean ± standard deviation. ◂ marks searches left of the axis.",
        )
    ]
    if known is not None:
        pictures.append(
            page.Picture(
                "True accuracy over cost",
                baseline_plots.plot_cost(records, known, scores),
                "Curves: what is found without a search, means over attempts; 95 % of the attempts end in "
                "the shade. Small: searches, at the trainings from scratch that see as many images. Large: "
                "their mean with its 95 % interval. Methods of equal cost are moved apart; what is "
                "below the axis is at its lower end. Where methods are numbered, the best mean is 1.",
            )
        )
    if known is not None and curves:
        evaluations = baselines.median_cost(records)
        pictures.append(
            page.Picture(
                "Over the search",
                grid_plots.plot_anytime(curves, known, evaluations, scores),
                "Above: what the search would have found if it had stopped after an epoch. Below: how "
                "undecided it was. Means over the seeds with 95 % intervals.",
            )
        )
    if known is not None and grid_ranking.is_ranked(records):
        pictures.append(grid_ranking.picture(records, known))
    if gradients:
        runs = len({(row["method"], row["seed"]) for row in gradients})
        pictures += [
            page.Picture(
                "The architecture gradient, measured inside the searches",
                grid_plots.plot_gradient_plane(gradients),
                "Bias and standard deviation of one estimate of the gradient of the logits, in units of "
                f"the norm of the true one ({grid_tables.reference(gradients)}), on a fixed validation "
                f"batch, each estimator at its temperature of that moment. Means over {runs} searches with "
                "95 % intervals. Arcs join equal root mean squared errors; the diamond is the "
                "estimate 0.",
            ),
            page.Picture(
                "What averaging buys",
                grid_plots.plot_budget(gradients),
                "Direction of the mean of N estimates, computed from measured bias and variance. Left in "
                "each panel the noise decides, right the bias.",
            ),
        ]
    if len(names) > 1:
        least = least_p(next(iter(pairs.values())).runs)
        pictures.append(
            page.Picture(
                "Pairs",
                grid_plots.plot_pairs(names, pairs),
                "Difference of accuracy, row minus column, mean over equal seeds. Bold: p is at most 0.05 "
                f"in a permutation test on pairs; with so many seeds it is at least {least:.3g}.",
            )
        )
    return pictures
