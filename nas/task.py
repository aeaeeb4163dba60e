"""What networks are trained for: the loss of the two kinds of step, and what an evaluation counts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from recipes import InputError


class Task(ABC):
    """The objective of a search and of a training.

    Attributes:
        outputs: numbers that the head of a network, a linear layer, gives for an image.
    """

    outputs: int

    @abstractmethod
    def loss(self, output: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
        """What training minimises.

        Args:
            output: (B, outputs), of a network.
            target: (B,) labels, or (B, outputs) where Mixup has mixed them.
            reduction: `mean`: (); `none`: (B,).
        """

    @abstractmethod
    def plain_loss(self, output: Tensor, target: Tensor) -> Tensor:
        """(), what an evaluation reports: the loss without what only serves training."""

    def error(self, output: Tensor, target: Tensor) -> Tensor:
        """(B,), the error of each image, which need not be differentiable: what architecture steps with
        `architecture_loss=error` minimise. Here 1 where `correct` counts none, else 0; another metric of a
        task, the lower the better, takes its place.
        """
        right = [self.correct(output[i : i + 1], target[i : i + 1]) for i in range(len(target))]
        return 1 - torch.stack(right).float()

    @abstractmethod
    def correct(self, output: Tensor, target: Tensor) -> Tensor:
        """(), on the device: the number of images whose output is right for the labels (B,)."""

    def predicted(self, output: Tensor) -> Tensor | None:
        """(B,), the classes that outputs speak for; None: this task has no such thing."""
        return None


class Classification(Task):
    """Cross entropy and accuracy.

    Args:
        classes: number of classes.
        label_smoothing: mass that training spreads over all classes, in [0, 1).
        class_weights: (classes,), of the training loss; None: all equal.
    """

    def __init__(
        self, classes: int, label_smoothing: float = 0.0, class_weights: Tensor | None = None
    ) -> None:
        self.outputs, self.label_smoothing, self.class_weights = classes, label_smoothing, class_weights

    def loss(self, output: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
        weights = self.class_weights
        if weights is not None:
            if weights.device != output.device:
                weights = self.class_weights = weights.to(output.device)
            output = output.to(torch.promote_types(output.dtype, torch.float32))
            weights = weights.to(output.dtype)
            # The plain mean, not one over the weights in the batch: that of slices is that of the whole.
            each = F.cross_entropy(
                output, target, weights, reduction="none", label_smoothing=self.label_smoothing
            )
            return each.mean() if reduction == "mean" else each
        return F.cross_entropy(output, target, reduction=reduction, label_smoothing=self.label_smoothing)

    def plain_loss(self, output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output, target)

    def error(self, output: Tensor, target: Tensor) -> Tensor:
        return (output.argmax(1) != target).float()

    def correct(self, output: Tensor, target: Tensor) -> Tensor:
        return (output.argmax(1) == target).sum()

    def predicted(self, output: Tensor) -> Tensor:
        return output.argmax(1)


def of_task(task: Task, classes: Sequence[str]) -> dict[str, Any]:
    """What the description of a network says of its outputs: `classes`, or the `task` that gives them another
    meaning."""
    if isinstance(task, Classification):
        return {"classes": list(classes)}
    return {"task": type(task).__name__}


def require_numbers(task: Task, labels: Tensor) -> None:
    """Raise InputError where a task has no head, or a loss or count of images, labels (B,), is not ()."""
    outputs = getattr(task, "outputs", None)
    if type(outputs) is not int or outputs < 1:
        raise InputError(f"`task`: its `outputs` are {outputs!r}, expected the number of outputs of the head")
    for name in ("loss", "plain_loss", "correct"):
        found = getattr(task, name)(torch.zeros(len(labels), outputs, device=labels.device), labels)
        if not isinstance(found, Tensor) or found.dim():
            what = f"of the shape {tuple(found.shape)}" if isinstance(found, Tensor) else repr(found)[:60]
            wanted = "their number" if name == "correct" else "the mean"
            raise InputError(
                f"`task`: `{name}` of {type(task).__name__} is {what} for {len(labels)} images, expected a "
                f"tensor (): {wanted}"
            )


def balanced_weights(labels: Tensor, classes: int) -> Tensor:
    """(classes,), inverse to the number of images of each class in `labels` (N,), with mean 1 over the
    images.

    A class without images has weight 0.
    """
    counts = torch.bincount(labels.cpu(), minlength=classes).double()
    weights = torch.where(counts > 0, len(labels) / counts.clamp_min(1) / (counts > 0).sum(), 0.0)
    return weights.float()
