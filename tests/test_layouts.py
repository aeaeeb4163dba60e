"""Which folders are parts, which are classes, and what is said of the rest."""

import unicodedata

import numpy as np
import pytest
from PIL import Image

from nas import data
from nas.data.names import merged, natural, part_of
from recipes import InputError


def fill(folder, classes=("ant", "bee"), n=3, grey=0):
    """`n` pictures of each class, of as many grey levels as there are pictures."""
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            Image.new("RGB", (8, 8), (grey + 40 * label + i,) * 3).save(folder / name / f"{i}.png")
    return folder


def load(root, **options):
    return data.load(f"folder:{root}", image_size=8, **options)


@pytest.mark.parametrize(
    ("names", "part"),
    [
        (
            "train Train TRAINING train_set trainset TrainImages seg_train train2017 training-data trn",
            "train",
        ),
        ("test Testing test_set TestImages images_test TST", "test"),
        ("val valid Validation dev VAL val2017 valid_images", "valid"),
        ("bus trains testament latest devil rain validator train_bus train_test 1", None),
    ],
)
def test_names_of_parts(names, part):
    assert {name: part_of(name) for name in names.split()} == dict.fromkeys(names.split(), part)


@pytest.mark.parametrize(
    ("train", "test"),
    [("Training", "Testing"), ("Train", "Test"), ("seg_train", "seg_test"), ("TRAIN", "test")],
)
def test_parts_in_any_case_are_no_classes(train, test, tmp_path):
    fill(tmp_path / train, n=4)
    fill(tmp_path / test, n=2, grey=100)
    dataset = load(tmp_path)
    assert dataset.classes == ("ant", "bee")
    assert (len(dataset.train), len(dataset.test), dataset.valid) == (8, 4, None)
    assert dataset.train.pixels.max() < 100 <= dataset.test.pixels.min()
    assert f"understood: {train}/ for training, {test}/ for test" in str(dataset)
    assert "8 training and 4 test images (3 x 8 x 8, uint8) of 2 classes, 4 training images each" in str(
        dataset
    )


@pytest.mark.parametrize(
    "layout",
    [
        "{part}/{name}", "images/{part}/{name}", "{part}/{part}/{name}", "{part}/images/{name}",
        "data/{part}/{name}", "{name}/{part}", "all/{name}/{part}",
    ],
)  # fmt: skip
def test_parts_one_level_up_or_down_and_in_class_folders(layout, tmp_path):
    for level, (part, n) in enumerate({"train": 4, "Val": 3, "test": 2}.items()):
        for label, name in enumerate(("ant", "bee")):
            folder = tmp_path / layout.format(part=part, name=name)
            folder.mkdir(parents=True)
            for i in range(n):
                Image.new("RGB", (8, 8), (80 * level + 40 * label + i,) * 3).save(folder / f"{i}.png")
    dataset = load(tmp_path)
    assert dataset.classes == ("ant", "bee")
    for part, images in dataset.parts.items():
        level = ("train", "valid", "test").index(part)
        values = images.pixels[:, 0, 0, 0]
        assert len(images) == 2 * (4 - level)
        assert values.min() == 80 * level
        assert (values - 80 * level >= 40).long().tolist() == images.labels.tolist()


def test_one_folder_around_class_folders(tmp_path):
    fill(tmp_path / "flowers", n=5)
    assert load(tmp_path).classes == ("ant", "bee")


