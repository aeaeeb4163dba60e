"""Stacked trainings against single ones, and the builder of the tables."""

import csv
import json
import re
from concurrent.futures import Future

import pytest
import torch
from torch import nn

import ablate
import search_spaces
from nas import tables
from nas.tables.lookup import enumerable
from nas.training.final import Training
from recipes import FinalOptions, InputError
from search_spaces.nasbench201 import StagedSkeleton
from studies.truth import build as build_truth
from studies.truth.stack import Stack, StackedTraining, stacked

CELLS = {
    "micro": [
        "|nor_conv_3x3~0|+|skip_connect~0|avg_pool_3x3~1|",
        "|none~0|+|none~0|none~1|",
        "|nor_conv_3x3~0|+|none~0|nor_conv_1x1~1|",
        "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|",
        "|none~0|+|avg_pool_3x3~0|nor_conv_3x3~1|",
    ],
    "nasbench201": [
        "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|skip_connect~2|",
        "|avg_pool_3x3~0|+|none~0|skip_connect~1|+|nor_conv_1x1~0|none~1|avg_pool_3x3~2|",
        "|nor_conv_1x1~0|+|nor_conv_3x3~0|nor_conv_1x1~1|+|none~0|none~1|nor_conv_3x3~2|",
        "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|",
    ],
}


def options(space, **more):
    settings = {"epochs": 2, "batch_size": 16, "channels": 4, "clip": 0.0, "train_limit": 128, "lr": 0.1}
    fixed = {"genotype": CELLS[space][0], "space": space, "device": "cpu", "threads": 1}
    return FinalOptions(**{**settings, **fixed, "channels_last": False, **more})


def train(training):
    """Train in double precision: steps of a network amplify differences in rounding."""
    training.model.double().register_forward_pre_hook(lambda module, images: images[0].double())
    for epoch in range(training.options.epochs):
        for _ in training.epoch(epoch, 0):
            pass
    return training


def stack_of(space, **more):
    parse = search_spaces.get(space).parse
    return StackedTraining(options(space, **more), [parse(text) for text in CELLS[space]])


# Stack and single networks


@pytest.mark.parametrize(
    ("space", "more"),
    [
        ("micro", {"cells": 2, "seed": 3}),
        ("micro", {"label_smoothing": 0.1, "optimizer": "adamw", "lr": 0.003}),
        ("nasbench201", {}),
    ],
)
def test_each_network_learns_what_it_learns_alone(space, more):
    stack = train(stack_of(space, **more))
    losses, accuracies = stack.test_each()
    weights = stack.model.stem[0].weight.chunk(len(CELLS[space]))
    for i, text in enumerate(CELLS[space]):
        alone = train(Training.of(options(space, genotype=text, **more)))
        assert stack.model.sizes[i] == sum(p.numel() for p in alone.model.parameters())
        loss, accuracy = alone.test_now()
        if "0" in search_spaces.get(space).canonical(alone.genotype):  # else nothing depends on the stem
            torch.testing.assert_close(weights[i], alone.model.stem[0].weight, rtol=1e-7, atol=1e-9)
        torch.testing.assert_close(stack.model.weight[i], alone.model.classifier.weight, rtol=1e-7, atol=1e-9)
        assert float(losses[i]) == pytest.approx(loss, rel=1e-6)
        assert float(accuracies[i]) == pytest.approx(accuracy)
    assert losses.std() > 0.001  # the networks differ, by far more than the tolerance
    assert stack.test_now() == pytest.approx((float(losses.mean()), float(accuracies.mean())))


def test_running_statistics_and_inference_are_those_of_the_networks():
    """One forward pass in training and one in evaluation, exactly the same numbers up to rounding."""
    torch.manual_seed(0)
    space = search_spaces.get("nasbench201")
    networks = [space.network(space.parse(text), channels=4, cells=1) for text in CELLS["nasbench201"]]
    for network in networks:
        assert isinstance(network, StagedSkeleton)
    stack = Stack(networks)
    images = torch.randn(8, 3, 8, 8)
    for mode in (True, False):
        together = stack.train(mode)(images)
        assert together.shape == (len(networks), 8, 10)
        for i, network in enumerate(networks):
            torch.testing.assert_close(together[i], network.train(mode)(images), rtol=1e-4, atol=1e-5)


def test_the_stack_copies_weights():
    space = search_spaces.get("micro")
    networks = [space.network(space.parse(text), channels=4) for text in CELLS["micro"]]
    stack, images = Stack(networks).eval(), torch.randn(2, 3, 8, 8)
    before = stack(images)
    for parameter in networks[0].parameters():
        nn.init.ones_(parameter.data)
    torch.testing.assert_close(stack(images), before, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(8, 8), (4, 4), (2, 2), (1, 1), (5, 3)])
def test_pooling_matrix_is_the_pooling(shape):
    pooling = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
    x = torch.randn(2, 6, *shape, requires_grad=True)
    found, expected = stacked([pooling, pooling])(x), pooling(x)
    torch.testing.assert_close(found, expected)
    upstream = torch.randn_like(x)
    gradients = [torch.autograd.grad(y, x, upstream)[0] for y in (found, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("clip", 5.0),
        ("mixup", 0.2),
        ("cutmix", 1.0),
        ("ema_decay", 0.9),
        ("compile", True),
        ("auxiliary_weight", 0.4),
        ("drop_path", 0.1),
    ],
)
def test_what_a_stack_cannot_do_is_refused(name, value):
    with pytest.raises(InputError, match=f"`{name}` cannot be used"):
        stack_of("micro", **{name: value})


# The builder of tables


class Inline:
    """A pool of processes that is this one, so that what a test replaces is replaced in the job too."""

    def __init__(self, count, plugins):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def submit(self, function, *arguments):
        future = Future()
        future.set_result(function(*arguments))
        return future


