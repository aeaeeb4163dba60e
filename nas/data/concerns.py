"""What is to be said of classes before anything is trained: empty, tiny and unequal ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from nas.data.images import PART_NAMES
from nas.data.names import quoted

FEW = 10  # training images of a class, below which it is called small
UNEQUAL = 5  # times the images of the smallest class that the largest may have unnoticed
_MEND = {
    "train": "it cannot be learned: add images",
    "valid": "the validation accuracy leaves it out: add images, or set more aside (`val_fraction`)",
    "test": "the test accuracy leaves it out: add images, or set more aside (`test_fraction`)",
}


def concerns(classes: Sequence[str], parts: Mapping[str, Tensor], balanced: bool = False) -> list[str]:
    """Sentences about the classes of a run, none where all is well.

    Args:
        parts: labels (N,) of the images that are used as train, valid and test.
        balanced: whether the run balances its classes.
    """
    counts = {
        part: torch.bincount(labels.cpu(), minlength=len(classes)).tolist() for part, labels in parts.items()
    }
    found = []
    for part, of_class in counts.items():
        if missing := [name for name, count in zip(classes, of_class, strict=True) if count == 0]:
            what = "class" if len(missing) == 1 else f"{len(missing)} classes"
            found.append(f"no {PART_NAMES[part]} image of the {what} {quoted(missing)}: {_MEND[part]}")
    train = dict(zip(classes, counts["train"], strict=True))
    if small := [name for name, count in train.items() if 0 < count < FEW]:
        least, most = min(train[name] for name in small), max(train[name] for name in small)
        number = f"{least}" if least == most else f"{least} to {most}"
        found.append(
            f"the class{'es'[: 2 * (len(small) > 1)]} {quoted(small)} {'has' if len(small) == 1 else 'have'} "
            f"{number} training image{'s'[: most != 1]}: too few to learn from, or to trust an accuracy"
        )
    there = {name: count for name, count in train.items() if count}
    large, little = max(there, key=there.__getitem__), min(there, key=there.__getitem__)
    if there[large] >= UNEQUAL * there[little]:
        advice = (
            ""
            if balanced
            else ", and give `class_weights=balanced` or `sampling=balanced` where the small matter"
        )
        found.append(
            f"the classes are unequal, '{large}' has {there[large]} training images and '{little}' "
            f"{there[little]}: accuracy is mostly that of the large ones; read the balanced accuracy{advice}"
        )
    return found
