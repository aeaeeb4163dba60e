"""Data: splits, augmentation, folders, and the real files that lie beside a checkout."""

import tarfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from nas import data
from nas import device as devices
from nas.data import Augmentation, Batches, Delivery, Images
from nas.data.sources import decoding
from nas.seeding import generator
from recipes import InputError

CPU = torch.device("cpu")


def images(n=20, c=3, size=6):
    g = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (n, c, size, size), generator=g, dtype=torch.uint8)
    return Images(pixels, torch.arange(n) % 4)


def plain(source, batch_size=8, augmentation=None, **options):
    c = source.pixels.shape[1]
    return Batches(source, batch_size, Delivery(CPU, [0.0] * c, [1.0] * c), augmentation, **options)


def test_digits_are_real_split_and_normalised():
    dataset = data.load("digits")
    assert len(dataset.train) + len(dataset.test) == 1797
    assert dataset.in_channels == 1
    assert len(dataset.classes) == 10
    counts = torch.bincount(dataset.test.labels) / torch.bincount(dataset.train.labels)
    assert counts.min() > 0.24
    assert counts.max() < 0.26
    mean, std = dataset.statistics()
    x = torch.cat([b for b, _ in Batches(dataset.train, 100, Delivery(CPU, mean, std))])
    assert abs(x.mean().item()) < 1e-3
    assert x.std().item() == pytest.approx(1, abs=1e-3)
    keys = {bytes(row.numpy().tobytes()) for row in dataset.train.pixels}
    overlap = [row for row in dataset.test.pixels if row.numpy().tobytes() in keys]
    assert not overlap


def test_splits_are_disjoint_stratified_and_seeded():
    labels = torch.arange(103) % 4
    rest, part = data.split(labels, 0.3, seed=1)
    assert sorted(rest.tolist() + part.tolist()) == list(range(103))
    assert all(abs((labels[part] == k).sum() - 0.3 * (labels == k).sum()) <= 0.5 for k in range(4))
    assert torch.equal(part, data.split(labels, 0.3, seed=1)[1])
    assert not torch.equal(part, data.split(labels, 0.3, seed=2)[1])


def test_splits_leave_no_class_empty():
    labels = torch.tensor([0] * 2 + [1] * 100 + [2])
    for fraction in (0.01, 0.99):
        rest, part = data.split(labels, fraction, seed=0)
        assert {0, 1} <= set(labels[rest].tolist())
        assert {0, 1} <= set(labels[part].tolist())
        assert len(rest) + len(part) == 103


def test_training_batches_shuffle_every_epoch_reproducibly():
    batches = plain(images(21), augmentation=Augmentation(), seed=5)
    epochs = [torch.cat([y for _, y in batches.epoch(e)]) for e in (0, 1, 0)]
    assert len(batches) == 2
    assert len(epochs[0]) == 16
    assert torch.equal(epochs[0], epochs[2])
    assert not torch.equal(epochs[0], epochs[1])


def test_every_image_is_seen_once_in_an_epoch():
    source = Images(torch.arange(24, dtype=torch.uint8).view(24, 1, 1, 1), torch.arange(24))
    batches = plain(source, augmentation=Augmentation())
    assert sorted(torch.cat([y for _, y in batches.epoch(3)]).tolist()) == list(range(24))


def test_endless_batches_continue_anywhere():
    batches = plain(images(21), augmentation=Augmentation(crop_padding=1, flip=True), seed=5)
    whole = batches.endless(0)
    first = [next(whole) for _ in range(7)]
    later = batches.endless(3)
    for x, y in first[3:]:
        again = next(later)
        assert torch.equal(x, again[0])
        assert torch.equal(y, again[1])


