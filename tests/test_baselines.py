"""What a user would get without a search, against brute force."""

import csv
import itertools
import math
import random
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import search_spaces
from ablation import baseline_plots, baselines, grid_plots, grid_report
from ablation.comparison import estimate
from ablation.zero_cost import CellScores
from nas import tables
from nas.tables.lookup import distinct
from recipes.ablation import GridOptions
from search_spaces.nasbench201 import DenseCellSpace, micro, nasbench201

MICRO = list(micro.all())
FIND = [baselines.RANDOM, baselines.TOP, baselines.EVOLUTION, baselines.LOCAL]


@pytest.fixture(scope="module")
def known():
    return tables.packaged("micro", "digits")


def brute_quantile(outcomes, q):
    """The lowest value that, with those below it, has a probability of at least q."""
    total = 0.0
    for value, p in sorted(outcomes):
        total += p
        if total >= q - 1e-9:
            return value
    raise AssertionError("probabilities do not sum to 1")


# Exactly


@pytest.mark.parametrize("trainings", [1, 2, 3])
def test_random_cells_by_enumeration(trainings):
    accuracies = np.array([3.0, 1.0, 2.0, 2.0, 9.0, 4.0])
    draws = [max(draw) for draw in itertools.product(accuracies, repeat=trainings)]
    found = baselines.best_of_random(accuracies, trainings)
    assert found.mean == pytest.approx(np.mean(draws))
    outcomes = [(value, 1 / len(draws)) for value in draws]
    assert found.low == brute_quantile(outcomes, 0.025)
    assert found.high == brute_quantile(outcomes, 0.975)


def test_random_cells_of_micro(known):
    pairs = np.maximum.outer(known.accuracies, known.accuracies)
    assert baselines.find(known, baselines.RANDOM, 2).mean == pytest.approx(pairs.mean())
    for trainings in (1, 5, 50):
        found = baselines.find(known, baselines.RANDOM, trainings)
        assert found.mean == pytest.approx(known.best_of(trainings))
        assert found.low <= found.mean <= found.high


@pytest.mark.parametrize("trainings", range(1, 8))
def test_largest_cells_by_enumeration(trainings):
    accuracies = np.array([3.0, 1.0, 2.0, 5.0, 9.0, 4.0])
    parameters = np.array([7, 9, 7, 7, 1, 7])  # one, four that are tied, one
    tied = [3.0, 2.0, 5.0, 4.0]
    if trainings == 1:
        outcomes = [1.0]
    elif trainings <= 5:
        outcomes = [max(some) for some in itertools.combinations(tied, trainings - 1)]
    else:
        outcomes = [9.0]
    found = baselines.best_of_top(accuracies, parameters, trainings)
    assert found.mean == pytest.approx(np.mean(outcomes))
    weighted = [(value, 1 / len(outcomes)) for value in outcomes]
    assert (found.low, found.high) == (brute_quantile(weighted, 0.025), brute_quantile(weighted, 0.975))


def test_largest_cells_that_are_tied_count_as_their_mean():
    found = baselines.best_of_top(np.array([1.0, 2.0, 6.0]), np.array([5, 4, 5]), 1)
    assert found == (3.5, 1.0, 6.0)


def test_the_largest_cell_of_the_benchmark(shared_data):
    published = tables.read(shared_data / "nats_tss_test_accuracy.csv.gz", "nasbench201")
    found = baselines.find(published, baselines.LARGEST, 40)
    assert found == baselines.find(published, baselines.TOP, 1)
    assert round(found.mean, 2) == 93.76
    assert found.low == found.mean == found.high
    start = time.process_time()
    baselines.curves(published, baselines.budgets(100))
    assert time.process_time() - start < 5


# Spaces


def test_parameters_and_neighbours_of_micro():
    cells = baselines.layout(micro)
    for i in range(0, 125, 7):
        network = micro.network(MICRO[i], cells=1)
        assert cells.parameters[i] == sum(p.numel() for p in network.parameters())
    choices = [micro.choice(cell) for cell in MICRO]
    for i, choice in enumerate(choices):
        near = [j for j, other in enumerate(choices) if sum(map(int.__ne__, choice, other)) == 1]
        assert sorted(cells.neighbours[i, : cells.degrees[i]].tolist()) == near
    assert (cells.degrees == 12).all()


