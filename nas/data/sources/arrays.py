"""Data sets in files of NumPy: `arrays:FILE.npz`, or a folder of .npy files."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nas.data.images import PART_NAMES, Augmentation, DataSet, Images
from nas.data.names import part_of, quoted
from nas.data.sources.decoded import IN_MEMORY
from nas.data.sources.folder import complete
from nas.data.sources.pictures import channels_first
from nas.data.sources.reading import parse_range
from recipes import InputError, first_line

Array = np.ndarray[Any, np.dtype[Any]]
_IMAGES = ("images", "image", "x", "data", "pixels", "imgs", "arr_0")
_LABELS = ("labels", "label", "y", "targets", "target", "fine_labels", "arr_1")
EXPECTED = (
    "expected images and labels, or train_images, train_labels, test_images, test_labels (and val_...), or "
    "x_train, y_train, x_test, y_test"
)


def load(*, path: Path, test_fraction: float, pixel_range: str = "auto") -> DataSet:
    """Images and labels in a .npz file, or in a folder of .npy files; in their own size."""
    span = parse_range(pixel_range)
    try:
        arrays = {
            name: np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array
            for name, array in _arrays(path).items()
        }
    except Exception as error:  # whatever a damaged file ends in
        raise InputError(
            f"cannot read the arrays {path} ({first_line(error)}): expected a .npz file, or a folder of .npy "
            "files, of numbers: save them again with numpy.savez"
        ) from None
    parts = _parts(arrays, path)
    notes: list[str] = []
    found = {
        part: _images(*pair, f"{PART_NAMES.get(part, 'all')} images of {path}")
        for part, pair in parts.items()
    }
    _require_alike(found, path)
    if any(last for _, _, last in found.values()):
        notes.append("channels are the last dimension of the arrays")
    scale, said = _scale([x for x, _, _ in found.values()], span)
    names = arrays.get("classes", arrays.get("class_names"))
    labels, classes = _labels({part: y for part, (_, y, _) in found.items()}, names, path)
    images = {part: _kept(x, scale, torch.from_numpy(labels[part])) for part, (x, _, _) in found.items()}
    size = next(iter(images.values())).shape[1]
    known = complete(
        f"arrays:{path.stem}", images, classes, Augmentation(crop_padding=max(1, size // 8)), test_fraction,
        str(path), scale, (*notes, *said),
    )  # fmt: skip
    return known


def _arrays(path: Path) -> dict[str, Array]:
    """The arrays in a file, or in the files of a folder, by name."""
    if path.is_dir():
        files = {
            file.stem: np.load(file, mmap_mode="r", allow_pickle=False) for file in sorted(path.glob("*.npy"))
        }
        if not files:
            raise ValueError("no .npy file in it")
        return files
    if path.suffix == ".npy":
        raise ValueError("images without labels")
    with open(path, "rb") as file:  # which NumPy leaves open where it is damaged
        archive = np.load(file, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("images without labels")
        with archive:
            return {name: archive[name] for name in archive.files}


def _parts(arrays: Mapping[str, Array], path: Path) -> dict[str, tuple[Array, Array]]:
    """Images and labels of every part; `all` where there are no parts. Raises InputError."""
    found: dict[str, dict[str, Array]] = {}
    for name, array in arrays.items():
        words = re.split(r"[_\W]+", name.casefold())
        part = next((part for word in words if (part := part_of(word))), "all")
        rest = "_".join(word for word in words if part_of(word) is None)
        rest = name.casefold() if part == "all" else rest
        kind = "x" if rest in _IMAGES else "y" if rest in _LABELS else None
        if kind is not None:
            if kind in found.setdefault(part, {}):
                raise InputError(f"{path} has two arrays that could be the {kind} of {part}: rename one")
            found[part][kind] = array
    pairs = {part: (pair["x"], pair["y"]) for part, pair in found.items() if len(pair) == 2}
    if len(pairs) != len(found) or not pairs or ("train" not in pairs and list(pairs) != ["all"]):
        raise InputError(f"{path} holds {quoted(arrays, 8) or 'nothing'}: {EXPECTED}: rename the arrays")
    return pairs


def _images(x: Array, y: Array, what: str) -> tuple[Array, Array, bool]:
    """Images (N, C, H, W), labels (N,), and whether channels came last. Raises InputError."""
    if x.ndim not in (3, 4) or 0 in x.shape or x.dtype.kind not in "buif":
        raise InputError(
            f"{what} are {x.dtype} of the shape {x.shape}, expected numbers (N, H, W), (N, H, W, C) or "
            "(N, C, H, W): save them so"
        )
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.shape != x.shape[:1]:
        raise InputError(
            f"labels of the {what} have the shape {y.shape}, expected ({len(x)},): save one for every image"
        )
    if x.ndim == 3:
        return x[:, None], y, False
    last = not channels_first(x.shape[1:])
    return (np.moveaxis(x, 3, 1) if last else x), y, last


def _require_alike(found: Mapping[str, tuple[Array, Array, bool]], path: Path) -> None:
    kinds = {part: (x.shape[1:], str(x.dtype)) for part, (x, _, _) in found.items()}
    if len(set(kinds.values())) > 1:
        said = "; ".join(f"{part}: {shape} {kind}" for part, (shape, kind) in kinds.items())
        raise InputError(f"the parts of {path} differ ({said}): save them in one shape and type")


def _scale(
    arrays: list[Array], span: tuple[float, float] | None
) -> tuple[tuple[float, float] | None, list[str]]:
    """Values that count as 0 and 1, None for 8 bits as they are, and what is to be said about it."""
    if arrays[0].dtype == np.uint8 and span in (None, (0.0, 255.0)):
        return None, []
    low, high = min(float(x.min()) for x in arrays), max(float(x.max()) for x in arrays)
    if not np.isfinite((low, high)).all():
        raise InputError(
            "the arrays of images have values that are infinite or not a number: replace these "
            "and save them again"
        )
    if span is None and arrays[0].dtype.kind == "f" and low >= 0 and high <= 1:
        return (0.0, 1.0), []
    if span is None:
        span = (low, high if high > low else low + 1)
        return span, [
            f"pixel values {low:g} to {high:g}, the values that occur, are read as 0 to 1 in float32"
        ]
    said = [f"pixel values {span[0]:g} to {span[1]:g}, as `pixel_range` says, are read as 0 to 1 in float32"]
    outside = sum(int(((x < span[0]) | (x > span[1])).sum()) for x in arrays)
    if outside:
        share = 100 * outside / sum(x.size for x in arrays)
        said.append(f"{share:.3g} % of the pixels are outside `pixel_range` and were cut off")
    return span, said


def _kept(x: Array, scale: tuple[float, float] | None, labels: torch.Tensor) -> Images:
    """Images (N, C, H, W) with their labels; large ones of 8 bits are left in their file."""
    if scale is not None:
        low, high = scale
        scaled = ((x.astype(np.float32) - np.float32(low)) / np.float32(high - low)).clip(0, 1)
        return Images(torch.from_numpy(scaled), labels)
    if not isinstance(x, np.memmap) or x.nbytes <= IN_MEMORY:
        return Images(torch.from_numpy(np.array(x)), labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that what is mapped must not be written to
        return Images(torch.from_numpy(x), labels, torch.arange(len(labels)))


def _labels(
    labels: Mapping[str, Array], names: Array | None, path: Path
) -> tuple[dict[str, Array], tuple[str, ...]]:
    """Labels from 0 of every part, and the names of the classes. Raises InputError."""
    known = np.unique(np.concatenate(list(labels.values())))
    if known.dtype.kind not in "iuUb":
        raise InputError(f"labels of {path} are {known.dtype}, expected integers or texts: save them so")
    if len(known) < 2:
        raise InputError(f"labels of {path} are all {known[0]}, expected at least 2 classes: check the array")
    if names is not None and names.ndim == 1 and known.dtype.kind in "iu":
        if known.min() < 0 or known.max() >= len(names):
            raise InputError(
                f"labels of {path} are {known.min()} to {known.max()}, and there are {len(names)} `classes`: "
                "make them fit"
            )
        return {part: y.astype(np.int64) for part, y in labels.items()}, tuple(map(str, names.tolist()))
    found = {part: np.searchsorted(known, y).astype(np.int64) for part, y in labels.items()}
    return found, tuple(map(str, known.tolist()))
