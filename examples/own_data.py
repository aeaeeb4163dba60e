"""Images of your own: as arrays, as a data set of torch, and under a name.

python examples/own_data.py
python train_search.py --plugins examples/own_data.py --dataset shapes --space micro
"""

import numpy as np
import torch
from torch.utils.data import Dataset

import nas

CLASSES = ["disc", "square", "ring"]


def shapes(count: int, size: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images (count, 2, size, size) of a shape and a glow around it, float32 in [0, 1], and their labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % len(CLASSES)
    y, x = np.mgrid[:size, :size][:, None] - rng.uniform(4, size - 5, (2, count, 1, 1))
    radius = rng.uniform(2, 4, (count, 1, 1))
    disc, square = np.hypot(y, x) - radius, np.maximum(abs(y), abs(x)) - radius  # distances from the border
    image = np.choose(labels[:, None, None], [disc <= 0, square <= 0, abs(disc + 0.6) <= 0.6])
    return np.stack([image, np.exp(-1 - disc / radius)], axis=1).astype(np.float32), labels


class Shapes(Dataset[tuple[torch.Tensor, int]]):
    """The same, image by image, as files or a database would be read."""

    classes = CLASSES

    def __init__(self, count: int, seed: int) -> None:
        self.images, self.labels = shapes(count, seed=seed)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.from_numpy(self.images[index]), int(self.labels[index])


def load(*, image_size: int) -> tuple[object, object]:
    """Training and test images; it gets what it asks for of the arguments that nas.data.register lists."""
    return shapes(480, image_size, seed=0), shapes(120, image_size, seed=1)


nas.data.register("shapes", load)


def main() -> None:
    """Print what is understood, and search on it."""
    print(nas.data.load(shapes(600), classes=CLASSES, test_fraction=0.2))  # a part is set aside for the test
    print(nas.data.load((Shapes(480, seed=0), Shapes(120, seed=1))))  # training and test images
    print(nas.data.load("shapes", image_size=16))
    result = nas.search("micro", data=shapes(600), epochs=5, channels=4, batch_size=32, lr=0.1)
    print(f"{result.genotype}\nvalidation accuracy {result.history[-1]['valid_accuracy']:.1f} %")


if __name__ == "__main__":
    main()
