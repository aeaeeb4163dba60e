"""What pixels are worth: 8 and 16 bits, floating point, one channel and many."""

import json
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import nas
from nas import data
from nas.data import Preprocessing
from nas.data.sources import decoding, pictures
from nas.runs.files import cache_folder
from recipes import InputError

RNG = np.random.default_rng(0)


def stripes(label, high, kind=np.uint16, size=8, low=0):
    """Pictures that differ in the lowest eighth of their values only."""
    values = RNG.uniform(0, 0.02, (size, size))
    values[:, ::2] += 0.04 * label
    values[0, 0], values[0, 1] = 0, 1  # the whole range occurs
    return (low + values * (high - low)).astype(kind)


def png16(path, values):
    """A PNG of 16 bits (H, W, C), which Pillow does not write in colours."""
    h, w, c = values.shape
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", w, h, 16, {3: 2, 4: 6}[c], 0, 0, 0)),
        (b"IDAT", zlib.compress(b"".join(b"\0" + row.astype(">u2").tobytes() for row in values))),
        (b"IEND", b""),
    ]
    packed = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed))


@pytest.fixture
def root(tmp_path):
    return tmp_path / "p"  # beside the cache


def fill(root, make, n=5, ending="png"):
    for label, name in enumerate(("ant", "bee")):
        (root / name).mkdir(parents=True)
        for i in range(n):
            make(root / name / f"{i}.{ending}", label)
    return root


def save(path, values):
    np.save(path, values) if path.suffix == ".npy" else Image.fromarray(values).save(path)


def load(root, **options):
    return data.load(f"folder:{root}", image_size=8, **options)


def all_pixels(dataset):
    return torch.cat([images.pixels for images in dataset.parts.values()])


@pytest.mark.parametrize(
    ("high", "kind", "ending", "low"),
    [
        (65535, np.uint16, "png", 0), (4095, np.uint16, "png", 0), (4095, np.uint16, "tif", 0),
        (300, np.uint16, "png", 0), (34_000, np.uint16, "png", 30_000), (1_000_000, np.int32, "tif", -50),
        (3.5, np.float32, "tif", -1.25), (4095, np.uint16, "npy", 0), (2.0, np.float64, "npy", -2),
    ],
)  # fmt: skip
def test_the_range_that_occurs_is_read_as_0_to_1_without_loss(high, kind, ending, low, root):
    made = {}

    def make(path, label):
        made[path.parent.name, path.name] = values = stripes(label, high, kind, low=low)
        save(path, values)

    dataset = load(fill(root, make, ending=ending))
    assert dataset.train.pixels.dtype == torch.float32
    assert dataset.train.shape == (1, 8, 8)
    assert dataset.scale == (low, high)
    assert f"pixel values {low:g} to {high:g}, the values that occur, are read as 0 to 1" in str(dataset)
    expected = {
        ((v.astype(np.float64) - low) / (high - low)).astype(np.float32).tobytes() for v in made.values()
    }
    found = all_pixels(dataset)
    wanted = np.stack([np.frombuffer(row, np.float32) for row in sorted(expected)])
    distance = np.abs(found.reshape(10, 1, 64).numpy() - wanted[None]).max(2).min(1)
    assert distance.max() < 1e-6
    known = dataset.preprocessing
    assert (known.in_chans, known.image_size, known.range) == (1, (8, 8), (low, high))
    assert Preprocessing.of(known.to_json()) == known
    again = load(root)  # from the cache
    assert torch.equal(all_pixels(again), found)
    assert (again.scale, again.notes) == (dataset.scale, dataset.notes)


def test_values_are_rescaled_in_parts_in_the_cache_and_without_one(root, tmp_path, monkeypatch):
    fill(root, lambda path, label: save(path, stripes(label, 4095)))
    whole = load(root)
    monkeypatch.setattr(decoding, "WRITE_AHEAD", 100)
    (tmp_path / "file").write_text("")
    for place in ("empty", "file"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / place))
        found = load(root)
        assert torch.equal(all_pixels(found), all_pixels(whole))
        assert (found.scale, found.notes) == (whole.scale, whole.notes)


