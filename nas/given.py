"""Data and task of a run: those that its options name, or the objects that were given in their place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nas import data, distributed
from nas.data import DataSet
from nas.task import Classification, Task, balanced_weights
from recipes import InputError, RunOptions


def load_data(options: RunOptions, given: Mapping[str, Any]) -> DataSet:
    """The data set that the options name, or the one that is given. Raises InputError."""
    with distributed.one_first():
        return data.load(
            given.get("dataset", options.dataset),
            data_root=options.data_root,
            download=options.download,
            image_size=options.image_size,
            channels_in=options.channels_in,
            pixel_range=options.pixel_range,
            bad_images=options.bad_images,
            test_fraction=options.test_fraction,
            train_limit=options.train_limit,
            flip=options.flip,
            crop_padding=options.crop_padding,
            cutout=options.cutout,
        )


def digests(dataset: DataSet, given: Mapping[str, Any]) -> dict[str, Any]:
    """The document that knows images again which were given as an object, when a run is continued."""
    if "dataset" not in given:
        return {}
    return {"data.json": {name: part.digest() for name, part in dataset.parts.items()}}


def build_task(options: RunOptions, dataset: DataSet, given: Mapping[str, Any]) -> Task:
    """The task that is given, or classification as the options say."""
    if "task" in given:
        if options.label_smoothing or options.class_weights != "none":
            raise InputError(
                "`label_smoothing` and `class_weights` are those of a `task` that is given: drop them"
            )
        found: Task = given["task"]
        return found
    classes = len(dataset.classes)
    balanced = options.class_weights == "balanced"
    weights = balanced_weights(dataset.train.labels, classes) if balanced else None
    return Classification(classes, options.label_smoothing, weights)
