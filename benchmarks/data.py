"""Images a second of the batched pipeline, against torchvision's: `python -m benchmarks.data`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks import subjects, timing
from benchmarks.timing import BenchmarkOptions, Report, Row, ratio
from nas.data import Augmentation, Batches, DataSet, Delivery
from recipes.options import option


@dataclass(kw_only=True)
class DataOptions(BenchmarkOptions):
    """Random crop, mirroring, normalisation, and cutout, of 32 x 32 images."""

    images: int = 50_000
    """Images in an epoch."""
    batch_size: int = option(64, at_least=2)
    """Images a batch."""
    workers: int = 2
    """Processes of torchvision's DataLoader."""
    cutout: int = 16
    """Side in pixels of the blanked square of the rows with cutout."""


def run(options: DataOptions) -> Report:
    """Epochs of both pipelines, alternated."""
    dataset = subjects.random_images(options.images)
    loader = torchvision_loader(dataset, options)
    delivery = Delivery(torch.device("cpu"), *dataset.statistics())

    def ours(cutout: int) -> Any:
        augmentation = Augmentation(crop_padding=4, flip=True, cutout=cutout)
        batches = Batches(dataset.train, options.batch_size, delivery, augmentation)
        return lambda call: consume(batches.epoch(call))

    names = ["DataLoader of torchvision", "batched", "batched, with cutout"]
    jobs = [lambda call: consume(loader), ours(0), ours(options.cutout)]
    times = timing.alternate(dict(zip(names, jobs, strict=True)), options.repeats)
    report = Report("data", options)
    for name in names:
        faster = None if name == names[0] else ratio(times, names[0], name)
        rate = options.images / sorted(times[name])[len(times[name]) // 2]
        report.add(Row(name, rate, "images/s", faster, names[0], ">= 12" if name == names[1] else None))
    return report


def consume(batches: Any) -> None:
    """Read all batches."""
    for _ in batches:
        pass


class _Pictures(Dataset[tuple[Tensor, int]]):
    """The images as torchvision.datasets.CIFAR10 hands them out: PIL, transformed one by one."""

    def __init__(self, dataset: DataSet, transform: Any) -> None:
        self.pixels = dataset.train.pixels.permute(0, 2, 3, 1).numpy()
        self.labels = dataset.train.labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image

        return self.transform(Image.fromarray(self.pixels[index])), self.labels[index]


def torchvision_loader(dataset: DataSet, options: DataOptions) -> DataLoader[tuple[Tensor, int]]:
    """What public NAS code reads CIFAR with."""
    from torchvision import transforms

    mean, std = dataset.statistics()
    transform = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
        ]
    )
    pictures = _Pictures(dataset, transform)
    return DataLoader(pictures, options.batch_size, shuffle=True, drop_last=True, num_workers=options.workers)


if __name__ == "__main__":
    sys.exit(timing.main("data", DataOptions, run))