def test_the_largest_cell_has_most_weights():
    sizes = baselines.layout(nasbench201).parameters
    first = nasbench201.choice(list(nasbench201.all())[int(sizes.argmax())])
    assert {nasbench201.slots[0].candidates[i] for i in first} == {"nor_conv_3x3"}
    assert (sizes == sizes.max()).sum() == 1


class Uneven(DenseCellSpace):
    """Candidates that differ from edge to edge, some cells left out, and parameters that do not add up."""

    def all(self):
        return (cell for cell in super().all() if "none~0|+|none~0" not in self.format(cell))

    def network(self, genotype, **options):
        network = super().network(genotype, **options)
        network.extra = nn.Linear(1 + 10 * genotype.count("nor_conv_3x3")["cell"] ** 3, 3)
        return network


def test_a_space_with_rules_of_its_own():
    slots = (("none", "nor_conv_3x3"), ("none", "nor_conv_3x3", "avg_pool_3x3"), ("nor_conv_3x3", "none"))
    space = Uneven("uneven", nodes=3, channels=4, cells=1, candidates=slots)
    listed, cells = list(space.all()), baselines.layout(space)
    assert len(listed) == 10
    for i, cell in enumerate(listed):
        network = space.network(cell, cells=1)
        assert cells.parameters[i] == sum(p.numel() for p in network.parameters())
        near = [
            j for j, other in enumerate(listed)
            if sum(map(int.__ne__, space.choice(cell), space.choice(other))) == 1
        ]  # fmt: skip
        assert sorted(cells.neighbours[i, : cells.degrees[i]].tolist()) == near
    accuracies = np.arange(10.0)
    for simulate in (baselines.evolution, baselines.local_search):
        assert simulate(accuracies, cells, 30, repetitions=20)[:, -1].max() == 9


def test_cells_without_neighbours():
    alone = baselines.Layout(np.ones(3, int), np.full((3, 1), -1), np.zeros(3, int))
    accuracies = np.array([1.0, 2.0, 3.0])
    assert (baselines.local_search(accuracies, alone, 5, repetitions=4)[:, 2:] == 3).all()
    assert baselines.evolution(accuracies, alone, 20, repetitions=4).shape == (4, 20)


# By simulation


def test_local_search_reaches_the_optimum(known):
    found = baselines.local_search(known.accuracies, baselines.layout(micro), 140, repetitions=50)
    assert found.shape == (50, 140)
    assert (found[:, 124:] == known.accuracies.max()).all()  # no cell twice, so by then it was trained


def test_local_search_climbs():
    """On a slope, where later candidates are better, it never has to start anew."""
    slope = np.array([sum(micro.choice(cell)) for cell in MICRO], float)
    found = baselines.local_search(slope, baselines.layout(micro), 60, repetitions=200)
    assert found[:, -1].mean() > 11.9
    assert found[:, 29].mean() > baselines.best_of_random(slope, 30).mean + 0.5


def test_local_search_by_hand():
    """Four cells in a row, 0 - 1 - 2 - 3, of which 0 and 2 are tops."""
    row = baselines.Layout(
        np.ones(4, int), np.array([[1, -1], [0, 2], [1, 3], [2, -1]]), np.array([1, 2, 2, 1])
    )
    accuracies = np.array([5.0, 1.0, 9.0, 2.0])
    second = baselines.local_search(accuracies, row, 2, repetitions=8000)[:, -1]
    # 0 then 1: 5; 1 then 0 or 2: 5 or 9; 2 then 1 or 3: 9; 3 then 2: 9
    shares = [np.mean(second == value) for value in (5, 9)]
    assert shares == pytest.approx([1 / 4 + 1 / 8, 1 / 2 + 1 / 8], abs=0.02)


