"""Zero-cost scores of all cells of a space in a grid: kept, gone on from, compared."""

import csv
import math
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

import ablate
import nas
from ablation import cell_file, grid, zero_cost
from nas import data, tables
from nas.tables.lookup import distinct
from nas.task import Classification
from nas.zero_cost import SCORES, Naswot, ZeroCost
from recipes import InputError, InterruptionError, SearchOptions
from recipes.ablation import GridOptions
from search_spaces.nasbench201 import micro, nasbench201

CELLS = distinct(micro)
SEARCH = SearchOptions(space="micro", dataset="digits", channels=4, train_limit=100, threads=1)
OUT = Path("out")


def score(*names, options=SEARCH, folder=OUT):
    return zero_cost.score_cells(zero_cost.chosen(names, micro), options, folder, progress=False)


def rows():
    return list(csv.DictReader((OUT / zero_cost.FILE).read_text().splitlines()))


class Count(ZeroCost):
    """Says how often it was asked, and can be asked to stop."""

    calls, stop_after, value = 0, math.inf, 0.0

    def score(self, network, images, labels, task):
        Count.calls += 1
        if Count.calls == Count.stop_after:
            signal.raise_signal(signal.SIGTERM)
        return Count.value or float(Count.calls)


@pytest.fixture
def counted(monkeypatch):
    nas.register_zero_cost("count", Count)
    for name, value in (("calls", 0), ("stop_after", math.inf), ("value", 0.0)):
        monkeypatch.setattr(Count, name, value)
    return Count


def test_scores_are_those_of_networks_of_the_size_of_the_search():
    found = score("naswot:images=8", "synflow")
    assert list(found.values) == ["naswot:images=8", "synflow"]
    assert found.images == {"naswot:images=8": 8 * 59, "synflow": 59}
    assert all(seconds > 0 for seconds in found.seconds.values())
    images = {name: zero_cost._images(data.load("digits", train_limit=100), 8, SEARCH, torch.device("cpu"))
              for name in ("again", "naswot")}  # fmt: skip
    assert torch.equal(images["again"][0], images["naswot"][0])
    images, labels = images["naswot"]
    assert images.shape == (8, 1, 8, 8)
    for i in (3, 40):
        nas.seeding.seed_everything(0, "zero-cost")
        network = micro.network(CELLS[i], channels=4, cells=1, num_classes=10, in_channels=1)
        network.to(memory_format=torch.channels_last)
        expected = Naswot(8)(network, images, labels, Classification(10))
        assert found.values["naswot:images=8"][i] == pytest.approx(expected, rel=1e-6)


def test_equal_options_have_equal_scores_and_the_generators_stay():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = score("zico", "synflow")
    assert torch.equal(torch.get_rng_state(), state)
    second = score("synflow", "zico", folder=Path("other"))
    for name in first.values:
        np.testing.assert_array_equal(first.values[name], second.values[name])
    assert stats.spearmanr(first.values["zico"], first.values["synflow"]).statistic > 0.3
    wider = score("synflow", options=replace(SEARCH, channels=8), folder=Path("wider"))
    assert (wider.values["synflow"] > first.values["synflow"]).all()


def test_what_is_known_is_not_scored_again(counted):
    first = score("count")
    assert counted.calls == 59
    assert first.values["count"].tolist() == list(range(1, 60))
    again = score("count", "synflow")
    assert counted.calls == 59
    assert again.values["count"].tolist() == list(range(1, 60))
    assert again.seconds["count"] == pytest.approx(first.seconds["count"], abs=1e-4)
    assert len(rows()) == 2 * 59


def test_a_signal_stops_it_and_the_same_call_goes_on(counted):
    counted.stop_after = 7
    with pytest.raises(InterruptionError, match="the same command goes on"):
        score("count")
    assert [row["value"] for row in rows()] == [repr(float(n)) for n in range(1, 8)]
    with open(OUT / zero_cost.FILE, "a") as file:
        file.write("count,abc")  # cut off
    found = score("count")
    assert counted.calls == 59
    assert found.values["count"].tolist() == list(range(1, 60))
    assert len(rows()) == 59


def test_whatever_ends_it_the_scores_are_kept(counted, monkeypatch):
    monkeypatch.setattr(Count, "value", "five")  # float() of it fails
    with pytest.raises(ValueError, match="five"):
        score("synflow", "count")
    assert len(rows()) == 59


