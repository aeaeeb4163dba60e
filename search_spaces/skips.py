"""What a supernet does about skip connections, which a search takes too many of. Derived networks have none
of it.

How much of it is done is a strength that a search moves: a tensor on the device, and a part of the state of
the supernet, so that its weights are never without it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Strength(nn.Module):
    """A number, 0 until it is set."""

    value: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("value", torch.zeros(()))

    def set(self, value: float) -> None:
        """Move it, without waiting for the device."""
        self.value.fill_(value)


class AuxiliarySkip(nn.Module):
    """A skip connection beside the candidates of an edge, times a strength.

    Args:
        skip: the operation.
        strength: part of the supernet.

    Source: Chu et al., 2021, "DARTS-: Robustly Stepping out of Performance Collapse Without Indicators",
    arXiv 2009.01027.
    """

    def __init__(self, skip: nn.Module, strength: Strength) -> None:
        super().__init__()
        self.skip = skip
        self._strength = (strength,)  # not as a module: it has one name, in the supernet

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self._strength[0].value * self.skip(x)
        return out


class SkipDropout(nn.Module):
    """The identity, each value of which is dropped with a probability, and scaled to keep the mean, in
    training only.

    Args:
        probability: part of the supernet, in [0, 1).

    Source: Chen et al., 2019, "Progressive Differentiable Architecture Search: Bridging the Depth Gap between
    Search and Evaluation", arXiv 1904.12760.
    """

    def __init__(self, probability: Strength) -> None:
        super().__init__()
        self._probability = (probability,)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        keep = 1 - self._probability[0].value
        return x * (torch.rand_like(x) < keep).to(x.dtype) / keep.to(x.dtype)
