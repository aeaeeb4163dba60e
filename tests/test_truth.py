"""Tables of accuracies: reading, looking up, converting; and the statistics of a table."""

import csv
import gzip
import inspect
import itertools
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import search_spaces
from nas import tables
from nas.tables import files, json_table, published, reading
from nas.tables.agreement import agreement, top
from nas.tables.lookup import enumerable, enumerable_names
from recipes import InputError
from search_spaces import Genotype, GenotypeError
from search_spaces.nasbench201 import micro, nasbench201
from search_spaces.space import EnumerableSpace
from studies.truth import truth_report
from studies.truth import truth_statistics as statistics

MICRO = [micro.format(cell) for cell in micro.all()]
NB201 = [nasbench201.format(cell) for cell in nasbench201.all()]


def own_table(texts=MICRO, seeds=3, space="micro"):
    """A table as `ablate.py truth` writes it, with random counts."""
    rng = np.random.default_rng(0)
    return {
        "format": 1,
        "space": space,
        "dataset": "digits",
        "recipe": {"dataset": "digits", "epochs": 6, "batch_size": 48},
        "version": "0.1.0",
        "torch": "2.8.0",
        "seeds": list(range(seeds)),
        "test_images": 1078,
        "cells": list(texts),
        "parameters": rng.integers(1000, 1010, len(texts)).tolist(),
        "correct": rng.integers(900, 1079, (seeds, len(texts))).tolist(),
    }


def written(path, table):
    json_table.write_table(path, table)
    return path


def csv_lines(texts=MICRO):
    return ["index,arch,cifar10,cifar100", *(f"{i},{t},{90 + i / 100},{i / 2}" for i, t in enumerate(texts))]


def a_truth(*accuracies):
    """A truth of micro whose first accuracies are given, and all others 0."""
    values = np.zeros(125)
    values[: len(accuracies)] = accuracies
    return tables.Truth("micro", "made up", values)


def refused(path, *words, space="micro", column=None):
    """Reading ends in one line that names the file and contains the words."""
    with pytest.raises(InputError) as caught:
        tables.read(Path(path), space, column)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    for word in (Path(path).name, *words):
        assert word in message, message


# Published accuracies


@pytest.mark.parametrize(
    ("column", "best", "index", "median"),
    [
        ("cifar10", 94.37, 6111, 90.75),
        ("cifar100", 73.51, 9930, 65.29),
        ("imagenet16-120", 47.31, 857, 36.39),
    ],
)
def test_known_values_of_the_benchmark(column, best, index, median, shared_data):
    path = shared_data / "nats_tss_test_accuracy.csv.gz"
    table = tables.read(path, "nasbench201", column)
    text, known = table.optimum
    assert (round(known.accuracy, 2), known.rank, known.std, known.cells) == (best, 1, None, 15625)
    with gzip.open(path, "rt") as file:
        rows = list(csv.DictReader(file))
    assert table.lookup(nasbench201.parse(rows[index]["arch"])).rank == 1  # on CIFAR-10 one of two
    assert float(rows[index][column]) == known.accuracy == max(float(row[column]) for row in rows)
    assert text in {row["arch"] for row in rows if float(row[column]) == known.accuracy}
    assert float(np.median(table.accuracies)) == pytest.approx(median, abs=0.0051)
    assert table.source == f"{column} of nats_tss_test_accuracy.csv.gz"
    for row in rows[::500]:
        assert table.lookup(nasbench201.parse(row["arch"])).accuracy == float(row[column])


def test_columns_of_the_benchmark(shared_data):
    path = shared_data / "nats_tss_test_accuracy.csv.gz"
    columns = tables.read_all(path, "nasbench201")
    assert list(columns) == ["cifar10", "cifar100", "imagenet16-120"]
    assert tables.read(path, "nasbench201").source.startswith("cifar10 of")
    found = agreement(columns["cifar10"].accuracies, columns["cifar100"].accuracies)
    assert found.spearman > 0.95
    with pytest.raises(InputError, match=r"unknown column .* expected one of: cifar10, cifar100, imagenet16"):
        tables.read(path, "nasbench201", "cifar")
    refused(path, "line 2", "not a cell of the space 'micro'", column="cifar10")


# Tables of our own