def test_scores_are_on_the_disk_meanwhile(counted, monkeypatch):
    monkeypatch.setattr(zero_cost, "_KEEP_EVERY", -1)
    added = []
    monkeypatch.setattr(zero_cost, "add_rows", lambda path, columns, rows: added.append(len(rows)))
    score("count")
    assert added == [1] * 59


def test_scores_that_are_none_are_the_worst(counted):
    for value in (math.nan, math.inf, -math.inf):
        counted.value = value
        found = score("count", folder=Path(f"out{value}"))
        assert (found.values["count"] == -math.inf).all()
        assert (score("count", folder=Path(f"out{value}")).values["count"] == -math.inf).all()


@pytest.mark.parametrize("changes", [{"channels": 8}, {"train_limit": 90}, {"cells": 2}])
def test_scores_of_another_setup_are_refused(changes):
    score("naswot")
    with pytest.raises(InputError, match=r"zero-cost\.csv, line 2: the scores by naswot are of networks of"):
        score("naswot", options=replace(SEARCH, **changes))
    score("zico", options=replace(SEARCH, **changes))  # of which there is none yet


@pytest.mark.parametrize(
    "text", ["a,b\n1,2\n", ",".join(zero_cost.COLUMNS) + "\nsynflow,a,b,c,1\n", "\xff\n", "score\n\n"]
)
def test_a_file_that_holds_something_else_is_refused(text):
    OUT.mkdir()
    with open(OUT / zero_cost.FILE, "w", encoding="latin-1") as file:
        file.write(text)
    with pytest.raises(InputError, match=r"zero-cost\.csv.*restore it, or delete it"):
        score("synflow")


def test_one_process_at_a_time():
    with cell_file.held(OUT, "zero-cost.lock"), pytest.raises(InputError, match="in use by another process"):
        score("synflow")


def test_a_device_that_only_the_searches_have():
    assert score("synflow", options=replace(SEARCH, device="cuda:7")).values["synflow"].shape == (59,)


# Which ones


def test_which_scores_are_taken(counted):
    assert list(zero_cost.chosen(None, micro)) == SCORES.names()
    assert list(zero_cost.chosen(None, nasbench201)) == ["synflow"]
    assert zero_cost.chosen((), micro) == {}
    assert score() is zero_cost.NO_SCORES
    assert not OUT.exists()
    counted.images = 2.5
    with pytest.raises(InputError, match=r"'count' looks at 2\.5 images"):
        zero_cost.chosen(["count"], micro)
    del counted.images


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"zero_cost": ("naswt",)}, "`zero_cost`: unknown zero-cost score 'naswt', .* did you mean naswot"),
        ({"zero_cost": ("zico:batches=99",)}, "batches is 99"),
        ({"zero_cost": ("zico", "zico")}, "`zero_cost` names a score twice: zico zico"),
        ({"zero_cost": ("zico",), "evaluate": "retrain"}, "--zero-cost needs a table"),
    ],
)
def test_bad_input_is_one_line(changes, words):
    with pytest.raises(InputError, match=words) as caught:
        grid.run(GridOptions(**changes, out="grid"))
    assert "\n" not in str(caught.value)
    assert not Path("grid").exists()


def test_the_option_of_the_command_line(monkeypatch, capsys):
    taken = []
    monkeypatch.setattr(grid, "run", lambda options: taken.append(options.zero_cost))
    for words in ([], ["--zero-cost"], ["--zero-cost", "zico", "naswot:images=8"]):
        assert ablate.main(["nas", *words]) == 0
    assert taken == [None, (), ("zico", "naswot:images=8")]
    assert ablate.main(["nas", "--zero-cost", "zico", "--zero-cost", "naswot"]) == 2
    assert "--zero-cost is given 2 times" in capsys.readouterr().err


def test_a_grid_compares_with_them(counted):
    search = "--epochs 2 --train-limit 80 --batch-size 16 --evaluate-every 2"
    options = GridOptions(methods=("st",), seeds=1, search=search, measure=0, out="grid")
    grid.run(replace(options, zero_cost=("count", "synflow")))
    text = Path("grid/results.md").read_text()
    for words in ("| top by count | 1 |", "| local search from synflow | 1 |", "## Zero-cost scores"):
        assert words in text
    known = tables.packaged("micro", "digits")
    last = known.lookup(CELLS[-1]).accuracy  # of the highest score by count
    assert f"| top by count | 1 | {last:.2f} | {last:.2f} to {last:.2f} |" in text
    grid.run(replace(options, zero_cost=()))
    text = Path("grid/results.md").read_text()
    assert "Zero-cost" not in text
    assert "zero-cost" not in text
    assert counted.calls == 59
