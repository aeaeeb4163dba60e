"""Searches compared: the grid, its statistics and its report."""

import csv
import json
import math
import os
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import ablate
import estimators
from ablation import grid, grid_plots, grid_ranking, grid_records, grid_report, ranking
from ablation.comparison import difference, estimate, least_p, paired
from ablation.methods import method_words
from nas import tables
from nas.bilevel.search import Search
from recipes import InputError, InterruptionError, commands, presets
from recipes.ablation import GridOptions

ROOT = Path(__file__).resolve().parent.parent
TABLE = Path(tables.__file__).parent / "micro-digits.json"
NONE = pytest.approx(math.nan, nan_ok=True)
TOY = "--epochs 2 --train-limit 80 --batch-size 16 --evaluate-every 2"


# Statistics


def test_interval_of_a_mean():
    data = np.random.default_rng(0).normal(10, 2, 400)
    found = estimate(data)
    assert found.mean == pytest.approx(data.mean())
    assert found.std == pytest.approx(data.std(ddof=1))
    for some in (data[:2], data[:5], data):
        expected = stats.t.interval(0.95, len(some) - 1, some.mean(), stats.sem(some))
        assert estimate(some)[2:4] == pytest.approx(expected)
    assert str(estimate([1.0, 2.0])) == "1.50 ± 0.71"


def test_interval_of_lone_and_of_equal_values():
    assert estimate([3.0]) == (3.0, None, NONE, NONE, 1)
    assert estimate([3.0, 3.0]) == (3.0, 0.0, 3.0, 3.0, 2)
    assert str(estimate([3.0])) == "3.00"


def test_pairs():
    five = paired([2.0, 3.0, 4.0, 5.0, 7.0], [1.0, 2.0, 3.0, 4.0, 5.0])
    assert five.mean == pytest.approx(1.2)
    assert five.p == pytest.approx(2 / 32)  # all differences have one sign
    assert five[1:3] == pytest.approx(estimate([1.0, 1.0, 1.0, 1.0, 2.0])[2:4])
    mixed = paired([1.0, 0.0, 0.0], [0.0, 1.0, 0.0])
    assert mixed.mean == 0
    assert mixed.p == 1
    assert paired([1.0, 2.0], [1.0, 2.0]).p == 1
    assert paired([1.0], [0.5]) == (0.5, NONE, NONE, 1.0, 1)
    for runs in (5, 13, 14, 20):
        assert paired(np.arange(1, runs + 1), np.zeros(runs)).p == pytest.approx(least_p(runs))


# The plan


def test_a_method_is_an_estimator_with_options():
    words = method_words("reinmax,draws=4,draw_per=image")
    assert words == ["--estimator", "reinmax", "--draws", "4", "--draw-per", "image"]
    words = method_words("st,derive=halving:6;draws=50,draws=2")
    assert words == ["--estimator", "st", "--derive", "halving:6,draws=50", "--draws", "2"]
    words = method_words("st,edge_normalisation=true,deterministic=false")
    assert words == ["--estimator", "st", "--edge-normalisation", "--no-deterministic"]


def test_settings_of_an_estimator_are_its_own(monkeypatch):
    class Mine(estimators.family("reinmax")):
        def __init__(self, tau: float | None = None, samples: int = 3, gap: float = 1.0) -> None:
            super().__init__(tau)

    monkeypatch.setattr(estimators, "names", lambda: ["mine"])
    monkeypatch.setattr(estimators, "family", {"mine": Mine}.get)
    words = method_words("mine,samples=20,draws=4,tau=2:1,gap=0.5")
    assert words == ["--estimator", "mine:samples=20,gap=0.5", "--draws", "4", "--tau", "2:1"]


@pytest.mark.parametrize(
    "method",
    ["", "reinmx", "reinmax,draws", "reinmax,=4", "reinmax,draws=", "reinmax,", "reinmax,--out=x"],
)
def test_malformed_methods_are_refused(method):
    with pytest.raises(InputError):
        method_words(method)


@pytest.mark.parametrize(
    ("method", "inside", "outside"),
    [
        ("st,derive=halving:6,draws=50", "derive=halving:6;draws=50", "draws=50,derive=halving:6"),
        ("st,terms=entropy,weight=2", "terms=entropy:weight=2", "weight=2,terms=entropy"),
    ],
)
def test_a_setting_that_may_belong_to_the_part_before_it_is_refused(method, inside, outside):
    with pytest.raises(InputError, match=f"If so give '{inside}', if not '{outside}'"):
        method_words(method)
    method_words(f"st,{inside}")
    assert method_words("st,draws=2,derive=halving:6")[-4:] == ["--draws", "2", "--derive", "halving:6"]


