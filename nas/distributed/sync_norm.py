"""Batch normalisation over the slices of all ranks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nas.distributed.collectives import sum_with_graph
from nas.distributed.processes import rank, world


class SyncBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation that, in training, takes its statistics from the slices of all ranks.

    torch's own is for CUDA only. The slices have equal sizes.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        if not self.training or world() == 1:
            return super().forward(x)
        z = x if x.dtype == torch.float64 else x.float()
        variance, mean = torch.var_mean(z, (0, 2, 3), correction=0)
        # Every rank fills its own row: the means differ little, so that a sum of squares would lose digits.
        row = torch.stack([mean, variance]).unsqueeze(0)
        rows = nn.functional.pad(row, (0, 0, 0, 0, rank(), world() - 1 - rank()))
        means, variances = sum_with_graph(rows).unbind(1)
        mean = means.mean(0)
        variance = variances.mean(0) + (means - mean).square().mean(0)
        if self.running_mean is not None:
            self._track(mean.detach(), variance.detach(), z.numel() // z.shape[1] * world())
        scale = (variance + self.eps).rsqrt()
        if self.affine:
            scale = scale * self.weight
        shift = -mean * scale
        if self.affine:
            shift = shift + self.bias
        y: Tensor = z * scale.view(-1, 1, 1) + shift.view(-1, 1, 1)
        return y.to(x.dtype)

    def _track(self, mean: Tensor, variance: Tensor, count: int) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)


def synchronise(model: nn.Module) -> None:
    """Turn every batch normalisation of `model` into one over all ranks, in place."""
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncBatchNorm2d
