"""The tables of the report of a grid of searches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

import numpy as np

from ablation import baselines, grid_ranking
from ablation.comparison import Paired, between, difference, estimate, least_p
from ablation.gradient_plots import label
from ablation.grid_plots import Records, mean_bias, values
from ablation.zero_cost import CellScores
from nas.report import page
from nas.tables import Truth
from nas.tables.agreement import agreement, top
from nas.tables.lookup import enumerable


def all_tables(
    records: Records,
    gradients: Records,
    known: Truth | None,
    names: Sequence[str],
    pairs: Mapping[tuple[str, str], Paired],
    scores: CellScores,
    randoms: Records,
) -> list[page.Table]:
    """Those that there is something to say in; see `grid_report.write`."""
    tables = [_accuracy_table(records, known, names)]
    if randoms:
        tables.append(_random_table(records, randoms, names))
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


def reference(gradients: Records) -> str:
    """How the true gradient was computed, in words."""
    if gradients[0]["reference"] == "enumeration":
        return "by enumeration of all architectures"
    worst = max(row["reference_error"] for row in gradients)
    return f"by REINFORCE over many draws, relative standard error at most {worst:.2f}"


def _accuracy_table(records: Records, known: Truth | None, names: Sequence[str]) -> page.Table:
    columns = ["method", "accuracy (%)", "95 % interval"]
    if known is not None:
        columns += ["regret", "median rank", "beats random", "of", "above best without"]
    columns += ["skips", "collapsed", "seconds", "peak GiB"]
    rows = []
    for name in names:
        accuracy = estimate(values(records, name, "accuracy"))
        row = [name, str(accuracy), between(accuracy.low, accuracy.high)]
        if known is not None:
            row += [
                f"{estimate(values(records, name, 'regret')).mean:.2f}",
                f"{median(values(records, name, 'rank')):g}",
                f"{estimate(values(records, name, 'beats_random')).mean:.2f}",
                f"{median(values(records, name, 'evaluations')):g}",
                f"{baselines.difference(records, name).mean:+z.2f}",
            ]
        row += [
            f"{np.mean(values(records, name, 'skip_connects')):.1f}",
            f"{sum(values(records, name, 'collapsed')):g} of {accuracy.runs}",
            f"{median(values(records, name, 'seconds')):.1f}",
            f"{max(values(records, name, 'peak_memory_bytes')) / 2**30:.2f}",
        ]
        rows.append(row)
    note = "Accuracy: mean ± standard deviation over seeds, and Student's interval of the mean."
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
    note += (
        " Skips: connections in what was found, mean. Collapsed: searches that ended with a warning. "
        "Seconds: median, with measurements."
    )
    return page.Table("Searches", columns, rows, note)


def _random_table(records: Records, randoms: Records, names: Sequence[str]) -> page.Table:
    """What was found beside random cells, trained alike."""
    others = [row["accuracy"] for row in randoms]
    rows = []
    for name in names:
        mean, low, high = difference(values(records, name, "accuracy"), others)
        above = np.mean([[found > other for other in others] for found in values(records, name, "accuracy")])
        rows.append([name, f"{mean:+z.2f}", between(low, high, "+z.2f"), f"{above:.2f}"])
    return page.Table(
        "Beside random cells",
        ("method", "difference", "95 % interval", "above"),
        rows,
        f"{len(others)} random cells of the space, trained like those that were found, have "
        f"{estimate(others)} %, the best {max(others):.2f} % (random.csv). Difference: points of accuracy "
        "above their mean; Welch's interval over searches and cells. Above: share of pairs of a search and "
        "a random cell in which the search is better. What a search costs itself comes on top.",
    )


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
        f"attempts of at most {baselines.LONGEST:,} trainings; the others are "
        f"exact.{_SCORED if scores.values else ''}",
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
                between(gain.low, gain.high, "+z.2f"),
            ]
        )
    return page.Table(
        "Was the search worth it?",
        ("method", "cost", "best without", "accuracy (%)", "difference", "95 % interval"),
        rows,
        "Points of accuracy above the mean of the best way without a search at the same cost, in trainings "
        "from scratch; Student's interval over the seeds.",
    )


def _pair_table(names: Sequence[str], pairs: Mapping[tuple[str, str], Paired]) -> page.Table:
    first, *others = names
    rows = []
    for name in others:
        pair = pairs[name, first]
        rows.append(
            [
                name,
                f"{pair.mean:+z.2f}",
                between(pair.low, pair.high, "+z.2f"),
                f"{pair.p:.3f}" if pair.p >= 0.0005 else "< 0.001",
            ]
        )
    runs = pairs[others[0], first].runs
    return page.Table(
        f"Difference to {first} on equal seeds",
        ("method", "difference", "95 % interval", "p"),
        rows,
        "Points of accuracy, and Student's interval. p: two-sided permutation test on pairs, not corrected "
        f"for the number of comparisons; with {runs} seeds it cannot be below {least_p(runs):.3g}.",
    )


def _gradient_table(gradients: Records) -> page.Table:
    moments = sorted({row["epoch"] for row in gradients})
    rows = []
    for name in dict.fromkeys(row["estimator"] for row in gradients):
        searches = len({(r["method"], r["seed"]) for r in gradients if r["estimator"] == name})
        row = [label(name), str(searches)]
        for epoch in moments:
            chosen = [r for r in gradients if r["estimator"] == name and r["epoch"] == epoch]
            if not chosen:  # one that learns is measured in its own searches, which may have ended before
                row.append("–")
                continue
            means = [np.mean([r[key] for r in chosen]) for key in ("std", "cosine", "draw_cosine")]
            row.append(" / ".join(f"{mean:.2f}" for mean in (mean_bias(chosen).mean, *means)))
        rows.append(row)
    return page.Table(
        "The architecture gradient",
        ("estimator", "searches", *(f"epoch {epoch}" for epoch in moments)),
        rows,
        "Bias / standard deviation / cosine of the mean estimate / mean cosine of one estimate, against the "
        f"true gradient {reference(gradients)}; means over the searches, of the bias the root of the mean "
        "square. ×4: an estimate takes so many draws, that of a search's own estimator as many as there. The "
        "baseline of reinforce is the mean over all architectures, or over the draws of the reference.",
    )
