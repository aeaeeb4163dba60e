"""What shared weights know: scores of cells, their order beside a table, and the report."""

import csv
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import ablate
import nas
from ablation import rank_statistics, ranking, ranking_report, shared_scores
from ablation.parameter_count import counter
from nas import tables
from nas.bilevel.search import Search
from nas.tables.lookup import distinct
from recipes import InputError
from search_spaces.cost import NetworkSize
from search_spaces.nasbench201 import micro, nasbench201

CELLS = distinct(micro)
TEXTS = [micro.format(cell) for cell in CELLS]
TOY = {"space": "micro", "data": "digits", "epochs": 1, "train_limit": 80, "batch_size": 16, "channels": 4}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of two tiny searches."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        nas.search(**TOY, seed=seed, out=str(folder / f"s{seed}"), tensorboard=False, progress=False)
    return [folder / "s0", folder / "s1"]


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch):
    monkeypatch.setattr(rank_statistics, "RESAMPLES", 30)


def made_table():
    """A table in which every cell that differs has an accuracy of its own."""
    forms = {micro.canonical(cell): 50 + i / 2 for i, cell in enumerate(CELLS)}
    values = np.array([forms.get(micro.canonical(cell), 10.0) for cell in micro.all()])
    return tables.Truth("micro", "made up", values)


def scores_are(monkeypatch, function):
    calls = []

    def score(self, genotype):
        calls.append(micro.format(genotype))
        return function(genotype)

    monkeypatch.setattr(Search, "score_uncounted", score)
    return calls


# The statistics


def test_perfect_scores_have_no_regret(runs, monkeypatch):
    table = made_table()
    scores_are(monkeypatch, lambda cell: (-table.lookup(cell).accuracy, table.lookup(cell).accuracy))
    found = ranking.rank(runs[0], table, progress=False)
    assert found.differ == len(found.cells) == 59
    assert sorted(found.cells) == sorted(TEXTS)
    for score in ("loss", "accuracy"):
        for part in rank_statistics.PARTS:
            correlation = found.correlation(score, part)
            assert [*correlation.tau, *correlation.rho] == pytest.approx([1] * 6)
        choice = found.choice(score)
        assert (choice.regret, choice.accuracy, choice.cell) == (0, found.optimum, table.optimum[0])
        assert choice.best_of_ten == found.optimum
    assert found.correlation("loss", "best tenth").cells == found.best.sum() == 6
    assert found.truth[found.best].min() > found.truth[~found.best].max()
    assert found.random[10] == pytest.approx(table.best_of(10))


def test_reversed_scores_choose_the_worst(runs, monkeypatch):
    table = made_table()
    scores_are(monkeypatch, lambda cell: (table.lookup(cell).accuracy, -table.lookup(cell).accuracy))
    found = ranking.rank(runs[0], table, progress=False)
    assert [*found.correlation().tau, *found.correlation("accuracy").rho] == pytest.approx([-1] * 6)
    assert found.choice().accuracy == 50
    assert found.choice().best_of_ten == 50 + 9 / 2
    assert found.choice().regret == found.optimum - 50


def test_equal_cells_are_in_no_order():
    order, truth = np.array([1.0, 2, 2, 0]), np.array([99.0, 90, 94, 99])
    found = rank_statistics.choice("parameters", order, truth, list("abcd"), 100.0)
    assert found == ("parameters", "(2 are equal)", 92.0, 8.0, 99.0)
    order, truth = np.array([2.0] * 9 + [1, 1]), np.array([90.0] * 9 + [92, 96])
    found = rank_statistics.choice("loss", order, truth, list("abcdefghijk"), 96.0)
    assert found.best_of_ten == pytest.approx(94)


def test_constant_scores_order_nothing(runs, monkeypatch, tmp_path):
    scores_are(monkeypatch, lambda cell: (math.nan, 10.0))
    found = ranking.rank(runs[0], made_table(), progress=False)
    assert np.isnan(found.correlation().tau).all()
    ranking_report.write(tmp_path, [found], {})  # draws what there is
    assert found.correlation("parameters").tau.value == pytest.approx(
        stats.kendalltau(found.parameters, found.truth).statistic
    )


def test_a_loss_that_is_no_number_is_the_worst():
    loss = np.array([1.0, math.nan, 0.5, math.inf])
    orders = rank_statistics.orders_of(loss, loss, loss)
    assert orders["loss"].tolist() == [3, 1.5, 4, 1.5]


