"""What the steps of searches and trainings tell, summed up over epochs; and evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from nas import distributed
from nas.confusion import Confusion
from nas.data import Batches
from nas.device import Precision
from nas.task import Task
from search_spaces.mixed_edge import Draw


@dataclass
class StepResult:
    """What a step saw, still on the device: mean loss, correct predictions, images, and whether it was
    skipped (see `nas.guard`)."""

    loss: Tensor
    correct: Tensor
    images: int
    skipped: Tensor | None = None

    def over_ranks(self, tensors: Sequence[Tensor]) -> StepResult:
        """The result of the step on the slices of all ranks; `tensors` become their means, in place."""
        ranks = distributed.world()
        if ranks == 1:
            return self
        loss, correct = self.loss.float().clone(), self.correct.float()
        distributed.average([*tensors, loss, correct])
        return replace(self, loss=loss, correct=(correct * ranks).round(), images=self.images * ranks)


@dataclass
class Work:
    """How many images have gone through networks, over all ranks; one that does so twice counts twice.

    Attributes:
        trained: forward and backward.
        evaluated: forward only, about a third of the work.
    """

    trained: int = 0
    evaluated: int = 0

    def add(self, images: int) -> None:
        """Add this rank's images of a pass, which has a backward where gradients are enabled."""
        if torch.is_grad_enabled():
            self.trained += images * distributed.world()
        else:
            self.evaluated += images * distributed.world()


class Mean:
    """Running mean loss and accuracy over the steps that were taken, and the number of the others.

    Everything is summed on the device and read when asked for.
    """

    def __init__(self) -> None:
        self.loss: Tensor | float = 0.0
        self.correct: Tensor | float = 0.0
        self.images: Tensor | float = 0.0
        self.skipped: Tensor | float = 0.0

    def add(self, step: StepResult) -> None:
        """Add what a step saw."""
        loss = step.loss.double() * step.images
        taken: Tensor | float = 1.0
        if step.skipped is not None:
            skipped = step.skipped.to(loss.device, non_blocking=True)
            taken, loss = 1.0 - skipped.double(), torch.where(skipped, 0.0, loss)
        self.loss = self.loss + loss
        self.correct = self.correct + taken * step.correct
        self.images = self.images + taken * step.images
        self.skipped = self.skipped + (1.0 - taken)

    def read(self) -> tuple[float | None, float | None]:
        """Mean loss and accuracy in %, None before the first batch. Waits for the device."""
        if float(self.images) == 0:
            return None, None
        return float(self.loss) / float(self.images), 100.0 * float(self.correct) / float(self.images)

    def sum_over_ranks(self) -> None:
        """Add up what the ranks have seen. Waits for the device."""
        names = list(vars(self))
        sums = torch.tensor([float(getattr(self, name)) for name in names], dtype=torch.float64)
        for name, value in zip(names, distributed.gather(sums.unsqueeze(0)).sum(0).tolist(), strict=True):
            setattr(self, name, value)

    def state(self) -> dict[str, float]:
        """The sums, for a checkpoint. Waits for the device."""
        return {name: float(value) for name, value in vars(self).items()}

    @classmethod
    def restored(cls, state: dict[str, float]) -> Mean:
        """The mean whose `state` this is."""
        mean = cls()
        for name in vars(mean):
            setattr(mean, name, float(state[name]))
        return mean


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """A model in evaluation mode; afterwards in the mode that it was in."""
    before = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(before)


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Batches,
    task: Task,
    precision: Precision,
    draw: Draw | None = None,
    confusion: Confusion | None = None,
) -> tuple[float, float]:
    """Mean loss and accuracy (%) over all images; `draw` is for supernets, see `read_draw`.

    Args:
        confusion: gets what the images are taken for, if the task has predictions.
    """
    mean = Mean()
    with evaluating(model):
        for images, target in batches.evaluation(distributed.rank(), distributed.world()):
            with precision():
                output = model(images) if draw is None else model(images, draw)
            loss = task.plain_loss(output.float(), target)
            mean.add(StepResult(loss, task.correct(output, target), len(target)))
            if confusion is not None and (predicted := task.predicted(output)) is not None:
                confusion.add(target, predicted)
    mean.sum_over_ranks()
    if confusion is not None:
        confusion.sum_over_ranks()
    loss_value, accuracy = mean.read()
    assert loss_value is not None
    assert accuracy is not None
    return loss_value, accuracy
