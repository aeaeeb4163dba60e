"""ImageNet16-120: 120 classes of ImageNet at 16 x 16 pixels, in the batches of NAS-Bench-201.

Source: Chrabaszcz et al., 2017, arXiv 1707.08819; Dong & Yang, 2020, arXiv 2001.00326.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from nas.data import plain_pickle
from nas.data.images import Augmentation, DataSet, Images
from recipes import InputError

CLASSES = 120
FOLDERS = ("ImageNet16", "imagenet16", ".")  # below the folder of data
TRAIN = tuple(f"train_data_batch_{number}" for number in range(1, 11))
TEST = ("val_data",)


def load(*, data_root: Path, path: Path | None = None) -> DataSet:
    """The images of the first 120 classes, of those in the batches, test images from `val_data`.

    Args:
        path: the folder of the batches; None: ImageNet16 under `data_root`.
    """
    choices = [path] if path is not None else [data_root / name for name in FOLDERS]
    folder = next((choice for choice in choices if (choice / TRAIN[0]).is_file()), None)
    if folder is None:
        raise InputError(
            f"ImageNet16-120 is not in {choices[0]}, expected {TRAIN[0]} to {TRAIN[-1]} and {TEST[0]} there: "
            "give `data_root=FOLDER` with ImageNet16 in it, or `dataset=imagenet16-120:FOLDER`; the batches "
            "are those of NATS-Bench (github.com/D-X-Y/NATS-Bench)"
        )
    train, test = _read(folder, TRAIN), _read(folder, TEST)
    classes = tuple(str(label) for label in range(CLASSES))
    return DataSet("imagenet16-120", train, test, classes, Augmentation(crop_padding=2, flip=True))


def _read(folder: Path, names: tuple[str, ...]) -> Images:
    """Images of some batches, with labels from 1 in them, of the first classes."""
    pixels, labels = [], []
    for name in names:
        if not (folder / name).is_file():
            raise InputError(f"{folder / name} is missing: get all batches of ImageNet16")
        try:
            batch: Any = plain_pickle.load(folder / name)
        except OSError as error:
            raise InputError(f"cannot read {folder / name}: {error}; check the file") from None
        x, y = _checked(batch, folder / name)
        chosen = (y >= 1) & (y <= CLASSES)
        pixels.append(x[chosen])
        labels.append(y[chosen] - 1)
    return Images(
        torch.from_numpy(np.concatenate(pixels)), torch.from_numpy(np.concatenate(labels).astype(np.int64))
    )


def _checked(batch: Any, path: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Images (N, 3, 16, 16) uint8 and labels (N,) of a batch. Raises InputError."""
    x = np.asarray(batch.get("data")) if isinstance(batch, dict) else np.empty(0)
    y = np.asarray(batch.get("labels", ())) if isinstance(batch, dict) else np.empty(0)
    images = x.dtype == np.uint8 and x.ndim == 2 and x.shape[1] == 768
    if not images or y.dtype.kind not in "iu" or y.shape != x.shape[:1]:
        raise InputError(
            f"{path} is no batch of ImageNet16, expected `data` (N, 768) uint8 and `labels` (N,): "
            "get it again"
        )
    return x.reshape(-1, 3, 16, 16), y