@pytest.mark.parametrize("name", ["table.json", "table.json.gz", "odd.name"])
def test_own_table(name, tmp_path):
    table = own_table()
    found = tables.read(written(tmp_path / name, table), "micro")
    shares = 100 * np.array(table["correct"]) / 1078
    np.testing.assert_allclose(found.accuracies, shares.mean(0))
    np.testing.assert_allclose(found.stds, shares.std(0, ddof=1))
    assert (found.space, found.source, found.seeds) == ("micro", "digits, 3 seeds", 3)
    assert found.images_per_training == 6 * 14 * 48  # of 719 images 14 batches
    assert found.recipe == table["recipe"]
    assert tables.read(tmp_path / name, "micro", "digits").source == found.source
    refused(tmp_path / name, "unknown column", "expected one of: digits", column="cifar10")
    refused(tmp_path / name, "a table of the space 'micro', expected 'nasbench201'", space="nasbench201")


def test_one_seed_has_no_deviation(tmp_path):
    found = tables.read(written(tmp_path / "t.json", own_table(seeds=1)), "micro")
    assert (found.stds, found.seeds, found.source) == (None, 1, "digits, 1 seed")
    assert found.optimum[1].std is None


def test_missing_cells_have_the_value_of_their_representative():
    forms = [micro.canonical(cell) for cell in micro.all()]
    first = {form: text for text, form in reversed(list(zip(MICRO, forms, strict=True)))}
    twin = next(text for text, form in zip(MICRO, forms, strict=True) if first[form] != text)
    texts = [*first.values(), twin]
    table = own_table(texts)
    found = json_table.from_table(table, "table")
    mean = 100 * np.array(table["correct"]).mean(0) / 1078
    for text, form, accuracy in zip(MICRO, forms, found.accuracies, strict=True):
        assert accuracy == pytest.approx(mean[-1 if text == twin else texts.index(first[form])])
    assert [texts[row] for row in json_table.rows(table)][MICRO.index(twin)] == twin


def test_the_large_space_is_read_fast_and_whole(tmp_path):
    canonical = {}
    for cell, text in zip(nasbench201.all(), NB201, strict=True):
        canonical.setdefault(nasbench201.canonical(cell), text)
    path = written(tmp_path / "t.json.gz", own_table(list(canonical.values()), space="nasbench201"))
    began = time.process_time()
    found = tables.read(path, "nasbench201")
    assert time.process_time() - began < 1
    assert found.accuracies.shape == found.stds.shape == (15625,)
    genotype = nasbench201.parse(NB201[77])
    found.lookup(genotype)
    began = time.process_time()
    for _ in range(1000):
        found.lookup(genotype)
    assert time.process_time() - began < 0.1  # a hundred microseconds each


def test_packaged(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "TABLES", tmp_path)
    with pytest.raises(InputError, match=r"no table of the space 'micro' on 'digits' .*: \(none\); give"):
        tables.packaged("micro", "digits")
    written(tmp_path / "micro-digits.json", own_table())
    assert tables.packaged("micro", "digits").source == "digits, 3 seeds"
    for name in (("nasbench201", "digits"), ("micro", "cifar10"), ("*", "digits"), ("..", "x")):
        with pytest.raises(InputError, match=r"expected one of: micro-digits; give `table=FILE`"):
            tables.packaged(*name)


@pytest.mark.parametrize("path", sorted(reading.TABLES.glob("*.json*")), ids=lambda path: path.name)
def test_tables_of_the_package(path):
    space, _, dataset = path.name.partition(".")[0].partition("-")
    table = tables.packaged(space, dataset)
    assert table.optimum[1].accuracy > 90
    assert table.stds is not None


def test_equal_tables_are_equal_files(tmp_path):
    for name in ("a.json.gz", "b.json.gz"):
        written(tmp_path / name, own_table())
    assert (tmp_path / "a.json.gz").read_bytes() == (tmp_path / "b.json.gz").read_bytes()


# Looking up


def test_ranks_and_ties():
    table = a_truth(90, 95, 90, 80)
    expected = [(90, 2), (95, 1), (90, 2), (80, 4), (0, 5)]
    for cell, (accuracy, rank) in zip(micro.all(), expected, strict=False):
        assert table.lookup(cell) == (accuracy, None, rank, 125)
    assert table.optimum == (MICRO[1], (95, None, 1, 125))
    assert a_truth(7, 9, 9).optimum[0] == MICRO[1]  # the first of equals


