"""Images, and data sets of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nas.seeding import generator

Policy = Callable[[Any], Any]


@dataclass(frozen=True)
class Images:
    """Images (N, C, H, W), uint8 or float32 in [0, 1], with labels (N,) int64."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: Tensor) -> Images:
        return Images(self.pixels[indices], self.labels[indices])


@dataclass(frozen=True)
class Augmentation:
    """Training-time augmentation.

    Attributes:
        crop_padding: pixels of black padding before a random crop of the original size.
        flip: mirror half of the images.
        cutout: side in pixels of a blanked square; 0: none.
        policy: PIL image -> PIL image, applied one by one on the CPU before the others.
    """

    crop_padding: int = 0
    flip: bool = False
    cutout: int = 0
    policy: Policy | None = None


@dataclass(frozen=True)
class DataSet:
    """A data set with its training and test images and the augmentation that suits it."""

    name: str
    train: Images
    test: Images
    classes: tuple[str, ...]
    augmentation: Augmentation

    @property
    def in_channels(self) -> int:
        """Channels of an image."""
        return self.train.pixels.shape[1]

    def __str__(self) -> str:
        shape = " x ".join(map(str, self.train.pixels.shape[1:]))
        kind = str(self.train.pixels.dtype).removeprefix("torch.")
        return (
            f"{self.name}: {len(self.train)} training and {len(self.test)} test images ({shape}, {kind}) of "
            f"{len(self.classes)} classes"
        )

    def statistics(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each channel over the training images, in [0, 1]."""
        parts = self.train.pixels.split(1024)  # so that only a part is ever copied
        if self.train.pixels.dtype == torch.uint8:
            counts = torch.zeros(self.in_channels, 256, dtype=torch.float64)
            for part in parts:
                counts += torch.stack([torch.bincount(c.flatten(), minlength=256) for c in part.unbind(1)])
            values = torch.arange(256, dtype=torch.float64) / 255
            p = counts / counts.sum(1, keepdim=True)
            mean = (p * values).sum(1)
            variance = (p * values.square()).sum(1) - mean.square()
        else:
            count = self.train.pixels[:, 0].numel()
            mean = torch.stack([part.double().sum((0, 2, 3)) for part in parts]).sum(0) / count
            centred = (part.double() - mean.view(-1, 1, 1) for part in parts)
            variance = torch.stack([part.square().sum((0, 2, 3)) for part in centred]).sum(0) / count
        return mean.tolist(), variance.clamp_min(1e-8).sqrt().tolist()


def split(labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Disjoint sorted indices (rest, part) of (N,) labels, `part` holding `fraction` of each class.

    A class of two or more images is in both.
    """
    rng = generator(seed, "split")
    part = []
    for label in range(int(labels.max()) + 1):
        members = (labels == label).nonzero().squeeze(1)
        members = members[torch.randperm(len(members), generator=rng)]
        count = round(fraction * len(members))
        part.append(members[: min(max(count, 1), len(members) - 1) if len(members) > 1 else count])
    chosen = torch.cat(part).sort().values
    mask = torch.ones(len(labels), dtype=torch.bool)
    mask[chosen] = False
    return mask.nonzero().squeeze(1), chosen