def test_evolution_of_no_more_than_its_population_is_random(known):
    cells = baselines.layout(micro)
    found = baselines.evolution(known.accuracies, cells, 8, population=8, repetitions=20_000)
    for trainings in (1, 4, 8):
        exact = baselines.best_of_random(known.accuracies, trainings)
        spread = found[:, trainings - 1].std() / math.sqrt(20_000)
        assert found[:, trainings - 1].mean() == pytest.approx(exact.mean, abs=4 * spread)
        assert np.quantile(found[:, trainings - 1], 0.025, method="inverted_cdf") == pytest.approx(
            exact.low, abs=0.3
        )


def test_evolution_by_hand():
    """With a population and a sample of one, every cell is a neighbour of the one before."""
    cells = baselines.layout(micro)
    slope = np.arange(125.0)
    found = baselines.evolution(slope, cells, 2, population=1, sample=1, repetitions=500)
    pairs = {(i, max(i, j)) for i in range(125) for j in cells.neighbours[i]}
    assert {(int(a), int(b)) for a, b in found} <= pairs
    assert len({(int(a), int(b)) for a, b in found if b > a}) > 100


def test_evolution_forgets_the_oldest():
    """From A, whose only neighbour is poor, a population that kept its best would never leave."""
    ring = baselines.Layout(np.ones(3, int), np.array([[1], [2], [0]]), np.ones(3, int))
    accuracies = np.array([5.0, 1.0, 9.0])
    found = baselines.evolution(accuracies, ring, 5, population=2, sample=50, repetitions=400)
    from_a = found[(found[:, 0] == 5) & (found[:, 3] == 5)]  # A, A or A, B, and their children
    assert len(from_a) > 20
    assert (from_a[:, 4] == 9).all()


def test_evolution_is_better_than_random(known):
    assert (
        baselines.find(known, baselines.EVOLUTION, 60).mean > baselines.find(known, baselines.RANDOM, 60).mean
    )


def test_equal_seeds_are_equal_and_longer_attempts_begin_alike(known):
    cells = baselines.layout(micro)
    for simulate in (baselines.evolution, baselines.local_search):
        first, again, longer, other = (
            simulate(known.accuracies, cells, n, repetitions=30, seed=seed)
            for n, seed in ((40, 3), (40, 3), (90, 3), (40, 4))
        )
        assert (first == again).all()
        assert (first == longer[:, :40]).all()
        assert (first != other).any()
        assert (np.diff(longer, axis=1) >= 0).all()


def test_curves_never_fall(known):
    rows = baselines.curves(known, baselines.budgets(200))
    assert baselines.budgets(200)[0] == 1
    assert baselines.budgets(200)[-1] == 200
    for way in baselines.WAYS:
        found = np.array([[row[k] for k in ("mean", "low", "high")] for row in rows if row["method"] == way])
        slack = 0.1 if way in (baselines.EVOLUTION, baselines.LOCAL) else 1e-9  # exact, then simulated
        assert (np.diff(found, axis=0) >= -slack).all()
        assert (found[:, 1] <= found[:, 2]).all()


def test_a_budget_beyond_any_simulation(known):
    for way in FIND:
        assert baselines.find(known, way, 10**9).mean == pytest.approx(known.accuracies.max())


def test_what_is_no_budget_or_way(known):
    with pytest.raises(ValueError, match="trainings is 0"):
        baselines.find(known, baselines.RANDOM, 0)
    with pytest.raises(ValueError, match="unknown way 'luck'"):
        baselines.find(known, "luck", 1)


# Zero-cost scores

DISTINCT = distinct(micro)


def scored(**values):
    """Scores of the cells of micro that differ."""
    arrays = {name: np.array(column, float) for name, column in values.items()}
    return CellScores(arrays, dict.fromkeys(values, 2.5), dict.fromkeys(values, 944))


@pytest.fixture(scope="module")
def scores(known):
    truth = np.array([known.lookup(cell).accuracy for cell in DISTINCT])
    rng = np.random.default_rng(0)
    return scored(oracle=truth, fool=-truth, mute=0 * truth, noisy=truth + rng.normal(0, 0.3, len(truth)))


