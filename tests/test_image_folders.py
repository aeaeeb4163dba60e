"""What a folder of images may hold: every kind of image, damaged files, links, names, permissions."""

import os
import shutil
import struct
import subprocess
import tempfile
import zlib
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import little_memory
from PIL import Image

from nas import data
from nas.data.sources import decoded, decoding, layout, pictures, reading
from recipes import InputError


def load(root, size=8):
    return data.load(f"folder:{root}", image_size=size)


def write(root, classes=("ant", "bee"), n=5):
    """A folder of grey images, `n` in each class."""
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(n):
            Image.new("RGB", (9, 7), (40 * label + i,) * 3).save(root / name / f"{i}.png")
    return root


def png(width, height, body=b""):
    """A PNG that claims to be of this size."""

    def chunk(kind, content):
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def palette(transparency=None):
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 10, 20, 30] + [0] * 762)
    if transparency is not None:
        image.info["transparency"] = transparency
    return image


GREY = (90, 90, 90)
KINDS = {
    "grey": (Image.new("L", (8, 8), 90), "png", GREY),
    "grey with alpha": (Image.new("LA", (8, 8), (90, 255)), "png", GREY),
    "grey, transparent": (Image.new("LA", (8, 8), (90, 0)), "png", (255, 255, 255)),
    "1 bit": (Image.new("1", (8, 8), 1), "png", (255, 255, 255)),
    "1 bit tiff": (Image.new("1", (8, 8), 0), "tif", (0, 0, 0)),
    "colour with alpha": (Image.new("RGBA", (8, 8), (10, 20, 30, 255)), "png", (10, 20, 30)),
    "half transparent": (Image.new("RGBA", (8, 8), (0, 0, 0, 128)), "webp", (127, 127, 127)),
    "palette": (palette(), "png", (10, 20, 30)),
    "palette with a transparent colour": (palette(1), "png", (255, 255, 255)),
    "palette with alpha": (palette(b"\xff\x00"), "png", (255, 255, 255)),
    "palette gif": (palette(), "gif", (10, 20, 30)),
    "16 bit": (Image.fromarray(np.full((8, 8), 90 * 257, np.uint16)), "png", GREY),
    "16 bit tiff": (Image.fromarray(np.full((8, 8), 90 * 257, np.uint16)), "tiff", GREY),
    "16 bit pgm": (Image.new("I", (8, 8), 90 * 257), "pgm", GREY),
    "CMYK": (Image.new("CMYK", (8, 8), (245, 235, 225, 0)), "tif", (10, 20, 30)),
    "CMYK jpeg": (Image.new("CMYK", (8, 8), (165, 165, 165, 0)), "jpg", GREY),
    "YCbCr": (Image.new("YCbCr", (8, 8), (90, 128, 128)), "jpg", GREY),
    "bmp": (Image.new("RGB", (8, 8), (10, 20, 30)), "BMP", (10, 20, 30)),
    "ppm": (Image.new("RGB", (8, 8), (10, 20, 30)), "ppm", (10, 20, 30)),
}  # fmt: skip


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_kinds_of_images(kind, tmp_path):
    image, ending, expected = KINDS[kind]
    root = write(tmp_path / "p")
    image.save(root / "ant" / f"00.{ending}")
    dataset = load(root)
    found = torch.cat([dataset.train.pixels, dataset.test.pixels]).float().mean((2, 3))
    wanted = torch.tensor(expected, dtype=torch.float)
    assert ((found - wanted).abs().amax(1) <= 2).any()


