"""The images of a search: a part that trains the weights, and one that trains the architecture."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from nas import data, distributed
from nas.data import Batches, DataSet
from recipes import SearchOptions


class TwoParts(NamedTuple):
    """Batches of the training part and of the validation part of the training images.

    Attributes:
        split: the numbers of the images in each part, for splits.json.
        labels: of the images in each part.
        concerns: what is to be said of the classes.
    """

    train: Batches
    valid: Batches
    split: dict[str, list[int]]
    labels: dict[str, Tensor]
    concerns: list[str]

    @staticmethod
    def of(dataset: DataSet, options: SearchOptions, place: torch.device) -> TwoParts:
        """The parts of a data set; where it has no validation part of its own, one is split off."""
        if dataset.valid is None:
            pieces = data.split(dataset.train.labels, options.val_fraction, options.seed)
            train, valid = (dataset.train[piece] for piece in pieces)
        else:
            train, valid = dataset.train, dataset.valid
            pieces = torch.arange(len(train)), torch.arange(len(valid))
        labels = {"train": train.labels, "valid": valid.labels}
        balanced = options.sampling == "balanced"
        concerns = data.concerns(
            dataset.classes,
            labels | {"test": dataset.test.labels},
            balanced or options.class_weights == "balanced",
        )
        delivery = data.delivery(
            dataset, device=place, data_budget_gb=options.data_budget_gb, channels_last=options.channels_last
        )
        size, share = options.batch_size, (distributed.rank(), distributed.world())
        return TwoParts(
            Batches(train, size, delivery, dataset.augmentation, options.seed, share, balanced),
            Batches(valid, size, delivery, data.Augmentation(), options.seed + 1, share, balanced, "valid"),
            {"train": pieces[0].tolist(), "valid": pieces[1].tolist()},
            labels,
            concerns,
        )