def test_cells_that_differ_and_their_neighbours():
    cells, first = baselines.different(micro)
    assert [MICRO[i] for i in first] == DISTINCT
    forms = [micro.canonical(cell) for cell in MICRO]
    index = {form: i for i, form in enumerate(micro.canonical(cell) for cell in DISTINCT)}
    near = [set() for _ in DISTINCT]
    for (a, one), (b, other) in itertools.permutations(zip(forms, map(micro.choice, MICRO), strict=True), 2):
        if a in index and b in index and a != b and sum(map(int.__ne__, one, other)) == 1:
            near[index[a]].add(index[b])
    found = [set(row[:n].tolist()) for row, n in zip(cells.neighbours, cells.degrees, strict=True)]
    assert found == near
    assert (cells.parameters == baselines.layout(micro).parameters[first]).all()


def test_the_ways_of_a_score(scores, known):
    ways = baselines.ways(scores)
    assert ways[: len(baselines.WAYS)] == baselines.WAYS
    assert ways[len(baselines.WAYS) :][:2] == ("top by oracle", "local search from oracle")
    assert len(ways) == len(baselines.WAYS) + 8
    assert [baselines.score_of(way) for way in ways[-2:]] == ["noisy", "noisy"]
    assert not any(baselines.score_of(way) for way in baselines.WAYS)
    with pytest.raises(ValueError, match="unknown way 'top by oracle'"):
        baselines.find(known, "top by oracle", 1)


def test_scores_that_know_and_scores_that_know_nothing(scores, known):
    truth, best = scores.values["oracle"], known.accuracies.max()
    for way in ("top by oracle", "local search from oracle"):
        assert baselines.find(known, way, 1, scores) == pytest.approx((best, best, best))
    for m in (1, 5):
        worst = baselines.find(known, "top by fool", m, scores)
        assert worst == pytest.approx([np.sort(truth)[m - 1]] * 3)
        some = [max(draw) for draw in itertools.combinations(truth, m)] if m < 3 else None
        if some:
            assert baselines.find(known, "top by mute", m, scores).mean == pytest.approx(np.mean(some))
    everything = baselines.find(known, "local search from fool", len(DISTINCT), scores)
    assert everything.low == best  # no cell, and none that computes the same, was trained twice


def test_scoring_is_paid_for_out_of_the_budget(scores, known):
    arrays, seconds = {"dear": scores.values["oracle"]}, {"dear": 2.5}
    dear = CellScores(arrays, seconds, {"dear": round(2.4 * known.images_per_training)})
    for way in ("top by dear", "local search from dear"):
        assert baselines.scoring_cost(known, way, dear) == 2
        for m in (1, 2):
            assert baselines.find(known, way, m, dear) == baselines.find(known, "random search", m)
    assert baselines.find(known, "top by dear", 3, dear).low == known.accuracies.max()
    fool = CellScores({"dear": -arrays["dear"]}, seconds, dear.images)
    assert baselines.find(known, "top by dear", 5, fool) == baselines.find(known, "top by fool", 3, scores)


def test_local_search_led_by_a_score():
    """Five cells in a row, 0 - 1 - 2 - 3 - 4."""
    row = baselines.Layout(
        np.ones(5, int), np.array([[1, -1], [0, 2], [1, 3], [2, 4], [3, -1]]), np.array([1, 2, 2, 2, 1])
    )
    accuracies = np.array([3.0, 1.0, 5.0, 7.0, 6.0])

    def trained(scores):
        return baselines._climb(
            accuracies.tolist(),
            row,
            5,
            random.Random(0),
            baselines._ranked(np.array(scores), random.Random(0)),
        )

    assert trained([0.1, 0.9, 0.2, 0.3, 0.0]) == [1, 2, 3, 4, 0]  # 2 is better than 1, 3 than 2; then 0
    assert trained([0.9, 0.8, 0.1, 0.2, 0.3]) == [0, 1, 4, 3, 2]  # 0 is a top, and 4 the next by score
    found = baselines.local_search(
        accuracies, row, 3, scores=np.array([0.9, 0.8, 0.1, 0.2, 0.3]), repetitions=4
    )
    assert found.tolist() == [[3.0, 3.0, 6.0]] * 4
    tied = baselines.local_search(accuracies, row, 1, scores=np.array([1.0, 0, 1, 0, 0]), repetitions=400)
    assert np.mean(tied == 3) == pytest.approx(0.5, abs=0.1)
    assert set(tied.ravel()) == {3.0, 5.0}