RECIPE = build_truth.RECIPE | {
    "test_fraction": 0.1,
    "train_limit": 60,
    "epochs": 1,
    "batch_size": 30,
    "channels": 2,
}


@pytest.fixture
def trained(monkeypatch):
    """A toy recipe; returns the list of (seed, number of cells) of all chunks trained."""
    calls = []
    train_chunk = build_truth._train

    def counted(space, texts, seed, threads, path):
        calls.append((seed, len(texts)))
        train_chunk(space, texts, seed, threads, path)

    monkeypatch.setattr(build_truth, "RECIPE", RECIPE)
    monkeypatch.setattr(build_truth, "SEEDS", {"micro": 2, "nasbench201": 1})
    monkeypatch.setattr(build_truth, "workers", Inline)
    monkeypatch.setattr(build_truth, "_train", counted)
    return calls


def build(*arguments):
    return ablate.main(["truth", "--space", "micro", "--out", "built", *arguments])


def test_a_build_end_to_end(trained, tmp_path, capsys, monkeypatch):
    assert build() == 0
    folder = tmp_path / "built"
    output = capsys.readouterr().out.splitlines()
    assert output[-2:] == ["table: built/truth.json.gz", "report: built/report.html"]
    assert trained == [(0, 64), (0, 61), (1, 64), (1, 61)]

    table = tables.read(folder / "truth.json.gz", "micro")
    assert (table.source, table.seeds, table.recipe) == ("digits, 2 seeds", 2, RECIPE)
    text, best = table.optimum
    page = (folder / "report.html").read_text()
    assert page.count("<svg") == 3
    assert f"The best is {text} with {best.accuracy:.2f} ± {best.std:.2f} %" in page
    assert "Rank correlation with other tables" not in page
    with open(folder / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 125
    assert float(rows[0]["accuracy"]) == pytest.approx(best.accuracy)
    for row in rows:
        known = table.lookup(enumerable("micro").parse(row["cell"]))
        assert (int(row["rank"]), float(row["accuracy"])) == (known.rank, known.accuracy)
        first, direct, second = (term.split("~")[0] != "none" for term in re.findall(r"\w+~\d", row["cell"]))
        assert row["connected"] == str(direct or (first and second))

    # What is interrupted goes on, and ends in the same table.
    bytes_before = (folder / "truth.json.gz").read_bytes()
    (folder / "chunks" / "seed1-00064.json").unlink()
    trained.clear()
    assert build("--reference", "built/truth.json.gz", "--table", "other.json") == 0
    assert trained == [(1, 61)]
    assert (tmp_path / "other.json").read_bytes()[:12] == b'{"format":1,'
    assert tables.read(tmp_path / "other.json", "micro").optimum == table.optimum
    assert (folder / "truth.json.gz").read_bytes() == bytes_before
    markdown = (folder / "results.md").read_text()
    assert "| digits | all cells | 125 | 1.00 | 1.00 |" in markdown  # it agrees with itself
    capsys.readouterr()

    # A damaged file is named, and other settings are refused.
    chunk = folder / "chunks" / "seed0-00000.json"
    whole = chunk.read_text()
    short = json.loads(whole) | {"correct": [1, 2]}
    for content in (whole[:30], "[]", "{}", json.dumps(short)):
        chunk.write_text(content)
        assert build() == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert "seed0-00000.json is damaged: delete it" in error
    chunk.write_text(whole)
    monkeypatch.setattr(build_truth, "RECIPE", RECIPE | {"lr": 0.2})
    trained.clear()
    assert build() == 2
    assert "built holds a table of other settings" in capsys.readouterr().err
    assert not trained


def test_a_chunk_is_what_single_trainings_give(trained, tmp_path):
    space = search_spaces.get("micro")
    texts = CELLS["micro"][:3]
    build_truth._train("micro", texts, 1, 1, tmp_path / "chunk.json")
    chunk = json.loads((tmp_path / "chunk.json").read_text())
    for text, correct, parameters in zip(texts, chunk["correct"], chunk["parameters"], strict=True):
        alone = FinalOptions(**RECIPE, genotype=text, space="micro", seed=1, device="cpu", threads=1)
        training = train(Training.of(alone))
        accuracy = training.test_now()[1]
        assert correct == pytest.approx(accuracy * chunk["images"] / 100, abs=4)
        assert parameters == sum(p.numel() for p in space.network(
            space.parse(text), channels=2, cells=1, in_channels=1).parameters())  # fmt: skip


def test_cells_of_a_build():
    """All of micro; of nasbench201 the first of every kind, of which the benchmark counts 6,466."""
    micro = enumerable("micro")
    assert build_truth.cells(micro) == [micro.format(cell) for cell in micro.all()]
    texts = build_truth.cells(enumerable("nasbench201"))
    assert len(texts) == len(set(texts)) == 6466


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--space", "darts"], "unknown search space 'darts', expected one of: micro, nasbench201"),
        (["--out", "occupied"], "cannot write the folder occupied"),
        (["--table", "nowhere/table.json"], "--table is nowhere/table.json, expected a file in a folder"),
        (["--table", "."], "--table is ., expected a file in a folder"),
        (["--reference", "nowhere.csv"], "the table nowhere.csv does not exist"),
        (["--reference", "occupied"], "occupied, line 1: the columns are a file"),
        (["--jobs", "0"], "--jobs is 0, expected a number of at least 1"),
    ],
)
def test_bad_input_is_one_line_before_any_training(arguments, message, trained, tmp_path, capsys):
    (tmp_path / "occupied").write_text("a file")
    assert ablate.main(["truth", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not trained