def test_the_first_of_several_pictures_counts(tmp_path):
    root = write(tmp_path / "p")
    frames = [Image.new("RGB", (8, 8), (value, 0, 0)) for value in (250, 100)]
    for ending in ("gif", "tif", "webp", "png"):
        path = root / "ant" / f"several.{ending}"
        frames[0].save(path, save_all=True, append_images=frames[1:], lossless=True)
        assert pictures.decode(path, 8, 3, False)[0][0, 0, 0] >= 248
    stereo = root / "bee" / "stereo.jpg"
    frames[0].save(stereo, "MPO", save_all=True, append_images=frames[1:])
    assert pictures.decode(stereo, 8, 3, False)[0][0, 0, 0] >= 248
    assert len(load(root).train) == 12


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("zero.png", b"", "zero.png: cannot identify"),
        ("text.jpg", b"hello", "text.jpg: cannot identify"),
        ("cut.png", png(8, 8, zlib.compress(b"\0" * 20)), "cut.png: "),
        ("bomb.png", png(20_000, 8_000), "bomb.png: 20000 x 8000 pixels, expected at most 80000000"),
        ("bomb2.png", png(60_000, 60_000), "bomb2.png: Image size .* exceeds limit"),
        ("script.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", "script.png: cannot identify"),
        ("wide.tif", None, "wide.tif: 32-bit pixels"),
    ],
)  # fmt: skip
def test_bad_images_are_named(name, content, message, tmp_path):
    path = write(tmp_path / "p") / "bee" / name
    if content is None:
        Image.fromarray(np.full((8, 8), 70_000, np.int32)).save(path)
    else:
        path.write_bytes(content)
    with pytest.raises(InputError, match=f"cannot read the image .*{message}.*repair or remove it"):
        load(tmp_path / "p")


def test_no_program_is_started_for_a_script_called_image(tmp_path, monkeypatch):
    """Pillow hands PostScript to an interpreter."""

    def refuse(*arguments, **options):
        raise AssertionError("a program was started")

    monkeypatch.setattr(subprocess, "check_call", refuse)
    monkeypatch.setattr(subprocess, "Popen", refuse)
    path = write(tmp_path / "p") / "ant" / "0.png"
    Image.new("RGB", (8, 8)).save(path, "EPS")
    with pytest.raises(InputError, match=r"0\.png: cannot identify"):
        load(tmp_path / "p")


def test_a_pipe_is_named_and_not_waited_for(tmp_path):
    root = write(tmp_path / "p")
    os.mkfifo(root / "ant" / "pipe.png")
    with pytest.raises(InputError, match=r"pipe\.png is not a file"):
        load(root)


def test_links_to_files_and_folders_are_followed(tmp_path):
    root = write(tmp_path / "p")
    write(tmp_path / "elsewhere", ("more", "other"))
    (root / "ant" / "link.png").symlink_to(tmp_path / "elsewhere" / "more" / "0.png")
    (root / "ant" / "below").symlink_to(tmp_path / "elsewhere" / "more")
    (root / "cat").symlink_to(tmp_path / "elsewhere" / "other")
    dataset = load(root)
    assert dataset.classes == ("ant", "bee", "cat")
    assert len(dataset.train) + len(dataset.test) == 5 + 1 + 5 + 5 + 5


@pytest.mark.parametrize("loop", ["file", "folder", "sibling", "class"])
def test_links_in_circles_are_named(loop, tmp_path):
    root = write(tmp_path / "p")
    if loop == "file":
        (root / "ant" / "x.png").symlink_to(root / "ant" / "x.png")
    elif loop == "folder":
        (root / "ant" / "x").symlink_to(root / "ant")
    elif loop == "sibling":
        (root / "ant" / "y").mkdir()
        (root / "ant" / "x").symlink_to(root / "ant" / "y")
    else:
        (root / "x").symlink_to(root / "x")
    with pytest.raises(InputError, match=r"ant/[xy]|p/x"):
        load(root)