def test_the_lead_is_over_the_parameter_count():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=200)
    orders = {"loss": truth, "parameters": rng.normal(size=200)}
    loss, parameters = rank_statistics.correlations(orders, truth, truth > 1)[:2]
    assert loss.lead.value == pytest.approx(1 - parameters.tau.value)
    assert parameters.lead == (0, 0, 0)
    assert parameters.tau.low < parameters.tau.value < parameters.tau.high


@pytest.mark.parametrize(("cells", "levels"), [(3, 2), (30, 4), (200, 200)])
def test_correlations_of_resamples_are_those_of_scipy(cells, levels, monkeypatch):
    """With ties, more than one block, and samples in which nothing differs."""
    monkeypatch.setattr(rank_statistics, "_BLOCK", 64)
    rng = np.random.default_rng(cells)
    values, truth = rng.integers(0, levels, (2, cells)).astype(float)
    samples = [np.zeros(cells, int), *(rng.integers(0, cells, cells) for _ in range(20))]
    times = np.array([np.bincount(sample, minlength=cells) for sample in samples], np.float32)
    other = rng.normal(size=cells)
    found = rank_statistics._correlated({"other": other, "values": values}, truth, times)
    for sample, tau, rho in zip(samples[1:], *(figures[1:] for figures in found["values"]), strict=True):
        if min(np.ptp(values[sample]), np.ptp(truth[sample])) == 0:
            assert math.isnan(tau)
            assert math.isnan(rho)
            continue
        assert tau == pytest.approx(stats.kendalltau(values[sample], truth[sample]).statistic)
        assert rho == pytest.approx(stats.spearmanr(values[sample], truth[sample]).statistic)
    assert np.isnan([figures[0] for figures in found["values"]]).all()


# Parameters


@pytest.mark.parametrize("cells", [1, 2])
def test_parameters_are_those_of_derived_networks(cells):
    count = counter(micro, NetworkSize(4, cells, 7, 1, (8, 8)))
    for cell in CELLS[::7]:
        network = micro.network(cell, channels=4, cells=cells, num_classes=7, in_channels=1)
        assert count(cell) == sum(p.numel() for p in network.parameters())


def test_parameters_of_the_scored_cells(runs):
    found = ranking.rank(runs[0], cells=5, progress=False)
    assert found.parameters.shape == (5,)
    for text, size in zip(found.cells, found.parameters, strict=True):
        network = micro.network(micro.parse(text), channels=4, cells=1, in_channels=1)
        assert size == sum(p.numel() for p in network.parameters())
    assert found.largest.cell == "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|"


def test_networks_that_do_not_add_up_are_counted_one_by_one(monkeypatch):
    network = type(micro).network

    def odd(self, genotype, **size):
        built = network(self, genotype, **size)
        if genotype.count("none") == 0:
            built.extra = nas.api.nn.Linear(3, 1)
        return built

    monkeypatch.setattr(type(micro), "network", odd)
    count = counter(micro, NetworkSize(4, 1, 10, 1, (8, 8)))
    for cell in CELLS[::9]:
        built = micro.network(cell, channels=4, cells=1, in_channels=1)
        assert count(cell) == sum(p.numel() for p in built.parameters())


# Cells and samples


def test_cells_that_differ():
    assert len(CELLS) == 59
    assert len(distinct(nasbench201)) == 6461  # of 6,466, which count those without a path
    assert all(micro.is_connected(cell) for cell in CELLS)


def test_a_larger_sample_contains_the_smaller(runs, monkeypatch):
    scores_are(monkeypatch, lambda cell: (1.0, 1.0))
    table = made_table()
    few = ranking.rank(runs[0], table, cells=10, seed=3, progress=False)
    more = ranking.rank(runs[0], table, cells=20, seed=3, progress=False)
    other = ranking.rank(runs[0], table, cells=10, seed=4, progress=False)
    assert few.cells == more.cells[:10]
    assert few.cells != other.cells
    assert few.differ == 59
    assert len(few.truth) == 10


def test_a_search_as_it_is_now_and_its_folder_agree(runs, tmp_path):
    result = nas.search(**TOY, seed=0, progress=False)
    now = ranking.rank(result, cells=6, progress=False)
    stored = ranking.rank(runs[0], cells=6, progress=False)
    assert now.cells == stored.cells
    np.testing.assert_array_equal(now.loss, stored.loss)
    assert now.loss[0] == result.score(micro.parse(now.cells[0]))[0]
    assert (now.found.cell, now.epoch, stored.epoch) == (str(result), 1, 1)
    assert ranking.rank(result.search, cells=3, progress=False).epoch is None
    ranking.rank(result.search, cells=3, out=tmp_path / "here", progress=False)
    assert (tmp_path / "here" / "scores.csv").exists()


