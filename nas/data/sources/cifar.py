"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009) in the files of torchvision."""

from __future__ import annotations

from pathlib import Path

import torch

from nas.compat import prepare_torchvision
from nas.data.images import Augmentation, DataSet, Images
from recipes import InputError, first_line


def load(name: str, *, data_root: Path, download: bool) -> DataSet:
    """`cifar10` or `cifar100`, as torchvision finds them in `data_root`."""
    prepare_torchvision()
    from torchvision import datasets

    dataset_class = datasets.CIFAR10 if name == "cifar10" else datasets.CIFAR100
    try:
        parts = [dataset_class(str(data_root), train=train, download=download) for train in (True, False)]
    except (RuntimeError, OSError) as error:
        raise InputError(
            f"data set '{name}' is missing or damaged in {data_root}, expected torchvision's files there: "
            f"give `download`, or `data_root=FOLDER` ({first_line(error)})"
        ) from None
    train, test = (
        Images(torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(part.targets))
        for part in parts
    )
    return DataSet(name, train, test, tuple(parts[0].classes), Augmentation(crop_padding=4, flip=True))