def test_lookup_of_what_is_not_in_the_space():
    table = a_truth(*range(1, 126))
    cell = micro.parse(MICRO[77])
    assert table.lookup(cell) == (78, None, 48, 125)
    with pytest.raises(GenotypeError, match="belongs to the space 'nasbench201'"):
        table.lookup(nasbench201.parse(NB201[0]))
    with pytest.raises(GenotypeError, match="malformed genotype for the space 'micro'"):
        table.lookup(Genotype("micro", (replace(cell.cells[0], edges=cell.cells[0].edges[:1]),)))
    darts = search_spaces.get("darts")
    with pytest.raises(GenotypeError, match="belongs to the space 'darts'"):
        table.lookup(darts.random(np.random.default_rng(0)))


@pytest.mark.parametrize("evaluations", [1, 2, 3])
def test_random_search_by_enumeration(evaluations):
    table = a_truth(*[3.0] * 40, *[5.0] * 50, *[8.0] * 30)  # and five times 0
    draws = itertools.product(np.unique(table.accuracies, return_counts=True)[0], repeat=evaluations)
    weight = dict(zip(*np.unique(table.accuracies, return_counts=True), strict=True))
    outcomes = [(max(draw), np.prod([weight[value] / 125 for value in draw])) for draw in draws]
    assert table.best_of(evaluations) == pytest.approx(sum(best * p for best, p in outcomes))
    for accuracy in (-1, 0, 3, 4, 5, 8, 9):
        wins = sum(p * ((accuracy > best) + 0.5 * (accuracy == best)) for best, p in outcomes)
        assert table.beats_random(accuracy, evaluations) == pytest.approx(wins)


def test_random_search_of_many_draws():
    table = a_truth(*range(1, 126))
    assert table.best_of(1) == pytest.approx(63)
    assert table.best_of(10**6) == pytest.approx(125)
    assert table.beats_random(125, 10**6) == pytest.approx(0.5)
    for method in (table.best_of, lambda n: table.beats_random(5, n)):
        with pytest.raises(ValueError, match="evaluations is 0"):
            method(0)


# Files that are no tables


def test_files_that_cannot_be_read(tmp_path):
    whole = gzip.compress("\n".join(csv_lines()).encode())
    refused(tmp_path / "none.csv", "does not exist")
    refused(tmp_path, "is not a file")
    for name, content, words in [
        ("cut.csv.gz", whole[:300], ["cannot read", "is it complete?"]),
        ("head.csv.gz", whole[:5], ["cannot read"]),
        ("flipped.csv.gz", whole[:60] + bytes([whole[60] ^ 255]) + whole[61:], ["cannot read"]),
        ("latin.csv", "index,arch,cifar10\n0,é,1".encode("latin-1"), ["line 2", "not UTF-8"]),
        ("empty.csv", b"", ["line 1", "the columns are nothing"]),
        ("cut.json", json.dumps(own_table()).encode()[:500], ["not valid JSON", "build it again"]),
        ("deep.json", b"[" * 100_000, ["not valid JSON"]),
        ("long.json", b'{"format": ' + b"9" * 5000 + b"}", ["not valid JSON"]),
        ("list.json", b"[1, 2]", ["not a table of accuracies"]),
        ("foreign.json", b'{"name": "x"}', ["not a table of accuracies"]),
    ]:
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name, *words)
    with pytest.raises(InputError, match=r"unknown space of a table 'darts', expected one of: micro, nasb"):
        tables.read(tmp_path / "cut.json", "darts")