def test_options_reach_the_searches(tmp_path):
    options = GridOptions(methods=("st", "reinmax,draws=3"), seeds=2, search="--epochs 8 --lr 0.5")
    trials = grid.plan(options, tmp_path)
    assert [(trial.method, trial.seed) for trial in trials] == [
        ("st", 0), ("st", 1), ("reinmax,draws=3", 0), ("reinmax,draws=3", 1),
    ]  # fmt: skip
    last = trials[-1].options
    assert (last.estimator, last.draws, last.seed, last.epochs, last.lr) == ("reinmax", 3, 1, 8, 0.5)
    assert (last.space, last.threads, last.tensorboard) == ("micro", 1, False)
    assert last.channels == presets.TABLES_SEARCH["channels"]
    assert last.test_fraction == presets.TABLES["test_fraction"]  # the images of the table
    assert last.measure_every == 2  # four moments in eight epochs
    assert len({trial.folder for trial in trials}) == 4
    assert [t.options.cells for t in trials] == [1] * 4
    assert [t.options.cells for t in grid.plan(replace(options, space="darts"), tmp_path)] == [3] * 4


def test_options_of_the_searches_may_be_one_word(tmp_path, capsys):
    words = ["nas", "--table", "nowhere.csv", "--out", str(tmp_path / "g")]
    assert ablate.main([*words, "--search", "--epochs 4 --lr 0.1", "--methods", "st"]) == 2
    assert "nowhere.csv" in capsys.readouterr().err  # the first thing that is wrong
    assert ablate.main([*words, "--search", "--epochs 3 --lr x"]) == 2
    assert "--lr" in capsys.readouterr().err


def test_a_method_wins_over_the_options_of_all(tmp_path):
    options = GridOptions(
        methods=("st", "st,draws=3,terms=entropy:weight=2"),
        seeds=1,
        search="--draws=2 --terms beta_decay uniform_decay --epochs 8",
    )
    first, last = (trial.options for trial in grid.plan(options, tmp_path))
    assert (first.draws, first.terms, first.epochs) == (2, ("beta_decay", "uniform_decay"), 8)
    assert (last.draws, last.terms, last.epochs) == (3, ("entropy:weight=2",), 8)


def test_a_preset_takes_the_place_of_the_recipe(tmp_path):
    options = GridOptions(space="nasbench201", search="--preset nasbench201-gdas --epochs 9", methods=("st",))
    first = grid.plan(options, tmp_path)[0].options
    assert (first.epochs, first.batch_size, first.cells, first.estimator) == (9, 64, 5, "st")
    assert (first.test_fraction, first.measure_every) == (0.2, 0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"space": "micron"}, "search space"),
        ({"methods": ()}, "--methods is empty"),
        ({"methods": ("st", "st")}, "twice"),
        ({"methods": ("st,draws=0",)}, "`draws` is 0"),
        ({"methods": ("st,nonsense=1",)}, "nonsense"),
        ({"search": "--out x"}, "--out in --search"),
        ({"search": "'"}, "--search cannot be split"),
        ({"search": "--space darts"}, "--space in --search is set by the grid: drop it, give --space to"),
        ({"search": "--measure_every=2"}, "--measure_every=2 in --search is set by the grid: drop it"),
        ({"search": "--no-tensorboard"}, "--no-tensorboard in --search"),
        ({"search": "--dataset x"}, "--dataset in --search"),
        ({"search": "--estimator st"}, "--estimator in --search"),
        ({"search": "--plugins x.py"}, "--plugins in --search"),
        ({"methods": ("st,threads=2",)}, "--threads in the method 'st,threads=2'"),
        ({"methods": ("gumbel_rao:samples=3",)}, "follow a comma: 'gumbel_rao,samples=3'"),
        ({"methods": ("gumbel_rao,samples=0",)}, "'gumbel_rao,samples=0': .*from 1 to"),
        ({"methods": ("st", "st,policy=x")}, "'st,policy=x': `policy`: unknown policy"),
        ({"methods": ("st,terms=entropi",)}, "unknown term"),
        ({"methods": ("st,derive=sample:0",)}, "count is 0"),
        ({"methods": ("st,tau=x",)}, "`tau` is 'x'"),
        ({"methods": ("softmax,draw_per=image",)}, "draws nothing"),
        ({"search": "--epochs 3", "measure": 4}, "--measure is 4"),
        ({"dataset": "digitz"}, "no table"),
        ({"space": "darts"}, "no table"),
        ({"table": "nowhere.csv"}, "nowhere.csv"),
        ({"final": "--epochs 3"}, "`final` is for `evaluate=retrain`: drop it"),
        ({"random_cells": 3}, "`random_cells` is for `evaluate=retrain`"),
        ({"column": "cifar100"}, "`column` is for `table`"),
        ({"table_values": "error"}, "`table_values` is for `table`"),
        ({"evaluate": "retrain", "evaluations": 3}, "`evaluations` is for a table"),
        ({"table": str(TABLE), "table_values": "error"}, "`table_values=error` is for CSV tables"),
        ({"evaluate": "retrain", "final": "--epocs 3"}, "unknown option --epocs, perhaps --epochs"),
    ],
)
def test_bad_input_is_one_line(changes, words, tmp_path):
    options = replace(GridOptions(), **changes, out=str(tmp_path / "grid"))
    with pytest.raises(InputError, match=words) as caught:
        grid.run(options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "grid").exists()