def test_evaluation_batches_are_complete_plain_and_mixed():
    """Sorted by class, as folders are read, each batch of a supernet would hold one class only."""
    n = 600
    pixels = (torch.arange(n) % 256).to(torch.uint8).view(n, 1, 1, 1)
    source = Images(pixels, torch.arange(n) // 200)
    batches = plain(source, batch_size=8)
    assert [len(y) for _, y in batches] == [200, 200, 200]
    for _, y in batches:
        assert torch.bincount(y, minlength=3).min() > 40
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    pairs = sorted(zip((x.flatten() * 255).round().int().tolist(), y.tolist(), strict=True))
    assert pairs == sorted(zip(pixels.flatten().tolist(), source.labels.tolist(), strict=True))
    again = torch.cat([y for _, y in batches])
    assert torch.equal(again, y)


def test_crops_and_flips_are_pieces_of_the_padded_image():
    source = images(64, c=2, size=5)
    pad = 2
    batches = plain(source, 64, Augmentation(crop_padding=pad, flip=True))
    x, y = next(batches.epoch(0))
    order = torch.randperm(64, generator=generator(0, "order", 0))
    padded = torch.nn.functional.pad(source.pixels[order], (pad,) * 4).float() / 255
    offsets, mirrored = set(), 0
    for i in range(64):
        windows = padded[i].unfold(1, 5, 1).unfold(2, 5, 1)  # (C, rows, columns, 5, 5)
        found = [
            (r, c, flip)
            for r in range(5)
            for c in range(5)
            for flip in (False, True)
            if torch.allclose(x[i], windows[:, r, c].flip(2) if flip else windows[:, r, c], atol=1e-6)
        ]
        assert found, f"image {i} is not a crop of its source"
        offsets.add(found[0][:2])
        mirrored += found[0][2]
    assert torch.equal(y, source.labels[order])
    assert len(offsets) > 15
    assert 15 < mirrored < 50


@pytest.mark.parametrize("channels_last", [True, False])
def test_augmentation_does_to_each_image_what_was_drawn(channels_last):
    """Image by image: pad, crop, mirror, normalise, blank, bit for bit; the draws in this order."""
    pad, side, (h, w) = 2, 3, (5, 7)
    pixels = torch.randint(0, 256, (48, 3, h, w), dtype=torch.uint8)
    source = Images(pixels, torch.arange(48) % 2)
    mean, std = [0.1, 0.5, 0.9], [0.2, 0.3, 0.4]
    delivery = Delivery(torch.device("cpu"), mean, std, channels_last=channels_last)
    augmentation = Augmentation(crop_padding=pad, flip=True, cutout=side)
    x, _ = next(Batches(source, 48, delivery, augmentation, seed=5).epoch(3))
    assert x.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)

    rng = generator(5, "augmentation", 3, 0)
    mirrored = torch.rand(48, generator=rng) < 0.5
    offset = torch.randint(0, 2 * pad + 1, (2, 48), generator=rng)
    centre = torch.rand(2, 48, generator=rng)
    order = torch.randperm(48, generator=generator(5, "order", 3))
    for i, image in enumerate(pixels[order]):
        top, left = offset[:, i].tolist()
        crop = torch.nn.functional.pad(image, (pad,) * 4)[:, top : top + h, left : left + w]
        crop = crop.flip(2) if mirrored[i] else crop
        values = [
            torch.addcmul(torch.tensor(-m / s), c.float(), torch.tensor(1 / (255 * s)))
            for c, m, s in zip(crop, mean, std, strict=True)
        ]
        expected = torch.stack(values)
        row, column = (int(centre[k, i] * size) - side // 2 for k, size in enumerate((h, w)))
        expected[:, max(row, 0) : row + side, max(column, 0) : column + side] = 0
        assert torch.equal(x[i], expected)


def test_cutout_blanks_one_square():
    source = Images(torch.full((200, 1, 12, 12), 255, dtype=torch.uint8), torch.zeros(200).long())
    x, _ = next(plain(source, 200, Augmentation(cutout=4)).epoch(0))
    blanked = (x == 0).sum((1, 2, 3))
    assert blanked.max() == 16
    assert blanked.min() >= 4
    assert len(x.flatten(1).unique(dim=0)) > 80


def test_image_policy_is_applied():
    from nas.training.final import image_policy

    source = images(16, c=3, size=8)
    augmentation = Augmentation(policy=image_policy("rand-m9-n2"))
    generator(0, "x")
    import random

    random.seed(0)
    np.random.seed(0)
    x, _ = next(plain(source, 16, augmentation).epoch(0))
    y, _ = next(plain(source, 16, Augmentation()).epoch(0))
    assert x.shape == y.shape
    changed = ((x - y).abs().amax((1, 2, 3)) > 1e-3).sum()
    assert changed > 8


def test_arguments_change_the_augmentation():
    dataset = data.load("digits", flip=True, crop_padding=0, cutout=3, train_limit=100)
    assert dataset.augmentation == Augmentation(crop_padding=0, flip=True, cutout=3)
    assert len(dataset.train) == pytest.approx(100, abs=5)
    assert torch.bincount(dataset.train.labels).min() >= 9


def test_too_few_images_for_a_batch():
    with pytest.raises(InputError, match="there are 20 training images, too few for one batch of 64"):
        plain(images(20), 64, Augmentation())


def write_folder(root, parts=("train", "test"), classes=("ant", "bée"), n=3, size=(9, 7)):
    rng = np.random.default_rng(0)
    for part in parts:
        for label, name in enumerate(classes):
            folder = root / part / name
            folder.mkdir(parents=True)
            for i in range(n):
                pixels = rng.integers(0, 100, (*size, 3), dtype=np.uint8) + 100 * label
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    return f"folder:{root}"


def test_folder_with_train_and_test(tmp_path):
    name = write_folder(tmp_path / "pictures")
    dataset = data.load(name, image_size=8)
    assert dataset.classes == ("ant", "bée")
    assert dataset.train.pixels.shape == (6, 3, 8, 8)
    assert dataset.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert dataset.train.pixels[3:].float().mean() > dataset.train.pixels[:3].float().mean() + 50


def test_folder_without_parts_is_split(tmp_path):
    name = write_folder(tmp_path / "pictures", parts=("",), n=10)
    dataset = data.load(name, image_size=8, test_fraction=0.3)
    assert (len(dataset.train), len(dataset.test)) == (14, 6)


def test_folder_modes_and_cache(tmp_path, monkeypatch):
    name = write_folder(tmp_path / "p")
    Image.new("L", (8, 8), 7).save(tmp_path / "p/train/ant/grey.png")
    Image.new("RGBA", (8, 8), (1, 2, 3, 4)).save(tmp_path / "p/train/ant/alpha.png")
    Image.new("P", (8, 8)).save(tmp_path / "p/train/ant/palette.gif")
    first = data.load(name, image_size=8)
    assert len(first.train) == 9

    def refuse(*_):
        raise AssertionError("decoded twice")

    monkeypatch.setattr(decoding, "decode", refuse)
    assert torch.equal(data.load(name, image_size=8).train.pixels, first.train.pixels)
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Image.new("L", (8, 8), 200).save(tmp_path / "p/train/ant/grey.png")
    changed = data.load(name, image_size=8)
    assert not torch.equal(changed.train.pixels, first.train.pixels)
    for file in (tmp_path / "cache" / "reinmax-nas").iterdir():
        file.write_bytes(b"damaged")
    assert torch.equal(data.load(name, image_size=8).train.pixels, changed.train.pixels)
    assert not list((tmp_path / "cache" / "reinmax-nas").glob("*.tmp"))


def first_pixels(tmp_path, image, name="picture.png", **save):
    """The first pixel row, red channel, of an image that went through a folder."""
    root = tmp_path / "q"
    for label in ("a", "b"):
        (root / label).mkdir(parents=True)
        for i in range(2):
            image.save(root / label / f"{i}{name}", **save)
    return data.load(f"folder:{root}", image_size=8).train.pixels[0]


def test_photos_are_turned_upright(tmp_path):
    image = Image.new("RGB", (8, 8))
    image.paste((255, 255, 255), (0, 0, 8, 4))  # bright above, stored lying on its side
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = first_pixels(tmp_path, image, "x.jpg", exif=exif, quality=100).float()
    assert pixels[:, :, 5:].mean() > 200 > 50 > pixels[:, :, :3].mean()


def test_transparent_pixels_are_white(tmp_path):
    assert first_pixels(tmp_path, Image.new("RGBA", (8, 8), (9, 9, 9, 0))).unique().tolist() == [255]


def test_hidden_files_are_no_images_and_odd_names_are(tmp_path):
    name = write_folder(tmp_path / "p")
    ant = tmp_path / "p" / "train" / "ant"
    (ant / ".checkpoints").mkdir()
    (ant / ".checkpoints" / "6.png").write_text("not an image")
    (ant / "._0.png").write_text("not an image")
    (ant / "folder.png").mkdir()
    (ant / "0.png").rename(ant / "\udce9.PNG")
    assert len(data.load(name, image_size=8).train) == 6


def test_without_a_cache_the_images_are_read_all_the_same(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    name = write_folder(tmp_path / "p")
    assert len(data.load(name, image_size=8).train) == 6
    assert "not cached" in capsys.readouterr().err


def break_folder(root, how):
    if how == "missing":
        return f"folder:{root}/nowhere"
    name = write_folder(root)
    if how == "one class":
        name = write_folder(root / "single", parts=("",), classes=("only",))
    elif how == "no test":
        (root / "test").rename(root / "other")
    elif how == "other classes":
        (root / "test" / "ant").rename(root / "test" / "asp")
    elif how == "empty class":
        (root / "train" / "cat").mkdir()
        (root / "test" / "cat").mkdir()
    elif how == "truncated":
        path = root / "train" / "ant" / "0.png"
        path.write_bytes(path.read_bytes()[:60])
    elif how == "not an image":
        (root / "train" / "ant" / "0.png").write_text("hello")
    elif how == "broken link":
        (root / "train" / "ant" / "link.png").symlink_to("nowhere.png")
    elif how == "float":
        Image.fromarray(np.ones((8, 8), np.float32)).save(root / "train" / "ant" / "f.tiff")
    elif how == "long":
        return f"folder:{root}/{'x' * 300}"
    elif how == "class is a broken link":
        (root / "train" / "zebra").symlink_to("nowhere")
    elif how == "zero bytes":
        (root / "train" / "ant" / "0.png").write_bytes(b"")
    return name


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", "does not exist"),
        ("one class", r"has 1 class folder \('only'\), expected at least 2"),
        ("no test", "no test/"),
        ("other classes", "differ, only under train: ant; only under test: asp: rename"),
        ("empty class", "has no images"),
        ("truncated", "cannot read the image .*0.png"),
        ("not an image", "cannot read the image .*0.png"),
        ("zero bytes", "cannot read the image .*0.png"),
        ("class is a broken link", "zebra is a link to nothing"),
        ("broken link", "cannot read .*link.png"),
        ("float", "cannot read the image .*f.tiff: floating-point .*or train with `pixel_range=LOW:HIGH`"),
        ("long", "cannot read the data set folder"),
    ],
)
def test_bad_folders(tmp_path, how, message):
    name = break_folder(tmp_path / "p", how)
    with pytest.raises(InputError, match=message):
        data.load(name)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_missing_cifar(tmp_path, name):
    with pytest.raises(InputError, match="give `download`"):
        data.load(name, data_root=tmp_path)


