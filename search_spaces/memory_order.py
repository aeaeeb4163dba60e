"""The order in which a feature map lies in memory."""

from __future__ import annotations

import torch
from torch import Tensor


def memory_order(x: Tensor) -> torch.memory_format:
    """That of x (B, C, H, W), for maps that are to lie like it."""
    return torch.contiguous_format if x.is_contiguous() else torch.channels_last
