"""Images, and data sets of them."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from nas.data.preprocessing import Preprocessing
from nas.seeding import generator
from recipes import InputError

Policy = Callable[[Any], Any]
CHUNK, CHUNK_BYTES = 1024, 32_000_000  # images, and their bytes, that are copied where all are looked at
PART_NAMES = {"train": "training", "valid": "validation", "test": "test"}


@dataclass(frozen=True)
class Images:
    """Images (N, C, H, W), uint8 or float32 in [0, 1], with labels (N,) int64.

    Attributes:
        pixels: (M, C, H, W); may lie in a file that is mapped into memory.
        rows: (N,), which of the M images these are; None: all of them, in order. With rows, a selection of
            images shares the pixels; without, it has a copy of its own.
    """

    pixels: Tensor
    labels: Tensor
    rows: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: Tensor) -> Images:
        if self.rows is None:
            return Images(self.pixels[indices], self.labels[indices])
        return Images(self.pixels, self.labels[indices], self.rows[indices])

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        _, c, h, w = self.pixels.shape
        return c, h, w

    @property
    def nbytes(self) -> int:
        """Bytes of the pixels of these images."""
        return len(self) * math.prod(self.shape) * self.pixels.element_size()

    def read(self, indices: Tensor) -> Tensor:
        """Pixels (B, H, W, C) of some of the images, a copy."""
        rows = indices if self.rows is None else self.rows[indices]
        return self.pixels.permute(0, 2, 3, 1).index_select(0, rows)

    def chunks(self) -> Iterator[Tensor]:
        """Pixels (B, C, H, W) of all images, a part at a time."""
        if self.rows is None:
            yield from self.pixels.split(CHUNK)  # nothing is copied
            return
        image = self.nbytes // max(1, len(self))
        for indices in torch.arange(len(self)).split(max(1, min(CHUNK, CHUNK_BYTES // image))):
            yield self.read(indices).permute(0, 3, 1, 2)

    def digest(self) -> int:
        """CRC-32 of all pixels."""
        found = 0
        for part in self.chunks():
            found = zlib.crc32(part.contiguous().numpy().data, found)
        return found


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
    """A data set with its parts and the augmentation that suits it.

    Attributes:
        valid: the part that serves the architecture steps of a search, and is watched in final training;
            None: a search divides the training images.
        scale: values in the files that count as 0 and 1; None: those of the pixels themselves.
        notes: what else was understood of the files, in a few words each: parts, what was left out.
        deep, reduced: see Preprocessing; of image files.
    """

    name: str
    train: Images
    test: Images
    classes: tuple[str, ...]
    augmentation: Augmentation
    valid: Images | None = None
    scale: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()
    deep: bool | None = None
    reduced: tuple[float, float] | None = None

    @property
    def in_channels(self) -> int:
        """Channels of an image."""
        return self.train.shape[0]

    @property
    def parts(self) -> dict[str, Images]:
        """The parts that there are, by name: train, valid, test."""
        own = {} if self.valid is None else {"valid": self.valid}
        return {"train": self.train} | own | {"test": self.test}

    def of_parts(self, change: Callable[[Images], Images]) -> DataSet:
        """The data set with `change` of each part."""
        changed = {name: change(part) for name, part in self.parts.items()}
        return replace(self, train=changed["train"], test=changed["test"], valid=changed.get("valid"))

    def __repr__(self) -> str:
        return describe(self)

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """What a network that is trained on this data set needs of an image."""
        mean, std = self.statistics()
        c, h, w = self.train.shape
        low, high = self.scale or (0.0, 255.0 if self.train.pixels.dtype == torch.uint8 else 1.0)
        return Preprocessing((h, w), c, tuple(mean), tuple(std), (low, high), self.deep, self.reduced)

    def statistics(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each channel over the training images, in [0, 1]."""
        if self.train.pixels.dtype == torch.uint8:
            counts = torch.zeros(self.in_channels, 256, dtype=torch.float64)
            for part in self.train.chunks():
                counts += torch.stack(
                    [torch.bincount(c.flatten(), minlength=256) for c in part.unbind(1)]
                ).cpu()
            values = torch.arange(256, dtype=torch.float64) / 255
            p = counts / counts.sum(1, keepdim=True)
            mean = (p * values).sum(1)
            variance = (p * values.square()).sum(1) - mean.square()
        else:
            count = len(self.train) * math.prod(self.train.shape[1:])
            mean = torch.stack([x.double().sum((0, 2, 3)) for x in self.train.chunks()]).sum(0) / count
            centred = (x.double() - mean.view(-1, 1, 1) for x in self.train.chunks())
            variance = torch.stack([x.square().sum((0, 2, 3)) for x in centred]).sum(0) / count
        return mean.tolist(), variance.clamp_min(1e-8).sqrt().tolist()


def describe(dataset: DataSet) -> str:
    """What was understood, in one line: parts, size, classes, images of a class, and the notes."""
    sizes = [(PART_NAMES[name], len(part)) for name, part in dataset.parts.items()]
    *first, last = [f"{count} {name}" for name, count in sizes]
    shape = " x ".join(map(str, dataset.train.shape))
    kind = str(dataset.train.pixels.dtype).removeprefix("torch.")
    counts = torch.bincount(dataset.train.labels, minlength=len(dataset.classes))
    few, many = int(counts.min()), int(counts.max())
    each = f"{few}" if few == many else f"{few} to {many}"
    text = (
        f"{dataset.name}: {', '.join(first)} and {last} images ({shape}, {kind}) of "
        f"{len(dataset.classes)} classes, {each} training image{'s'[: many != 1]} each"
    )
    return "; ".join([text, *dataset.notes])


def set_aside(images: Images, test_fraction: float, title: str) -> tuple[Images, Images, str]:
    """Images to train on, a test part of `test_fraction` of each class, always the same, and a note of it.

    Raises:
        InputError: there are too few.
    """
    rest, aside = split(images.labels, test_fraction, seed=0)
    if len(aside) == 0 or len(rest) == 0:
        raise InputError(
            f"data set '{title}' has too few images, {len(images)}, to set `test_fraction` of them aside "
            "for a test: add more"
        )
    note = f"no test part: {100 * test_fraction:g} % of each class set aside (`test_fraction`)"
    return images[rest], images[aside], note


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