def test_a_class_may_have_the_name_of_a_part(tmp_path):
    """Trains among vehicles."""
    fill(tmp_path, ("bus", "car", "train"), n=5)
    assert load(tmp_path).classes == ("bus", "car", "train")


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (["train/", "test/"], "is the training part by its name, and has 3 images but no class folders"),
        (["Training/", "Testing/", "bus/"], "no class folders: sort them into a folder for each class"),
        (["train/a", "train/b", "other/a"], r"no test/; besides it there is 'other': .*give folder:.*/train"),
        (["train/a", "train/b"], r"no test/; there is nothing else: .*`test_fraction`"),
        (["train/a", "train/b", "test/"], "test part by its name, and has 3 images but no class folders"),
        (["val/a", "val/b", "test/a", "test/b"], "none is that of the training part; .* name the"),
        (["train/a", "train/b", "Train/a", "test/a", "test/b"], "'Train', 'train' are both names of"),
        (["train/a", "train/b", "val/a", "dev/a", "test/a"], "'dev', 'val' are both names of"),
        (["train/a", "train/b", "test/a", "test/c"], "under train: b; only under test: c: rename"),
        (["a/train", "b/train", "a/test", "b/test", "b/testing"], "are both names of the"),
        (["a"], r"has 1 class folder \('a'\), expected at least 2"),
        ([""], "has 0 class folders, .*; 3 images lie beside them: .*csv:FILE"),
        (["x/train/a", "x/test/a", "y/train/a", "y/test/a", "z/"], "z' are not: give the folder"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_with_the_way_on(folders, message, tmp_path):
    for folder in folders:
        fill(tmp_path / folder, ("",))
    with pytest.raises(InputError, match=message):
        load(tmp_path)


def test_training_and_validation_part_alone(tmp_path):
    """The validation part is that of the search; the test part is set aside, and it is said."""
    fill(tmp_path / "train", n=10)
    fill(tmp_path / "val", n=4, grey=100)
    dataset = load(tmp_path, test_fraction=0.3)
    assert {part: len(images) for part, images in dataset.parts.items()} == {
        "train": 14,
        "valid": 8,
        "test": 6,
    }
    assert dataset.valid.pixels.min() >= 100 > dataset.test.pixels.max()
    assert "no test part: 30 % of each class set aside (`test_fraction`)" in str(dataset)


def test_what_is_left_out_is_counted_by_kind(tmp_path):
    root = tmp_path / "p"
    fill(root / "train", n=4)
    fill(root / "test", n=2)
    (root / "annotations").mkdir()
    for name in ("a.txt", "b.TXT", ".DS_Store", "c.heic", "Makefile"):
        (root / "train" / "ant" / name).write_text("x")
    (root / "train" / "ant" / "bad.jpg").write_text("x")
    Image.new("RGB", (8, 8)).save(root / "train" / "loose.png")
    for name in ("test/labels.csv", "train/labels.csv", "labels.csv", ".hidden"):
        (root / name).write_text("x")
    with pytest.raises(InputError, match=r"bad.jpg: cannot identify .* or give `bad_images=leave_out`"):
        load(root)
    for _ in range(2):  # decoded, and from the cache
        dataset = load(root, bad_images="leave_out")
        assert len(dataset.train) == 8
        assert dataset.train.labels.tolist() == [0] * 4 + [1] * 4
        assert dataset.notes[-2:] == (
            "left out: files: 1 that cannot be read, 2 hidden, 3 .csv, 2 .txt, 1 without ending, 1 "
            ".heic (pip install pillow-heif, or convert them to JPEG), 1 images outside of class folders",
            "left out: folders: 'annotations'",
        )  # fmt: skip
    with pytest.raises(InputError, match=r"bad.jpg"):  # what was left out before is not forgotten
        load(root)


def test_a_class_of_which_nothing_can_be_read_is_named(tmp_path):
    fill(tmp_path, ("ant", "bee", "cow"))
    for path in (tmp_path / "bee").iterdir():
        path.write_bytes(b"")
    with pytest.raises(InputError, match=r"no image of the class 'bee' .* can be read"):
        load(tmp_path, bad_images="leave_out")
    (tmp_path / "bee" / "0.png").rename(tmp_path / "bee" / "0.heic")
    for name in ("1.png", "2.png"):
        (tmp_path / "bee" / name).unlink()
    with pytest.raises(InputError, match=r"bee has no images, but 1 .heic: .heic: pip install pillow-heif"):
        load(tmp_path)
    (tmp_path / "bee" / "0.heic").unlink()
    with pytest.raises(InputError, match=r"bee has no images: add some \("):
        load(tmp_path)


@pytest.mark.parametrize("ending", ["jfif", "jpe", "JPEG", "jp2", "avif", "webp", "pnm"])
def test_more_endings(ending, tmp_path):
    formats = {"jfif": "JPEG", "jpe": "JPEG", "jp2": "JPEG2000", "pnm": "PPM"}
    fill(tmp_path)
    try:
        Image.new("RGB", (8, 8), (200, 10, 10)).save(
            tmp_path / "bee" / f"x.{ending}", formats.get(ending, ending.upper())
        )
    except (OSError, KeyError):
        pytest.skip(f"this Pillow does not write {ending}")
    dataset = load(tmp_path)
    assert len(dataset.train) + len(dataset.test) == 7
    assert max(images.pixels.max() for images in dataset.parts.values()) > 180


def test_names_of_a_class_in_several_forms(tmp_path):
    composed, decomposed = unicodedata.normalize("NFC", "bée"), unicodedata.normalize("NFD", "bée")
    fill(tmp_path / "train", ("Ant", composed))
    fill(tmp_path / "train", ("ant",), n=2, grey=90)
    fill(tmp_path / "test", ("ANT", decomposed))
    dataset = load(tmp_path)
    assert dataset.classes == ("Ant", "bée")
    assert dataset.train.labels.tolist() == [0] * 5 + [1] * 3
    assert dataset.test.labels.tolist() == [0] * 3 + [1] * 3
    assert "'Ant', 'ant' are one class, 'Ant': rename them if they are different ones" in str(dataset)
    _, notes = merged({decomposed: [1], composed: [2]})
    assert notes[0].startswith("'bée', 'bée' (decomposed) are one class") or "(decomposed)" in notes[0]


def test_numbers_sort_as_numbers_for_a_reader_and_as_text_in_the_order_of_outputs(tmp_path):
    names = ["1", "10", "2", "1a"]
    fill(tmp_path, names)
    assert load(tmp_path).classes == ("1", "10", "1a", "2")
    assert sorted(names, key=natural) == ["1", "1a", "2", "10"]


def test_python_may_bring_three_parts():
    def part(n, value):
        return np.full((n, 6, 6), value, np.uint8), np.arange(n) % 2

    dataset = data.load({"Train": part(8, 1), "val": part(4, 2), "test": part(2, 3)})
    assert [(len(p), int(p.pixels.max())) for p in dataset.parts.values()] == [(8, 1), (4, 2), (2, 3)]
    assert data.load({"train": part(10, 1)}).valid is None