def test_eight_bits_stay_eight_bits_and_grey_stays_grey(root):
    fill(root, lambda path, label: Image.new("L", (8, 8), 7 + label).save(path))
    dataset = load(root)
    assert (dataset.train.pixels.dtype, dataset.train.shape) == (torch.uint8, (1, 8, 8))
    assert dataset.preprocessing.range == (0, 255)
    assert all_pixels(dataset).unique().tolist() == [7, 8]
    colours = load(root, channels_in="3")
    assert colours.train.shape == (3, 8, 8)
    assert all_pixels(colours).unique().tolist() == [7, 8]
    Image.new("RGB", (8, 8), (9, 9, 9)).save(root / "ant" / "colour.png")
    assert load(root).in_channels == 3
    grey = load(root, channels_in="1")
    assert grey.in_channels == 1
    assert all_pixels(grey).unique().tolist() == [7, 8, 9]


def test_colours_of_16_bits_keep_both_bytes(root):
    values = RNG.integers(0, 4096, (10, 8, 8, 3)).astype(np.uint16)
    values[:, 0, 0] = [0, 0, 4095]
    count = iter(range(10))
    fill(root, lambda path, label: png16(path, values[next(count)]))
    dataset = load(root)
    assert dataset.scale == (0, 4095)
    found = {tuple(np.round(x * 4095).astype(int).ravel()) for x in all_pixels(dataset).numpy()}
    assert found == {tuple(v.transpose(2, 0, 1).astype(int).ravel()) for v in values}


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("white", [65535, 1000])
def test_colours_of_a_deep_netpbm_file(white, plain, root):
    """Its white is 65535, as Pillow has it in a grey one."""
    values = RNG.integers(0, white + 1, (10, 8, 8, 3))
    count = iter(range(10))

    def make(path, label):
        found = values[next(count)]
        body = " ".join(map(str, found.ravel())).encode() if plain else found.astype(">u2").tobytes()
        path.write_bytes(b"P%d\n8 8\n%d\n" % (3 if plain else 6, white) + body)

    dataset = load(fill(root, make, ending="ppm"), pixel_range="0:65535")
    found = {tuple(np.round(x * 65535).astype(int).ravel()) for x in all_pixels(dataset).numpy()}
    wanted = (values * 65535 + white // 2) // white
    assert found == {tuple(v.transpose(2, 0, 1).ravel()) for v in wanted}


def tiffs(root, values, **how):
    """A folder of TIFF files as tifffile writes them."""
    tifffile = pytest.importorskip("tifffile")
    left = iter(values)
    return fill(root, lambda path, label: tifffile.imwrite(path, next(left), **how), ending="tif")


def test_planes_of_16_bits_in_a_tiff_keep_both_bytes(root):
    values = RNG.integers(0, 65536, (10, 3, 8, 8)).astype(np.uint16)
    dataset = load(tiffs(root, values, photometric="rgb", planarconfig="separate"), pixel_range="0:65535")
    found = {tuple(np.round(x * 65535).astype(int).ravel()) for x in all_pixels(dataset).numpy()}
    assert found == {tuple(v.astype(int).ravel()) for v in values}


def test_a_picture_of_5_and_6_bits_loses_nothing(root):
    def make(path, label):
        pixels = np.full((2, 2), 0xF800 if label else 0x07E0, "<u2").tobytes()
        head = struct.pack("<IiiHHIIiiII", 40, 2, 2, 1, 16, 3, len(pixels), 0, 0, 0, 0)
        masks = struct.pack("<III", 0xF800, 0x07E0, 0x001F)
        start = 14 + len(head) + len(masks)
        path.write_bytes(struct.pack("<2sIHHI", b"BM", start + 8, 0, 0, start) + head + masks + pixels)

    dataset = load(fill(root, make, ending="bmp"))
    assert "upper 8" not in str(dataset)
    assert {tuple(x[:, 0, 0].tolist()) for x in all_pixels(dataset)} == {(255, 0, 0), (0, 255, 0)}


@pytest.mark.parametrize(
    ("shape", "read"),
    [
        ((9, 9, 20), (20, 9, 9)),
        ((9, 9, 2), (2, 9, 9)),
        ((20, 9, 9), (20, 9, 9)),
        ((16, 8, 8), (16, 8, 8)),
        ((5, 7, 3), (3, 5, 7)),
        ((3, 5, 7), (3, 5, 7)),
        ((4, 4, 4), (4, 4, 4)),
    ],
)
def test_a_square_image_says_which_side_is_the_channels(shape, read, tmp_path):
    x = RNG.integers(0, 256, (20, *shape)).astype(np.uint8)
    np.savez(tmp_path / "a.npz", images=x, labels=np.arange(20) % 2)
    dataset = data.load(f"arrays:{tmp_path / 'a.npz'}")
    assert dataset.train.shape == read
    assert ("last dimension" in str(dataset)) == (read != shape)
    first = pictures.channels_first(shape)
    assert np.moveaxis(x[0], 0 if first else 2, 0).shape == read


def test_what_was_left_out_is_refused_again_and_looked_at_again(root):
    fill(root, lambda path, label: Image.new("L", (8, 8), 7).save(path))
    odd = root / "ant" / "odd.tif"
    save(odd, np.full((8, 8), 0.5, np.float32))
    for _ in range(2):
        with pytest.raises(InputError, match=r"odd.tif: floating-point .*or give `bad_images=leave_out`"):
            load(root)
        assert len(all_pixels(load(root, bad_images="leave_out"))) == 10
    state = odd.stat()
    odd.write_bytes(b"x" * state.st_size)
    os.utime(odd, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert len(all_pixels(load(root, bad_images="leave_out"))) == 10
    Image.new("L", (8, 8), 9).save(odd)
    odd.write_bytes(odd.read_bytes().ljust(state.st_size, b"\0")[: state.st_size])
    os.utime(odd, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert len(all_pixels(load(root, bad_images="leave_out"))) == 11
    assert len(all_pixels(load(root))) == 11


def test_what_a_killed_process_has_left_in_the_cache_is_removed(root):
    fill(root, lambda path, label: Image.new("L", (8, 8), 7).save(path))
    load(root)
    old, new = (cache_folder() / f".{name}.npy.12345678.tmp" for name in ("old", "new"))
    for path in (old, new):
        path.touch()
    os.utime(old, (1e9, 1e9))
    load(root, channels_in="3")
    assert not old.exists()
    assert new.exists()


@pytest.mark.parametrize("length", [0, 40, 300])
def test_what_is_cut_off_in_the_cache_is_decoded_again(root, length):
    fill(root, lambda path, label: Image.new("L", (8, 8), 7).save(path))
    first = all_pixels(load(root))
    (kept,) = cache_folder().glob("*.npy")
    whole = kept.read_bytes()
    kept.write_bytes(whole[:length])
    assert torch.equal(all_pixels(load(root)), first)
    assert kept.read_bytes() == whole


def test_a_loss_is_said(root):
    """Pillow reads the upper byte of 16 bits where there is transparency."""
    values = np.full((8, 8, 4), 65535, np.uint16)
    fill(root, lambda path, label: png16(path, values))
    assert "only the upper 8 of 16 bits are read of 10 files" in str(load(root))


def test_a_range_that_is_given(root):
    fill(root, lambda path, label: save(path, np.full((8, 8), 100 + 100 * label, np.uint16)))
    dataset = load(root, pixel_range="0:150")
    assert all_pixels(dataset).unique().tolist() == pytest.approx([100 / 150, 1.0])
    assert "50 % of the pixels are outside `pixel_range` and were cut off" in str(dataset)
    assert dataset.preprocessing.range == (0, 150)
    eight = fill(root.parent / "8", lambda path, label: Image.new("L", (8, 8), 10 + label).save(path))
    assert all_pixels(load(eight, pixel_range="0:16")).unique().tolist() == [10 / 16, 11 / 16]
    assert load(eight, pixel_range="0:255").train.pixels.dtype == torch.uint8
    for text in ("4095", "9:1", "0:nan", "a:b", "0:1:2"):
        with pytest.raises(InputError, match="expected auto or LOW:HIGH, such as 0:4095"):
            load(eight, pixel_range=text)


def test_deeper_files_among_pictures_of_8_bits(root):
    fill(root, lambda path, label: Image.new("L", (8, 8), 7).save(path))
    save(root / "ant" / "deep.png", np.full((8, 8), 40 * 257, np.uint16))
    dataset = load(root)
    assert all_pixels(dataset).unique().tolist() == [7, 40]
    assert "1 of 11 files have 16 bits or more and are reduced to the 8 of the others, 0 to 65535" in str(
        dataset
    )
    assert all_pixels(load(root, pixel_range="0:20560")).unique().tolist() == [7, 128]
    save(root / "ant" / "float.tif", np.ones((8, 8), np.float32))
    with pytest.raises(InputError, match=r"float.tif: floating-point .*or train with `pixel_range=LOW:HIGH`"):
        load(root)


def test_numbers_that_are_none_are_refused(root):
    fill(root, lambda path, label: save(path, np.full((8, 8), np.nan, np.float32)), ending="tif")
    with pytest.raises(InputError, match="infinite or not a number"):
        load(root)


def test_files_called_arrays(root):
    fill(root, lambda path, label: save(path, np.zeros((8, 8), np.uint8)), ending="npy")
    bad = root / "ant" / "bad.npy"
    for write in (
        lambda: np.savez(bad.with_suffix(".npz"), x=np.zeros(8)) or bad.with_suffix(".npz").rename(bad),
        lambda: np.save(bad, np.array([{}]), allow_pickle=True),
        lambda: bad.write_bytes(b"hello"),
        lambda: np.save(bad, np.zeros((2, 2, 2, 2))),
    ):
        write()
        with pytest.raises(InputError, match=r"cannot read the image .*bad.npy"):
            load(root)


@pytest.mark.parametrize("order", ["HWC", "CHW"])
def test_arrays_of_many_channels(order, root):
    def make(path, label):
        values = np.broadcast_to(np.arange(5) * 10 + label, (9, 7, 5)).astype(np.uint8)
        save(path, values if order == "HWC" else values.transpose(2, 0, 1))

    dataset = load(fill(root, make, ending="npy"))
    assert dataset.train.shape == (5, 8, 8)
    assert dataset.train.pixels[0, :, 0, 0].tolist() == [0, 10, 20, 30, 40]
    with pytest.raises(
        InputError, match="5 channels, `channels_in=3` is for grey and colours: leave it at auto"
    ):
        load(root, channels_in="3")
    save(root / "ant" / "x.npy", np.zeros((9, 7, 4), np.uint8))
    with pytest.raises(InputError, match="differ: 1 of 4 channels, 10 of 5 channels; keep those of one kind"):
        load(root)


def test_a_tiff_of_several_bands(root):
    bands = RNG.integers(0, 256, (10, 8, 8, 5)).astype(np.uint8)
    dataset = load(tiffs(root, bands, photometric="minisblack", planarconfig="contig"))
    found = {x.tobytes() for x in all_pixels(dataset).contiguous().numpy()}
    assert found == {band.transpose(2, 0, 1).tobytes() for band in bands}


def test_a_tiff_of_several_bands_without_the_package(root, monkeypatch):
    fill(root, lambda path, label: Image.new("L", (8, 8)).save(path))
    path = root / "ant" / "bands.tif"
    Image.new("RGBX", (8, 8)).save(path)
    monkeypatch.setattr(pictures.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"bands.tif: .*pip install tifffile"):
        load(root)


def test_channels_of_other_data():
    digits = data.load("digits", channels_in="3")
    plain = data.load("digits")
    assert digits.in_channels == 3
    assert torch.equal(digits.train.pixels, plain.train.pixels.expand(-1, 3, -1, -1))
    assert torch.equal(data.load(digits, channels_in="1").train.pixels, plain.train.pixels)
    two = (np.zeros((8, 2, 6, 6), np.uint8), np.arange(8) % 2)
    with pytest.raises(InputError, match="`channels_in` is 3, for images of 2 channels: leave it at auto"):
        data.load(two, channels_in="3")


@pytest.mark.parametrize(
    ("kind", "high", "ending", "pixel_range"),
    [
        (np.uint16, 255, "png", "auto"),
        (np.int64, 255, "npy", "auto"),
        (np.float32, 1, "tif", "auto"),
        (np.float32, 255, "npy", "auto"),
        (np.uint16, 4095, "png", "0:4095"),
        (np.uint16, 4095, "png", "mixed"),
    ],
)
def test_a_picture_is_prepared_as_in_training(kind, high, ending, pixel_range, root):
    def make(path, label):
        values = RNG.uniform(0, high, (8, 8))
        values[0, :2] = 0, high  # all of the range
        save(path, values.astype(kind))

    fill(root, make, ending=ending)
    if pixel_range == "mixed":
        pixel_range = "0:4095"
        Image.new("L", (8, 8), 9).save(root / "ant" / "plain.png")
    dataset = load(root, pixel_range=pixel_range)
    wanted = Preprocessing.of(json.loads(json.dumps(dataset.preprocessing.to_json())))
    assert wanted == dataset.preprocessing
    known = {pixels.numpy().tobytes() for pixels in all_pixels(dataset)}
    for path in root.glob("*/*"):
        assert pictures.prepared(path, wanted).tobytes() in known


def test_a_picture_of_8_bits_is_none_of_more(root):
    fill(root, lambda path, label: save(path, stripes(label, 4095)))
    wanted = load(root).preprocessing
    Image.new("L", (8, 8), 9).save(root.parent / "plain.png")
    with pytest.raises(InputError, match=r"plain.png has 8 bits, .* values from 0 to 4095"):
        pictures.prepared(root.parent / "plain.png", wanted)


def test_a_network_of_arrays_takes_floats_as_they_are_and_pictures_as_0_to_1(tmp_path):
    x = RNG.random((40, 4, 8, 8)).astype(np.float32)
    wanted = data.load((x, np.arange(40) % 2)).preprocessing
    np.save(tmp_path / "x.npy", x[0])
    assert np.array_equal(pictures.prepared(tmp_path / "x.npy", wanted), x[0])
    np.save(tmp_path / "eight.npy", (255 * x[0]).astype(np.uint8))
    assert np.array_equal(
        pictures.prepared(tmp_path / "eight.npy", wanted), np.floor(255 * x[0]) / np.float32(255)
    )
    np.save(tmp_path / "wide.npy", 2 * x[0])
    with pytest.raises(
        InputError, match=r"wide.npy has values from .*, and the network was trained on values"
    ):
        pictures.prepared(tmp_path / "wide.npy", wanted)
    Image.new("RGB", (8, 8)).save(tmp_path / "colours.png")
    with pytest.raises(InputError, match=r"colours.png: 3 channels, expected 4"):
        pictures.prepared(tmp_path / "colours.png", wanted)


def test_predictions_of_12_bit_pictures_are_those_of_the_training(root):
    rng = np.random.default_rng(0)

    def picture(path, label):
        values = rng.integers(0, 200, (8, 8)) + (1500 if label else 0)
        save(path, values.astype(np.uint16))

    fill(root, picture)
    options = {"epochs": 3, "channels": 4, "batch_size": 4, "image_size": 8, "tensorboard": False}
    cell = "|nor_conv_3x3~0|+|nor_conv_3x3~0|skip_connect~1|"
    result = nas.train(cell, data=f"folder:{root}", crop_padding=0, flip=False, **options)
    test = all_pixels(nas.data.load(f"folder:{root}", image_size=8))
    assert test.dtype == torch.float32
    found = nas.predict(result, root)
    labels = [Path(one.image).parent.name for one in found]
    assert len(found) == len(test)
    network = result.model.eval()
    known = Preprocessing.of(result.model.description)
    for one, label in zip(found, labels, strict=True):
        assert one.classes.index(label) in (0, 1)
        pixels = np.asarray(Image.open(one.image)).astype(np.float32)
        low, high = known.range
        x = ((pixels - low) / (high - low)).clip(0, 1)[None, None]
        x = (torch.tensor(x) - torch.tensor(known.mean).view(1, -1, 1, 1)) / torch.tensor(known.std).view(
            1, -1, 1, 1
        )
        wanted = network(x.float()).softmax(1)[0]
        torch.testing.assert_close(torch.tensor(one.probabilities), wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("source", ["digits", (torch.zeros(8, 1, 8, 8), torch.arange(8) % 2)])
def test_a_range_is_refused_where_it_would_mean_nothing(source):
    with pytest.raises(InputError, match=r"`pixel_range` is for image files and arrays, not for '.*': drop"):
        data.load(source, pixel_range="0:100")