def test_a_file_that_unpacks_to_too_much(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LARGEST_FILE", 1000)
    (tmp_path / "bomb.csv.gz").write_bytes(gzip.compress(b"0" * 1001))
    refused(tmp_path / "bomb.csv.gz", "more than 1,000 bytes")


@pytest.mark.parametrize(
    ("line", "text", "words"),
    [
        (1, "index,arch", ["line 1", "the columns are index, arch; expected"]),
        (1, "index,cell,cifar10,cifar100", ["line 1", "columns are index, cell"]),
        (1, "index,arch,cifar10,cifar10", ["line 1", "each once"]),
        (1, "index,arch,mnist,svhn", ["unknown column", "expected one of: mnist, svhn"]),
        (4, f"2,{MICRO[2]},ninety,1", ["line 4", "cifar10 is 'ninety', expected an accuracy"]),
        (4, f"2,{MICRO[2]},nan,1", ["line 4", "'nan'"]),
        (4, f"2,{MICRO[2]},inf,1", ["line 4", "'inf'"]),
        (4, f"2,{MICRO[2]},1e999,1", ["line 4", "'1e999'"]),
        (4, f"2,{MICRO[2]},{'9' * 400},1", ["line 4", "from 0 to 100"]),
        (4, f"2,{MICRO[2]},100.01,1", ["line 4", "'100.01'"]),
        (4, f"2,{MICRO[2]},-0.5,1", ["line 4", "'-0.5'"]),
        (4, f"2,{MICRO[2]},9_0,1", ["line 4", "'9_0'"]),
        (4, f"2,{MICRO[2]},,1", ["line 4", "''"]),
        (4, f"2,{MICRO[2]},90", ["line 4", "3 values for 4 columns"]),
        (4, f"2,{MICRO[2]},90,1,5", ["line 4", "5 values for 4 columns"]),
        (4, f"2,{MICRO[1]},90,1", ["line 4", "is also in line 3"]),
        (4, f"2,{NB201[7]},90,1", ["line 4", "not a cell of the space 'micro', expected the form"]),
        (4, f'2,"{MICRO[2]},90,1', ["not valid CSV"]),
        (4, "", ["has 124 of the 125 cells", MICRO[2]]),
    ],
)
def test_damaged_csv(line, text, words, tmp_path):
    lines = csv_lines()
    lines[line - 1] = text
    (tmp_path / "t.csv").write_text("\n".join(lines), encoding="utf-8")
    refused(tmp_path / "t.csv", *words)


def test_what_a_csv_may_be(tmp_path):
    """Another order, a byte order mark, Windows line ends, no index, damage in columns not asked for."""
    lines = csv_lines()
    lines[5] = lines[5].rpartition(",")[0] + ",?"
    shuffled = [lines[0], *reversed(lines[1:])]
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(shuffled).encode() + b"\r\n\r\n")
    found = tables.read(tmp_path / "t.csv", "micro")
    np.testing.assert_allclose(found.accuracies, [90 + i / 100 for i in range(125)])
    assert (found.stds, found.seeds, found.images_per_training, found.recipe) == (None,) * 4
    refused(tmp_path / "t.csv", "cifar100 is '?'", column="cifar100")
    with pytest.raises(InputError, match="cifar100"):
        tables.read_all(tmp_path / "t.csv", "micro")
    bare = ["arch,digits", *(f"{text},50" for text in MICRO)]
    (tmp_path / "bare.csv").write_text("\n".join(bare))
    assert tables.read(tmp_path / "bare.csv", "micro", "digits").best_of(3) == pytest.approx(50)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 2}, ["format of the table is '2', expected 1"]),
        ({"format": True}, ["expected 1"]),
        ({"space": "darts"}, ["unknown space 'darts', expected micro or nasbench201"]),
        ({"dataset": "cifar10"}, ["'train_images' is not a positive integer"]),
        ({"train_images": 0}, ["'train_images' is not a positive integer"]),
        ({"test_images": 1797}, ["'train_images' is not a positive integer"]),
        ({"recipe": []}, ["'recipe' is missing or not of type dict"]),
        ({"recipe": {"epochs": 5, "batch_size": 0}}, ["'batch_size' of the recipe"]),
        ({"seeds": []}, ["'seeds' is empty"]),
        ({"seeds": [0, 1]}, ["'correct' has 3 lists for 2 seeds"]),
        ({"test_images": 0}, ["'test_images' is 0"]),
        ({"test_images": 10**300}, ["'test_images' is 1000"]),
        ({"test_images": 100.5}, ["'test_images' is missing or not of type int"]),
        ({"cells": MICRO[:-1]}, ["list 1 of 'correct' has not one entry for each of the 124 cells"]),
        ({"cells": [*MICRO[:-1], MICRO[0]]}, ["entry 125 of 'cells'", "is there twice"]),
        ({"cells": [*MICRO[:-1], NB201[0]]}, ["entry 125 of 'cells'", "not a cell of 'micro'"]),
        ({"cells": [*MICRO[:-1], 5]}, ["entry 125 of 'cells' is '5'"]),
        ({"parameters": [1] * 124}, ["'parameters' is not a positive integer for each"]),
        ({"parameters": [-1] * 125}, ["'parameters' is not a positive integer for each"]),
        ({"correct": 5}, ["'correct' is missing or not of type list"]),
        ({"correct": [[5] * 125] * 2 + [5]}, ["list 3 of 'correct' has not"]),
        ({"correct": [[5] * 125] * 2 + [[5] * 124 + [1079]]}, ["entry 125 of list 3", "expected 0 to 1078"]),
        ({"correct": [[5] * 125] * 2 + [[-1] * 125]}, ["entry 1 of list 3 of 'correct' is '-1'"]),
        ({"correct": [[5] * 125] * 2 + [[float("nan")] * 125]}, ["NaN is not a number"]),
        ({"correct": [[5] * 125] * 2 + [[10**4000] * 125]}, ["expected 0 to 1078"]),
        ({"correct": [[5] * 125] * 2 + [[True] * 125]}, ["'True'"]),
    ],
)
def test_damaged_table_of_our_own(change, words, tmp_path):
    refused(written(tmp_path / "t.json.gz", own_table() | change), *words, "build it again")


