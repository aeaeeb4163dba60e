"""The frame around the cells, which the supernet and every derived network are built from."""

from __future__ import annotations

from dataclasses import dataclass

import torch.fx
from torch import Tensor, nn

from search_spaces.mixed_edge import EDGE_GRADIENTS, Choice, Draw, MixedEdge, read_draw
from search_spaces.operations import DropPath


@dataclass(frozen=True)
class Size:
    """How large a network is, and what it ends in; see `SearchSpace.network`."""

    channels: int
    cells: int
    num_classes: int
    in_channels: int
    auxiliary: bool = False
    drop_path: bool = False
    planned_size: int = 32


class Skeleton(nn.Module):
    """Stem, cells, global average pooling and a linear classifier; the interface timm expects.

    Subclasses set `num_features`, and `drop_path` where they build it in, and implement `features`.
    """

    is_supernet = False
    num_features: int
    num_classes: int
    classifier: nn.Module

    def __init__(self) -> None:
        super().__init__()
        self.drop_path: DropPath | None = None  # of the class, it would hide the module of a network

    def features(self, x: Tensor, choice: Choice | None) -> tuple[Tensor, Tensor | None]:
        """Feature map (B, num_features, H, W), and auxiliary logits (B, classes) or None."""
        raise NotImplementedError

    def forward(self, x: Tensor, draw: Draw | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Logits (B, classes) of images (B, C, H, W).

        Args:
            x: normalised images.
            draw: supernet only; see `read_draw`. A derived network takes none.

        Returns:
            logits; in training mode with an auxiliary head (logits, auxiliary logits).
        """
        if isinstance(draw, torch.fx.Proxy):  # symbolic tracing gives one for every argument
            draw = None
        if self.is_supernet != (draw is not None):
            raise TypeError("a supernet is called with a draw, a derived network without one")
        choice = None if draw is None else read_draw(draw, x.device)
        features, auxiliary = self.features(x, choice)
        logits = self.forward_head(features)
        return logits if auxiliary is None else (logits, auxiliary)

    def forward_features(self, x: Tensor) -> Tensor:
        """Feature map (B, num_features, H, W) of images (B, C, H, W)."""
        return self.features(x, None)[0]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits (B, classes), or pooled features (B, num_features), of a feature map."""
        x = x.mean((2, 3))
        return x if pre_logits else self.classifier(x)

    def get_classifier(self) -> nn.Module:
        """The last linear layer."""
        return self.classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the last linear layer by a new one for `num_classes` classes (0: none)."""
        if global_pool not in (None, "avg"):
            raise ValueError(f"only average pooling is supported, got global_pool={global_pool!r}")
        self.num_classes = num_classes
        self.classifier = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def set_drop_path(self, probability: float) -> None:
        """Set the drop-path probability in [0, 1) of a network built with drop-path."""
        if self.drop_path is not None:
            self.drop_path.probability.fill_(probability)

    def set_edge_gradient(self, mode: str) -> None:
        """Choose how mixed edges get their gradient: one of EDGE_GRADIENTS."""
        if mode not in EDGE_GRADIENTS:
            raise ValueError(f"unknown edge gradient {mode!r}, expected one of {EDGE_GRADIENTS}")
        for module in self.modules():
            if isinstance(module, MixedEdge):
                module.edge_gradient = mode