# Going on


def test_it_goes_on_after_an_interruption(runs, monkeypatch, tmp_path):
    whole = ranking.rank(runs[0], cells=20, progress=False)
    real, count = Search.score_uncounted, 0

    def stops(self, genotype):
        nonlocal count
        count += 1
        if count > 7:
            raise KeyboardInterrupt
        return real(self, genotype)

    monkeypatch.setattr(Search, "score_uncounted", stops)
    with pytest.raises(KeyboardInterrupt):
        ranking.rank(runs[0], cells=20, out=tmp_path / "out", progress=False)
    path = tmp_path / "out" / "scores.csv"
    assert len(path.read_text().splitlines()) == 8
    with open(path, "a") as file:
        file.write("a line that was cut o")
    done = []
    monkeypatch.setattr(
        Search, "score_uncounted", lambda self, cell: (done.append(cell), real(self, cell))[1]
    )
    again = ranking.rank(runs[0], cells=20, out=tmp_path / "out", progress=False)
    assert 13 <= len(done) <= 15  # with the largest and the found cell
    np.testing.assert_array_equal(again.loss, whole.loss)
    np.testing.assert_array_equal(again.accuracy, whole.accuracy)
    done.clear()
    ranking.rank(runs[0], cells=20, out=tmp_path / "out", progress=False)
    assert not done


def test_a_run_that_has_gone_on_is_scored_anew(runs):
    shutil.copytree(runs[0], "run")
    first = ranking.rank("run", cells=3, out="out", progress=False)
    before = Path("out/scores.csv").read_text()
    shutil.copy(runs[1] / "checkpoint.pt", "run/checkpoint.pt")
    found = ranking.rank("run", cells=3, out="out", progress=False)
    assert found.weights != first.weights
    np.testing.assert_array_equal(found.loss, ranking.rank("run", cells=3, progress=False).loss)
    assert Path("out/scores.csv").read_text().startswith(before)
    shutil.copy(runs[0] / "checkpoint.pt", "run/checkpoint.pt")
    size = Path("out/scores.csv").stat().st_size
    again = ranking.rank("run", cells=3, out="out", progress=False)
    np.testing.assert_array_equal(again.loss, first.loss)
    assert Path("out/scores.csv").stat().st_size == size


@pytest.mark.parametrize(
    "text", ["a,b\n1,2\n", ",".join(shared_scores.COLUMNS) + "\nr,w,c,x,1,2\n", "\xff\n", "run\n\n"]
)
def test_a_file_that_holds_something_else_is_refused(runs, text):
    with open("scores.csv", "w", encoding="latin-1") as file:
        file.write(text)
    with pytest.raises(InputError, match=r"scores\.csv"):
        ranking.rank(runs[0], cells=3, out=".", progress=False)


# Over the epochs


@pytest.fixture(scope="module")
def kept_run(tmp_path_factory):
    """The folder of a search of four epochs that has kept the weights of epochs 1, 2, 3 and 4."""
    folder = tmp_path_factory.mktemp("kept") / "run"
    options = TOY | {"epochs": 4, "keep_weights_every": 1, "train_limit": 160}
    nas.search(**options, out=str(folder), tensorboard=False, progress=False)
    return folder


def test_every_epoch_is_ranked_by_the_weights_that_it_had(kept_run, tmp_path):
    found = ranking.rank_epochs(kept_run, cells=8, progress=False)
    assert [(r.epoch, r.step) for r in found] == [(1, 0), (2, 0), (3, 0), (4, 0)]
    assert len({r.weights for r in found}) == 4
    assert len({tuple(r.cells) for r in found}) == 1
    options = TOY | {"epochs": 4, "train_limit": 160, "progress": False}
    stopped = nas.search(**options, callback=lambda line: line["epoch"] == 2)
    then = ranking.rank(stopped, cells=8, progress=False)
    assert (then.epoch, then.step, then.weights) == (2, 0, found[1].weights)
    np.testing.assert_array_equal(then.loss, found[1].loss)
    lines = [json.loads(line) for line in (kept_run / "metrics.jsonl").read_text().splitlines()]
    assert [r.found.cell for r in found] == [line["genotype"] for line in lines]
    end = ranking.rank(kept_run, cells=8, progress=False)
    assert (
        end.weights == found[-1].weights == ranking.rank(kept_run, epoch=4, cells=8, progress=False).weights
    )
    (chosen, last) = ranking.rank_epochs(kept_run, epochs=[2], cells=8, progress=False)
    assert (chosen.weights, last.weights) == (found[1].weights, end.weights)
    assert ranking.rank(kept_run, epoch=2, cells=8, progress=False).weights == found[1].weights