@pytest.fixture
def foreign():
    """A folder that everyone can reach, while the process has the rights of nobody in particular."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        user = os.geteuid()
        yield Path(folder), lambda: os.seteuid(65534 if user == 0 else user)
        os.seteuid(user)
        for path, _, _ in os.walk(folder):
            os.chmod(path, 0o755)


@pytest.mark.parametrize("place", ["ant", "ant/below", "ant/0.png", "."])
def test_what_must_not_be_read_is_named(place, foreign):
    """Skipping it in silence would train on part of the data."""
    root, become_nobody = foreign
    write(root / "p")
    write(root / "p" / "ant", ("below",))
    os.chmod(root / "p" / place, 0)
    become_nobody()
    with pytest.raises(InputError, match=rf"Permission denied: '.*{place.strip('.')}'") as error:
        load(root / "p")
    assert "\n" not in str(error.value)


def test_names_of_files_and_classes(tmp_path):
    root = write(tmp_path / "p", ("ant", "Ü 蟻 🐜"))
    (root / "ant" / "0.png").rename(root / "ant" / "a\nb\udcff🐜.PnG")
    assert load(root).classes == ("ant", "Ü 蟻 🐜")
    (root / "ant").rename(root / "\udce9")
    with pytest.raises(InputError, match="is not valid UTF-8: rename it"):
        load(root)
    for name in ("\udce9", "Ü 蟻 🐜"):  # with folders of parts in those of classes
        for part in ("train", "test"):
            write(root / name, (part,))
    with pytest.raises(InputError, match="is not valid UTF-8: rename it"):
        load(root)


@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
def test_broken_exif_turns_nothing(ending, tmp_path):
    image = Image.fromarray(np.arange(64, dtype=np.uint8).repeat(3).reshape(8, 8, 3))
    for name, exif in (("plain", b""), ("broken", b"Exif\0\0garbage-garbage")):
        image.save(tmp_path / f"{name}.{ending}", exif=exif)
    found = [pictures.decode(tmp_path / f"{name}.{ending}", 8, 3, False)[0] for name in ("plain", "broken")]
    assert np.array_equal(*found)


def test_classes_of_train_and_test_are_compared_before_anything_is_read(tmp_path, monkeypatch):
    write(tmp_path / "p" / "train", ("ant", "bee", "cow"))
    write(tmp_path / "p" / "test", ("ant", "bee", "dog"))
    monkeypatch.setattr(decoding, "decode", None)
    with pytest.raises(InputError, match="differ, only under train: cow; only under test: dog"):
        load(tmp_path / "p")
    shutil.rmtree(tmp_path / "p" / "train" / "cow")
    with pytest.raises(InputError, match="differ, only under test: dog"):
        load(tmp_path / "p")


def test_more_pixels_than_memory(tmp_path, monkeypatch):
    root = write(tmp_path / "p")
    monkeypatch.setattr(os, "sysconf", lambda name: 1 if name == "SC_PHYS_PAGES" else 4096)
    dataset = load(root, size=64)  # they are in a file
    assert len(dataset.train) + len(dataset.test) == 10
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(InputError, match=r"no memory .this machine has .* or lower `image_size`"):
        load(root, size=64)


def test_files_are_decoded_a_few_at_a_time(tmp_path, monkeypatch):
    """What waits and what is held does not grow with the folder; a bad file ends the reading soon."""
    root = write(tmp_path / "p", n=30)
    (root / "ant" / "00.png").write_bytes(b"")
    monkeypatch.setattr(reading, "READ_AHEAD", 4)
    header, seen = reading.header, []
    monkeypatch.setattr(reading, "header", lambda path: seen.append(path) or header(path))
    with pytest.raises(InputError, match=r"00\.png"):
        load(root)
    assert len(seen) <= 4
    (root / "ant" / "00.png").unlink()
    dataset = load(root)
    assert len(dataset.train) + len(dataset.test) == 60
    assert sorted(
        dataset.train.pixels[:, 0, 0, 0].tolist() + dataset.test.pixels[:, 0, 0, 0].tolist()
    ) == sorted([*range(30), *range(40, 70)])


def test_loading_takes_the_memory_of_the_images_once(tmp_path):
    """600 images of 320 x 320 are 184 MB. safetensors before 0.8 copies what it writes."""
    root = tmp_path / "p"
    for name in ("ant", "bee"):
        (root / name).mkdir(parents=True)
        Image.new("RGB", (16, 16), "red").save(root / name / "0.jpg")
        for i in range(1, 300):
            os.link(root / name / "0.jpg", root / name / f"{i}.jpg")
    with little_memory(250 if tuple(map(int, version("safetensors").split(".")[:2])) >= (0, 8) else 450):
        paths = [path for files in layout.of(root).parts["all"].values() for path in files]
        pixels = decoded.read(paths, "pictures", reading.Reading(320)).pixels
    assert pixels.shape == (600, 3, 320, 320)
    assert pixels[:, 0].min() > 250