@pytest.mark.parametrize("name", ["cifr10", "digits:x", "imagenet"])
def test_unknown_data_sets(name):
    with pytest.raises(InputError, match=r"unknown data set|malformed"):
        data.load(name)


def test_devices_are_the_same_by_any_of_their_names():
    for name in ("cpu", "cpu:0", "auto"):
        device = devices.select(name)
        if device.type == "cpu":
            assert device == CPU
        else:
            assert device == torch.zeros(1, device=device).device


def test_data_off_the_device_are_pinned_and_moved(monkeypatch):
    """Stands in for a GPU: `meta` accepts tensors, and pinning is only recorded."""
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: pinned.append(x) or x)
    meta = torch.device("meta")
    batches = Batches(images(20), 8, Delivery(meta, [0.0] * 3, [1.0] * 3, resident=False), Augmentation())
    x, y = next(batches.epoch(0))
    assert x.device == y.device == meta
    assert x.shape == (8, 3, 6, 6)
    assert {t.device for t in pinned} == {CPU}


def test_delivery_follows_its_arguments():
    dataset = data.load("digits")
    size = dataset.train.pixels.numel() + dataset.test.pixels.numel()
    assert data.delivery(dataset, device=CPU).resident
    assert not data.delivery(dataset, device=CPU, data_budget_gb=(size - 1) / 1e9).resident
    for channels_last in (True, False):
        delivery = data.delivery(dataset, device=CPU, channels_last=channels_last)
        source = Images(dataset.train.pixels.repeat(1, 2, 1, 1), dataset.train.labels)
        batches = Batches(source, 8, delivery, Augmentation())
        x, _ = next(batches.epoch(0))
        assert x.is_contiguous(memory_format=torch.channels_last) == channels_last
        assert x.is_contiguous() != channels_last