def test_bad_input_ends_in_exit_code_2(capsys):
    assert ablate.main(["nas", "--methods", "reinmx"]) == 2
    assert "did you mean reinmax" in capsys.readouterr().err
    assert ablate.main(["nas", "--seeds", "0"]) == 2
    capsys.readouterr()
    for words in (
        ["--search", "--epochs 3"],
        ["--search=--epochs 3"],
        ["--out", "-", "--search", "--epochs=3"],
    ):
        assert ablate.main(["nas", "--measure", "4", *words]) == 2
        assert "--measure is 4, expected at most the 3 epochs" in capsys.readouterr().err
    assert ablate.main(["nass"]) == 2
    assert "unknown command 'nass'" in capsys.readouterr().err


def test_a_package_without_the_studies_says_where_they_are(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "studies.options", None)
    for command in ("tasks", "truth"):
        assert ablate.main([command, "--seeds", "3"]) == 2
        error = capsys.readouterr().err
        assert error == f"error: the package has no command '{command}': use a checkout of the repository\n"
    assert ablate.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {command} " in shown for command in commands.ABLATE.table)


# End to end


def read_csv(path):
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A grid of two methods with two seeds, at toy size."""
    folder = tmp_path_factory.mktemp("grid") / "out"
    options = GridOptions(methods=("reinmax", "st,draws=2"), seeds=2, search=TOY, measure=0, out=str(folder))
    grid.run(options)
    return folder, options


@pytest.mark.parametrize(
    ("executor", "jobs", "words"),
    [
        ("local", None, "2 runs at a time"),
        ("local", 1, "1 run at a time"),
        ("ray", 8, "8 runs at a time on Ray"),
        ("slurm", None, "runs on Slurm"),
    ],
)
def test_the_report_says_where_the_runs_were_done(executor, jobs, words):
    assert grid_report._place(GridOptions(executor=executor, jobs=jobs)) == words


def test_everything_is_written(finished):
    folder, _ = finished
    rows = read_csv(folder / "results.csv")
    assert [(row["method"], row["seed"]) for row in rows] == [
        ("reinmax", "0"), ("reinmax", "1"), ("st,draws=2", "0"), ("st,draws=2", "1"),
    ]  # fmt: skip
    known = tables.packaged("micro", "digits")
    for row in rows:
        result = json.loads((folder / "runs" / f"{row['method']}-s{row['seed']}" / "result.json").read_text())
        assert row["genotype"] == result["genotype"]
        said = [warning for warning in result["warnings"] if "too few to learn from" not in warning]
        assert len(said) < len(result["warnings"])  # of so few images
        assert row["collapsed"] == str(bool(said))
        assert float(row["regret"]) == pytest.approx(known.optimum[1].accuracy - float(row["accuracy"]))
        assert 0 <= float(row["beats_random"]) <= 1
        assert 1 <= int(row["rank"]) <= 125
        assert float(row["peak_memory_bytes"]) > 1e6
    curves = read_csv(folder / "curves.csv")
    assert len(curves) == 4 * 2
    assert [float(row["accuracy"]) for row in curves[1::2]] == [float(row["accuracy"]) for row in rows]
    page = (folder / "report.html").read_text()
    assert page.count("<svg") == 4
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "| reinmax |" in (folder / "results.md").read_text()


def test_what_is_finished_is_not_repeated_and_what_was_killed_continues(finished, monkeypatch):
    folder, options = finished
    before = read_csv(folder / "results.csv")
    lost = folder / "runs" / "reinmax-s1" / "result.json"
    lost.unlink()
    done = []
    options = replace(options, search=f"{TOY} --max-skipped-steps 7 --keep-weights-every 1")
    original = grid.execute
    monkeypatch.setattr(
        grid, "execute", lambda runs, *a: (done.extend(r.options.out for r in runs), original(runs, *a))[1]
    )
    grid.run(options)
    assert done == [str(lost.parent)]
    config = json.loads((lost.parent / "config.json").read_text())  # what changes no result may differ
    assert (config["max_skipped_steps"], config["keep_weights_every"], config["download"]) == (7, 1, False)
    after = read_csv(folder / "results.csv")
    for row in before + after:
        del row["seconds"], row["peak_memory_bytes"]
    assert before == after


def test_runs_of_another_configuration_are_refused(finished):
    folder, options = finished
    before = (folder / "results.csv").read_text()
    with pytest.raises(InputError, match=r"holds a run with lr 0.05 instead of 0.3"):
        grid.run(replace(options, search=f"{TOY} --lr 0.3"))
    assert (folder / "results.csv").read_text() == before


def test_a_failing_run_is_named(tmp_path):
    options = GridOptions(
        methods=("st",),
        seeds=1,
        search=f"{TOY} --lr 1e30 --clip 0 --max-skipped-steps 0",
        measure=0,
        out=str(tmp_path / "g"),
    )
    with pytest.raises(
        InputError, match=r"st-s0 failed \(2\): error: the loss, a term or a gradient was not finite"
    ):
        grid.run(options)


def test_a_failing_run_costs_its_seed_only(finished, monkeypatch):
    folder, options = finished
    before = read_csv(folder / "results.csv")
    lost = folder / "runs" / "reinmax-s1" / "result.json"
    content = lost.read_text()
    lost.unlink()
    monkeypatch.setattr(grid, "execute", lambda runs, _: (f"{run.options.out} failed" for run in runs))
    with pytest.raises(InputError, match="reinmax-s1 failed; the report is of what every method has"):
        grid.run(options)
    assert read_csv(folder / "results.csv") == [row for row in before if row["seed"] == "0"]
    assert "Left out, as a run failed: seed 1." in (folder / "results.md").read_text()
    lost.write_text(content)

    again = replace(options, evaluate="retrain", final="--epochs 1", random_cells=3, seeds=1)
    with pytest.raises(InputError, match=r"-final failed \(and 4 more\); the others are kept"):
        grid.run(replace(again, out=str(shutil.copytree(folder, folder.with_name("copy")))))


def test_retraining_takes_the_place_of_the_table(finished, monkeypatch):
    folder, options = finished
    again = replace(
        options, methods=("reinmax",), seeds=1, evaluate="retrain", final="--epochs 1", random_cells=2
    )
    grid.run(again)
    randoms = read_csv(folder / "random.csv")
    assert len({row["genotype"] for row in randoms}) == 2
    for i, one in enumerate(randoms):
        final = json.loads((folder / "random" / f"cell-{i}" / "result.json").read_text())
        assert (float(one["accuracy"]), one["genotype"]) == (final["test_accuracy"], final["genotype"])
    (row,) = read_csv(folder / "results.csv")
    final = json.loads((folder / "runs" / "reinmax-s0-final" / "result.json").read_text())
    assert float(row["accuracy"]) == final["test_accuracy"]
    assert final["genotype"] == row["genotype"]
    # Searched anew, another cell has no claim to this accuracy.
    cell = folder / "runs" / "reinmax-s0" / "genotype.json"
    before = cell.read_text()
    cell.write_text((folder / "random" / "cell-0" / "genotype.json").read_text())
    with pytest.raises(InputError, match=r"reinmax-s0-final holds the training of another cell than"):
        grid.run(again)
    cell.write_text(before)


def test_what_was_found_beside_random_cells(tmp_path):
    options = GridOptions(methods=("st", "reinmax"), seeds=3, evaluate="retrain")
    records = fake(options.methods, 3, False)
    randoms = [{"method": "random cells", "seed": 0, "genotype": "x", "accuracy": a} for a in (90.0, 91.0)]
    grid_report.write(tmp_path, records, [], [], None, options, randoms=randoms)
    (line,) = [
        line for line in (tmp_path / "results.md").read_text().splitlines()
        if line.startswith("| st ") and line.endswith(" 1.00 |")
    ]  # fmt: skip
    found = [row["accuracy"] for row in records if row["method"] == "st"]
    assert f"{np.mean(found) - 90.5:+.2f}" in line
    others = [90.0, 91.0]
    expected = stats.ttest_ind(found, others, equal_var=False).confidence_interval()
    assert difference(found, others) == pytest.approx((np.mean(found) - 90.5, *expected))
    assert difference([1.0, 1.0], [0.5, 0.5]) == (0.5, 0.5, 0.5)
    assert difference([1.0, 1.0], [0.5]) == (0.5, NONE, NONE)


def test_short_searches_are_measured_as_often_as_they_can(tmp_path):
    (trial,) = grid.plan(GridOptions(methods=("st",), seeds=1, search=TOY), tmp_path)
    assert trial.options.measure_every == 1


def test_searches_that_minimise_the_error_are_not_measured(tmp_path):
    options = GridOptions(methods=("reinmax", "reinforce_loo,architecture_loss=error"), search=TOY, measure=1)
    found = {trial.method: trial.options.measure_every for trial in grid.plan(options, tmp_path)}
    assert found == {"reinmax": 2, "reinforce_loo,architecture_loss=error": 0}


def test_an_estimator_that_was_not_measured_at_every_moment(tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        {"method": "reinmax", "seed": seed, "epoch": epoch, "estimator": name, "norm": 1.0}
        | {"reference": "enumeration"}
        | {key: float(rng.uniform(0.1, 0.9)) for key in ("bias", "std", "cosine", "draw_cosine", "length")}
        for seed in range(2)
        for epoch in (1, 2)
        for name in ("reinmax", "double_cv")
        if (epoch, name) != (2, "double_cv")
    ]
    options, known = GridOptions(methods=("reinmax", "double_cv")), tables.packaged("micro", "digits")
    grid_report.write(tmp_path, fake(options.methods, 2, True), [], rows, known, options)
    lines = (tmp_path / "results.md").read_text().splitlines()
    assert [line.endswith("| – |") for line in lines if line.startswith("| double_cv ×4 | 2 | 0.")] == [True]


def test_random_cells_keep_their_seeds_when_there_are_more_searches(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(
        grid, "work", lambda trials, *_: made.append([(t.method, t.seed) for t in trials]) or []
    )
    monkeypatch.setattr(grid, "is_finished", lambda _: True)
    monkeypatch.setattr(grid, "read_json", lambda _: {"test_accuracy": 90.0})
    for seeds in (2, 3):
        options = GridOptions(methods=("st",), seeds=seeds, evaluate="retrain", random_cells=4)
        grid.retrain(grid.plan(options, tmp_path), tmp_path, options)
    assert made[0][-4:] == made[1][-4:] == [("random", seed) for seed in range(4)]


def test_estimators_from_outside_are_compared(tmp_path):
    """Also by their gradients, beside all that there are."""
    (tmp_path / "mine.py").write_text(
        "import estimators\nclass Mine(estimators.family('reinmax')):\n    def __init__(self, tau: float | "
        "None = None, factor: float = 1.0) -> None:\n        "
        "super().__init__(tau)\nestimators.register('mine', Mine)\n"
    )
    words = ["--plugins", "mine.py", "--methods", "mine,factor=2.5", "--seeds", "1", "--search", TOY]
    assert ablate.main(["nas", *words, "--measure", "1", "--out", "out"]) == 0
    config = json.loads((tmp_path / "out" / "runs" / "mine,factor=2.5-s0" / "config.json").read_text())
    assert config["estimator"] == "mine:factor=2.5"
    gradients = read_csv(tmp_path / "out" / "gradients.csv")
    assert {row["reference"] for row in gradients} == {"enumeration"}
    known = {name for name in estimators.names() if not estimators.family(name).learns}
    own = "mine,factor=2.5"  # with its settings, as other searches would measure it without
    assert {row["estimator"] for row in gradients} == known - {"mine"} | {own}
    assert len(gradients) == len(known)
    assert f"| {own} | 1 |" in (tmp_path / "out" / "results.md").read_text()
    assert (tmp_path / "out" / "report.html").read_text().count("<svg") == 5


# The report


def test_what_a_reader_has_to_know(tmp_path):
    options = GridOptions(methods=("st", "reinmax,budget=parameters=2k"), seeds=3, first_seed=4)
    trials = [trial for trial in grid.plan(options, tmp_path) if trial.seed != 5]
    for trial in trials:
        trial.folder.mkdir(parents=True)
        moments = [{"gradient": {"estimators": {"st": {}} if trial.seed == 4 else {}}}, {"epoch": 2}]
        (trial.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in moments))
    said = grid_records.notes(trials, options)
    assert "Left out, as a run failed: seed 5." in said
    assert "At 2 of 4 moments the reference was too noisy" in said
    assert "The searches keep to a budget; random cells and all else without a search do not." in said
    assert "budget" not in grid_records.notes(trials[:1], options)
    usual = replace(options, seeds=1, methods=("st",))
    assert grid_records.notes(trials[:1], usual) == ""


def test_the_mean_of_biases_is_free_of_the_luck_of_each(tmp_path):
    """Squares average to the square of the bias; roots of those above 0 do not."""
    rows = [{"bias": max(0.0, square) ** 0.5, "bias2": square} for square in (-0.1, 0.2, -0.1, 0.04)]
    assert grid_plots.mean_bias(rows).mean == pytest.approx(0.1)
    assert grid_plots.mean_bias([{"bias": 0.2}, *rows]).mean == np.mean([0.2, *(row["bias"] for row in rows)])
    assert grid_plots.mean_bias(rows[:1])[:3] == (0.0, None, NONE)


def fake(methods, seeds, known):
    rng = np.random.default_rng(0)
    rows = []
    for method in methods:
        for seed in range(seeds):
            accuracy = float(rng.normal(95, 1))
            rows.append(
                {"method": method, "seed": seed, "genotype": "|none~0|+|none~0|none~1|", "collapsed": False,
                 "skip_connects": 0,
                 "seconds": 1.0, "peak_memory_bytes": 1e9, "accuracy": accuracy}
            )  # fmt: skip
            if known:
                rows[-1] |= {"regret": 1.0, "rank": 3, "cells": 125, "evaluations": 4, "beats_random": 0.5}
    return rows


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(("methods", "seeds"), [(("st",), 1), (("st", "st,draws=2", "reinmax"), 3)])
def test_report_of_little(known, methods, seeds, tmp_path):
    table = tables.packaged("micro", "digits") if known else None
    records = fake(methods, seeds, known)
    options = GridOptions(methods=methods, seeds=seeds, evaluate="truth" if known else "retrain")
    grid_report.write(tmp_path, records, [], [], table, options)
    text = (tmp_path / "results.md").read_text()
    assert ("Regret" in text) == known
    assert ("Difference to" in text) == (len(methods) > 1)
    assert ("| – |" in text) == (seeds == 1)  # intervals of one search
    assert "nan" not in text
    assert (tmp_path / "report.html").stat().st_size > 5000


def test_methods_of_one_estimator_differ_by_more_than_colour():
    methods = ["reinmax", "st", "reinmax,draws=4"]
    styles = [grid_plots.style(method, methods) for method in methods]
    assert styles[0][0] == styles[2][0] != styles[1][0]
    assert styles[0][1:] != styles[2][1:]


def test_bold_differences_are_those_of_the_test_of_pairs():
    """Five seeds cannot tell, whatever the interval; six that agree can."""
    for seeds, bold in ((1, 0), (5, 0), (6, 2)):
        rows = [
            {"method": m, "accuracy": 90.0 + i + s / 9}
            for i, m in enumerate(("st", "gst"))
            for s in range(seeds)
        ]
        figure = grid_plots.plot_pairs(("st", "gst"), grid_report.compare(rows))
        assert [text.get_weight() for text in figure.axes[0].texts].count("bold") == bold


def test_cosine_of_averaged_estimates_against_simulation():
    rng = np.random.default_rng(0)
    exact = np.array([1.0, 0.0, 0.0])
    mean = np.array([0.6, 0.5, 0.0])
    noise = rng.normal(size=(4000, 16, 3))
    row = {
        "length": float(np.linalg.norm(mean)),
        "cosine": float(mean @ exact / np.linalg.norm(mean)),
        "std": float(np.sqrt(3)),
    }
    for n in (1, 16):
        averaged = mean + noise[:, :n].mean(1)
        expected = (averaged @ exact).mean() / np.sqrt((averaged**2).sum(1).mean())
        assert grid_plots.averaged_cosine(row, np.array([n]))[0] == pytest.approx(expected, abs=0.02)


# What the supernets know


def test_finished_searches_are_ranked(finished, monkeypatch):
    folder, options = finished
    options = replace(options, rank_cells=12)
    grid.run(options)
    rows, table = read_csv(folder / "results.csv"), tables.packaged("micro", "digits")
    for row in rows:
        alone = ranking.rank(folder / "runs" / f"{row['method']}-s{row['seed']}", cells=12, progress=False)
        assert int(row["ranked_cells"]) == len(alone.cells) == 12
        for who, score in (("supernet", "loss"), ("parameters", "parameters")):
            chosen, best = alone.choice(score), alone.correlation(score, "best tenth").rho.value
            assert float(row[f"{who}_tau"]) == alone.correlation(score).tau.value
            assert float(row[f"{who}_rho_best"]) == pytest.approx(best, nan_ok=True)
            assert float(row[f"{who}_regret"]) == chosen.regret
            assert float(row[f"{who}_best_of_ten"]) == chosen.best_of_ten <= table.optimum[1].accuracy
    text = (folder / "results.md").read_text()
    assert "## What the supernets know" in text
    assert text.count("| parameter count |") == 1
    assert (folder / "pictures" / "what-the-supernets-know.png").read_bytes()[:4] == b"\x89PNG"

    # Interrupted, it goes on where it was.
    kept = (folder / "scores.csv").read_text().splitlines(keepends=True)
    (folder / "scores.csv").write_text("".join(kept[:20]))
    real, done = Search.score_uncounted, []

    def stops(self, genotype):
        done.append(genotype)
        if len(done) == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, genotype)

    monkeypatch.setattr(Search, "score_uncounted", stops)
    with pytest.raises(InterruptionError, match="the scores so far are kept"):
        grid.run(options)
    assert len((folder / "scores.csv").read_text().splitlines()) == 24
    grid.run(options)
    assert len(done) == len(kept) - 20 + 1
    assert read_csv(folder / "results.csv") == rows
    assert sorted((folder / "scores.csv").read_text().splitlines(keepends=True)) == sorted(kept)


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"rank_cells": 2}, "`rank_cells` is 2, expected 0 or at least 3"),
     ({"rank_cells": 5, "evaluate": "retrain"}, "`rank_cells` is for a table of accuracies")],
)  # fmt: skip
def test_a_ranking_that_cannot_be_is_refused_before_the_searches(changes, words, tmp_path):
    with pytest.raises(InputError, match=words):
        grid.run(replace(GridOptions(), **changes, out=str(tmp_path / "grid")))
    assert not (tmp_path / "grid").exists()


def ranked(method, tau, rho, parameters=0.4):
    row = {"method": method, "ranked_cells": 20}
    for who, *figures in (("supernet", tau, rho, 1.0, 95.0), ("parameters", parameters, math.nan, 2.0, 94.0)):
        names = (f"{who}_{name}" for name in ("tau", "rho_best", "regret", "best_of_ten"))
        row |= dict(zip(names, figures, strict=True))
    return row


def test_the_table_of_supernets_has_means_over_seeds_and_every_parameter_count_once():
    rows = [ranked("st", 0.2, math.nan), ranked("st", 0.6, 0.5), ranked("gst", 0.1, math.nan)]
    rows.append(ranked("softmax,channels=9", 0.3, 0.1, parameters=0.7))
    first, second, third, count, other = grid_ranking.table(rows).rows
    assert first[:3] == ["st", "0.40 (-2.14 to 2.94)", "0.50"]
    assert second[2] == "–"
    assert third[3] == "1.00"
    assert count == ["parameter count (st, gst)", "0.40", "–", "2.00", "94.00"]
    assert other == ["parameter count (softmax,channels=9)", "0.70", "–", "2.00", "94.00"]
    figure = grid_ranking.plot(rows, tables.packaged("micro", "digits"))
    assert [axes.get_title(loc="left") for axes in figure.axes][:2] == ["τ, all cells", "ρ, best tenth"]
