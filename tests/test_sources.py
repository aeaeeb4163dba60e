"""Data sets from arrays, lists, torchvision's files and the batches of ImageNet16."""

import contextlib
import hashlib
import io
import os
import pickle
import struct
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nas import data
from nas.data import Augmentation, plain_pickle
from recipes import InputError

RNG = np.random.default_rng(0)


def pixels(n, *shape, kind=np.uint8):
    return RNG.integers(0, 200, (n, *shape)).astype(kind)


# Arrays


@pytest.mark.parametrize(
    ("names", "last"),
    [
        (["train_images", "train_labels", "val_images", "val_labels", "test_images", "test_labels"], True),
        (["x_train", "y_train", "x_val", "y_val", "x_test", "y_test"], False),
        (["TrainX", "TrainY", "ValidX", "ValidY", "TestX", "TestY"], None),
    ],
)
@pytest.mark.parametrize("folder", [False, True])
def test_arrays_with_parts(names, last, folder, tmp_path):
    if last is None:
        names = [f"{name[:-1]}_{name[-1]}" for name in names]
    x = pixels(18, 3, 6, 6)
    y = np.arange(18)[:, None] % 3 if last else np.arange(18) % 3
    stored = x.transpose(0, 2, 3, 1) if last else x
    pieces = [slice(0, 9), slice(9, 12), slice(12, 18)]
    arrays = {name: (stored, y)[i % 2][pieces[i // 2]] for i, name in enumerate(names)}
    if folder:
        (tmp_path / "a").mkdir()
        for name, array in arrays.items():
            np.save(tmp_path / "a" / f"{name}.npy", array)
        dataset = data.load(f"arrays:{tmp_path / 'a'}")
    else:
        np.savez(tmp_path / "a.npz", **arrays)
        dataset = data.load(f"arrays:{tmp_path / 'a.npz'}")
    assert {p: len(images) for p, images in dataset.parts.items()} == {"train": 9, "valid": 3, "test": 6}
    for images, piece in zip((dataset.train, dataset.valid, dataset.test), pieces, strict=True):
        assert np.array_equal(images.pixels.numpy(), x[piece])
        assert images.labels.tolist() == y[piece].ravel().tolist()
    assert ("channels are the last dimension" in str(dataset)) == bool(last)
    assert dataset.augmentation == Augmentation(crop_padding=1)


def test_arrays_without_parts_with_texts_and_a_range(tmp_path):
    x = (np.arange(20)[:, None, None] * np.ones((6, 6)) * 10).astype(np.uint16)
    np.savez(tmp_path / "a.npz", images=x, labels=np.array(["dog", "cat"] * 10))
    dataset = data.load(f"arrays:{tmp_path / 'a.npz'}", test_fraction=0.3)
    assert dataset.classes == ("cat", "dog")
    assert (len(dataset.train), len(dataset.test)) == (14, 6)
    assert dataset.scale == (0, 190)
    assert sorted(
        torch.cat([p.pixels[:, 0, 0, 0] for p in dataset.parts.values()]).tolist()
    ) == pytest.approx([i / 19 for i in range(20)])
    limited = data.load(f"arrays:{tmp_path / 'a.npz'}", pixel_range="0:100")
    assert "45 % of the pixels are outside `pixel_range`" in str(limited)
    np.savez(tmp_path / "b.npz", x=x / 190, y=np.arange(20) % 2, classes=["a", "b", "c"])
    named = data.load(f"arrays:{tmp_path / 'b.npz'}")
    assert named.classes == ("a", "b", "c")
    assert named.train.pixels.dtype == torch.float32
    for labels in ({"y": np.array(["Hündin".encode(), b"cat"] * 10)}, {"y": np.arange(20) % 2}):
        np.savez(tmp_path / "c.npz", x=x, classes=np.array([b"cat", "Hündin".encode()]), **labels)
        assert sorted(data.load(f"arrays:{tmp_path / 'c.npz'}").classes) == ["Hündin", "cat"]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": pixels(4, 6, 6)}, r"holds 'images': expected images and labels, .*: rename the arrays"),
        ({"x": pixels(4, 6, 6), "y": np.arange(3)}, r"labels .* have the shape \(3,\), expected \(4,\)"),
        ({"x": pixels(4, 6), "y": np.arange(4)}, r"expected numbers \(N, H, W\)"),
        ({"x": pixels(4, 6, 6), "y": np.zeros(4, int)}, "are all 0, expected at least 2 classes"),
        ({"x": pixels(4, 6, 6), "y": np.arange(4) / 2}, "are float64, expected integers or texts"),
        ({"x": np.full((4, 6, 6), np.nan), "y": np.arange(4)}, "infinite or not a number"),
        ({"x": pixels(4, 6, 6), "y": np.array([b"a", b"\xff"] * 2)}, "cannot read the arrays .* save them"),
        ({"x": pixels(4, 6, 6), "y": np.arange(4) % 2, "classes": ["a", "a"]}, "'a' are names of several"),
        ({"x": np.array([{}] * 4), "y": np.arange(4)}, "cannot read the arrays .* save them again"),
        ({"x_train": pixels(4, 6, 6), "y_train": np.arange(4) % 2, "x_test": pixels(4, 6, 6)}, "rename"),
        (
            {"x_train": pixels(4, 6, 6), "y_train": np.arange(4)}
            | {"x_test": pixels(4, 5, 5), "y_test": np.arange(4)},
            "the parts .* differ",
        ),
    ],
)  # fmt: skip
def test_arrays_that_cannot_be_meant(arrays, message, tmp_path):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputError, match=message):
        data.load(f"arrays:{tmp_path / 'a.npz'}")