def test_real_cifar_images(shared_data, tmp_path):
    """A part of CIFAR-10 as JPEG files, read as anyone's folder of images."""
    with tarfile.open(shared_data / "cifar10-jpeg.tar.xz") as archive:
        wanted = [m for m in archive if m.name.endswith(("001.jpg", "002.jpg"))]
        archive.extractall(tmp_path, wanted, filter="data")
    root = next(tmp_path.rglob("train")).parent
    dataset = data.load(f"folder:{root}")
    assert len(dataset.classes) == 10
    assert dataset.test.labels.unique().tolist() == list(range(10))
    assert dataset.train.pixels.shape[1:] == (3, 32, 32)
    assert dataset.augmentation == replace(dataset.augmentation, flip=True, crop_padding=4)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_in_torchvisions_layout(name, tmp_path, monkeypatch):
    """Files in the official format, an image of each class a batch, with the checksums adapted to them."""
    import hashlib
    import pickle

    from torchvision import datasets

    cifar = datasets.CIFAR10 if name == "cifar10" else datasets.CIFAR100
    classes = [f"class {i}" for i in range(10 if name == "cifar10" else 100)]
    key = "labels" if name == "cifar10" else "fine_labels"
    folder = tmp_path / cifar.base_folder
    folder.mkdir()
    rng = np.random.default_rng(0)
    pixels = {}

    def write(file, content):
        (folder / file).write_bytes(pickle.dumps(content))
        return [file, hashlib.md5((folder / file).read_bytes()).hexdigest()]

    for kind in ("train_list", "test_list"):
        checked = []
        for file, _ in getattr(cifar, kind):
            pixels[file] = rng.integers(0, 256, (len(classes), 3072), dtype=np.uint8)
            checked.append(write(file, {"data": pixels[file], key: list(range(len(classes)))}))
        monkeypatch.setattr(cifar, kind, checked)
    meta = write(cifar.meta["filename"], {cifar.meta["key"]: classes})
    monkeypatch.setattr(cifar, "meta", cifar.meta | {"md5": meta[1]})

    dataset = data.load(name, data_root=tmp_path)
    assert dataset.classes == tuple(classes)
    assert len(dataset.test) == len(classes)
    assert len(dataset.train) == len(classes) * len(cifar.train_list)
    first = pixels[cifar.train_list[0][0]][3].reshape(3, 32, 32)
    assert np.array_equal(dataset.train.pixels[3].numpy(), first)
    assert dataset.augmentation == Augmentation(crop_padding=4, flip=True)

    damaged = folder / cifar.train_list[0][0]
    damaged.write_bytes(damaged.read_bytes()[:-5])  # its checksum is verified before it is read
    with pytest.raises(InputError, match="missing or damaged"):
        data.load(name, data_root=tmp_path)
