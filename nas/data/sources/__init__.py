"""Where images come from: a file for each source, and `load`, which takes a name or what the user holds."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from nas.data.images import DataSet, Images, split
from nas.data.names import quoted
from nas.data.sources import arrays, digits, folder, imagenet16, listed, memory, torchvision_sets
from nas.data.sources.pictures import LUMA
from nas.data.sources.reading import Reading
from recipes import InputError
from recipes.registry import Registry

Source = Callable[..., Any]
ARGUMENTS = (
    "path", "data_root", "download", "image_size", "test_fraction", "channels_in", "pixel_range",
    "bad_images", "reading",
)  # fmt: skip
"""What a source may ask for."""
SOURCES: Registry[Source] = Registry(
    "data set",
    {
        "digits": digits.load,
        **{name: partial(torchvision_sets.load, name) for name in torchvision_sets.SETS},
        "imagenet16-120": imagenet16.load,
        "folder": folder.load,
        "csv": listed.load,
        "arrays": arrays.load,
    },
)


def register(name: str, source: Source) -> Source:
    """Make `source` the data set of that name, and return it.

    Args:
        source: returns a DataSet, or anything else that `load` takes but a name. It is given by keyword
            those of these arguments that it has: `path` (Path, what follows the colon of `NAME:PATH`; where
            nothing does, it keeps its default), `data_root` (Path), `download`, `image_size`,
            `test_fraction`, `channels_in`, `pixel_range`, `bad_images`, and `reading` (Reading, the last
            three and `image_size` in one).

    Raises:
        ValueError: the name is taken or malformed, or `source` is no function or needs another argument.
    """
    if not callable(source):
        raise ValueError(f"data set {name!r} is a {type(source).__name__}, expected a function that loads it")
    for parameter in inspect.signature(source).parameters.values():
        if parameter.default is parameter.empty and parameter.name not in ARGUMENTS:
            raise ValueError(
                f"data set {name!r} needs {parameter.name!r}, expected any of: {', '.join(ARGUMENTS)}"
            )
    return SOURCES.register(name, source)


def load(
    data: Any,
    *,
    data_root: str | Path = "data",
    download: bool = False,
    image_size: int = 32,
    test_fraction: float = 0.2,
    channels_in: str = "auto",
    pixel_range: str = "auto",
    bad_images: str = "refuse",
    classes: Sequence[str] | None = None,
    train_limit: int | None = None,
    crop_padding: int | None = None,
    flip: bool | None = None,
    cutout: int = 0,
) -> DataSet:
    """A data set on the CPU.

    Args:
        data: a name such as `digits` or `folder:PATH`, a DataSet, images with labels, or several parts: a
            pair (training, test), or a dict of `train`, `test` and `valid`. Images with labels are a pair
            (images, labels) of tensors or arrays, or a torch Dataset of items (image, label), read once.
            Images are (N, C, H, W) or (N, H, W), those of a Dataset (C, H, W), (H, W) or PIL's, uint8 or
            floating point in [0, 1], and stay as they are; labels are integers from 0, or
            texts where images are an array.
        data_root: folder of the data sets that have files of their own.
        download: fetch those files where they are missing.
        image_size: side in pixels that images from files are resized to.
        test_fraction: part of the images set aside as test set where there is none.
        channels_in: auto, 1 or 3: colours become grey, or grey three equal channels.
        pixel_range: auto, or LOW:HIGH: values of files that count as 0 and 1.
        bad_images: refuse, or leave_out: what becomes of image files that cannot be read.
        classes: names of the classes; without them, every label up to the largest must occur.
        train_limit: use only about so many training images, drawn evenly over the classes.
        crop_padding, flip, cutout: as in Augmentation; None: as the data set has it.

    Raises:
        InputError: no such data set, its files are missing or damaged, or the data cannot be meant so.
    """
    name = "memory"
    reading = Reading(image_size, channels_in, pixel_range, bad_images)
    if not isinstance(data, str):
        reading.require_no_range(name)
    else:
        name = data
        data = _named(
            name,
            reading,
            data_root=Path(data_root),
            download=download,
            test_fraction=test_fraction,
        )
    found = memory.load(data, name=name, test_fraction=test_fraction, classes=classes)
    if again := [name for name, times in Counter(found.classes).items() if times > 1]:
        raise InputError(f"{quoted(again)} are names of several classes: give each a name of its own")
    if channels_in != "auto":
        found = with_channels(found, int(channels_in))
    given = {"crop_padding": crop_padding, "flip": flip, "cutout": cutout or None}
    changes: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    found = replace(found, augmentation=replace(found.augmentation, **changes))
    if train_limit is None:
        return found
    if train_limit < len(found.classes):
        raise InputError(
            f"`train_limit` is {train_limit}, expected at least one image for each of the "
            f"{len(found.classes)} classes"
        )
    if train_limit < len(found.train):
        kept = split(found.train.labels, train_limit / len(found.train), seed=0)[1]
        found = replace(found, train=found.train[kept])
    return found


def with_channels(dataset: DataSet, channels: int) -> DataSet:
    """The data set in grey (1), or in colours (3). Raises InputError where it is neither."""
    there = dataset.in_channels
    if there == channels:
        return dataset
    if {there, channels} != {1, 3}:
        raise InputError(
            f"`channels_in` is {channels}, for images of {there} channels: leave it at auto, or "
            "choose channels"
        )

    def change(images: Images) -> Images:
        parts = [
            part.expand(-1, 3, -1, -1)
            if channels == 3
            else (part.float() * torch.tensor(LUMA).view(3, 1, 1)).sum(1, keepdim=True)
            for part in images.chunks()
        ]
        if channels == 1 and images.pixels.dtype == torch.uint8:
            parts = [part.round().to(torch.uint8) for part in parts]
        return Images(torch.cat(parts), images.labels)

    return dataset.of_parts(change)


def _named(text: str, reading: Reading, **arguments: Any) -> Any:
    """What the source of `NAME` or `NAME:PATH` returns."""
    name, _, path = text.partition(":")
    source = SOURCES.get(name)
    wanted = inspect.signature(source).parameters
    if path and "path" not in wanted:
        takers = [n for n in SOURCES.names() if "path" in inspect.signature(SOURCES.get(n)).parameters]
        raise InputError(
            f"data set '{text}' is malformed: only {', '.join(takers)} take a path, drop what "
            "follows the colon"
        )
    if not {"reading", "pixel_range"} & set(wanted):
        reading.require_no_range(text)
    if path:
        arguments["path"] = Path(path)
    elif "path" in wanted and wanted["path"].default is inspect.Parameter.empty:
        raise InputError(f"data set '{text}' needs a path: give it as {name}:PATH")
    arguments |= {"reading": reading} | asdict(reading)
    arguments["image_size"] = arguments.pop("size")
    return source(**{key: value for key, value in arguments.items() if key in wanted})
