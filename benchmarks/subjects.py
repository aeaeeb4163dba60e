"""What is measured: a search or a training on random images of the size of CIFAR's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import nn

from nas import device
from nas.bilevel.search import Search
from nas.data import Augmentation, DataSet, Images
from nas.runs.loop import POLL
from nas.training.final import Training
from recipes import FinalOptions, SearchOptions
from search_spaces import ABSENT, SearchSpace
from search_spaces.cell import EdgeFactory
from search_spaces.operations import candidate_norm, supernet_norm
from search_spaces.skeleton import Size

Job = TypeVar("Job", Search, Training)


def random_images(count: int, size: int = 32) -> DataSet:
    """`count` training images of 10 classes, 3 x `size` x `size`, and 256 test images, all noise."""
    rng = torch.Generator().manual_seed(0)

    def part(n: int) -> Images:
        pixels = torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=rng)
        return Images(pixels, torch.arange(n) // 2 % 10)  # an even number of each, to be split in halves

    classes = tuple(str(digit) for digit in range(10))
    return DataSet("random", part(count), part(256), classes, Augmentation(crop_padding=4, flip=True))


def search(options: SearchOptions, dataset: DataSet) -> Search:
    """The search that train_search.py would run on `dataset`."""
    return Search.of(options, {"dataset": dataset}, device.select(options.device))


def whole_epoch(search: Search, number: int) -> None:
    """An epoch, with what a run asks after each step and at the end; an evaluation only if it is due."""
    for step, _ in enumerate(search.epoch(number, 0), 1):
        if search.device.type == "cpu" or step % POLL == 0:
            search.skipped()
    search.describe(number)


def training(options: FinalOptions, dataset: DataSet) -> Training:
    """The training that train_final.py would run on `dataset`."""
    return Training.of(options, {"dataset": dataset}, device.select(options.device))


def sampled_network(
    space: SearchSpace, chosen: Sequence[int], channels: int, cells: int, planned_size: int = 32
) -> nn.Module:
    """The network of a draw by itself: every edge of the supernet, with the chosen operation alone.

    Its normalisations are those of the supernet, so that nothing but the other candidates is left out.
    """
    operations = [
        None if k == ABSENT else slot.candidates[k] for slot, k in zip(space.slots, chosen, strict=True)
    ]
    factory = EdgeFactory(candidate_norm, supernet_norm, space.pool_norm)
    size = Size(channels, cells, num_classes=10, in_channels=3, planned_size=planned_size)
    return space.skeleton(space.plans(space.genotype(operations)), factory, size)
