"""Partial channels: of the C channels of a node, the first C / K go through the candidates of an edge.

With x_1 these and x_2 the others, the value of an edge is y = shuffle(cat(sum_k D_k o_k(x_1), x_2)), where
x_2 is pooled if the candidates have stride 2. All edges into a node are shuffled alike, so that it is done
once, to the sum of what went through candidates beside the sum of what did not. To the former a cell is one
of C / K channels, whose draws have the same exact gradient as in any other; `none` makes it 0 and leaves x_2.

Source: Xu et al., 2020, "PC-DARTS: Partial Channel Connections for Memory-Efficient Differentiable
Architecture Search", arXiv 1907.05737.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from search_spaces.memory_order import memory_order


def parted(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The channels of x (B, C, H, W) for candidates, (B, C / k, H, W), and the others, both in its memory
    order."""
    first, rest = x.split([x.shape[1] // k, x.shape[1] - x.shape[1] // k], 1)
    return first.contiguous(memory_format=memory_order(x)), rest.contiguous(memory_format=memory_order(x))


def bypassed(rest: Tensor, stride: int) -> Tensor:
    """What goes past the candidates of an edge (B, C - C / k, H, W): the largest of each stride x stride
    pixels."""
    return rest if stride == 1 else F.max_pool2d(rest, stride, ceil_mode=True)


def shuffled(first: Tensor, rest: Tensor, k: int) -> Tensor:
    """The channels of `first` (B, C / k, H, W) and `rest` (B, C - C / k, H, W) as k groups of C / k: the
    first ones of all groups, then the second ones, and so on; in the memory order of `first`."""
    groups = [first, *rest.chunk(k - 1, 1)]
    if memory_order(first) == torch.contiguous_format:
        return torch.stack(groups, 2).flatten(1, 2)
    return torch.stack([x.permute(0, 2, 3, 1) for x in groups], -1).flatten(3).permute(0, 3, 1, 2)
