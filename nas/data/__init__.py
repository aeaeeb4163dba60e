"""Image data: uint8 tensors that live on the training device and are augmented there, batched."""

from __future__ import annotations

import hashlib
import math
import os
import stat
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from nas.compat import prepare_torchvision
from nas.runs.files import atomic_path, cache_folder
from nas.seeding import derive_seed, generator, seed_everything
from recipes import InputError, RunOptions, first_line, one_of

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
IMAGE_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM")  # others could start a program: EPS
LARGEST_IMAGE = 80_000_000  # pixels of an image: above, a small file can fill the memory
READ_AHEAD = 1024  # files that wait to be decoded
EVALUATION_BATCH = 256
Policy = Callable[[Any], Any]


@dataclass(frozen=True)
class Images:
    """Images (N, C, H, W) uint8 with labels (N,) int64."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: Tensor) -> Images:
        return Images(self.pixels[indices], self.labels[indices])


@dataclass(frozen=True)
class Augmentation:
    """Training-time augmentation.

    Attributes:
        crop_padding: pixels of black padding before a random crop of the original size.
        flip: mirror half of the images.
        cutout: side in pixels of a blanked square; 0: none.
        policy: PIL image -> PIL image, applied one by one on the CPU before the others.
    """

    crop_padding: int = 0
    flip: bool = False
    cutout: int = 0
    policy: Policy | None = None


@dataclass(frozen=True)
class DataSet:
    """A data set with its training and test images and the augmentation that suits it."""

    name: str
    train: Images
    test: Images
    classes: tuple[str, ...]
    augmentation: Augmentation

    @property
    def in_channels(self) -> int:
        """Colour channels of an image."""
        return self.train.pixels.shape[1]

    def statistics(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each channel over the training images, in [0, 1]."""
        counts = torch.zeros(self.in_channels, 256, dtype=torch.float64)
        for part in self.train.pixels.split(1024):  # so that only a part is ever copied
            counts += torch.stack([torch.bincount(c.flatten(), minlength=256) for c in part.unbind(1)])
        values = torch.arange(256, dtype=torch.float64) / 255
        p = counts / counts.sum(1, keepdim=True)
        mean = (p * values).sum(1)
        std = ((p * values.square()).sum(1) - mean.square()).clamp_min(1e-8).sqrt()
        return mean.tolist(), std.tolist()


@dataclass(frozen=True)
class Delivery:
    """How batches are handed to a network.

    Attributes:
        device: where they go.
        mean, std: per channel, of values in [0, 1].
        resident: keep the pixels on `device`; otherwise on the host, and pin each batch.
        channels_last: memory order of the batches.
    """

    device: torch.device
    mean: list[float]
    std: list[float]
    resident: bool = True
    channels_last: bool = True


def delivery(dataset: DataSet, options: RunOptions, device: torch.device) -> Delivery:
    """What the options ask for; the data are resident unless they are larger than the budget."""
    size = dataset.train.pixels.numel() + dataset.test.pixels.numel()
    resident = size <= options.data_budget_gb * 1e9
    return Delivery(device, *dataset.statistics(), resident, options.channels_last)


