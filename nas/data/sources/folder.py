"""Folders of image files, one for each class."""

from __future__ import annotations

import hashlib
import math
import os
import stat
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from nas.data.images import Augmentation, DataSet, Images, split
from nas.data.preprocessing import Preprocessing
from nas.runs.files import atomic_path, cache_folder
from recipes import InputError, first_line

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
IMAGE_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM")  # others could start a program: EPS
LARGEST_IMAGE = 80_000_000  # pixels of an image: above, a small file can fill the memory
READ_AHEAD = 1024  # files that wait to be decoded


def load(*, path: Path, image_size: int, test_fraction: float) -> DataSet:
    """Images in class folders, under train/ and test/ or all together, resized to a square of RGB."""
    try:
        return _load(path, image_size, test_fraction)
    except OSError as error:
        raise InputError(f"cannot read the data set folder '{str(path)[:200]}': {error}") from None


def _load(root: Path, size: int, test_fraction: float) -> DataSet:
    if not root.is_dir():
        raise InputError(f"data set folder '{root}' does not exist, expected a folder of class folders")
    augmentation = Augmentation(crop_padding=max(1, size // 8), flip=True)
    name = f"folder:{root.resolve().name}"
    if (root / "train").is_dir():
        if not (root / "test").is_dir():
            raise InputError(f"data set folder '{root}' has train/ but no test/: add it, or drop train/")
        files, test_files = _class_folders(root / "train"), _class_folders(root / "test")
        if list(files) != list(test_files):
            alone = [
                f"only under {part}: {', '.join(sorted(names)[:5])}"
                for part, names in (("train", files.keys() - test_files), ("test", test_files.keys() - files))
                if names
            ]
            raise InputError(f"classes under {root}/train and {root}/test differ, {'; '.join(alone)}")
        train, test = _read(root / "train", files, size), _read(root / "test", test_files, size)
        return DataSet(name, train, test, tuple(files), augmentation)
    files = _class_folders(root)
    images = _read(root, files, size)
    rest, part = split(images.labels, test_fraction, seed=0)
    if len(part) == 0:
        raise InputError(f"data set folder '{root}' has too few images to set some aside for a test")
    return DataSet(name, images[rest], images[part], tuple(files), augmentation)


def picture_files(path: Path) -> list[Path]:
    """The image files in a folder, sorted, or the file that the path is. Raises InputError where there are
    none."""
    if not path.is_dir():
        return [path]
    try:
        found = sorted(_image_files(path))
    except OSError as error:
        raise InputError(f"cannot read the folder {path}: {error}") from None
    if not found:
        raise InputError(f"the folder {path} has no images ({', '.join(IMAGE_ENDINGS)})")
    return found


def picture(path: Path, wanted: Preprocessing) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The image in a file as those that a network was trained on, (C, H, W).

    Raises:
        InputError: it cannot be read, or the network was trained on what no file of this kind holds.
    """
    from PIL import Image

    rows, columns = wanted.image_size
    if rows != columns or wanted.in_chans not in (1, 3):
        raise InputError(
            f"the network was trained on images of {wanted.in_chans} channels and {rows} x {columns} pixels, "
            "which were no files: call it with tensors"
        )
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is not a file")  # reading a pipe would wait for ever
    image = _decode(path, rows)
    if wanted.in_chans == 1:
        return np.asarray(Image.fromarray(image).convert("L"))[None]
    return image.transpose(2, 0, 1)


def _class_folders(root: Path) -> dict[str, list[Path]]:
    """The image files of every class under `root`, both sorted."""
    entries = [p for p in root.iterdir() if not p.name.startswith(".")]
    for link in entries:
        if link.is_symlink() and not link.exists():
            raise InputError(f"{link} is a link to nothing: repair or remove it")
    classes = sorted(p.name for p in entries if p.is_dir())
    if len(classes) < 2:
        raise InputError(f"{root} has {len(classes)} class folders, expected at least 2")
    files = {}
    for name in classes:
        if name.encode(errors="replace").decode() != name:
            raise InputError(f"the name of the class folder {root / name} is not valid UTF-8: rename it")
        files[name] = sorted(_image_files(root / name))
        if not files[name]:
            raise InputError(f"class folder {root / name} has no images ({', '.join(IMAGE_ENDINGS)})")
    return files


def _image_files(folder: Path) -> Iterator[Path]:
    """The files in `folder`, below it and behind links, that count as images by their ending, but for
    what is hidden."""

    def fail(error: OSError) -> None:
        raise error

    seen = set()
    for place, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in seen:
            raise InputError(f"{place} leads to a folder that {folder} holds already: remove that link")
        seen.add((status.st_dev, status.st_ino))
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if name.lower().endswith(IMAGE_ENDINGS) and not name.startswith("."):
                yield Path(place, name)


def _read(root: Path, files: dict[str, list[Path]], size: int) -> Images:
    """The images of all classes; decoded once per state of the folder, and cached."""
    paths = [path for found in files.values() for path in found]
    counts = torch.tensor([len(found) for found in files.values()])
    labels = torch.arange(len(counts)).repeat_interleave(counts)
    fingerprint = hashlib.sha256(os.fsencode(root.resolve()) + f" {size}".encode())
    for path in paths:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path} is not a file: remove it")  # reading a pipe would wait for ever
        fingerprint.update(os.fsencode(path.relative_to(root)))
        fingerprint.update(f" {status.st_size} {status.st_mtime_ns}\n".encode())
    cached = cache_folder() / f"{fingerprint.hexdigest()[:32]}.safetensors"
    try:
        pixels = load_file(cached)["pixels"]
        if pixels.shape == (len(paths), 3, size, size) and pixels.dtype == torch.uint8:
            return Images(pixels, labels)
    except (OSError, SafetensorError, KeyError):
        pass  # not decoded yet, or damaged: decode and write it again
    pixels = _decode_all(root, paths, size)
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(cached) as temporary:
            save_file({"pixels": pixels}, temporary)
    except (OSError, SafetensorError) as error:
        print(f"note: the decoded images of {root} are not cached: {error}", file=sys.stderr)
    return Images(pixels, labels)


def _decode_all(root: Path, paths: list[Path], size: int) -> Tensor:
    """Pixels (N, 3, size, size) of the files. Takes the memory of the result and, for each thread, that of
    one image as it comes."""
    needed, there = len(paths) * 3 * size**2, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise InputError(
            f"the {len(paths)} images of {root} take {needed / 1e9:.1f} GB in this size, more than the "
            f"{there / 1e9:.1f} GB of this machine: lower `image_size`"
        )
    pixels = np.empty((len(paths), 3, size, size), np.uint8)

    def decode(i: int) -> None:
        pixels[i] = _decode(paths[i], size).transpose(2, 0, 1)

    progress = tqdm(total=len(paths), desc=f"decoding {root}", disable=None, unit="image")
    with progress, warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        warnings.simplefilter("ignore")  # about harmless flaws, such as unreadable notes of a camera
        for start in range(0, len(paths), READ_AHEAD):
            chunk = range(start, min(start + READ_AHEAD, len(paths)))
            for _ in pool.map(decode, chunk):
                progress.update()
    return torch.from_numpy(pixels)


def _decode(path: Path, size: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The image in a file, upright, on white, as (size, size, 3) uint8. Raises InputError."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path, formats=IMAGE_FORMATS) as opened:
            if math.prod(opened.size) > LARGEST_IMAGE:
                raise ValueError(f"{opened.width} x {opened.height} pixels, expected at most {LARGEST_IMAGE}")
            image = ImageOps.exif_transpose(opened)
            if image.mode == "F":
                raise ValueError("floating-point pixels have no defined range, expected 8 or 16 bits")
            if image.mode.startswith("I"):
                values = np.asarray(image)
                if values.min() < 0 or values.max() > 65535:
                    raise ValueError("32-bit pixels have no defined range, expected 8 or 16 bits")
                image = Image.fromarray((values / 257).round().astype(np.uint8))
            if image.has_transparency_data:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            image = image.convert("RGB")
            return np.asarray(image if image.size == (size, size) else image.resize((size, size)))
    except Exception as error:  # a decoder may end in any of them on a damaged file
        raise InputError(f"cannot read the image {path}: {first_line(error)}; repair or remove it") from None
