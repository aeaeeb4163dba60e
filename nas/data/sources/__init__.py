"""Where images come from: one file for each source."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from nas.data.images import DataSet, split
from nas.data.sources import cifar, digits, folder
from recipes import InputError, RunOptions, one_of


def load(options: RunOptions) -> DataSet:
    """The data set that the options name, on the CPU. Raises InputError."""
    name, _, path = options.dataset.partition(":")
    one_of("data set", name, ["digits", "cifar10", "cifar100", "folder"])
    if name == "folder":
        try:
            data = folder.load(Path(path), options.image_size, options.test_fraction)
        except OSError as error:
            raise InputError(f"cannot read the data set folder '{path[:200]}': {error}") from None
    elif path:
        raise InputError(f"data set '{options.dataset}' is malformed: only folder takes a path")
    else:
        data = (
            digits.load(options.test_fraction)
            if name == "digits"
            else cifar.load(name, Path(options.data_root), options.download)
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