class Batches:
    """Normalised batches of `images`.

    Args:
        images: the part of the data to read.
        batch_size: images a batch.
        delivery: where and how they are wanted.
        augmentation: given for parts that are trained on: `epoch` and `endless` shuffle and augment
            them, and leave out a last batch that would be smaller. Iteration gives all images,
            unaugmented, in batches of nearly equal size; their order is fixed but mixed, because a
            supernet normalises with the batch at hand, and files come sorted by class.
        seed: of order and augmentation, which are functions of (seed, epoch, batch).
        part: (r, n) makes `epoch` and `endless` give only slice r of n of every batch, exactly as it is in
            the whole batch.
    """

    def __init__(
        self,
        images: Images,
        batch_size: int,
        delivery: Delivery,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        rank, ranks = part
        if ranks > 1 and (batch_size % ranks or batch_size < 2 * ranks):
            raise InputError(
                f"--batch-size is {batch_size}, expected a multiple of the {ranks} ranks and at least "
                f"{2 * ranks}: they share every batch"
            )
        self.part = slice(rank * (batch_size // ranks), (rank + 1) * (batch_size // ranks))
        if augmentation is not None and len(images) < batch_size:
            advice = f"lower --batch-size to at most {len(images)}" if len(images) > 1 else "use more images"
            raise InputError(
                f"the data set has {len(images)} images for this part of the training, too few for "
                f"one batch of {batch_size}: {advice}"
            )
        self.batch_size, self.augmentation, self.seed = batch_size, augmentation, seed
        self.delivery, device = delivery, delivery.device
        # Channels last, so that a row of an image is a run of bytes.
        pixels, labels = images.pixels.contiguous(memory_format=torch.channels_last), images.labels
        if delivery.resident:
            pixels, labels = pixels.to(device), labels.to(device)
        self.images = Images(pixels, labels)
        self.home = pixels.device
        # Per value of an image (H, W, C): a short last dimension to broadcast over would be slow.
        _, c, h, w = pixels.shape
        scale = torch.tensor([1 / (255 * s) for s in delivery.std])
        shift = torch.tensor([-m / s for m, s in zip(delivery.mean, delivery.std, strict=True)])
        self.scale, self.shift = (x.expand(h, w, c).contiguous().to(device) for x in (scale, shift))

    def __len__(self) -> int:
        """Batches in an epoch of training."""
        return len(self.images) // self.batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches for evaluation: (B, C, H, W) float32 and labels (B,)."""
        return self.evaluation(0, 1)

    def evaluation(self, first: int, every: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Each `every`-th batch for evaluation, from batch `first` on."""
        count = math.ceil(len(self.images) / max(self.batch_size, EVALUATION_BATCH))
        order = torch.randperm(len(self.images), generator=generator(self.seed, "evaluation order"))
        for indices in order.to(self.home).tensor_split(count)[first::every]:
            yield self._finish(self._read(indices)), self._move(self.images.labels[indices])

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The shuffled, augmented batches of `epoch` from batch `start` on, as in `__iter__`."""
        assert self.augmentation is not None
        order = torch.randperm(len(self.images), generator=generator(self.seed, "order", epoch))
        order = order.to(self.home)
        rng = torch.Generator(self.home)
        for step in range(start, len(self)):
            rng.manual_seed(derive_seed(self.seed, "augmentation", epoch, step))
            indices = order[step * self.batch_size : (step + 1) * self.batch_size][self.part]
            yield self._augmented(indices, self.augmentation, rng, (epoch, step))

    def endless(self, step: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of epoch after epoch, from batch number `step` on."""
        epoch, start = divmod(step, len(self))
        while True:
            yield from self.epoch(epoch, start)
            epoch, start = epoch + 1, 0

    def _augmented(
        self, indices: Tensor, augmentation: Augmentation, rng: torch.Generator, position: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        pixels = self._read(indices)
        if augmentation.policy is not None:
            pixels = self._apply_policy(pixels, augmentation.policy, position)
        noise = _Noise(self.batch_size, self.part, rng)
        x = self._finish(_crop_and_flip(pixels, augmentation, noise))
        if augmentation.cutout:
            x *= _cutout_mask(x, augmentation.cutout, noise).to(x.device)
        return x, self._move(self.images.labels[indices])

    def _read(self, indices: Tensor) -> Tensor:
        """Pixels (B, H, W, C) uint8 of the images."""
        return self.images.pixels.permute(0, 2, 3, 1).index_select(0, indices)

    def _apply_policy(self, pixels: Tensor, policy: Policy, position: tuple[int, int]) -> Tensor:
        """(B, H, W, C) uint8, one by one through PIL."""
        from PIL import Image

        out = []
        for i, image in enumerate(pixels.cpu().numpy(), self.part.start):
            seed_everything(self.seed, "image policy", *position, i)  # it draws from the global generators
            picture = Image.fromarray(image if image.shape[2] == 3 else np.repeat(image, 3, 2))
            try:
                out.append(np.asarray(policy(picture))[:, :, : image.shape[2]])
            except (ValueError, TypeError, OSError) as error:
                raise InputError(f"the policy of --auto-augment fails on these images: {error}") from None
        return torch.from_numpy(np.stack(out)).to(pixels.device)

    def _finish(self, pixels: Tensor) -> Tensor:
        """(B, H, W, C) uint8 to normalised (B, C, H, W) float32."""
        x = self._move(pixels).float()
        x = torch.addcmul(self.shift, x, self.scale, out=x).permute(0, 3, 1, 2)
        return x if self.delivery.channels_last else x.contiguous()

    def _move(self, x: Tensor) -> Tensor:
        if self.delivery.resident or self.delivery.device.type == "cpu":
            return x
        return x.pin_memory().to(self.delivery.device, non_blocking=True)


class _Noise(NamedTuple):
    """Random numbers for the images of a batch, of which a slice is wanted."""

    size: int
    part: slice
    rng: torch.Generator

    def uniform(self, count: int) -> Tensor:
        """(count, b, 1) in [0, 1)."""
        return torch.rand(count, self.size, 1, generator=self.rng, device=self.rng.device)[:, self.part]

    def integers(self, end: int, count: int) -> Tensor:
        """(count, b, 1) from 0 to end - 1."""
        shape = (count, self.size, 1)
        return torch.randint(0, end, shape, generator=self.rng, device=self.rng.device)[:, self.part]


def _crop_and_flip(pixels: Tensor, augmentation: Augmentation, noise: _Noise) -> Tensor:
    """Random crop of the padded image, then mirrored or not: (B, H, W, C) to the same."""
    b, h, w, c = pixels.shape
    pad, device = augmentation.crop_padding, pixels.device
    high, wide = h + 2 * pad, w + 2 * pad
    version = top = left = torch.zeros(b, dtype=torch.long, device=device)
    if augmentation.flip:
        version = (noise.uniform(1)[0, :, 0] < 0.5).long()
    if pad:
        top, left = noise.integers(2 * pad + 1, 2).squeeze(2)
    # All images, padded, then all of them mirrored. A crop is a window that begins at one of the pixels.
    padded = pixels.new_zeros(1 + augmentation.flip, b, high, wide, c)
    inner = padded[:, :, pad : pad + h, pad : pad + w]
    inner[0] = pixels
    if augmentation.flip:
        inner[1] = pixels.flip(2)
        left = torch.where(version == 1, 2 * pad - left, left)
    begin = ((version * b + torch.arange(b, device=device)) * high + top) * wide + left
    beginnings = padded.numel() // c - (h - 1) * wide - w + 1
    windows = padded.as_strided((beginnings, h, w * c), (c, wide * c, 1))
    return windows.index_select(0, begin).view(b, h, w, c)


def _cutout_mask(x: Tensor, side: int, noise: _Noise) -> Tensor:
    """(B, C, H, W) in channels-last order, 0 in a square around a random pixel (DeVries & Taylor, arXiv
    1708.04552)."""
    b, c, h, w = x.shape
    inside = []
    for at, size, repeats in zip(noise.uniform(2), (h, w), (1, c), strict=True):
        start = (at * size).long() - side // 2
        position = torch.arange(size, device=at.device).repeat_interleave(repeats)
        inside.append(((position >= start) & (position < start + side)).float())
    keep: Tensor = 1 - inside[0].unsqueeze(2) * inside[1].unsqueeze(1)
    return keep.view(b, h, w, c).permute(0, 3, 1, 2)


def split(labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Disjoint sorted indices (rest, part) of (N,) labels, `part` holding `fraction` of each class.

    A class of two or more images is in both.
    """
    rng = generator(seed, "split")
    part = []
    for label in range(int(labels.max()) + 1):
        members = (labels == label).nonzero().squeeze(1)
        members = members[torch.randperm(len(members), generator=rng)]
        count = round(fraction * len(members))
        part.append(members[: min(max(count, 1), len(members) - 1) if len(members) > 1 else count])
    chosen = torch.cat(part).sort().values
    mask = torch.ones(len(labels), dtype=torch.bool)
    mask[chosen] = False
    return mask.nonzero().squeeze(1), chosen


def load(options: RunOptions) -> DataSet:
    """The data set that the options name, on the CPU. Raises InputError."""
    name, _, path = options.dataset.partition(":")
    one_of("data set", name, ["digits", "cifar10", "cifar100", "folder"])
    if name == "folder":
        try:
            data = _folder(Path(path), options.image_size, options.test_fraction)
        except OSError as error:
            raise InputError(f"cannot read the data set folder '{path[:200]}': {error}") from None
    elif path:
        raise InputError(f"data set '{options.dataset}' is malformed: only folder takes a path")
    else:
        data = (
            _digits(options.test_fraction)
            if name == "digits"
            else _cifar(name, Path(options.data_root), options.download)
        )
    augmentation = replace(data.augmentation, cutout=options.cutout)
    if options.flip is not None:
        augmentation = replace(augmentation, flip=options.flip)
    if options.crop_padding is not None:
        augmentation = replace(augmentation, crop_padding=options.crop_padding)
    data = replace(data, augmentation=augmentation)
    if options.train_limit is not None and options.train_limit < len(data.classes):
        raise InputError(
            f"--train-limit is {options.train_limit}, expected at least one image for each of the "
            f"{len(data.classes)} classes"
        )
    if options.train_limit is not None and options.train_limit < len(data.train):
        fraction = options.train_limit / len(data.train)
        data = replace(data, train=data.train[split(data.train.labels, fraction, seed=0)[1]])
    return data


def _digits(test_fraction: float) -> DataSet:
    """scikit-learn's 1,797 grey 8x8 digits (UCI, 1998), a fixed stratified part of them for test."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = torch.from_numpy(np.round(digits.images * (255 / 16)).astype(np.uint8)).unsqueeze(1)
    images = Images(pixels, torch.from_numpy(digits.target.astype(np.int64)))
    train, test = split(images.labels, test_fraction, seed=0)
    classes = tuple(str(digit) for digit in range(10))
    return DataSet("digits", images[train], images[test], classes, Augmentation(crop_padding=1))


def _cifar(name: str, root: Path, download: bool) -> DataSet:
    prepare_torchvision()
    from torchvision import datasets

    dataset_class = datasets.CIFAR10 if name == "cifar10" else datasets.CIFAR100
    try:
        parts = [dataset_class(str(root), train=train, download=download) for train in (True, False)]
    except (RuntimeError, OSError) as error:
        raise InputError(
            f"data set '{name}' is missing or damaged in {root}, expected torchvision's files there: "
            f"give --download, or --data-root FOLDER ({first_line(error)})"
        ) from None
    train, test = (
        Images(torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(part.targets))
        for part in parts
    )
    return DataSet(name, train, test, tuple(parts[0].classes), Augmentation(crop_padding=4, flip=True))


def _folder(root: Path, size: int, test_fraction: float) -> DataSet:
    """Images in class folders, under train/ and test/ or all together, resized to size x size RGB."""
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
            f"{there / 1e9:.1f} GB of this machine: lower --image-size"
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