# Searches beside them


def searches(known, costs=(5, 10), seeds=3):
    """Records of a method for each of the costs."""
    rng = np.random.default_rng(0)
    rows = []
    for cost, seed in itertools.product(costs, range(seeds)):
        i = int(rng.integers(60, 125))
        accuracy = float(known.accuracies[i])
        rows.append(
            {"method": f"st,draws={cost}", "seed": seed, "genotype": micro.format(MICRO[i]),
             "collapsed": False, "skip_connects": 0, "seconds": 1.0, "peak_memory_bytes": 1e9,
             "accuracy": accuracy, "regret": 1.0, "rank": 3, "cells": 125, "evaluations": cost,
             "beats_random": 0.5}
        )  # fmt: skip
    return rows


def test_searches_are_compared_with_the_best_at_their_cost(known):
    records = searches(known)
    rows = baselines.judged(records, known)
    for row in rows:
        ways = {way: baselines.find(known, way, row["evaluations"]).mean for way in baselines.WAYS}
        assert row["without"] == max(ways, key=ways.get)
        assert row["without_accuracy"] == max(ways.values())
        assert row["above_without"] == pytest.approx(row["accuracy"] - max(ways.values()))
    gain = baselines.difference(rows, "st,draws=5")
    own = [row["above_without"] for row in rows if row["method"] == "st,draws=5"]
    assert gain == estimate(own)
    assert baselines.judged(records, None) == records


def test_the_report_has_them_everywhere(known, tmp_path):
    records = searches(known)
    curves = [
        {"method": r["method"], "seed": r["seed"], "epoch": e, "entropy": 1.0, "accuracy": r["accuracy"]}
        for r in records
        for e in (1, 2)
    ]
    options = GridOptions(methods=("st,draws=5", "st,draws=10"), seeds=3)
    grid_report.write(tmp_path, records, curves, [], known, options)
    text = (tmp_path / "results.md").read_text()
    for words in ("## Without a search", "## Was the search worth it?", "above best without"):
        assert words in text
    for way in baselines.WAYS:
        assert f"| {way} |" in text
    assert "not known" not in text
    rows = list(csv.DictReader((tmp_path / "baselines.csv").read_text().splitlines()))
    assert {row["method"] for row in rows} == set(baselines.WAYS)
    assert {"1", "5", "10", "100"} <= {row["trainings"] for row in rows}
    row = next(csv.DictReader((tmp_path / "results.csv").read_text().splitlines()))
    assert float(row["above_without"]) == pytest.approx(
        float(row["accuracy"]) - float(row["without_accuracy"])
    )
    assert (tmp_path / "pictures" / "true-accuracy-over-cost.png").stat().st_size > 10_000


def test_the_report_has_zero_cost_scores_everywhere(known, scores, tmp_path):
    records = searches(known)
    curves = [{"method": "st,draws=5", "seed": 0, "epoch": 1, "entropy": 1.0, "accuracy": 96.0}]
    options = GridOptions(methods=("st,draws=5", "st,draws=10"), seeds=3)
    grid_report.write(tmp_path, records, curves, [], known, options, scores)
    text = (tmp_path / "results.md").read_text()
    for way in baselines.ways(scores):
        assert f"| {way} | " in text
    assert "| oracle | 2.5 | 944 | 0.23 | 1.00 | 1.00 |" in text
    assert "| st,draws=5 | 5 | top by oracle | 96.83 |" in text
    rows = list(csv.DictReader((tmp_path / "baselines.csv").read_text().splitlines()))
    assert {row["method"] for row in rows} == set(baselines.ways(scores))
    with open(tmp_path / "results.csv") as file:
        assert {row["without"] for row in csv.DictReader(file)} == {"top by oracle"}
    few = baselines.yardsticks(known, 5, scores)
    assert few[-1][0] == "top 5 by oracle"
    guided = scored(noisy=scores.values["noisy"])
    names = [name for n in (1, 2, 5, 20) for name, _ in baselines.yardsticks(known, n, guided)]
    assert any(name.endswith("noisy") for name in names)
    for axes in (
        baseline_plots.plot_cost(records, known, scores).axes[0],
        grid_plots.plot_anytime(curves, known, 5, scores).axes[0],
        grid_plots.plot_answer(records, known, scores).axes[1],
    ):
        assert any("oracle" in text.get_text() for text in axes.texts)


