"""Small and unequal classes: said before training, balanced if wanted, and counted one by one."""

import json

import numpy as np
import pytest
import torch

import nas
import train_final
from nas import data
from nas.confusion import Confusion
from nas.data import Augmentation, Batches, Delivery, Images
from nas.data.batches import balanced_order, members
from nas.report import classes as class_report
from nas.seeding import generator
from recipes import InputError

CPU = torch.device("cpu")


def part(counts, size=6, seed=0):
    """Images of which the label can be seen, so many of each class."""
    labels = np.repeat(np.arange(len(counts)), counts)
    noise = np.random.default_rng(seed).integers(0, 40, (len(labels), size, size))
    return (noise + 60 * labels[:, None, None]).astype(np.uint8), labels


def test_concerns_name_classes_and_the_way_on():
    labels = {
        name: torch.from_numpy(part(n)[1]) for name, n in {"train": (60, 12, 3), "test": (9, 1)}.items()
    }
    found = data.concerns("abc", labels)
    assert found[0].startswith("no test image of the class 'c': the test accuracy leaves it out: add images")
    assert found[1].startswith("the class 'c' has 3 training images: too few to learn from")
    assert found[2].startswith("the classes are unequal, 'a' has 60 training images and 'c' 3")
    assert "`class_weights=balanced` or `sampling=balanced`" in found[2]
    assert "class_weights" not in data.concerns("abc", labels, balanced=True)[2]
    assert data.concerns("ab", {"train": torch.arange(40) % 2, "test": torch.arange(4) % 2}) == []


def test_balanced_order_shares_an_epoch_among_the_classes():
    labels = torch.tensor([0] * 50 + [1] * 7 + [2] * 3)
    orders = [balanced_order(members(labels), 60, generator(0, "order", epoch)) for epoch in (0, 1, 0)]
    assert torch.equal(orders[0], orders[2])
    assert not torch.equal(orders[0], orders[1])
    for order in orders:
        assert torch.bincount(labels[order]).tolist() == [20, 20, 20]
        times = torch.bincount(order, minlength=60)
        assert times[:50].max() == 1
        assert set(times[50:57].tolist()) == {2, 3}
        assert set(times[57:].tolist()) == {6, 7}
    assert torch.bincount(labels[balanced_order(members(labels), 61, generator(0, "x"))]).sum() == 61


def test_balanced_batches_go_on_anywhere_and_are_shared_by_ranks():
    pixels, labels = (torch.from_numpy(x) for x in part((40, 8)))
    images = Images(pixels.unsqueeze(1), labels)
    delivery = Delivery(CPU, [0.0], [1.0])
    whole = Batches(images, 16, delivery, Augmentation(crop_padding=1), balanced=True)
    halves = [Batches(images, 16, delivery, Augmentation(crop_padding=1), 0, (r, 2), True) for r in (0, 1)]
    epoch = list(whole.epoch(3))
    assert abs(sum(int(y.sum()) for _, y in epoch) - 24) <= 0
    for (x, y), *parts in zip(epoch, *(half.epoch(3) for half in halves), strict=True):
        assert torch.equal(x, torch.cat([p[0] for p in parts]))
        assert torch.equal(y, torch.cat([p[1] for p in parts]))
    assert torch.equal(next(whole.epoch(3, 2))[0], epoch[2][0])


def test_both_ways_of_balancing_are_refused():
    with pytest.raises(InputError, match="would balance the classes twice: choose one"):
        nas.train("darts_v2", part((8, 8)), class_weights="balanced", sampling="balanced")


