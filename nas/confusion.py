"""Which classes a network takes for which: accuracies of classes, their mean, and the whole matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from nas import distributed
from nas.data.images import PART_NAMES, DataSet

MOST_CLASSES = 100  # of a matrix that is kept; of more, the pairs that are confused most
MOST_PAIRS = 100


class Confusion:
    """Counts (C, C) of images, by their class and the one that they are taken for."""

    def __init__(self, classes: int) -> None:
        self.counts = torch.zeros(classes, classes, dtype=torch.long)

    def add(self, labels: Tensor, predicted: Tensor) -> None:
        """Count images with labels (B,) and predictions (B,)."""
        classes = len(self.counts)
        found = torch.bincount(labels * classes + predicted, minlength=classes**2)
        self.counts = self.counts.to(found.device) + found.view(classes, classes)

    def sum_over_ranks(self) -> None:
        """Add up what the ranks have counted."""
        own = self.counts.cpu().double()
        self.counts = distributed.gather(own.view(1, -1)).sum(0).view_as(own).long()

    def accuracies(self) -> list[float | None]:
        """Of each class, in %; None where it has no images."""
        counts = self.counts.cpu()
        return [
            100 * int(row[c]) / int(row.sum()) if int(row.sum()) else None for c, row in enumerate(counts)
        ]

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
        counts = self.counts.cpu()
        off = counts - torch.diag(counts.diag())
        order = off.flatten().argsort(descending=True, stable=True)[:MOST_PAIRS].tolist()
        pairs = [(i // len(classes), i % len(classes)) for i in order if int(off.flatten()[i])]
        named = [
            {"class": classes[a], "taken_for": classes[b], "images": int(counts[a, b])} for a, b in pairs
        ]
        found: dict[str, Any] = {"part": part, "most": named}
        return found | ({"counts": counts.tolist()} if len(classes) <= MOST_CLASSES else {})


def of_classes(
    confusion: Confusion | None, dataset: DataSet, used: Mapping[str, Tensor], part: str
) -> dict[str, Any]:
    """The entries of result.json about the classes; none where nothing was counted.

    Args:
        used: labels of the images that a run uses as a part, where these are not those of the data set.
        part: what was looked at.
    """
    if confusion is None or not int(confusion.counts.sum()):
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
