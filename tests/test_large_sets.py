"""Sets that are left in their file: the same batches, statistics and results, in the memory of batches."""

import os
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image

import nas
from nas import data
from nas.data import Augmentation, Batches, Images
from nas.data.sources import arrays, decoded, decoding, reading
from recipes import InputError

CPU = torch.device("cpu")


@pytest.fixture
def root(tmp_path):
    rng = np.random.default_rng(0)
    for part, n in (("train", 12), ("val", 6), ("test", 6)):
        for label, name in enumerate(("ant", "bee")):
            (tmp_path / "p" / part / name).mkdir(parents=True)
            for i in range(n):
                pixels = rng.integers(0, 150, (8, 8, 3), dtype=np.uint8) + 100 * label
                Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "p" / part / name / f"{i}.png")
    return tmp_path / "p"


def both(root, monkeypatch, **options):
    """The data set in memory, and left in its file."""
    held = data.load(f"folder:{root}", image_size=8, **options)
    monkeypatch.setattr(decoded, "IN_MEMORY", 0)
    mapped = data.load(f"folder:{root}", image_size=8, **options)
    assert held.train.rows is None
    assert mapped.train.rows is not None
    return held, mapped


@pytest.mark.parametrize("options", [{}, {"train_limit": 10}, {"pixel_range": "0:300"}, {"channels_in": "1"}])
def test_batches_and_statistics_are_the_same(options, root, monkeypatch):
    held, mapped = both(root, monkeypatch, **options)
    assert mapped.preprocessing == held.preprocessing
    for part in held.parts:
        pairs = []
        for dataset in (held, mapped):
            delivery = data.delivery(dataset, device=CPU)
            augmentation = Augmentation(crop_padding=1, flip=True, cutout=2)
            batches = Batches(dataset.parts[part], 5, delivery, augmentation, seed=3)
            pairs.append([*batches.epoch(1), *batches])
        for (x, y), (u, v) in zip(*pairs, strict=True):
            assert torch.equal(x, u)
            assert torch.equal(y, v)
            assert x.stride() == u.stride()


def test_selections_share_the_file(root, monkeypatch):
    _, mapped = both(root, monkeypatch)
    some = mapped.train[torch.tensor([3, 1])][torch.tensor([1])]
    assert some.rows.tolist() == [1]
    assert some.pixels.data_ptr() == mapped.train.pixels.data_ptr()
    assert mapped.train.nbytes == 24 * 3 * 64
    whole = data.load(f"folder:{root / 'train'}", image_size=8)  # divided: indices, no copies
    assert whole.train.pixels.data_ptr() == whole.test.pixels.data_ptr()
    assert sorted([*whole.train.rows.tolist(), *whole.test.rows.tolist()]) == list(range(24))


def test_a_search_and_a_training_find_the_same(root, monkeypatch):
    small = {"channels": 4, "batch_size": 6, "epochs": 2, "derive": "halving:2,draws=2,epochs=1"}
    found = [nas.search("micro", dataset, **small) for dataset in both(root, monkeypatch)]
    assert torch.equal(found[0].logits, found[1].logits)
    assert found[0].history == found[1].history
    assert found[0].summary["classes"] == found[1].summary["classes"]
    assert found[0].summary["considered"] == found[1].summary["considered"]


def test_pixels_go_to_the_device_in_parts_where_there_is_room(root, monkeypatch):
    """`meta` stands in for a GPU."""
    _, mapped = both(root, monkeypatch)
    meta = torch.device("meta")
    resident = Batches(mapped.train, 6, data.delivery(mapped, device=meta))
    assert resident.images.rows is None
    assert resident.images.pixels.device == meta
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: x)
    away = Batches(mapped.train, 6, data.delivery(mapped, device=meta, data_budget_gb=0), Augmentation())
    assert away.images.pixels.device == CPU
    assert next(away.epoch(0))[0].device == meta


def test_reading_takes_the_memory_of_batches(tmp_path, monkeypatch):
    """2,000 images of 160 x 160 are 154 MB."""
    if not Path("/proc/self/status").exists():
        pytest.skip("the memory of a process is not known here")
    monkeypatch.setattr(decoded, "IN_MEMORY", 1_000_000)
    monkeypatch.setattr(reading, "WRITE_AHEAD", 2_000_000)
    root = tmp_path / "p"
    for name in ("ant", "bee"):
        (root / name).mkdir(parents=True)
        Image.new("RGB", (16, 16), "red").save(root / name / "0.jpg")
        for i in range(1, 1000):
            os.link(root / name / "0.jpg", root / name / f"{i}.jpg")

    def anonymous():
        text = Path("/proc/self/status").read_text()
        return int(text.partition("RssAnon:")[2].split()[0]) // 1024

    before, seen = anonymous(), []

    def watched(*arguments):
        for i, found in reading.each_file(*arguments):
            if i % 100 == 0:
                seen.append(anonymous())
            yield i, found

    monkeypatch.setattr(decoding, "each_file", watched)
    dataset = data.load(f"folder:{root}", image_size=160)
    batches = Batches(dataset.train, 16, data.delivery(dataset, device=CPU), dataset.augmentation)
    for i, _ in enumerate(batches.epoch(0)):
        seen.append(anonymous())
        if i == 20:
            break
    assert len(dataset.train) + len(dataset.test) == 2000
    assert max(seen) - before < 130  # 61 to 108 were seen, with what the allocator keeps


def test_large_arrays_stay_in_their_file(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "IN_MEMORY", 100)
    (tmp_path / "a").mkdir()
    x = np.random.default_rng(0).integers(0, 256, (20, 6, 6, 3), dtype=np.uint8)
    np.save(tmp_path / "a" / "images.npy", x)
    np.save(tmp_path / "a" / "labels.npy", np.arange(20) % 2)
    dataset = data.load(f"arrays:{tmp_path / 'a'}")
    assert dataset.train.rows is not None
    read = dataset.train.read(torch.tensor([2, 0]))
    assert np.array_equal(read.numpy(), x[dataset.train.rows[[2, 0]]])


def test_images_with_rows():
    pixels = torch.arange(12, dtype=torch.uint8).view(12, 1, 1, 1)
    images = Images(pixels, torch.arange(4), torch.tensor([3, 5, 7, 11]))
    assert len(images) == 4
    assert images.read(torch.tensor([1, 3])).flatten().tolist() == [5, 11]
    assert torch.cat(list(images.chunks())).flatten().tolist() == [3, 5, 7, 11]
    assert images.nbytes == 4


def test_a_disk_that_is_full_leaves_nothing_behind(root, monkeypatch, capsys):
    """The pixels stay in memory then, if there is room."""

    def full(file, *arguments):
        if hasattr(file, "name"):
            raise OSError(28, "No space left on device")
        return decoding.write_pixels(file, *arguments)

    monkeypatch.setattr(decoded, "write_pixels", full)
    assert len(data.load(f"folder:{root}", image_size=8).train) == 24
    assert "not cached: [Errno 28] No space left on device" in capsys.readouterr().err
    cache = root.parent / "cache" / "reinmax-nas"
    assert list(cache.iterdir()) == []
    for name, value in (
        ("_memory", lambda: 10),
        ("mmap.mmap", mock.Mock(side_effect=OSError(12, "No memory"))),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(f"nas.data.sources.decoded.{name}", value)
            with pytest.raises(
                InputError, match=r"make room there, name another folder in XDG_CACHE_HOME, or"
            ):
                data.load(f"folder:{root}", image_size=8)