def test_what_was_found_after_an_epoch_minds_what_was_taken_out_until_then(tmp_path):
    options = TOY | {"epochs": 3, "keep_weights_every": 1, "train_limit": 160}
    options |= {"shrink": "zero_cost:proposals=1,batches=1"}
    result = nas.search(**options, out=tmp_path / "run", tensorboard=False, progress=False)
    for kept in (result, tmp_path / "run"):
        found = ranking.rank_epochs(kept, cells=3, progress=False)
        assert [r.found.cell for r in found] == [line["genotype"] for line in result.history]


def test_epochs_of_a_search_in_memory_and_its_weights_stay(kept_run):
    options = TOY | {"epochs": 4, "keep_weights_every": 2, "train_limit": 160}
    result = nas.search(**options, progress=False)
    before = shared_scores.fingerprint(result.supernet.state_dict())
    logits = result.logits.clone()
    found = ranking.rank_epochs(result, cells=8, progress=False)
    stored = ranking.rank_epochs(kept_run, epochs=(2,), cells=8, progress=False)
    assert [(r.epoch, r.weights) for r in found] == [(r.epoch, r.weights) for r in stored]
    np.testing.assert_array_equal(found[0].loss, stored[0].loss)
    ranking.rank(result, epoch=2, cells=8, progress=False)
    assert shared_scores.fingerprint(result.supernet.state_dict()) == before
    assert (result.logits == logits).all()
    with pytest.raises(InputError, match="expected the folder of a run, or what"):
        ranking.rank(result.search, epoch=2)


def test_an_unfinished_run_has_its_kept_epochs_and_its_last_checkpoint(kept_run, monkeypatch):
    """The checkpoint of epoch 3, and weights of epoch 4 that a killed process has left."""
    shutil.copytree(kept_run, "run")
    Path("run/result.json").unlink()
    shutil.move("run/checkpoint-previous.pt", "run/checkpoint.pt")
    found = ranking.rank_epochs("run", cells=3, progress=False)
    assert [r.epoch for r in found] == [1, 2, 3]
    with pytest.raises(InputError, match="run has no weights of epoch 4, it has those of 1, 2, 3: choose"):
        ranking.rank("run", epoch=4)
    assert ranking._chosen("all", True, [1, 2], (2, 5), "") == ([1, 2], True)  # in the middle of epoch 3
    with pytest.raises(InputError, match="no weights of epoch 3"):
        ranking._chosen([3], True, [1, 2], (3, 5), "")
    with pytest.raises(InputError, match="it has none: choose"):
        ranking._chosen([3], True, [], (2, 5), "")


def test_scores_of_epochs_are_not_done_again(kept_run, monkeypatch):
    calls = scores_are(monkeypatch, lambda cell: (0.1 * len(micro.format(cell)), 50.0))
    first = ranking.rank_epochs(kept_run, epochs=[1, 3], cells=5, out="out", progress=False)
    count = len(calls)
    assert 3 * 5 <= count <= 3 * 7
    again = ranking.rank_epochs(kept_run, cells=5, out="out", progress=False)
    assert 5 <= len(calls) - count <= 7  # epoch 2
    assert [r.weights for r in again[::2]] == [r.weights for r in first[:2]]