@pytest.mark.parametrize("key", sorted(own_table().keys() - {"version", "torch"}))
def test_incomplete_table_of_our_own(key, tmp_path):
    table = own_table()
    del table[key]
    refused(written(tmp_path / "t.json", table), "t.json: ")


def test_a_table_of_another_data_set_says_how_many_images_it_trained_on(tmp_path):
    table = own_table() | {"dataset": "flowers", "train_images": 100}
    found = tables.read(written(tmp_path / "t.json", table), "micro")
    assert found.source == "flowers, 3 seeds"
    assert found.images_per_training == 6 * 2 * 48
    assert tables.read(tmp_path / "t.json", "micro", "flowers").source == found.source


class Listed(EnumerableSpace):
    """A space from outside that can be listed."""

    name = "listed"

    def all(self):
        return iter(())

    canonical = skeleton = parse = format = validate = None


def test_spaces_are_asked_whether_they_can_be_listed(monkeypatch):
    assert enumerable_names() == ["micro", "nasbench201", "nasbench_macro"]
    known = {**{name: search_spaces.get(name) for name in search_spaces.names()}, "listed": Listed()}
    monkeypatch.setattr(search_spaces, "names", lambda: list(known))
    monkeypatch.setattr(search_spaces, "get", known.get)
    assert enumerable_names() == ["listed", "micro", "nasbench201", "nasbench_macro"]
    assert not list(enumerable("listed").all())


def test_cells_that_nothing_stands_for(tmp_path):
    refused(written(tmp_path / "t.json", own_table(MICRO[:-1])), f"neither {MICRO[-1]} nor a cell")


# Published accuracies from the official APIs


class API:
    """The methods of the official APIs that are asked for, with their signatures."""

    def __init__(self, texts=NB201):
        self.texts = texts

    def __len__(self):
        return len(self.texts)

    def arch(self, index):
        return self.texts[index]

    def get_more_info(self, index, dataset, iepoch=None, hp="12", is_random=True):
        assert (iepoch, hp, is_random) == (None, "200", False)
        base = {"cifar10": 90, "cifar100": 70, "ImageNet16-120": 40}[dataset]
        return {"train-accuracy": 100.0, "valid-accuracy": 1.0, "test-accuracy": base + index / 2000}


def test_conversion_and_back(tmp_path):
    tables.write_csv(tmp_path / "t.csv.gz", tables.from_api(API(NB201[::-1])))
    columns = tables.read_all(tmp_path / "t.csv.gz", "nasbench201")
    for (name, table), base in zip(columns.items(), (90, 70, 40), strict=True):
        assert name in published.DATASETS
        expected = base + np.arange(15625)[::-1] / 2000
        np.testing.assert_allclose(table.accuracies, expected, atol=5.1e-5)
    with gzip.open(tmp_path / "t.csv.gz", "rt") as file:
        assert file.readline() == "index,arch,cifar10,cifar100,imagenet16-120\n"
        assert file.readline() == f"0,{NB201[-1]},90.0000,70.0000,40.0000\n"


class Sizes(API):
    def arch(self, index):
        return "64:64:64:64:64"


class Old(API):
    def get_more_info(self, index, dataset, iepoch=None, use_12epochs_result=True, is_random=True):
        raise AssertionError