@pytest.mark.parametrize("name", ["nothing.npz", "text.npz", "images.npy", "empty"])
def test_files_that_are_no_arrays(name, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.npz").write_text("hello")
    np.save(tmp_path / "images.npy", pixels(4, 6, 6))
    with pytest.raises(InputError, match=r"cannot read the arrays .*: save them again with numpy.savez"):
        data.load(f"arrays:{tmp_path / name}")


# Lists


def listed(folder, head, rows, name="list.csv", delimiter=","):
    folder.mkdir(parents=True, exist_ok=True)
    for i, row in enumerate(rows):
        path = folder / row[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 10 + i).save(path)
    (folder / name).write_text("\n".join(delimiter.join(line) for line in [head, *rows]), encoding="utf-8")
    return f"csv:{folder / name}"


@pytest.mark.parametrize(
    ("head", "delimiter"), [("filename,class,split", ","), ("Image Path;Label;Set", ";")]
)
def test_a_list_of_paths_and_labels(head, delimiter, tmp_path):
    rows = [
        [f"im/{i}.png", ("dog", "cat")[i % 2], ("Train", "Train", "val", "test")[i // 2 % 4]]
        for i in range(16)
    ]
    name = listed(tmp_path / "p", head.split(delimiter), rows, delimiter=delimiter)
    dataset = data.load(name, image_size=8)
    assert dataset.name == "csv:list"
    assert dataset.classes == ("cat", "dog")
    assert {p: len(images) for p, images in dataset.parts.items()} == {"train": 8, "valid": 4, "test": 4}
    for images in dataset.parts.values():
        assert [int(v) % 2 for v in images.pixels[:, 0, 0, 0]] == (1 - (images.labels == 1).long()).tolist()
    assert "understood: paths in the column" in str(dataset)


def test_a_list_in_another_unicode_form(tmp_path):
    rows = [[f"bée{i}.png", str(i % 2)] for i in range(8)]
    name = listed(tmp_path, ["file", "label"], rows)
    text = (tmp_path / "list.csv").read_text(encoding="utf-8")
    (tmp_path / "list.csv").write_text(unicodedata.normalize("NFD", text), encoding="utf-8")
    dataset = data.load(name, image_size=8)
    assert len(dataset.train) + len(dataset.test) == 8


def test_a_list_of_whole_paths_and_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = ["path,label"]
    for i in range(8):
        Image.new("L", (8, 8), i).save(f"{i}.png")
        rows.append(f"{tmp_path / f'{i}.png' if i % 2 else f'{i}.png'},{'ab'[i // 4]}")
    Path("l.csv").write_text("\n".join(rows))
    dataset = data.load("csv:l.csv", image_size=8)
    assert len(dataset.train) + len(dataset.test) == 8


def test_a_list_without_parts_with_missing_files(tmp_path):
    rows = [[f"{i}.png", str(i % 2)] for i in range(12)]
    name = listed(tmp_path, ["file", "label"], rows)
    (tmp_path / "3.png").unlink()
    with pytest.raises(
        InputError, match=r"line 5: the image .*3.png does not exist: correct the path, .*leave_out"
    ):
        data.load(name, image_size=8)
    dataset = data.load(name, image_size=8, bad_images="leave_out")
    assert len(dataset.train) + len(dataset.test) == 11
    assert "left out: 1 lines whose image does not exist" in str(dataset)


@pytest.mark.parametrize(
    ("head", "rows", "message"),
    [
        (
            "id,diagnosis",
            ["1.png,a"],
            "no column of paths or labels among 'id', 'diagnosis', expected a first line",
        ),
        ("path,label,class", ["1.png,a,b"], "'label', 'class' could all be the column of labels: rename"),
        ("path,label", ["1.png,a", "1.png,b"], "line 3: 1.png is in line 2, too: keep one"),
        ("path,label", ["1.png,"], "line 2: the path or the label is empty"),
        ("path,label", ["1.png"], "line 2: 1 values for 2 columns: correct the line"),
        ("path,label", ["1.png,a"], "has the labels 'a', expected at least 2"),
        ("path,label,split", ["1.png,a,holdout"], "split is 'holdout', expected train, val or test"),
        ("path,label,split", ["1.png,a,test", "2.png,b,test"], "no line is of the training part"),
        ("path,label", ['1.png,"a'], "cannot read the list .*not valid CSV"),
    ],
)
def test_lists_that_cannot_be_meant(head, rows, message, tmp_path):
    for name in ("1.png", "2.png"):
        Image.new("L", (8, 8)).save(tmp_path / name)
    (tmp_path / "l.csv").write_text("\n".join([head, *rows]))
    with pytest.raises(InputError, match=message):
        data.load(f"csv:{tmp_path / 'l.csv'}")
    with pytest.raises(InputError, match="is not a file, expected a CSV of paths and labels"):
        data.load(f"csv:{tmp_path / 'none.csv'}")


# torchvision


def test_mnist_and_its_like_in_torchvisions_files(tmp_path):
    for folder, flip in (("MNIST", False), ("FashionMNIST", True), ("KMNIST", False)):
        raw = tmp_path / folder / "raw"
        raw.mkdir(parents=True)
        x = {"train": pixels(20, 28, 28), "t10k": pixels(10, 28, 28)}
        for part, images in x.items():
            header = struct.pack(">IIII", 0x803, len(images), 28, 28)
            (raw / f"{part}-images-idx3-ubyte").write_bytes(header + images.tobytes())
            labels = (np.arange(len(images)) % 10).astype(np.uint8)
            (raw / f"{part}-labels-idx1-ubyte").write_bytes(
                struct.pack(">II", 0x801, len(labels)) + labels.tobytes()
            )
        name = {"MNIST": "mnist", "FashionMNIST": "fashion_mnist", "KMNIST": "kmnist"}[folder]
        dataset = data.load(name, data_root=tmp_path)
        assert np.array_equal(dataset.train.pixels[:, 0].numpy(), x["train"])
        assert dataset.test.labels.tolist() == list(range(10))
        assert dataset.augmentation == Augmentation(crop_padding=2, flip=flip)
        assert len(dataset.classes) == 10
    assert "Sneaker" in data.load("fashion_mnist", data_root=tmp_path).classes


def test_svhn_and_stl10_in_torchvisions_files(tmp_path, monkeypatch):
    from scipy.io import savemat
    from torchvision import datasets

    entries = {}
    for part, n in (("train", 20), ("test", 10)):
        x = pixels(n, 3, 32, 32)
        path = tmp_path / f"{part}_32x32.mat"
        savemat(path, {"X": x.transpose(2, 3, 1, 0), "y": np.arange(n)[:, None] % 10 + 1})
        entries[part] = ["", path.name, hashlib.md5(path.read_bytes()).hexdigest()]
    monkeypatch.setattr(datasets.SVHN, "split_list", datasets.SVHN.split_list | entries)
    svhn = data.load("svhn", data_root=tmp_path)
    assert svhn.train.shape == (3, 32, 32)
    assert np.array_equal(svhn.test.pixels.numpy(), x)
    assert svhn.test.labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
    assert svhn.augmentation == Augmentation(crop_padding=4)

    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    files = {
        "train_X.bin": pixels(10, 3, 96, 96), "train_y.bin": np.arange(1, 11, dtype=np.uint8),
        "test_X.bin": pixels(10, 3, 96, 96), "test_y.bin": np.arange(10, 0, -1, dtype=np.uint8),
    }  # fmt: skip
    for name, array in files.items():
        (folder / name).write_bytes(array.tobytes())
    (folder / "class_names.txt").write_text("\n".join(f"c{i}" for i in range(10)))
    monkeypatch.setattr(datasets.STL10, "_check_integrity", lambda self: True)
    stl = data.load("stl10", data_root=tmp_path)
    assert np.array_equal(stl.train.pixels.numpy(), files["train_X.bin"].transpose(0, 1, 3, 2))
    assert stl.test.labels.tolist() == list(range(9, -1, -1))
    assert stl.classes[3] == "c3"


def test_pictures_of_torchvision(tmp_path, monkeypatch):
    import json

    from scipy.io import savemat
    from torchvision import datasets

    def picture(path, value):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 9), (value,) * 3).save(path, quality=100)

    pets = tmp_path / "oxford-iiit-pet"
    (pets / "annotations").mkdir(parents=True)
    for split, cases in (("trainval", range(8)), ("test", range(8, 12))):
        lines = []
        for i in cases:
            picture(pets / "images" / f"{('Abyssinian', 'beagle')[i % 2]}_{i}.jpg", 20 * i)
            lines.append(f"{('Abyssinian', 'beagle')[i % 2]}_{i} {i % 2 + 1} 1 1")
        (pets / "annotations" / f"{split}.txt").write_text("\n".join(lines))
    food = tmp_path / "food-101"
    (food / "meta").mkdir(parents=True)
    for split, cases in (("train", range(8)), ("test", range(8, 12))):
        listed = {
            name: [f"{name}/{i}" for i in cases if i % 2 == c] for c, name in enumerate(("pie", "soup"))
        }
        for paths in listed.values():
            for path in paths:
                picture(food / "images" / f"{path}.jpg", 20 * int(path.split("/")[1]))
        (food / "meta" / f"{split}.json").write_text(json.dumps(listed))
    flowers = tmp_path / "flowers-102"
    for i in range(1, 13):
        picture(flowers / "jpg" / f"image_{i:05d}.jpg", 20 * (i - 1))
    savemat(flowers / "imagelabels.mat", {"labels": [[(i - 1) % 2 + 1 for i in range(1, 13)]]})
    savemat(
        flowers / "setid.mat", {"trnid": [list(range(1, 7))], "valid": [[7, 8]], "tstid": [[9, 10, 11, 12]]}
    )
    monkeypatch.setattr(datasets.Flowers102, "_check_integrity", lambda self: True)
    expected = {
        "oxford_pets": {"train": range(8), "test": range(8, 12)},
        "food101": {"train": range(8), "test": range(8, 12)},
        "flowers102": {"train": range(6), "valid": range(6, 8), "test": range(8, 12)},
    }
    for name, parts in expected.items():
        dataset = data.load(name, data_root=tmp_path, image_size=8)
        assert dataset.augmentation == Augmentation(crop_padding=1, flip=True)
        for part, cases in parts.items():
            images = dataset.parts[part]
            values = (images.pixels[:, 0, 0, 0].float() / 20).round().long()
            assert sorted(values.tolist()) == list(cases), name
            assert (values % 2).tolist() == images.labels.tolist()


@pytest.mark.parametrize(
    "name", ["mnist", "fashion_mnist", "svhn", "stl10", "oxford_pets", "flowers102", "food101"]
)
def test_missing_files_of_torchvision(name, tmp_path):
    with pytest.raises(
        InputError, match=f"'{name}' is missing or damaged .*give `download`, or `data_root=FOLDER`"
    ):
        data.load(name, data_root=tmp_path)


# ImageNet16, and pickles


def batches(folder, protocol=2):
    folder.mkdir(parents=True)
    stored = {}
    for name in [*(f"train_data_batch_{i}" for i in range(1, 11)), "val_data"]:
        x, y = pixels(6, 768), [1, 120, 121, 1000, 2, 60]
        stored[name] = x
        content = {"data": x, "labels": y, "mean": np.zeros(768)}
        (folder / name).write_bytes(pickle.dumps(content, protocol))
    return stored


@pytest.mark.parametrize("protocol", range(6))
def test_imagenet16_120_in_its_batches(protocol, tmp_path):
    stored = batches(tmp_path / "ImageNet16", protocol)
    dataset = data.load("imagenet16-120", data_root=tmp_path)
    assert (len(dataset.train), len(dataset.test)) == (40, 4)
    assert len(dataset.classes) == 120
    assert dataset.test.labels.tolist() == [0, 119, 1, 59]
    assert np.array_equal(dataset.test.pixels.numpy(), stored["val_data"][[0, 1, 4, 5]].reshape(4, 3, 16, 16))
    assert dataset.augmentation == Augmentation(crop_padding=2, flip=True)
    again = data.load(f"imagenet16-120:{tmp_path / 'ImageNet16'}")
    assert torch.equal(again.train.pixels, dataset.train.pixels)
    (tmp_path / "ImageNet16" / "val_data").unlink()
    with pytest.raises(InputError, match="val_data is missing: get all batches"):
        data.load("imagenet16-120", data_root=tmp_path)
    with pytest.raises(InputError, match=r"give `data_root=FOLDER` .*or `dataset=imagenet16-120:FOLDER`"):
        data.load("imagenet16-120", data_root=tmp_path / "elsewhere")


class Evil:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "content",
    [
        Evil(os.system, "touch owned"), {"data": Evil(exec, "open('owned', 'w')"), "labels": []},
        np.array([Evil(os.mkdir, "owned")], dtype=object), [Evil(getattr, [], "append")], np.dtype("O"),
        Evil(np.load, "owned"), {1, 2}, io.BytesIO, Evil(bytearray, 10**9),
    ],
)  # fmt: skip
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_executes_nothing(content, protocol, tmp_path):
    path = tmp_path / "p"
    path.write_bytes(pickle.dumps(content, protocol))
    with pytest.raises(
        InputError, match=r"only plain data are read from pickles; get the file again, or convert"
    ):
        plain_pickle.load(path)
    assert not (tmp_path / "owned").exists()


