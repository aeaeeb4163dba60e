"""A zero-cost score of your own: what an untrained network promises, here by the gradients of its loss.

python examples/own_score.py
python ablate.py nas --plugins examples/own_score.py --zero-cost synflow grad_norm:images=64
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import nas
import search_spaces
from nas.tables import packaged
from nas.task import Classification, Task
from nas.zero_cost import SCORES, ZeroCost


class GradientNorm(ZeroCost):
    """The sum over all weights of the norm of the gradient of the loss (Abdelfattah et al., 2021, arXiv
    2101.08134).

    The network is a copy, with which everything may be done, images (B, C, H, W) are normalised, and the task
    has the loss. The more is returned the better; NaN and -inf are worse than all else. Settings, arguments
    of the constructor, can be given on the command line. `self.images` says how many images are wanted.
    """

    name = "grad_norm"

    def __init__(self, images: int = 32) -> None:
        self.images = images

    def score(self, network: nn.Module, images: Tensor, labels: Tensor, task: Task) -> float:
        weights = [p for p in network.parameters() if p.dim() > 1]
        loss = task.loss(network.train()(images), labels)
        gradients = torch.autograd.grad(loss, weights, allow_unused=True)
        return sum(float(gradient.norm()) for gradient in gradients if gradient is not None)


nas.register_zero_cost("grad_norm", GradientNorm)


def main() -> None:
    """Score two cells of micro, whose true accuracies are known, on images of noise."""
    space, table = search_spaces.get("micro"), packaged("micro", "digits")
    torch.manual_seed(0)
    images, labels = torch.randn(32, 1, 8, 8), torch.arange(32) % 10
    for text in (
        "|nor_conv_3x3~0|+|skip_connect~0|nor_conv_3x3~1|",
        "|none~0|+|avg_pool_3x3~0|avg_pool_3x3~1|",
    ):
        network = space.network(space.parse(text), channels=4, in_channels=1)
        found = {
            name: SCORES.build(name)(network, images, labels, Classification(10)) for name in SCORES.names()
        }
        accuracy = table.lookup(space.parse(text)).accuracy
        print(f"{text}, {accuracy:.1f} %:", ", ".join(f"{name} {score:.2f}" for name, score in found.items()))


if __name__ == "__main__":
    main()
