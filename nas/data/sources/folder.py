"""Folders of image files, one for each class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from nas.data.images import Augmentation, DataSet, Images, set_aside
from nas.data.sources import decoded, layout
from nas.data.sources.reading import Reading
from recipes import InputError


def load(*, path: Path, reading: Reading, test_fraction: float) -> DataSet:
    """Images in class folders, under folders of parts or all together, resized to a square."""
    try:
        if not path.is_dir():
            raise InputError(
                f"data set folder '{path}' does not exist, expected a folder of class folders: "
                "correct the path"
            )
        found = layout.of(path)
        dataset = of_files(
            f"folder:{path.resolve().name}", found.parts, found.classes, str(path), reading, test_fraction
        )
    except OSError as error:
        raise InputError(
            f"cannot read the data set folder '{str(path)[:200]}': {error}; check the path and your "
            "rights to read it"
        ) from None
    files = sum(len(files) for classes in found.parts.values() for files in classes.values())
    lost = files - sum(len(part) for part in dataset.parts.values())
    notes = (*found.notes, *dataset.notes, *found.left.notes(unreadable=lost))
    return replace(dataset, notes=notes)


def of_files(
    name: str,
    parts: Mapping[str, Mapping[str, list[Path]]],
    classes: tuple[str, ...],
    title: str,
    reading: Reading,
    test_fraction: float,
) -> DataSet:
    """The data set of image files.

    Args:
        parts: files of every class, all classes in the same order, by part; `all` is to be divided.
        title: what they are, for messages.

    Raises:
        InputError: a file cannot be read, or a part has too few images.
        OSError: as well.
    """
    paths = [path for part in parts.values() for files in part.values() for path in files]
    pixels = decoded.read(paths, title, reading)
    images: dict[str, Images] = {}
    start = 0
    for part, found in parts.items():
        counts = torch.tensor([len(files) for files in found.values()])
        labels = torch.arange(len(counts)).repeat_interleave(counts)
        images[part] = pixels.images(start, labels)
        start += len(labels)
        if part in ("train", "all"):
            _require_classes(images[part].labels, classes, title)
    augmentation = Augmentation(crop_padding=max(1, reading.size // 8), flip=True)
    dataset = complete(name, images, classes, augmentation, test_fraction, title, pixels.scale, pixels.notes)
    return replace(dataset, deep=pixels.deep, reduced=pixels.reduced)


def complete(
    name: str,
    images: Mapping[str, Images],
    classes: tuple[str, ...],
    augmentation: Augmentation,
    test_fraction: float,
    title: str,
    scale: tuple[float, float] | None = None,
    notes: tuple[str, ...] = (),
) -> DataSet:
    """The data set of these parts; where there is no test part, one is set aside. Raises InputError."""
    parts = dict(images)
    rest = parts.pop("all", None) or parts["train"]
    if "test" not in parts:
        rest, parts["test"], note = set_aside(rest, test_fraction, title)
        notes = (note, *notes)
    return DataSet(name, rest, parts["test"], classes, augmentation, parts.get("valid"), scale, notes)


def _require_classes(labels: Tensor, classes: tuple[str, ...], title: str) -> None:
    """Raise InputError where no file of a class can be read."""
    counts = torch.bincount(labels, minlength=len(classes))
    if empty := [classes[i] for i in (counts == 0).nonzero().flatten().tolist()]:
        raise InputError(
            f"no image of the class '{empty[0]}' of {title} can be read: repair them, or drop it"
        )
