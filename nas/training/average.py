"""An exponential moving average of the weights of a network."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn


class Average:
    """The average of the parameters and buffers of a network, moved by a few kernels; that of integers, such
    as counters, is what they are now. timm's ModelEmaV3 gives the same, but collects the tensors of both
    networks at every step, for which a GPU would wait.

    Args:
        model: whose tensors stay where they are.
        decay: of the average in a step, in [0, 1).

    Attributes:
        module: a copy of the network, in evaluation mode, with the averages.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.module: Any = copy.deepcopy(model).eval()
        self.decay = decay
        (self._real, self._whole), (self._their_real, self._their_whole) = map(_tensors, (self.module, model))

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the network as it is now."""
        torch._foreach_lerp_(self._real, self._their_real, 1 - self.decay)
        if self._whole:
            torch._foreach_copy_(self._whole, self._their_whole)


def _tensors(network: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Those of the network of real numbers, and of integers."""
    found: tuple[list[Tensor], list[Tensor]] = [], []
    for tensor in network.state_dict(keep_vars=True).values():
        found[not tensor.is_floating_point()].append(tensor)
    return found
