"""Data that the user holds: tensors, arrays and the data sets of torch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from nas.data.images import Augmentation, DataSet, Images, set_aside
from nas.data.names import part_of, quoted
from recipes import InputError

EXPECTED = (
    "expected a name, (images, labels), a torch Dataset with a length, a pair (train, test) of either, or "
    '{"train": ..., "valid": ..., "test": ...}'
)


def load(data: Any, *, name: str, test_fraction: float, classes: Sequence[str] | None) -> DataSet:
    """The data set that `nas.data.load` makes of anything but a name. Raises InputError."""
    if isinstance(data, DataSet):
        if classes is not None:
            raise InputError("the data set names its classes itself: drop `classes`")
        known = data.of_parts(_images)
        for part in known.parts.values():
            _require_labels(part.labels, len(known.classes))
            _require_alike(known.train, part)
        return known
    sources = _parts(data)
    if classes is None and isinstance(named := getattr(sources["train"], "classes", None), list | tuple):
        classes = named  # as the data sets of torchvision have them
    if texts := {part: found for part, source in sources.items() if (found := _texts(source))}:
        classes = _names(texts, sources, classes)
        number = {name: i for i, name in enumerate(classes)}
        sources |= {part: (sources[part][0], [number[t] for t in found]) for part, found in texts.items()}
    parts = {part: _images(source) for part, source in sources.items()}
    train = parts["train"]
    _require_labels(train.labels, None if classes is None else len(classes))
    names = tuple(map(str, range(int(train.labels.max()) + 1) if classes is None else classes))
    for part in parts.values():
        _require_labels(part.labels, len(names))
        _require_alike(train, part)
    notes: tuple[str, ...] = ()
    if "test" not in parts:
        train, parts["test"], note = set_aside(train, test_fraction, name)
        notes = (note,)
    return DataSet(name, train, parts["test"], names, Augmentation(), parts.get("valid"), notes=notes)


def _parts(data: Any) -> dict[str, Any]:
    """What is given of the training part and, where there are more, of the others, by part."""
    if isinstance(data, dict):
        found = {part_of(str(key)): value for key, value in data.items()}
        if "train" not in found or None in found or len(found) < len(data):
            raise InputError(f"data is a dict of {', '.join(map(repr, data))[:100]}: {EXPECTED}")
        return {str(part): value for part, value in found.items()}
    pair = isinstance(data, tuple | list) and len(data) == 2 and not _is_array(data[0])
    return {"train": data[0], "test": data[1]} if pair else {"train": data}


def _is_array(data: Any) -> bool:
    return isinstance(data, Tensor | np.ndarray)


def _texts(source: Any) -> list[str] | None:
    """The labels of (images, labels) that are texts."""
    if not isinstance(source, tuple | list) or len(source) != 2 or not _is_array(source[0]):
        return None
    labels = list(source[1]) if isinstance(source[1], Iterable) and not isinstance(source[1], Tensor) else []
    return list(map(str, labels)) if labels and all(isinstance(text, str) for text in labels) else None


def _names(
    texts: Mapping[str, list[str]], sources: Mapping[str, Any], classes: Sequence[str] | None
) -> Sequence[str]:
    """The classes that labels in texts name, by part: those that are given, or all in their order. Raises
    InputError where other labels are numbers, or no class."""
    if len(texts) < len(sources):
        raise InputError("labels of `data` are texts in one part and numbers in another: make them alike")
    known = sorted({text for found in texts.values() for text in found})
    if classes is not None and (unknown := sorted({*known} - {*classes})):
        raise InputError(f"labels are {quoted(unknown)}, expected one of the classes {quoted(classes)}")
    return known if classes is None else classes


def _images(data: Any) -> Images:
    """Images with labels of any kind, as they are kept: checked, but for the range of the labels."""
    images: Any
    labels: Any
    if isinstance(data, Images) and data.rows is not None:
        return data  # from a file that was checked when it was written
    if isinstance(data, Images):
        images, labels = data.pixels, data.labels
    elif isinstance(data, tuple | list) and len(data) == 2 and _is_array(data[0]):
        images, labels = data
    elif isinstance(data, os.PathLike):
        raise InputError(f"data is a path, expected a name: give a folder of images as 'folder:{data}'")
    elif _is_array(data):
        raise InputError(f"data is images of the shape {tuple(data.shape)} alone, expected (images, labels)")
    elif isinstance(data, tuple | list) and len(data) > 0 and _is_array(data[0]):
        what = f"a {type(data).__name__} of {len(data)} arrays"
        if len(data) == 4 and _is_array(data[2]) and min(data[0].ndim, data[2].ndim) > 2:
            raise InputError(f"data is {what}: pair them, ((images, labels), (test images, test labels))")
        raise InputError(
            f"data is {what}, expected (images, labels): make one array of the images, as numpy.stack does"
        )
    elif not isinstance(data, str | dict) and hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        images, labels = _items(data)
    else:
        raise InputError(f"data of type {type(data).__name__}: {EXPECTED}")
    pixels = _pixels(_tensor(images, "images"))
    labels = _tensor(labels, "labels")  # a list of them, too
    if labels.dtype.is_floating_point or labels.dtype.is_complex or labels.dtype == torch.bool:
        raise InputError(f"labels are {_kind(labels)}, expected integers from 0 to classes - 1: convert them")
    if labels.shape != (len(pixels),):
        raise InputError(
            f"labels have the shape {tuple(labels.shape)}, expected ({len(pixels)},): one for every image"
        )
    return Images(pixels, labels.long())


def _items(data: Any) -> tuple[Tensor, list[Any]]:
    """The images (N, C, H, W) and labels of a map-style data set."""
    pixels, labels = torch.empty(0), []
    for i in tqdm(range(len(data)), desc="reading images", disable=None, unit="image"):
        item = data[i]
        if not isinstance(item, tuple | list) or len(item) != 2:
            kind = type(item).__name__
            raise InputError(f"item {i} of {type(data).__name__} is a {kind}, expected a pair (image, label)")
        image = _picture(item[0])
        if i == 0:
            pixels = torch.empty((len(data), *image.shape), dtype=image.dtype)
        elif image.shape != pixels.shape[1:] or image.dtype != pixels.dtype:
            raise InputError(
                f"image {i} is {tuple(image.shape)} {_kind(image)}, image 0 is {tuple(pixels.shape[1:])} "
                f"{_kind(pixels)}: give all of them one shape and type"
            )
        pixels[i] = image
        labels.append(np.asarray(item[1]))
    return pixels, labels


def _picture(image: Any) -> Tensor:
    """(C, H, W) of an image of a data set."""
    from PIL import Image

    if not isinstance(image, Image.Image):
        x = _tensor(image, "an image")
        return x.unsqueeze(0) if x.dim() == 2 else x
    if image.mode == "1":
        image = image.convert("L")
    elif image.mode in ("P", "CMYK", "YCbCr", "LAB", "HSV"):  # not L, RGB, with or without alpha, or numbers
        image = image.convert("RGB")
    values = np.array(image)
    return _tensor(values[None] if values.ndim == 2 else values.transpose(2, 0, 1), "an image")


def _tensor(data: Any, what: str) -> Tensor:
    """A tensor or anything that numpy reads as a plain tensor on the CPU, copied only where it must be."""
    if isinstance(data, Tensor):
        return data.detach().cpu().as_subclass(Tensor)
    try:
        array = np.ascontiguousarray(data).reshape(np.shape(data))  # a number stays one
        array = np.require(array.astype(array.dtype.newbyteorder("="), copy=False), requirements="W")
        return torch.from_numpy(array)
    except (TypeError, ValueError) as error:
        raise InputError(f"{what} of type {type(data).__name__} cannot be read as numbers: {error}") from None


def _pixels(images: Tensor) -> Tensor:
    """(N, H, W) or (N, C, H, W) as (N, C, H, W), uint8 or float32."""
    x = images.unsqueeze(1) if images.dim() == 3 else images
    if x.dim() != 4 or x.numel() == 0:
        raise InputError(
            f"images have the shape {tuple(images.shape)}, expected (N, C, H, W) or (N, H, W), none of them 0"
        )
    _, c, h, w = x.shape
    if min(c, h) > 4 and (w == 3 or c == h != w):
        raise InputError(
            f"images have the shape {tuple(x.shape)}, as if channels came last: permute them to (N, C, H, W)"
        )
    if x.dtype == torch.uint8:
        return x
    if not x.is_floating_point():
        raise InputError(f"images are {_kind(x)}, expected uint8, or floating point in [0, 1]: convert them")
    x = x.float()
    low, high = x.min().item(), x.max().item()
    if not (low >= 0 and high <= 1):  # nor where they are NaN
        found = f"reach from {low:.4g} to {high:.4g}" if low == low else "contain NaN"
        raise InputError(
            f"images of floating point {found}, expected values in [0, 1]: rescale them; networks are given "
            "each channel with mean 0 and standard deviation 1 anyway"
        )
    return x


def _require_labels(labels: Tensor, classes: int | None) -> None:
    """Raise InputError unless labels are those of so many classes, or, if that is None, have no gaps."""
    found = labels.unique()
    listed = ", ".join(map(str, found[:8].tolist())) + (", ..." if len(found) > 8 else "")
    if classes is None and not torch.equal(found, torch.arange(len(found))):
        raise InputError(
            f"labels are {listed}, expected 0 to classes - 1 without gaps: number them so, as "
            "numpy.unique(labels, return_inverse=True)[1] does, or name all classes: "
            "data=nas.data.load(data, classes=[...])"
        )
    if classes is not None and (found[0] < 0 or found[-1] >= classes):
        raise InputError(f"labels are {listed}, expected 0 to {classes - 1} for {classes} classes")
    if (len(found) if classes is None else classes) < 2:
        raise InputError(f"labels are {listed}, expected at least 2 classes")


def _require_alike(train: Images, other: Images) -> None:
    kinds = [f"{tuple(part.pixels.shape[1:])} {_kind(part.pixels)}" for part in (train, other)]
    if kinds[0] != kinds[1]:
        raise InputError(f"training images are {kinds[0]}, those of another part {kinds[1]}: make them alike")


def _kind(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")