class Partial(API):
    def get_more_info(self, index, dataset, iepoch=None, hp="12", is_random=True):
        return {"train-accuracy": 100.0} if index == 2 else {"test-accuracy": 50.0}


class Broken(API):
    def get_more_info(self, index, dataset, iepoch=None, hp="12", is_random=True):
        return {"test-accuracy": float("nan")}


@pytest.mark.parametrize(
    ("api", "message"),
    [
        (Sizes(), "15,625 architectures, the first '64:64:64:64:64'; expected"),
        (API(NB201[:100]), r"100 architectures, .* create it for the topology search space"),
        (Old(), r"Old has no arch\(index\) and .* nats_bench 1.8 or nas-bench-201 2.1"),
        ("file.pth", "str has no arch"),
        (Partial(), "test accuracy None on cifar10 for architecture 2, expected"),
        (Broken(), "test accuracy nan on cifar10 for architecture 0"),
    ],
)
def test_objects_that_are_no_complete_api(api, message):
    with pytest.raises(InputError, match=message):
        tables.from_api(api)


def test_official_api_has_these_methods():
    """Against nats_bench itself, where it is installed: signatures, and its own averaging."""
    nats_bench = pytest.importorskip("nats_bench")
    for name in ("get_more_info", "arch", "__len__"):
        official = inspect.signature(getattr(nats_bench.NATStopology, name)).parameters
        assert list(official) == list(inspect.signature(getattr(API, name)).parameters)
    count = nats_bench.api_utils.ResultsCount
    arch = nats_bench.ArchResults(0, NB201[0])
    for dataset, test in (("cifar10", "ori-test"), ("cifar100", "x-test"), ("ImageNet16-120", "x-test")):
        for seed, accuracy in ((777, 80.0), (888, 81.0)):
            result = count(dataset, None, {0: 99.0}, {0: 0.1}, 1.0, 1.0, {}, seed, 1, None)
            key = f"{test}@0"
            result.update_eval({key: accuracy}, {key: 1.0}, {key: 1.0})
            arch.update(dataset, seed, result)
    state = {"200": arch.state_dict()}
    content = {
        "meta_archs": NB201,
        "arch2infos": dict.fromkeys(range(15625), state),
        "evaluated_indexes": range(15625),
    }
    rows = tables.from_api(nats_bench.create(content, "tss", verbose=False))
    assert [row.arch for row in rows] == NB201
    assert {row.accuracies for row in rows} == {(80.5, 80.5, 80.5)}


# Statistics


def test_reliability_is_that_of_an_analysis_of_variance():
    rng = np.random.default_rng(0)
    x = rng.normal(90, 2, (1, 30)) + rng.normal(0, 1, (4, 1)) + rng.normal(0, 0.5, (4, 30))
    grand, cells, seeds = x.mean(), x.mean(0), x.mean(1)
    between = 4 * ((cells - grand) ** 2).sum() / 29
    total, of_seeds = ((x - grand) ** 2).sum(), 30 * ((seeds - grand) ** 2).sum()
    error = (total - 29 * between - of_seeds) / (3 * 29)
    found = statistics.reliability(x)
    assert found.noise == pytest.approx(error**0.5)
    assert found.reliability == pytest.approx((between - error) / between)
    assert found.spread == pytest.approx(cells.std(ddof=1))
    assert found.deviation == pytest.approx(np.mean([x[:, i].std(ddof=1) for i in range(30)]))
    pairs = [stats.spearmanr(x[i], x[j]).statistic for i in range(4) for j in range(i)]
    assert found.seed_correlation == pytest.approx(np.mean(pairs))
    assert found.cells == 30


def test_reliability_of_known_noise():
    """Cells of variance 4 with 5 seeds of noise variance 1: 4 / (4 + 1/5) of the variance is no noise."""
    rng = np.random.default_rng(1)
    x = rng.normal(0, 2, 4000) + rng.normal(0, 3, (5, 1)) + rng.normal(0, 1, (5, 4000))
    assert statistics.noise(x) == pytest.approx(1, rel=0.03)
    assert statistics.reliability(x).reliability == pytest.approx(4 / 4.2, abs=0.01)
    assert statistics.standard_error(x) == pytest.approx((2 / 5) ** 0.5, rel=0.1)
    assert statistics.reliability(np.ones((3, 5))).reliability != 0  # NaN: nothing differs


