"""A task of your own: what networks are trained for, here the focal loss, in a search and in a training.

python examples/own_task.py
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

import nas
from nas.task import Classification


class Focal(Classification):
    """Classification by -(1 - p)^gamma log p, p the probability of the class: what is known already counts
    less (Lin et al., 2017, arXiv 1708.02002).

    An evaluation reports `plain_loss` and `correct`, which stay cross entropy and accuracy. Another kind of
    task is a subclass of `nas.task.Task` with all three, and with `outputs`, the size of the head. Its
    targets are labels of classes, too.
    """

    def __init__(self, classes: int, gamma: float = 2.0) -> None:
        super().__init__(classes)
        self.gamma = gamma

    def loss(self, output: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
        if target.dim() == 1:  # labels; Mixup gives shares of the classes, (B, classes)
            target = F.one_hot(target, self.outputs)
        log_p = output.float().log_softmax(1)  # the output may be bfloat16
        each = -(target * (1 - log_p.exp()) ** self.gamma * log_p).sum(1)
        return each.mean() if reduction == "mean" else each  # estimators like reinforce ask for (B,)


def main() -> None:
    """Search and train with cross entropy and with the focal loss."""
    for task in (Classification(10), Focal(10)):
        result = nas.search("micro", data="digits", task=task, epochs=4, channels=4)
        trained = nas.train(result.genotype, data="digits", task=task, epochs=4)
        loss, accuracy = trained.summary["test_loss"], trained.accuracy
        print(f"{type(task).__name__}: {result}, test loss {loss:.3f}, accuracy {accuracy:.1f} %")


if __name__ == "__main__":
    main()