def test_names_of_yardsticks(known, monkeypatch):
    for way, name in (
        (baselines.TOP, "top 5 by parameters"),
        (baselines.EVOLUTION, "evolution of 5"),
        (baselines.LOCAL, "local search of 5"),
        ("top by naswot", "top 5 by naswot"),
        ("local search from naswot:images=64", "local search of 5 from naswot:images=64"),
    ):
        monkeypatch.setattr(baselines, "best", lambda *_, way=way: (way, baselines.Outcome(1, 1, 1)))
        assert baselines.yardsticks(known, 5)[-1] == (name, 1)


@pytest.mark.parametrize(
    ("space", "words"),
    [("micro", "there is no table"), ("darts", "the cells of the space 'darts' cannot be listed")],
)
def test_what_cannot_be_known_is_said(space, words, known, tmp_path):
    options = GridOptions(space=space, methods=("st,draws=5",), seeds=3, evaluate="retrain")
    grid_report.write(tmp_path, searches(known, costs=(5,)), [], [], None, options)
    assert words in (tmp_path / "results.md").read_text().split("##")[0]
    assert (tmp_path / "baselines.csv").read_text().strip() == ""
    assert search_spaces.get(space).name == space


@pytest.mark.parametrize(("evaluations", "said"), [(None, True), (5, False)])
def test_a_table_that_does_not_say_what_a_training_costs(evaluations, said, known, tmp_path):
    options = GridOptions(methods=("st,draws=5",), seeds=3, evaluations=evaluations)
    silent = replace(known, images_per_training=None)
    grid_report.write(tmp_path, searches(known, costs=(5,)), [], [], silent, options)
    assert ("(--evaluations)" in (tmp_path / "results.md").read_text().split("##")[0]) == said


@pytest.mark.parametrize("costs", [(1,), (1, 300)])
def test_pictures_of_any_cost(costs, known):
    records = searches(known, costs)
    figure = baseline_plots.plot_cost(records, known)
    (axes,) = figure.axes
    assert axes.get_xlim()[1] == max(100, *costs)
    texts = {text.get_text() for text in axes.texts}
    assert {"optimum", *baselines.WAYS, *(record["method"] for record in records)} <= texts
    curves = [{"method": "st", "epoch": 1, "entropy": 1.0, "accuracy": known.accuracies.max()}]
    assert grid_plots.plot_anytime(curves, known, costs[0]).axes
    curves += [{**curves[0], "epoch": 3}, {**curves[0], "method": "reinmax", "epoch": 2}]
    assert grid_plots.plot_anytime(curves, known, costs[0]).axes[0].get_xlim() == (1, 3)
    perfect = replace(known, accuracies=np.full(125, 90.0))
    flat = [record | {"accuracy": 90.0} for record in records]
    assert baseline_plots.plot_cost(flat, perfect).axes
    assert torch.get_num_threads() == 1


def test_many_methods_are_numbered_and_named_below(known):
    records = searches(known, costs=tuple(range(1, baseline_plots.MANY + 2)))
    figure = baseline_plots.plot_cost(records, known)
    means = {
        name: np.mean([record["accuracy"] for record in records if record["method"] == name])
        for name in {record["method"] for record in records}
    }
    within = {text.get_text() for text in figure.axes[0].texts}
    assert {str(i + 1) for i in range(len(means))} <= within
    assert not within & set(means)
    below = [text.get_text() for text in figure.texts]
    best = max(means, key=means.__getitem__)
    assert below[:3] == ["1", f"{means[best]:.2f}", best]
    assert set(below[2::3]) == set(means)
    assert all(0 < text.get_position()[1] < 1 for text in figure.texts)