def test_plain_pickles_are_read_as_they_are(tmp_path):
    path = tmp_path / "p"
    content = {
        "a": [1, 2.5, None, True, "text", b"bytes"], 3: (np.float32(1.5), np.int64(-7)),
        "big": np.arange(6, dtype=">i2").reshape(2, 3), "columns": np.asfortranarray(np.eye(3)[:2]),
        "texts": np.array(["ab", "c"]), "none": np.zeros((0, 3), np.uint8),
    }  # fmt: skip
    for protocol in range(6):
        path.write_bytes(pickle.dumps(content, protocol))
        found = plain_pickle.load(path)
        assert found["a"] == content["a"]
        assert found[3] == (1.5, -7)
        for name in ("big", "columns", "texts", "none"):
            assert np.array_equal(found[name], content[name])
            assert found[name].dtype == content[name].dtype


def test_hostile_sizes_and_damage_end_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(plain_pickle, "MOST", 50_000)
    path = tmp_path / "p"
    deep = []
    for _ in range(100):
        deep = [deep]
    laughs = "ha"
    for _ in range(18):
        laughs = [laughs] * 10
    whole = pickle.dumps({"data": pixels(2, 768), "labels": [1, 2]}, 2)
    for content in (pickle.dumps(deep), pickle.dumps(laughs), whole[:-30], b"", b"hello", b"\x80\x04."):
        path.write_bytes(content)
        with pytest.raises(InputError, match="only plain data are read"):
            plain_pickle.load(path)
    for i in range(0, len(whole), 37):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 0xFF]) + whole[i + 1 :])
        with contextlib.suppress(InputError):  # read, or refused
            plain_pickle.load(path)
