"""Which classes a network takes for which: accuracies of classes, their mean, and the whole matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nas import distributed
from nas.data.images import PART_NAMES, DataSet

MOST_CLASSES = 100  # of a matrix that is kept; of more, the pairs that are confused most
MOST_PAIRS = 100


class Confusion:
    """Images counted by their class and the one that they are taken for."""

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.pairs: list[Tensor] = []  # of every image, label * classes + prediction

    def add(self, labels: Tensor, predicted: Tensor) -> None:
        """Count images with labels (B,) and predictions (B,)."""
        self.pairs.append(labels * self.classes + predicted)

    def sum_over_ranks(self) -> None:
        """Put together what the ranks have counted."""
        own = torch.cat(self.pairs).cpu() if self.pairs else torch.empty(0, dtype=torch.long)
        most = int(distributed.gather(torch.tensor([len(own)])).max())
        found = distributed.gather(nn.functional.pad(own, (0, most - len(own)), value=-1))
        self.pairs = [found[found >= 0]]

    def counted(self) -> tuple[Tensor, Tensor, Tensor]:
        """Class, what it is taken for, and images, (N,) each, of the pairs that occur."""
        pairs, images = torch.cat(self.pairs).cpu().unique(return_counts=True)
        return pairs // self.classes, pairs % self.classes, images

    def accuracies(self) -> list[float | None]:
        """Of each class, in %; None where it has no images."""
        labels, predicted, images = self.counted()
        right, all_ = (
            torch.zeros(self.classes, dtype=torch.long).index_add_(0, labels, counts).tolist()
            for counts in (images * (labels == predicted), images)
        )
        return [100 * r / n if n else None for r, n in zip(right, all_, strict=True)]

    def balanced(self) -> float:
        """Balanced accuracy: the mean over the classes that have images, in %."""
        known = [accuracy for accuracy in self.accuracies() if accuracy is not None]
        return sum(known) / len(known)

    def to_json(self, classes: Sequence[str], part: str, images: dict[str, list[int]]) -> dict[str, Any]:
        """The entries of result.json.

        Args:
            classes: their names.
            part: what was looked at: train, valid or test.
            images: numbers of images of the classes, by part.
        """
        rows = [
            {"class": name, **{p: counts[c] for p, counts in images.items()}, "accuracy": accuracy}
            for c, (name, accuracy) in enumerate(zip(classes, self.accuracies(), strict=True))
        ]
        return {
            "balanced_accuracy": self.balanced(),
            "classes": rows,
            "confusion": self._matrix(classes, part),
        }

    def _matrix(self, classes: Sequence[str], part: str) -> dict[str, Any]:
        rows = [row for row in zip(*(x.tolist() for x in self.counted()), strict=True) if row[0] != row[1]]
        rows = sorted(rows, key=lambda row: -row[2])[:MOST_PAIRS]
        named = [{"class": classes[a], "taken_for": classes[b], "images": n} for a, b, n in rows]
        found: dict[str, Any] = {"part": part, "most": named}
        if len(classes) <= MOST_CLASSES:
            counts = torch.cat(self.pairs).cpu().bincount(minlength=len(classes) ** 2)
            found["counts"] = counts.view(len(classes), -1).tolist()
        return found


def of_classes(
    confusion: Confusion | None, dataset: DataSet, used: Mapping[str, Tensor], part: str
) -> dict[str, Any]:
    """The entries of result.json about the classes; none where nothing was counted.

    Args:
        used: labels of the images that a run uses as a part, where these are not those of the data set.
        part: what was looked at.
    """
    if confusion is None or not any(map(len, confusion.pairs)):
        return {}
    labels = {name: images.labels for name, images in dataset.parts.items()} | dict(used)
    ordered = {name: labels[name] for name in PART_NAMES if name in labels}
    count = len(dataset.classes)
    images = {name: torch.bincount(found.cpu(), minlength=count).tolist() for name, found in ordered.items()}
    return confusion.to_json(dataset.classes, part, images)


def balanced_message(result: Mapping[str, Any]) -> list[str]:
    """The balanced accuracy in a line, where it is something else than the accuracy."""
    balanced = result.get("balanced_accuracy")
    if balanced is None or f"{balanced:.2f}" == f"{result['test_accuracy']:.2f}":
        return []
    unknown = sum(row["accuracy"] is None for row in result["classes"])
    left = f", {unknown} of them without test images left out" if unknown else ""
    return [f"balanced accuracy {balanced:.2f} % (mean over the {len(result['classes'])} classes{left})"]
