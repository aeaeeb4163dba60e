"""Your own images: as arrays, as a data set of torch, and under a name that the command line knows, too.

Run it by `python -m examples.own_data`.
"""

import numpy as np
import torch
from torch.utils.data import Dataset

import nas.data

CLASSES = ["disc", "square", "ring"]


def shapes(count: int, size: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images (count, 2, size, size) of a shape and a glow around it, float32 in [0, 1], and their labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % len(CLASSES)
    centre, radius = rng.uniform(4, size - 5, (2, count, 1, 1)), rng.uniform(2, 4, (count, 1, 1))
    dy, dx = (np.arange(size).reshape(axis) - c for axis, c in zip(((-1, 1), (1, -1)), centre, strict=True))
    round_distance, square_distance = np.hypot(dy, dx), np.maximum(abs(dy), abs(dx))
    inside = np.stack([round_distance, square_distance, round_distance])[labels, np.arange(count)] <= radius
    inside &= (labels != 2)[:, None, None] | (round_distance > radius - 1.2)
    glow = np.exp(-round_distance / radius) * rng.uniform(0.5, 1, (count, 1, 1))
    return np.stack([inside, glow], axis=1).astype(np.float32), labels


class Shapes(Dataset[tuple[torch.Tensor, int]]):
    """The same, image by image, as a folder of files or a database would be read."""

    classes = CLASSES

    def __init__(self, count: int, seed: int) -> None:
        self.images, self.labels = shapes(count, seed=seed)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.from_numpy(self.images[index]), int(self.labels[index])


def load(*, image_size: int) -> nas.data.DataSet:
    """A source: it asks for what it needs of path, data_root, download, image_size and test_fraction."""
    parts = [shapes(count, image_size, seed) for count, seed in ((480, 0), (120, 1))]
    train, test = (nas.data.Images(torch.from_numpy(x), torch.from_numpy(y)) for x, y in parts)
    return nas.data.DataSet("shapes", train, test, tuple(CLASSES), nas.data.Augmentation(flip=True))


nas.data.register("shapes", load)


def main() -> None:
    """Say what is understood of each."""
    print(nas.data.load(shapes(600), classes=CLASSES, test_fraction=0.2))  # one set, of which a part is test
    print(nas.data.load((Shapes(480, seed=0), Shapes(120, seed=1))))  # training and test images
    print(nas.data.load("shapes", image_size=16, cutout=4))  # by name


if __name__ == "__main__":
    main()
