"""Data that the user holds: tensors, arrays, data sets of torch, and sources registered by name."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, TensorDataset

import train_search
from nas import data
from nas.data import Augmentation, Batches, DataSet, Delivery, Images
from nas.data.sources import SOURCES
from nas.seeding import generator
from recipes import InputError

CPU = torch.device("cpu")


def pixels(n=40, c=2, size=6, dtype=torch.uint8):
    rng = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (n, c, size, size), dtype=torch.uint8, generator=rng)
    return x if dtype == torch.uint8 else (x.double() / 255 * 0.9 + 0.01).to(dtype)


def labels(n=40, classes=4):
    return torch.arange(n) % classes


class Items(Dataset):
    """A data set of what it is given, item by item."""

    def __init__(self, items, classes=None):
        self.items = items
        if classes is not None:
            self.classes = classes

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i]


class Stream(IterableDataset):
    def __iter__(self):
        return iter([(pixels()[0], 0)])


def whole(dataset):
    """All images and labels, put in order by their bytes."""
    rows = []
    for part in (dataset.train, dataset.test):
        rows += [(x.numpy().tobytes(), y) for x, y in zip(part.pixels, part.labels.tolist(), strict=True)]
    return sorted(rows)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("c", [1, 2, 5])
def test_tensors_and_arrays_stay_as_they_are(c, dtype):
    x, y = pixels(c=c, dtype=dtype), labels()
    kept = x if dtype == torch.uint8 else x.float()
    expected = sorted((row.numpy().tobytes(), k) for row, k in zip(kept, y.tolist(), strict=True))
    read_only = x.numpy()
    read_only.flags.writeable = False
    for given in ((x, y), [x, y.int()], (read_only, y.numpy().astype(np.uint16)), (x, y.tolist())):
        dataset = data.load(given, test_fraction=0.25)
        assert whole(dataset) == expected
        assert dataset.in_channels == c
        assert dataset.train.pixels.dtype == kept.dtype
        assert dataset.train.labels.dtype == torch.int64
        assert torch.bincount(dataset.test.labels).tolist() == [2, 2, 2, 2]
        assert dataset.classes == ("0", "1", "2", "3")
        assert dataset.augmentation == Augmentation()


def test_odd_layouts_are_read():
    """Strides, byte order, subclasses and gradients of a tensor do not matter."""
    x, y = pixels(dtype=torch.float32), labels()
    expected = whole(data.load((x, y)))
    assert whole(data.load((x.numpy().astype(">f4"), y.numpy().astype(">i8")))) == expected
    assert whole(data.load((np.ascontiguousarray(x.numpy()[::-1])[::-1], y))) == expected
    assert whole(data.load((x.clone().requires_grad_(), y))) == expected
    from torchvision import tv_tensors

    found = data.load((tv_tensors.Image(x), y))
    assert whole(found) == expected
    assert type(found.train.pixels) is torch.Tensor


def test_images_without_a_channel_dimension_have_one_channel():
    assert data.load((pixels(c=1).squeeze(1), labels())).train.pixels.shape[1:] == (1, 6, 6)


def test_a_pair_is_training_and_test_images():
    x, y = pixels(), labels()
    dataset = data.load(((x[:30], y[:30]), (x[30:], y[30:])), classes=["a", "b", "c", "d"])
    assert torch.equal(dataset.train.pixels, x[:30])
    assert torch.equal(dataset.test.labels, y[30:])
    assert dataset.classes == ("a", "b", "c", "d")
    mixed = data.load((Images(x[:30], y[:30]), TensorDataset(x[30:], y[30:])))
    assert whole(mixed) == whole(dataset)


def test_data_sets_of_torch():
    x, y = pixels(c=3), labels()
    expected = whole(data.load((x, y)))
    arrays = x.numpy()
    for items in (
        [(image, int(k)) for image, k in zip(x, y, strict=True)],
        [(image, np.int32(k)) for image, k in zip(arrays, y, strict=True)],
        [(Image.fromarray(image.transpose(1, 2, 0)), k) for image, k in zip(arrays, y, strict=True)],
    ):
        assert whole(data.load(Items(items))) == expected
        assert whole(data.load(items)) == expected
    assert whole(data.load(TensorDataset(x, y))) == expected
    named = data.load(Items([(image, int(k)) for image, k in zip(x, y, strict=True)], ["p", "q", "r", "s"]))
    assert named.classes == ("p", "q", "r", "s")
    grey = data.load([(image[0], int(k)) for image, k in zip(x, y, strict=True)])
    assert grey.train.pixels.shape[1:] == (1, 6, 6)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("1", [255]), ("L", [90]), ("LA", [90, 7]), ("RGBA", [1, 2, 3, 4]), ("P", [10, 20, 30])],
)
def test_pictures_of_pil(mode, expected):
    colour = {"1": 1, "L": 90, "LA": (90, 7), "RGBA": (1, 2, 3, 4), "P": 1}[mode]
    image = Image.new(mode, (5, 4), colour)
    if mode == "P":
        image.putpalette([0, 0, 0, 10, 20, 30] + [0] * 762)
    found = data.load([(image, i % 2) for i in range(10)]).train.pixels
    assert found.shape[1:] == (len(expected), 4, 5)
    assert found[0, :, 0, 0].tolist() == expected


@pytest.mark.parametrize("c", [1, 3])
def test_floats_are_normalised_and_augmented_as_bytes_are(c):
    """The same images as bytes and as floats give the same batches, up to rounding."""
    x, y = pixels(n=64, c=c, size=7), labels(64)
    both = [data.load(((given, y), (given, y))) for given in (x, x.float() / 255)]
    for first, second in zip(*(dataset.statistics() for dataset in both), strict=True):
        assert first == pytest.approx(second, abs=1e-7)
    augmentation = Augmentation(crop_padding=2, flip=True, cutout=3)
    batches = [Batches(d.train, 16, Delivery(CPU, *both[0].statistics()), augmentation, seed=3) for d in both]
    for (one, k), (other, m) in zip(*(list(b.epoch(1)) + list(b) for b in batches), strict=True):
        assert torch.allclose(one, other, atol=1e-5)
        assert torch.equal(k, m)
    assert torch.equal(batches[1].images.pixels, x.float() / 255)  # not written to


def test_floats_keep_their_digits():
    x = torch.full((40, 1, 4, 4), 0.5)
    x[::2] += 1e-4  # less than a step of uint8
    dataset = data.load(((x, labels(40, 2)), (x, labels(40, 2))))
    mean, std = dataset.statistics()
    assert mean == pytest.approx([0.50005])
    assert std == [pytest.approx(1e-4)]  # 5e-5, but no less than this
    found = torch.cat([images for images, _ in Batches(dataset.train, 8, Delivery(CPU, [0.0], [1.0]))])
    assert len(found.unique()) == 2


def test_the_size_of_floats_counts_in_the_budget():
    dataset = data.load((pixels(dtype=torch.float32), labels()))
    size = 40 * 2 * 6 * 6 * 4
    assert data.delivery(dataset, device=CPU, data_budget_gb=size / 1e9).resident
    assert not data.delivery(dataset, device=CPU, data_budget_gb=(size - 1) / 1e9).resident


@pytest.mark.parametrize(
    ("x", "found"), [(pixels(c=2), "uint8 of 2"), (pixels(c=3, dtype=torch.float32), "float32 of 3")]
)
def test_policies_need_images_of_pil(x, found):
    augmentation = Augmentation(policy=lambda image: image)
    with pytest.raises(InputError, match=f"`auto_augment` .* these are {found}: drop it"):
        Batches(Images(x, labels()), 8, Delivery(CPU, [0.0], [1.0]), augmentation)


def changed(x, value):
    x = x.clone()
    x[3, 0, 0, 0] = value
    return x


FLOATS = pixels(dtype=torch.float32)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((changed(FLOATS, float("nan")), labels()), "contain NaN, expected values in [0, 1]"),
        ((changed(FLOATS, float("inf")), labels()), "to inf, expected values in [0, 1]: rescale them"),
        ((changed(FLOATS, -0.5), labels()), "reach from -0.5 to "),
        ((pixels().float(), labels()), "to 255, expected values in [0, 1]"),
        ((pixels().int(), labels()), "images are int32, expected uint8, or floating point"),
        ((pixels() > 9, labels()), "images are bool"),
        ((pixels()[0, 0], labels(6)), "images have the shape (6, 6), expected (N, C, H, W) or (N, H, W)"),
        ((pixels().unsqueeze(0), labels()), "shape (1, 40, 2, 6, 6), expected (N, C, H, W)"),
        ((pixels(0), labels(0)), "none of them 0"),
        ((pixels(c=3).permute(0, 2, 3, 1), labels()), "as if channels came last"),
        ((torch.zeros(40, 9, 9, 5, dtype=torch.uint8), labels()), "as if channels came last"),
        ((np.array([["a"]]), [0]), "images of type ndarray cannot be read as numbers"),
        ((pixels(), labels(39)), "labels have the shape (39,), expected (40,)"),
        ((pixels(), torch.nn.functional.one_hot(labels())), "labels have the shape (40, 4)"),
        ((pixels(), labels().float()), "labels are float32, expected integers"),
        ((pixels(), labels() > 1), "labels are bool"),
        ((pixels(), ["cat"] * 39 + [1]), "labels of type list cannot be read"),
        ((pixels(), ["cat"] * 40), "labels are 0, expected at least 2 classes"),
        (((pixels(), ["a", "b"] * 20), (pixels(), labels())), "are texts in one part and numbers in another"),
        ((pixels(), labels() + 1), "labels are 1, 2, 3, 4, expected 0 to classes - 1 without gaps"),
        ((pixels(), labels() * 2), "labels are 0, 2, 4, 6, expected"),
        ((pixels(), labels() - 1), "labels are -1, 0, 1, 2, expected"),
        ((pixels(), labels() * 0), "labels are 0, expected at least 2 classes"),
        ((pixels(2), labels(2)), "has too few images, 2, to set `test_fraction` of them aside"),
        (((pixels(), labels()), (pixels(c=1), labels())), "another part (1, 6, 6) uint8: make them alike"),
        (((pixels(), labels()), (FLOATS, labels())), "are (2, 6, 6) uint8, those of another part"),
        (((pixels(), labels()), (pixels(), labels() + 1)), "labels are 1, 2, 3, 4, expected 0 to 3"),
        (Items([(1, 2, 3)]), "item 0 of Items is a tuple, expected a pair (image, label)"),
        (Items([pixels()[0]]), "item 0 of Items is a Tensor"),
        (Items([]), "none of them 0"),
        (Items([(pixels()[0], 0), (pixels()[0, :, 1:], 1)]), "image 1 is (2, 5, 6) uint8, image 0 is"),
        (Items([(Image.new("I;16", (5, 5)), 0), (Image.new("I;16", (5, 5)), 1)]), "images are uint16"),
        (Items([("file.png", 0)]), "an image of type str cannot be read"),
        (Stream(), "data of type Stream: expected a name"),
        ((list(pixels()), labels()), "data is a list of 40 arrays, expected (images, labels): make one"),
        ([torch.tensor(1)] * 4, "data is a list of 4 arrays"),
        (tuple(pixels()), "data is a tuple of 40 arrays"),
        ((pixels(), labels(), pixels(), labels()), "pair them, ((images, labels), (test images"),
        ((pixels(), labels(), pixels()), "data is a tuple of 3 arrays"),
        (pixels(), "shape (40, 2, 6, 6) alone, expected (images, labels)"),
        (Path("a/b"), "give a folder of images as 'folder:a/b'"),
        (7, "data of type int: expected a name, (images, labels), a torch Dataset"),
        ({"train": 1}, "data of type int"),
        ({"images": 1}, "data is a dict of 'images': expected"),
        ({"test": 1, "valid": 2}, "data is a dict of 'test', 'valid': expected"),
        (None, "data of type NoneType"),
        (DataSet("x", Images(pixels(), labels()), Images(pixels(), labels()), ("a", "b"), Augmentation()),
         "labels are 0, 1, 2, 3, expected 0 to 1 for 2 classes"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_in_one_line(given, message):
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        data.load(given)
    assert "\n" not in str(caught.value)


def test_labels_may_be_texts():
    words = [("cat", "dog", "owl", "ant")[k] for k in labels().tolist()]
    for given in (words, np.array(words), np.array(words, object)):
        dataset = data.load({"train": (pixels(), given), "test": (pixels(20), given[:20])})
        assert dataset.classes == ("ant", "cat", "dog", "owl")
        assert dataset.train.labels.tolist() == [(1, 2, 3, 0)[k] for k in labels().tolist()]
    named = data.load((pixels(), words), classes=["owl", "dog", "cat", "ant", "bee"])
    assert torch.bincount(named.test.labels).tolist() == [2, 2, 2, 2]
    assert named.classes[4] == "bee"
    with pytest.raises(InputError, match="labels are 'ant', 'dog', 'owl', expected one of the classes 'cat'"):
        data.load((pixels(), words), classes=["cat"])


def test_what_is_set_aside_of_images_in_memory_is_said():
    assert "no test part: 25 % of each class" in str(data.load((pixels(), labels()), test_fraction=0.25))
    both = data.load(((pixels(), labels()), (pixels(), labels())))
    assert "test part:" not in str(both)
    assert repr(both) == str(both)


def test_named_classes_may_be_absent():
    """A subset of the classes of a data set keeps their number."""
    dataset = data.load((pixels(), labels() * 2), classes=[*"abcdefgh"])
    assert len(dataset.classes) == 8
    with pytest.raises(InputError, match="labels are 0, 2, 4, 6, expected 0 to 2 for 3 classes"):
        data.load((pixels(), labels() * 2), classes=[*"abc"])
    with pytest.raises(InputError, match="names its classes itself: drop `classes`"):
        data.load("digits", classes=[*"abcdefghij"])


def test_a_data_set_is_taken_as_it_is():
    digits = data.load("digits")
    again = data.load(digits, flip=True)
    assert again.train.pixels.data_ptr() == digits.train.pixels.data_ptr()  # not a copy
    assert again.augmentation == Augmentation(crop_padding=1, flip=True)
    assert again.name == "digits"
    assert str(digits) == (
        "digits: 1438 training and 359 test images (1 x 8 x 8, uint8) of 10 classes, 139 to 146 training "
        "images each"
    )


@pytest.fixture
def sources(monkeypatch):
    """Names registered in a test are forgotten after it."""
    monkeypatch.setattr(SOURCES, "_things", dict(SOURCES._things))


@pytest.mark.usefixtures("sources")
def test_a_source_has_a_name_and_the_arguments_that_it_asks_for():
    data.register("plain", lambda: (pixels(), labels()))
    asked = {}

    def some(path, image_size, *, other=3):
        asked.update(path=str(path), image_size=image_size, other=other)
        return (pixels(), labels()), (pixels(), labels())

    assert data.register("some", some) is some
    plain = data.load("plain", test_fraction=0.5)
    assert (plain.name, len(plain.test)) == ("plain", 20)
    assert len(data.load("some:a/b:c", image_size=9).test) == 40
    assert asked == {"path": "a/b:c", "image_size": 9, "other": 3}
    with pytest.raises(InputError, match=r"malformed: only .*folder, .*some take a path"):
        data.load("plain:x")
    with pytest.raises(InputError, match=r"expected one of: .*, folder, .*plain, some; did you mean plain"):
        data.load("plan")
    with pytest.raises(ValueError, match="'digits' exists already"):
        data.register("digits", some)
    with pytest.raises(ValueError, match="'more' is a tuple, expected a function"):
        data.register("more", (pixels(), labels()))
    with pytest.raises(ValueError, match="data set 'more' needs 'size', expected any of: path, data_root"):
        data.register("more", lambda size: None)


@pytest.mark.usefixtures("sources")
def test_a_path_that_is_needed_is_asked_for():
    """An empty one would be the folder that the process happens to be in."""
    for name in ("folder", "folder:"):
        with pytest.raises(InputError, match=f"data set '{name}' needs a path: give it as folder:PATH"):
            data.load(name)
    data.register("some", lambda path=None: (pixels(), labels()) if path is None else path)
    assert len(data.load("some").classes) == 4


def test_labels_with_gaps_are_named_as_the_error_says():
    given = (pixels(), labels() * 2)
    with pytest.raises(InputError, match=r"name all classes: data=nas.data.load\(data, classes=\[...\]\)"):
        data.load(given)
    assert len(data.load(data.load(given, classes=list("abcdefg"))).classes) == 7


@pytest.mark.usefixtures("sources")
def test_the_example_runs_and_is_a_plugin(monkeypatch, capsys, tmp_path):
    file = ROOT / "examples" / "own_data.py"
    small = ["--space", "micro", "--channels", "4", "--epochs", "1", "--no-tensorboard"]
    arguments = ["--plugins", str(file), "--dataset", "shapes", "--image-size", "10", *small]
    assert train_search.main([*arguments, "--out", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    (name,) = [name for name in sys.modules if name.startswith("nas_plugin_own_data_")]
    sys.modules.pop(name).main()  # forgotten after the test
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{lines[1]}; no test part: 20 % of each class set aside (`test_fraction`)"
    assert (
        lines[1] == "memory: 480 training and 120 test images (2 x 12 x 12, float32) of 3 classes, "
        "160 training images each"
    )
    assert lines[2].startswith("shapes: 480 training and 120 test images (2 x 16 x 16")
    assert float(lines[-1].split()[-2]) > 40  # of three classes


def test_reading_takes_every_item_once():
    class Counted(Items):
        seen = 0

        def __getitem__(self, i):
            self.seen += 1
            return super().__getitem__(i)

    counted = Counted([(image, int(k)) for image, k in zip(pixels(), labels(), strict=True)])
    dataset = data.load(counted)
    assert counted.seen == 40
    batches = Batches(dataset.train, 8, Delivery(CPU, [0.0] * 2, [1.0] * 2), Augmentation())
    order = torch.randperm(len(dataset.train), generator=generator(0, "order", 0))
    assert torch.equal(torch.cat([y for _, y in batches.epoch(0)]), dataset.train.labels[order][:32])