def test_the_command_follows_the_epochs(kept_run, runs, capsys):
    shutil.copytree(kept_run, "second")
    words = ["rank", str(kept_run), "second", "--cells", "20", "--threads", "1"]
    assert ablate.main([*words, "--epochs", "all", "--out", "out"]) == 0
    with open("out/results.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == [str(epoch) for epoch in (1, 2, 3, 4) for _ in range(6)] * 2
    text = Path("out/results.md").read_text()
    assert "## Over the epochs" in text
    assert "8 states of the weights" in text
    assert text.count("| second | parameter count |") == 3  # in both tables of correlations, and of choices
    assert Path("out/pictures/over-the-epochs.png").read_bytes()[:4] == b"\x89PNG"
    assert ablate.main([*words, "--epochs", "1", "3", "--out", "out"]) == 0
    assert "6 states of the weights" in Path("out/results.md").read_text()
    capsys.readouterr()
    for epochs, message in (
        (["5"], "has no weights of epoch 5, it has those of 1, 2, 3, 4"),
        (["0"], "--epochs is 0, expected all, or integers of at least 1"),
        (["all", "3"], "--epochs is all 3, expected"),
        (["9" * 5000], "--epochs is 999"),
    ):
        assert message in refused(capsys, str(kept_run), "--epochs", *epochs)
    assert "search with --keep-weights-every" in refused(capsys, str(runs[0]), "--epochs", "all")


# The command


def test_the_command_writes_a_report_of_all_runs(runs, capsys):
    assert ablate.main(["rank", *map(str, runs), "--out", "out", "--threads", "1"]) == 0
    with open("out/results.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 3 * 2
    assert {row["run"] for row in rows} == {"s0", "s1"}
    text = Path("out/results.md").read_text()
    assert "All 59 cells" in text
    assert "largest cell of the space" in text
    assert "best of 10 random cells" in text
    for name in ("rank-correlations", "loss-and-true-accuracy"):
        assert Path(f"out/pictures/{name}.png").read_bytes()[:4] == b"\x89PNG"
    assert "report out/report.html" in capsys.readouterr().out


def test_a_sample_and_a_table_of_ones_own(runs):
    lines = ["arch,cifar10,other"]
    lines += [f"{micro.format(cell)},{i % 97},{90 - i / 2}" for i, cell in enumerate(micro.all())]
    Path("table.csv").write_text("\n".join(lines))
    words = ["rank", str(runs[0]), "--table", "table.csv", "--column", "other", "--cells", "8", "--seed", "1"]
    assert ablate.main([*words, "--out", "out"]) == 0
    text = Path("out/results.md").read_text()
    assert "8 random ones of the 59 cells" in text
    assert "other of table.csv" in text
    assert "among the cells scored" in text


def refused(capsys, *words):
    assert ablate.main(["rank", *words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_refusals(runs, capsys, tmp_path):
    run = str(runs[0])
    assert "no run is given" in refused(capsys)
    assert "no config.json" in refused(capsys, "nowhere")
    assert "given twice" in refused(capsys, run, run)
    assert "give --table, too" in refused(capsys, run, "--column", "x")
    assert "--cells" in refused(capsys, run, "--cells", "2")
    assert "is the folder of a run" in refused(capsys, run, "--out", run)
    assert "table nothing.csv does not exist" in refused(capsys, run, "--table", "nothing.csv")
    (tmp_path / "begun").mkdir()
    shutil.copy(runs[0] / "config.json", "begun")
    assert "no checkpoint yet" in refused(capsys, "begun")
    config = json.loads((runs[0] / "config.json").read_text())
    for name, change, message in (
        ("other", {"space": "nasbench201"}, "give runs of one space"),
        ("data", {"dataset": "cifar10"}, "on one data set"),
        ("kind", {"kind": "final"}, "is not that of a search run"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config | change))
        assert message in refused(capsys, run, name)
    (tmp_path / "other/config.json").write_text(json.dumps(config | {"space": "darts"}))
    assert "expected one of: micro, nasbench201" in refused(capsys, "other")


def test_refusals_of_the_function(runs):
    for arguments, message in (
        ({"search": 3}, "`search` is 3"),
        ({"cells": 2}, "`cells` is 2"),
        ({"seed": -1}, "`seed` is -1"),
        ({"column": "x"}, "give `table`"),
        ({"epoch": 0}, "`epoch` is 0, expected an integer"),
        ({"epoch": 3}, "no weights of epoch 3, it has those of 1:"),
        ({"table": replace(made_table(), space="nasbench201")}, "expected 'micro'"),
    ):
        with pytest.raises(InputError, match=message):
            ranking.rank(**({"search": runs[0], "progress": False} | arguments))


def test_a_space_says_itself_which_of_its_cells_are_connected():
    class Own(type(micro)):
        def is_connected(self, genotype):
            return True

    assert len(distinct(Own("own", nodes=3, channels=4, cells=1))) == len(CELLS) + 1


def test_an_epoch_without_its_line_of_metrics_is_named(kept_run):
    shutil.copytree(kept_run, "run")
    lines = Path("run/metrics.jsonl").read_text().splitlines(keepends=True)
    Path("run/metrics.jsonl").write_text("".join(lines[1:]))
    with pytest.raises(InputError, match=r"metrics\.jsonl has no line of epoch 1"):
        ranking.rank("run", epoch=1, cells=3, progress=False)