def test_what_is_left_of_the_best_without_their_luck():
    x = np.array([[9.0, 5.0, 6.0], [4.0, 8.0, 5.0], [3.0, 6.0, 9.0]])
    # Chosen by the other two: of (3.5, 7, 7), (6, 5.5, 7.5) and (6.5, 6.5, 5.5), the first of equals.
    assert statistics.held_out(x, 1) == pytest.approx((5.0 + 5.0 + 3.0) / 3)
    assert statistics.held_out(x, 3) == pytest.approx(x.mean())
    noise = np.random.default_rng(3).normal(0, 1, (3, 4000))
    assert noise.mean(0).max() > 1.5
    assert statistics.held_out(noise, 20) == pytest.approx(0, abs=0.4)


def test_top_and_tied():
    x = np.array([5.0, 9.0, 7.0, 9.0, 1.0, 7.0])
    assert top(x, 0.1).tolist() == [False, True, False, True, False, False]
    assert top(x, 0.5).tolist() == [False, True, True, True, False, True]  # with the tie
    assert top(x, 1).all()
    assert statistics.tied(x, 0).sum() == 2
    assert statistics.tied(x, 2).sum() == 4


def test_agreement_is_that_of_scipy():
    rng = np.random.default_rng(2)
    a, b = rng.integers(0, 9, 50).astype(float), rng.normal(size=50)
    found = agreement(a, b + a)
    assert found.spearman == pytest.approx(stats.spearmanr(a, a + b).statistic)
    assert found.kendall == pytest.approx(stats.kendalltau(a, a + b).statistic)
    assert agreement(a, -a)[:2] == pytest.approx((-1, -1))
    assert np.isnan(agreement(a, np.ones(50))[:2]).all()


def test_running_deviation_by_hand():
    found = statistics.running_deviation(np.array([1.0, 3.0, 2.0]), np.array([1.0, 2.0, 5.0]), 3)
    np.testing.assert_allclose(found**2, [(25 + 1) / 2, (4 + 25) / 2, 30 / 3])
    np.testing.assert_allclose(statistics.running_deviation(np.arange(3.0), np.arange(3.0), 1), [0, 1, 2])


# The report


def test_report_of_a_table_with_a_reference(tmp_path):
    table = own_table(seeds=4)
    shuffled = own_table(seeds=2) | {"correct": np.random.default_rng(5).integers(0, 1079, (2, 125)).tolist()}
    references = {"other": json_table.from_table(shuffled, "other")}
    truth_report.write(tmp_path, table, references)
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") == 4
    assert "$\\" not in page
    found = truth_report.Findings(table, references)
    assert int((~found.connected).sum()) == 9
    rows = {part: agreement for _, part, agreement in found.agreements()}
    assert [rows[part].cells for part in rows] == [125, 116, 12]
    expected = stats.spearmanr(found.accuracies, references["other"].accuracies).statistic
    assert rows["all cells"].spearman == pytest.approx(expected)
    markdown = (tmp_path / "results.md").read_text()
    assert f"| other | all cells | 125 | {expected:.2f} |" in markdown
    text, best = found.known.optimum
    assert f"| {text.replace('|', chr(92) + '|')} | {best.accuracy:.2f} ± {best.std:.2f} |" in markdown


def test_copies_of_a_cell_are_no_measurements_of_their_own(tmp_path):
    different = list({micro.canonical(cell): micro.format(cell) for cell in micro.all()}.values())
    table = own_table(different)
    found = truth_report.Findings(table, {})
    np.testing.assert_allclose(found.samples.mean(0)[found.trained], found.accuracies)
    assert found.error == statistics.standard_error(100 * np.array(table["correct"]) / 1078)
    truth_report.write(tmp_path, table, {})
    text = (tmp_path / "results.md").read_text()
    (noise,) = [
        line for line in text.split("## Differences")[1].splitlines() if line.startswith("| all cells")
    ]
    assert noise.startswith(f"| all cells | {len(different)} |")
    assert f"| in a seed that did not choose | {statistics.held_out(found.samples, 1):.2f} |" in text


def test_report_where_all_cells_are_equal(tmp_path):
    table = own_table(seeds=2) | {"correct": [[1000] * 125] * 2}
    truth_report.write(tmp_path, table, {"itself": json_table.from_table(table, "it")})
    assert "| itself | all cells | 125 | – | – |" in (tmp_path / "results.md").read_text()
