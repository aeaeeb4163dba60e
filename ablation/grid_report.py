"""The report of a grid of searches: tables and text around the figures."""

from __future__ import annotations

import itertools
import platform
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from ablation import baseline_plots, baselines, grid_plots, grid_ranking
from ablation.comparison import Paired, estimate, paired
from ablation.grid_plots import Records, methods, values
from ablation.zero_cost import NO_SCORES, CellScores
from nas.report import page
from nas.runs.files import write_text
from nas.tables import Truth
from nas.tables.agreement import agreement, top
from nas.tables.lookup import enumerable, enumerable_names
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
) -> None:
    """Write the report, results.csv and results.md, curves.csv, gradients.csv and baselines.csv.

    Args:
        records: one row per search; see `ablation.grid.record`.
        curves, gradients: rows of `ablation.grid.curves` and `ablation.grid.gradients`; may be empty.
        known: the table that the cells were looked up in, if any.
        scores: zero-cost scores of the cells of the table.
    """
    names = methods(records)
    pairs = compare(records)
    records = baselines.judged(records, known, scores)
    write_text(folder / "baselines.csv", page.to_csv(_baselines(records, known, scores)))
    write_text(folder / "curves.csv", page.to_csv(curves))
    write_text(folder / "gradients.csv", page.to_csv(gradients))
    page.write(
        folder,
        kind="Estimator ablation",
        title=f"Gradient estimators in searches: {options.space} on {options.dataset}",
        lead=_lead(records, known, options),
        pictures=_pictures(records, curves, gradients, known, names, pairs, scores),
        tables=_tables(records, gradients, known, names, pairs, scores),
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


def _lead(records: Records, known: Truth | None, options: GridOptions) -> str:
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
        " What random cells, the largest cell, evolution, local search and zero-cost scores would reach at "
        f"the same cost is not known: {why}."
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
) -> list[page.Picture]:
    pictures = [
        page.Picture(
            "What was found",
            grid_plots.plot_answer(records, known, scores),
            "Small: searches. Large: their mean with its 95 % bootstrap interval. Numbers: mean ± standard "
            "deviation. ◂ marks searches left of the axis.",
        )
    ]
    if known is not None:
        pictures.append(
            page.Picture(
                "True accuracy over cost",
                baseline_plots.plot_cost(records, known, scores),
                "Curves: what is found without a search, means over attempts; 95 % of the attempts end in "
                "the shade. Small: searches, at the trainings from scratch that see as many images. Large: "
                "their mean with its 95 % bootstrap interval. Methods of equal cost are moved apart; what is "
                "below the axis is at its lower end.",
            )
        )
    if known is not None and curves:
        evaluations = baselines.median_cost(records)
        pictures.append(
            page.Picture(
                "Over the search",
                grid_plots.plot_anytime(curves, known, evaluations, scores),
                "Above: what the search would have found if it had stopped after an epoch. Below: how "
                "undecided it was. Means over the seeds with 95 % bootstrap intervals.",
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
                f"the norm of the true one ({_reference(gradients)}), on a fixed validation batch, each "
                f"estimator at its temperature of that moment. Means over {runs} searches with 95 % "
                "bootstrap intervals. Arcs join equal root mean squared errors; the diamond is the "
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
        pictures.append(
            page.Picture(
                "Pairs",
                grid_plots.plot_pairs(names, pairs),
                "Difference of accuracy, row minus column, mean over equal seeds. Bold: the 95 % bootstrap "
                "interval does not contain 0; with few seeds it is too narrow, see the p-values below.",
            )
        )
    return pictures


def _reference(gradients: Records) -> str:
    if gradients[0]["reference"] == "enumeration":
        return "by enumeration of all architectures"
    worst = max(row["reference_error"] for row in gradients)
    return f"by REINFORCE over many draws, relative standard error at most {worst:.2f}"


def _tables(
    records: Records,
    gradients: Records,
    known: Truth | None,
    names: Sequence[str],
    pairs: Mapping[tuple[str, str], Paired],
    scores: CellScores,
) -> list[page.Table]:
    tables = [_accuracy_table(records, known, names)]
    if known is not None:
        tables.append(_without_table(records, known, scores))
        if scores.values:
            tables.append(_score_table(known, scores))
        tables.append(_worth_table(records, names))
    if len(names) > 1:
        tables.append(_pair_table(names, pairs))
    if grid_ranking.is_ranked(records):
        tables.append(grid_ranking.table(records))
    if gradients:
        tables.append(_gradient_table(gradients))
    tables.append(
        page.Table(
            "Cells",
            ("method", "seed", "accuracy", "cell"),
            [
                [record["method"], str(record["seed"]), f"{record['accuracy']:.2f}", record["genotype"]]
                for record in records
            ],
        )
    )
    return tables


def _accuracy_table(records: Records, known: Truth | None, names: Sequence[str]) -> page.Table:
    columns = ["method", "accuracy (%)", "95 % interval"]
    if known is not None:
        columns += ["regret", "median rank", "beats random", "of", "above best without"]
    columns += ["collapsed", "seconds", "peak GiB"]
    rows = []
    for name in names:
        accuracy = estimate(values(records, name, "accuracy"))
        row = [name, str(accuracy), f"{accuracy.low:.2f} to {accuracy.high:.2f}"]
        if known is not None:
            row += [
                f"{estimate(values(records, name, 'regret')).mean:.2f}",
                f"{median(values(records, name, 'rank')):g}",
                f"{estimate(values(records, name, 'beats_random')).mean:.2f}",
                f"{median(values(records, name, 'evaluations')):g}",
                f"{baselines.difference(records, name).mean:+z.2f}",
            ]
        row += [
            f"{sum(values(records, name, 'collapsed')):g} of {accuracy.runs}",
            f"{median(values(records, name, 'seconds')):.1f}",
            f"{max(values(records, name, 'peak_memory_bytes')) / 2**30:.2f}",
        ]
        rows.append(row)
    note = "Accuracy: mean ± standard deviation over seeds, and the bootstrap interval of the mean."
    if known is not None:
        text, best = known.optimum
        budgets = [record["evaluations"] for record in records]
        note += (
            f" Regret: distance to the optimum, {best.accuracy:.2f} % ({text}). Rank among {best.cells:,} "
            "cells. Beats random: probability of being above the best of so many random cells, as many as "
            "random search could train with the images that a search sees, one that goes forward only "
            "counted as a third. On average that finds "
            + " and ".join(f"{known.best_of(m):.2f} % of {m}" for m in sorted(set(budgets)))
            + ". The largest cell, without any search, has "
            f"{baselines.find(known, baselines.LARGEST, 1).mean:.2f} %. Above best without: mean "
            "difference to the best way to spend as many trainings without a search, see below."
        )
    note += " Collapsed: searches that ended with a warning. Seconds: median, with measurements."
    return page.Table("Searches", columns, rows, note)


def _without_table(records: Records, known: Truth, scores: CellScores) -> page.Table:
    cost = baselines.median_cost(records)
    rows = []
    for way in baselines.ways(scores):
        found = baselines.find(known, way, cost, scores)
        trainings = 1 if way == baselines.LARGEST else cost
        rows.append([way, f"{trainings}", f"{found.mean:.2f}", f"{found.low:.2f} to {found.high:.2f}"])
    return page.Table(
        "Without a search",
        ("way", "trainings", "accuracy (%)", "95 % of attempts"),
        rows,
        f"What is found by training cells from scratch, as many ({cost}) as see the images of a search "
        "(median), each with its accuracy in the table; baselines.csv has more budgets. Accuracy: mean over "
        "attempts. Random search: the best of random cells. Largest cell: the one with most parameters, "
        "which needs no search. Top by parameters: the best of as many cells with most parameters. "
        f"Evolution: regularised, a population of {baselines.POPULATION}, the best of {baselines.SAMPLE} "
        "members changed in one slot, the oldest one dropped. Local search: from a random cell to the first "
        f"better neighbour, and again. Evolution and local search are simulated, {baselines.REPETITIONS:,} "
        f"attempts of at most {baselines.LONGEST:,} trainings; the others are exact."
        f"{_SCORED if scores.values else ''}",
    )


_SCORED = (
    " Top by a zero-cost score: the best of as many cells of highest score. Local search from a score: it "
    "takes the cell of highest score where chance decides otherwise, to start, among neighbours and to start "
    "again. Of cells that compute the same, both train one."
)


def _score_table(known: Truth, scores: CellScores) -> page.Table:
    """What the zero-cost scores of all cells cost, and how they order the cells."""
    truth = known.accuracies[baselines.different(enumerable(known.space))[1]]
    best, rows = top(truth, 0.1), []
    for name, found in scores.values.items():
        row = [name, f"{scores.seconds[name]:.1f}", f"{scores.images[name]:,}"]
        if known.images_per_training:
            row.append(f"{scores.images[name] / known.images_per_training:.2g}")
        rows.append([*row, *(f"{agreement(found[m], truth[m]).spearman:.2f}" for m in (truth > -1, best))])
    costs = ["seconds", "images", *(["in trainings"] if known.images_per_training else [])]
    note = (
        f"Of the {len(truth):,} cells that compute something different, in untrained networks of the size of "
        "the searches. Seconds and images: of all cells together; what goes by a score pays for the images."
    )
    if known.images_per_training:
        note += " In trainings: so many trainings from scratch see as many images."
    note += " Correlations: Spearman's, of the score and the accuracy in the table."
    return page.Table(
        "Zero-cost scores", ("score", *costs, "correlation, all cells", "best tenth"), rows, note
    )


def _worth_table(records: Records, names: Sequence[str]) -> page.Table:
    rows = []
    for name in names:
        first = next(record for record in records if record["method"] == name)
        gain = baselines.difference(records, name)
        rows.append(
            [
                name,
                f"{median(values(records, name, 'evaluations')):g}",
                first["without"],
                f"{np.mean(values(records, name, 'without_accuracy')):.2f}",
                f"{gain.mean:+z.2f}",
                f"{gain.low:+z.2f} to {gain.high:+z.2f}",
            ]
        )
    return page.Table(
        "Was the search worth it?",
        ("method", "cost", "best without", "accuracy (%)", "difference", "95 % interval"),
        rows,
        "Points of accuracy above the mean of the best way without a search at the same cost, in trainings "
        "from scratch; bootstrap interval over the seeds.",
    )


def _pair_table(names: Sequence[str], pairs: Mapping[tuple[str, str], Paired]) -> page.Table:
    first, *others = names
    rows = []
    for name in others:
        pair = pairs[name, first]
        rows.append([name, f"{pair.mean:+z.2f}", f"{pair.low:+z.2f} to {pair.high:+z.2f}", f"{pair.p:.3f}"])
    runs = pairs[others[0], first].runs
    return page.Table(
        f"Difference to {first} on equal seeds",
        ("method", "difference", "95 % interval", "p"),
        rows,
        f"Points of accuracy. p: two-sided permutation test on pairs, not corrected for the number of "
        f"comparisons; with {runs} seeds it cannot be below {2 / 2**runs:.3g}.",
    )


def _gradient_table(gradients: Records) -> page.Table:
    moments = sorted({row["epoch"] for row in gradients})
    rows = []
    for name in dict.fromkeys(row["estimator"] for row in gradients):
        row = [name]
        for epoch in moments:
            chosen = [r for r in gradients if r["estimator"] == name and r["epoch"] == epoch]
            mean = {
                key: estimate([r[key] for r in chosen]).mean
                for key in ("bias", "std", "cosine", "draw_cosine")
            }
            row.append(
                f"{mean['bias']:.2f} / {mean['std']:.2f} / {mean['cosine']:.2f} / {mean['draw_cosine']:.2f}"
            )
        rows.append(row)
    return page.Table(
        "The architecture gradient",
        ("estimator", *(f"epoch {epoch}" for epoch in moments)),
        rows,
        "Bias / standard deviation / cosine of the mean estimate / mean cosine of one estimate, against the "
        f"true gradient {_reference(gradients)}; means over the searches.",
    )