def test_confusion_against_counting():
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, 3, (2, 200))
    labels[labels == 2] = 0  # a class without images
    confusion = Confusion(4)
    for piece in np.array_split(np.arange(200), 3):
        confusion.add(torch.from_numpy(labels[piece]), torch.from_numpy(predicted[piece]))
    expected = [[int(((labels == a) & (predicted == b)).sum()) for b in range(4)] for a in range(4)]
    right = [100 * expected[a][a] / sum(expected[a]) for a in (0, 1)]
    assert confusion.accuracies() == [*right, None, None]
    assert confusion.balanced() == pytest.approx(sum(right) / 2)
    found = confusion.to_json("abcd", "test", {"train": [1, 2, 3, 4], "test": [5, 6, 0, 0]})
    assert found["classes"][1] == {"class": "b", "train": 2, "test": 6, "accuracy": right[1]}
    assert found["confusion"]["counts"] == expected
    most = found["confusion"]["most"][0]
    assert most["images"] == max(expected[a][b] for a in range(4) for b in range(4) if a != b)
    many = Confusion(10**5)  # whose matrix would take 80 GB
    many.add(torch.tensor([0, 5]), torch.tensor([0, 6]))
    named = many.to_json([*map(str, range(10**5))], "test", {})["confusion"]
    assert named == {"part": "test", "most": [{"class": "5", "taken_for": "6", "images": 1}]}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A search and a training on unequal classes with a validation part, in folders."""
    folder = tmp_path_factory.mktemp("runs")
    parts = {"train": part((40, 40, 4)), "valid": part((12, 12, 2), seed=1), "test": part((10, 10), seed=2)}
    said = []
    small = {"data": parts, "channels": 4, "batch_size": 8, "epochs": 2, "tensorboard": False}
    small["data"] = data.load(parts, classes=["10", "2", "rare"])
    found = nas.search("micro", **small, out=folder / "s", announce=said.append)
    trained = nas.train(found.genotype, **small, lr=0.1, out=folder / "f", sampling="balanced")
    return found, trained, said, folder


def test_the_validation_part_is_that_of_the_search_and_watched_in_training(runs):
    found, trained, said, folder = runs
    assert len(found.search.train.images) == 84
    assert len(found.search.valid.images) == 26
    assert torch.equal(found.search.valid.images.labels, found.search.dataset.valid.labels)
    splits = json.loads((folder / "s" / "splits.json").read_text())
    assert [len(splits[name]) for name in ("train", "valid")] == [84, 26]
    for line in trained.history:
        assert {"valid_loss", "valid_accuracy", "test_accuracy"} <= line.keys()
    assert trained.summary["valid_accuracy"] == trained.history[-1]["valid_accuracy"]
    assert said[0].startswith(
        "data: memory: 84 training, 26 validation and 20 test images (1 x 6 x 6, uint8)"
    )
    assert said[0].endswith("of 3 classes, 4 to 40 training images each")
    assert any("no test image of the class 'rare'" in line for line in said)
    assert any("unequal" in line for line in said)


def test_accuracies_of_classes_are_in_result_and_report(runs):
    found, trained, _, folder = runs
    for result, key, measured in ((found, "derived_accuracy", "valid"), (trained, "test_accuracy", "test")):
        summary = result.summary
        rows = summary["classes"]
        counts = np.array(summary["confusion"]["counts"])
        assert [row[measured] for row in rows] == counts.sum(1).tolist()
        assert summary[key] == pytest.approx(100 * counts.diagonal().sum() / counts.sum())
        known = [row["accuracy"] for row in rows if row["accuracy"] is not None]
        assert summary["balanced_accuracy"] == pytest.approx(sum(known) / len(known))
        assert any("rare" in warning for warning in summary["warnings"])
        assert summary["data"] == str(result.ended.job.dataset)
    assert trained.summary["classes"][2] == {
        "class": "rare", "train": 4, "valid": 2, "test": 0, "accuracy": None,
    }  # fmt: skip
    page = (folder / "f" / "report.html").read_text()
    for text in ("Confusion", "Classes", "none to measure it", "of 3 classes, 4 to 40 training images each"):
        assert text in page
    (table, *_) = class_report.tables(trained.summary)
    assert [row[0] for row in table.rows] == ["2", "10", "rare"]  # as numbers
    (picture,) = class_report.pictures(trained.summary)
    assert [text.get_text() for text in picture.figure.axes[0].get_yticklabels()] == ["2", "10", "rare"]


def test_a_report_of_many_classes_lists_what_is_confused_most():
    confusion = Confusion(30)
    labels = torch.arange(300) % 30
    confusion.add(labels, (labels + (torch.arange(300) % 7 == 0)) % 30)
    names = [f"class {i}" for i in range(30)]
    result = confusion.to_json(names, "test", {"train": [9] * 30, "test": [10] * 30})
    assert class_report.pictures(result) == []
    table, pairs = class_report.tables(result)
    assert len(table.rows) == 30
    assert pairs.heading == "Confused most"
    assert sum(int(row[2]) for row in pairs.rows) == len(range(0, 300, 7))


def test_the_command_line_says_it_in_its_own_words(tmp_path, capsys):
    from PIL import Image

    for name, n in (("ant", 30), ("bee", 4)):
        (tmp_path / "p" / name).mkdir(parents=True)
        for i in range(n):
            Image.new("L", (8, 8), i).save(tmp_path / "p" / name / f"{i}.png")
    cell = "|nor_conv_1x1~0|+|skip_connect~0|avg_pool_3x3~1|"
    arguments = [
        "--dataset",
        f"folder:{tmp_path / 'p'}",
        "--genotype",
        cell,
        "--epochs",
        "1",
        "--channels",
        "4",
    ]
    assert train_final.main([*arguments, "--batch-size", "8", "--image-size", "8", "--no-tensorboard"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(
        "data: folder:p: 27 training and 7 test images (1 x 8 x 8, uint8) of 2 classes"
    )
    assert "--class-weights balanced or --sampling balanced" in lines[2]
    assert any(line.startswith("balanced accuracy ") for line in lines)
