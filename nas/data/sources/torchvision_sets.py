"""Data sets that torchvision reads and downloads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from nas.data.images import Augmentation, DataSet, Images
from nas.data.sources.folder import of_files
from nas.data.sources.reading import Reading
from recipes import InputError, first_line


class VisionSet(NamedTuple):
    """A data set of torchvision.

    Attributes:
        type: name of its class.
        parts: arguments of the class for each part.
        augmentation: None for image files, which are resized and get that of folders.
    """

    type: str
    parts: dict[str, dict[str, Any]]
    augmentation: Augmentation | None = None


_BY_TRAIN = {"train": {"train": True}, "test": {"train": False}}
_BY_SPLIT = {"train": {"split": "train"}, "test": {"split": "test"}}
SETS = {
    "cifar10": VisionSet("CIFAR10", _BY_TRAIN, Augmentation(crop_padding=4, flip=True)),
    "cifar100": VisionSet("CIFAR100", _BY_TRAIN, Augmentation(crop_padding=4, flip=True)),
    "mnist": VisionSet("MNIST", _BY_TRAIN, Augmentation(crop_padding=2)),
    "fashion_mnist": VisionSet("FashionMNIST", _BY_TRAIN, Augmentation(crop_padding=2, flip=True)),
    "kmnist": VisionSet("KMNIST", _BY_TRAIN, Augmentation(crop_padding=2)),
    "svhn": VisionSet("SVHN", _BY_SPLIT, Augmentation(crop_padding=4)),
    "stl10": VisionSet("STL10", _BY_SPLIT, Augmentation(crop_padding=12, flip=True)),
    "oxford_pets": VisionSet("OxfordIIITPet", {"train": {"split": "trainval"}, "test": {"split": "test"}}),
    "flowers102": VisionSet("Flowers102", {part: {"split": s} for part, s in
                                       (("train", "train"), ("valid", "val"), ("test", "test"))}),
    "food101": VisionSet("Food101", _BY_SPLIT),
}  # fmt: skip
"""Their names here."""


def load(name: str, *, data_root: Path, download: bool, reading: Reading, test_fraction: float) -> DataSet:
    """One of SETS, as torchvision finds it in `data_root`."""
    from torchvision import datasets

    known = SETS[name]
    if known.augmentation is not None:
        reading.require_no_range(name)
    try:
        parts = {
            part: getattr(datasets, known.type)(str(data_root), download=download, **arguments)
            for part, arguments in known.parts.items()
        }
    except (RuntimeError, OSError, AttributeError, ImportError, ValueError) as error:
        raise InputError(
            f"data set '{name}' is missing or damaged in {data_root}, expected torchvision's files of "
            f"{known.type} there: give `download`, or `data_root=FOLDER` ({first_line(error)})"
        ) from None
    if known.augmentation is not None:
        images = {part: _images(found) for part, found in parts.items()}
        classes = _classes(parts["train"], int(images["train"].labels.max()) + 1)
        return DataSet(
            name, images["train"], images["test"], classes, known.augmentation, images.get("valid")
        )
    labels = {part: _labels(found) for part, found in parts.items()}
    classes = _classes(parts["train"], max(map(max, labels.values())) + 1)
    files = {
        part: {
            c: [p for p, y in zip(_files(found), labels[part], strict=True) if y == i]
            for i, c in enumerate(classes)
        }
        for part, found in parts.items()
    }
    try:
        return of_files(name, files, classes, str(data_root), reading, test_fraction)
    except OSError as error:
        raise InputError(
            f"data set '{name}' cannot be read in {data_root}: {error}; give `download`, or "
            "`data_root=FOLDER`"
        ) from None


def _images(found: Any) -> Images:
    """Of a data set that holds its pixels, (N, H, W), (N, H, W, 3) or (N, C, H, W)."""
    pixels = torch.as_tensor(np.asarray(found.data))
    if pixels.dim() == 3:
        pixels = pixels.unsqueeze(1)
    elif pixels.shape[3] == 3:
        pixels = pixels.permute(0, 3, 1, 2)
    return Images(pixels.contiguous(), torch.tensor(_labels(found)))


def _labels(found: Any) -> list[int]:
    for name in ("targets", "labels", "_labels"):
        if (labels := getattr(found, name, None)) is not None:
            return [int(label) for label in labels]
    raise InputError(
        f"this torchvision keeps no labels in {type(found).__name__}: install one of 0.23 to 0.28"
    )


def _files(found: Any) -> Sequence[Path]:
    for name in ("_image_files", "_images"):
        if (files := getattr(found, name, None)) is not None:
            return [Path(file) for file in files]
    raise InputError(
        f"this torchvision keeps no files in {type(found).__name__}: install one of 0.23 to 0.28"
    )


def _classes(found: Any, count: int) -> tuple[str, ...]:
    """Names of the classes; their numbers where torchvision has none."""
    names = getattr(found, "classes", None)
    return tuple(map(str, names)) if names and len(names) == count else tuple(map(str, range(count)))
