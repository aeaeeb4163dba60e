"""Images as tensors that live on the training device and are augmented there, batched."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nas.data.images import PART_NAMES, Augmentation, DataSet, Images, Policy
from nas.seeding import derive_seed, generator, seed_everything
from recipes import InputError

EVALUATION_BATCH = 256


@dataclass(frozen=True)
class Delivery:
    """How batches are handed to a network.

    Attributes:
        device: where they go.
        mean, std: per channel, of values in [0, 1].
        resident: keep the pixels on `device`; otherwise on the host, and pin each batch.
        channels_last: memory order of the batches.
    """

    device: torch.device
    mean: list[float]
    std: list[float]
    resident: bool = True
    channels_last: bool = True


def delivery(
    dataset: DataSet, *, device: torch.device, data_budget_gb: float = 8.0, channels_last: bool = True
) -> Delivery:
    """How batches of `dataset` come to `device`, on which the data stay unless they are larger than the
    budget."""
    resident = sum(part.nbytes for part in dataset.parts.values()) <= data_budget_gb * 1e9
    known = dataset.preprocessing
    return Delivery(device, list(known.mean), list(known.std), resident, channels_last)


class Batches:
    """Normalised batches of `images`.

    Args:
        images: the part of the data to read.
        batch_size: images a batch.
        delivery: where and how they are wanted.
        augmentation: given for parts that are trained on: `epoch` and `endless` shuffle and augment
            them, and leave out a last batch that would be smaller. Iteration gives all images,
            unaugmented, in batches of nearly equal size; their order is fixed but mixed, because a
            supernet normalises with the batch at hand, and files come sorted by class.
        seed: of order and augmentation, which are functions of (seed, epoch, batch).
        part: (r, n) makes `epoch` and `endless` give only slice r of n of every batch, exactly as it is in
            the whole batch.
        balanced: an epoch has as many images as otherwise, but equally many of each class: of small classes
            the same ones again, of large ones others in every epoch.
        name: of the part: train or valid.

    Raises:
        InputError: too few images for a batch, a batch that the ranks cannot share, or a policy for images
            that PIL does not know.
    """

    def __init__(
        self,
        images: Images,
        batch_size: int,
        delivery: Delivery,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        part: tuple[int, int] = (0, 1),
        balanced: bool = False,
        name: str = "train",
    ) -> None:
        rank, ranks = part
        if ranks > 1 and (batch_size % ranks or batch_size < 2 * ranks):
            raise InputError(
                f"`batch_size` is {batch_size}, expected a multiple of the {ranks} ranks and at least "
                f"{2 * ranks}: they share every batch"
            )
        self.part = slice(rank * (batch_size // ranks), (rank + 1) * (batch_size // ranks))
        if augmentation is not None and len(images) < batch_size:
            advice = f"lower `batch_size` to at most {len(images)}" if len(images) > 1 else "use more images"
            raise InputError(
                f"there are {len(images)} {PART_NAMES[name]} images, too few for one batch of {batch_size}: "
                f"{advice}"
            )
        c, h, w = images.shape
        largest = 255 if images.pixels.dtype == torch.uint8 else 1
        if augmentation is not None and augmentation.policy and (largest == 1 or c not in (1, 3)):
            raise InputError(
                f"`auto_augment` is for uint8 images of 1 or 3 channels, these are "
                f"{str(images.pixels.dtype).removeprefix('torch.')} of {c}: drop it"
            )
        self.batch_size, self.augmentation, self.seed = batch_size, augmentation, seed
        self.members = members(images.labels) if balanced else None
        self.delivery, device = delivery, delivery.device
        if images.rows is not None and delivery.resident and device.type != "cpu":
            images = Images(torch.cat([part.to(device) for part in images.chunks()]), images.labels)
        if images.rows is None:  # channels last, so that a row of an image is a run of memory
            pixels, labels = images.pixels.contiguous(memory_format=torch.channels_last), images.labels
            if delivery.resident:
                pixels, labels = pixels.to(device), labels.to(device)
            images = Images(pixels, labels)
        self.images, self.home = images, images.pixels.device
        # Per value of an image (H, W, C): a short last dimension to broadcast over would be slow.
        scale = torch.tensor([1 / (largest * s) for s in delivery.std])
        shift = torch.tensor([-m / s for m, s in zip(delivery.mean, delivery.std, strict=True)])
        self.scale, self.shift = (x.expand(h, w, c).contiguous().to(device) for x in (scale, shift))

    def __len__(self) -> int:
        """Batches in an epoch of training."""
        return len(self.images) // self.batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches for evaluation: (B, C, H, W) float32 and labels (B,)."""
        return self.evaluation(0, 1)

    def evaluation(self, first: int, every: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Each `every`-th batch for evaluation, from batch `first` on."""
        count = math.ceil(len(self.images) / max(self.batch_size, EVALUATION_BATCH))
        order = torch.randperm(len(self.images), generator=generator(self.seed, "evaluation order"))
        for indices in order.to(self.home, non_blocking=True).tensor_split(count)[first::every]:
            yield self._finish(self.images.read(indices)), self._move(self.images.labels[indices])

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The shuffled, augmented batches of `epoch` from batch `start` on, as in `__iter__`."""
        assert self.augmentation is not None
        draws = generator(self.seed, "order", epoch)
        if self.members is None:
            order = torch.randperm(len(self.images), generator=draws)
        else:
            order = balanced_order(self.members, len(self.images), draws)
        order = order.to(self.home, non_blocking=True)
        rng = torch.Generator(self.home)
        for step in range(start, len(self)):
            rng.manual_seed(derive_seed(self.seed, "augmentation", epoch, step))
            indices = order[step * self.batch_size : (step + 1) * self.batch_size][self.part]
            yield self._augmented(indices, self.augmentation, rng, (epoch, step))

    def endless(self, step: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of epoch after epoch, from batch number `step` on."""
        epoch, start = divmod(step, len(self))
        while True:
            yield from self.epoch(epoch, start)
            epoch, start = epoch + 1, 0

    def first(self, count: int) -> tuple[Tensor, Tensor]:
        """The first images of `__iter__`, and their labels: at least `count`, or all, in whole batches."""
        return _together(iter(self), count)

    def bundles(self, count: int, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        """As `endless`, but several batches as one, which hold at least `count` images, or those of an epoch;
        from bundle `number` on."""
        each = min(-(-count // self.batch_size), len(self))
        batches = self.endless(number * each)
        while True:
            yield _together(itertools.islice(batches, each), count)

    def _augmented(
        self, indices: Tensor, augmentation: Augmentation, rng: torch.Generator, position: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        pixels = self.images.read(indices)
        if augmentation.policy is not None:
            pixels = self._apply_policy(pixels, augmentation.policy, position)
        noise = _Noise(self.batch_size, self.part, rng)
        x = self._finish(_crop_and_flip(pixels, augmentation, noise))
        if augmentation.cutout:
            x *= _cutout_mask(x, augmentation.cutout, self._move(noise.uniform(2)))
        return x, self._move(self.images.labels[indices])

    def _apply_policy(self, pixels: Tensor, policy: Policy, position: tuple[int, int]) -> Tensor:
        """(B, H, W, C) uint8, one by one through PIL."""
        from PIL import Image

        out = []
        for i, image in enumerate(pixels.cpu().numpy(), self.part.start):
            seed_everything(self.seed, "image policy", *position, i)  # it draws from the global generators
            picture = Image.fromarray(image if image.shape[2] == 3 else np.repeat(image, 3, 2))
            try:
                out.append(np.asarray(policy(picture))[:, :, : image.shape[2]])
            except (ValueError, TypeError, OSError) as error:
                raise InputError(
                    f"the policy of `auto_augment` fails on these images ({error}): choose "
                    "another, or drop it"
                ) from None
        return torch.from_numpy(np.stack(out)).to(pixels.device)

    def _finish(self, pixels: Tensor) -> Tensor:
        """(B, H, W, C) to normalised (B, C, H, W) float32; float32 pixels are overwritten."""
        x = self._move(pixels).float()
        x = torch.addcmul(self.shift, x, self.scale, out=x).permute(0, 3, 1, 2)
        return x if self.delivery.channels_last else x.contiguous()

    def _move(self, x: Tensor) -> Tensor:
        if self.delivery.resident or self.delivery.device.type == "cpu":
            return x
        return x.pin_memory().to(self.delivery.device, non_blocking=True)


def members(labels: Tensor) -> list[Tensor]:
    """The images of every class that has some, by their indices."""
    return [(labels == label).nonzero().squeeze(1).cpu() for label in labels.unique().tolist()]


def balanced_order(members: list[Tensor], count: int, draws: torch.Generator) -> Tensor:
    """(count,) indices in random order, of each class count / classes to one; none of a class comes again
    before all have."""
    share, rest = divmod(count, len(members))
    more = torch.randperm(len(members), generator=draws)[:rest].tolist()
    chosen = []
    for label, own in enumerate(members):
        wanted = share + (label in more)
        rounds = [torch.randperm(len(own), generator=draws) for _ in range(math.ceil(wanted / len(own)))]
        chosen.append(own[torch.cat(rounds)[:wanted]] if rounds else own[:0])
    order = torch.cat(chosen)
    return order[torch.randperm(len(order), generator=draws)]


class _Noise(NamedTuple):
    """Random numbers for the images of a batch, of which a slice is wanted."""

    size: int
    part: slice
    rng: torch.Generator

    def uniform(self, count: int) -> Tensor:
        """(count, b, 1) in [0, 1)."""
        return torch.rand(count, self.size, 1, generator=self.rng, device=self.rng.device)[:, self.part]

    def integers(self, end: int, count: int) -> Tensor:
        """(count, b, 1) from 0 to end - 1."""
        shape = (count, self.size, 1)
        return torch.randint(0, end, shape, generator=self.rng, device=self.rng.device)[:, self.part]


def _together(batches: Iterator[tuple[Tensor, Tensor]], count: int) -> tuple[Tensor, Tensor]:
    """As many batches as hold `count` images, or all there are, as one."""
    taken = [next(batches)]
    while sum(len(labels) for _, labels in taken) < count and (batch := next(batches, None)) is not None:
        taken.append(batch)
    images, labels = (torch.cat(parts) for parts in zip(*taken, strict=True))
    return images, labels


def _crop_and_flip(pixels: Tensor, augmentation: Augmentation, noise: _Noise) -> Tensor:
    """Random crop of the padded image, then mirrored or not: (B, H, W, C) to the same."""
    b, h, w, c = pixels.shape
    pad, device = augmentation.crop_padding, pixels.device
    high, wide = h + 2 * pad, w + 2 * pad
    version = top = left = torch.zeros(b, dtype=torch.long, device=device)
    if augmentation.flip:
        version = (noise.uniform(1)[0, :, 0] < 0.5).long()
    if pad:
        top, left = noise.integers(2 * pad + 1, 2).squeeze(2)
    # All images, padded, then all of them mirrored. A crop is a window that begins at one of the pixels.
    padded = pixels.new_zeros(1 + augmentation.flip, b, high, wide, c)
    inner = padded[:, :, pad : pad + h, pad : pad + w]
    inner[0] = pixels
    if augmentation.flip:
        inner[1] = pixels.flip(2)
        left = torch.where(version == 1, 2 * pad - left, left)
    begin = ((version * b + torch.arange(b, device=device)) * high + top) * wide + left
    beginnings = padded.numel() // c - (h - 1) * wide - w + 1
    windows = padded.as_strided((beginnings, h, w * c), (c, wide * c, 1))
    return windows.index_select(0, begin).view(b, h, w, c)


def _cutout_mask(x: Tensor, side: int, centres: Tensor) -> Tensor:
    """(B, C, H, W) in channels-last order, 0 in a square around a pixel (DeVries & Taylor, arXiv 1708.04552);
    `centres` (2, B, 1) are its row and column, in [0, 1)."""
    b, c, h, w = x.shape
    inside = []
    for at, size, repeats in zip(centres, (h, w), (1, c), strict=True):
        start = (at * size).long() - side // 2
        position = torch.arange(size, device=at.device).repeat_interleave(repeats)
        inside.append(((position >= start) & (position < start + side)).float())
    keep: Tensor = 1 - inside[0].unsqueeze(2) * inside[1].unsqueeze(1)
    return keep.view(b, h, w, c).permute(0, 3, 1, 2)
