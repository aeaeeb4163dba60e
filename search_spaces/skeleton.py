"""The frame around the cells, which the supernet and every derived network are built from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch.fx
from torch import Tensor, nn

from search_spaces.feature_maps import FeatureMaps, Stage, chosen
from search_spaces.mixed_edge import EDGE_GRADIENTS, Choice, Draw, MixedEdge, read_draw
from search_spaces.operations import DropPath
from search_spaces.skips import Strength


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

    Subclasses set `num_features`, and `drop_path` where they build it in, and implement `features`. Those
    that name their `stages` can serve as backbones: `features` then shows its third argument the output of
    every block.
    """

    is_supernet = False
    stages: tuple[Stage, ...] = ()
    num_features: int
    num_classes: int
    classifier: nn.Module
    description: dict[str, Any]  # of a saved network: what it is
    pretrained_cfg: dict[str, Any]  # timm's, and its other name
    default_cfg: dict[str, Any]
    edge_weights: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("edge_weights", None)  # (E,), of a supernet
        self.drop_path: DropPath | None = None  # of the class, it would hide the module of a network
        self.auxiliary: nn.Module | None = None  # a head that helps the training, and no part of the network
        self.auxiliary_skip: Strength | None = None
        self.skip_dropout: Strength | None = None

    def features(
        self, x: Tensor, choice: Choice | None, seen: FeatureMaps | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Feature map (B, num_features, H, W), and auxiliary logits (B, classes) or None; whatever comes last
        where `seen` ends the pass."""
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
        if choice is not None and choice.edges is None:
            choice = choice._replace(edges=self.edge_weights)
        features, auxiliary = self.features(x, choice)
        logits = self.forward_head(features)
        return logits if auxiliary is None else (logits, auxiliary)

    def forward_features(self, x: Tensor) -> Tensor:
        """Feature map (B, num_features, H, W) of images (B, C, H, W)."""
        return self.features(x, None)[0]

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """Channels, reduction and module of the feature map of every stage, as timm names them."""
        return [
            {"num_chs": stage.channels, "reduction": stage.reduction, "module": stage.module}
            for stage in self.stages
        ]

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Feature maps of stages, by timm's arguments.

        Args:
            indices: which stages: None, all; a number, the last so many.
            norm: give the last stage's map as `forward_features` does, behind the layers that follow it.
            stop_early: end with the last of these stages.
            intermediates_only: leave out the first result, the feature map where the pass ended.
        """
        if self.is_supernet or not self.stages:
            raise TypeError("only a derived network whose class names `stages` has intermediate feature maps")
        if output_fmt != "NCHW":
            raise ValueError(f"feature maps are NCHW, got output_fmt={output_fmt!r}")
        wanted = chosen(len(self.stages), indices)
        norm = norm and wanted[-1] == len(self.stages) - 1
        seen = FeatureMaps([self.stages[i] for i in wanted], (stop_early or intermediates_only) and not norm)
        x, _ = self.features(x, None, seen)
        if norm:
            seen.maps[-1] = x
        return seen.maps if intermediates_only else (x, seen.maps)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] | None = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove the blocks behind the stages `indices`, and the classifier; what is left gives intermediate
        feature maps only. Returns the numbers of the stages.

        Layers behind the last block (`prune_norm`) stay where it does.
        """
        wanted = chosen(len(self.stages), indices)
        last = self.stages[wanted[-1]]
        name = last.module.rpartition(".")[0]
        setattr(self, name, self.get_submodule(name)[: last.block + 1])  # type: ignore[index]
        if prune_head:
            self.reset_classifier(0)
        return wanted

    def __prepare_scriptable__(self) -> nn.Module:
        """What torch.jit.script compiles: the graph of the operations, as it knows no plans and choices."""
        if self.is_supernet:
            raise TypeError("a supernet is no program of TorchScript: derive a network")
        traced = torch.fx.symbolic_trace(self)
        for node in list(traced.graph.nodes):
            node.type = None
            if node.op == "placeholder" and not node.users:
                traced.graph.erase_node(node)
        traced.recompile()
        return traced

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
        like = next(self.parameters())
        self.classifier = (
            nn.Linear(self.num_features, num_classes, device=like.device, dtype=like.dtype)
            if num_classes
            else nn.Identity()
        )

    def set_drop_path(self, probability: float) -> None:
        """Set the drop-path probability in [0, 1) of a network built with drop-path."""
        if self.drop_path is not None:
            self.drop_path.probability.fill_(probability)

    def set_skips(self, auxiliary: float, dropout: float) -> None:
        """Set the strength of the auxiliary skip connections of a supernet, and the probability of dropout
        behind its skip connections, where it has them."""
        for strength, value in ((self.auxiliary_skip, auxiliary), (self.skip_dropout, dropout)):
            if strength is not None:
                strength.set(value)

    def weigh_edges(self, weights: Tensor) -> None:
        """Multiply the value of every edge of a supernet by its weight, of `weights` (E,), from now on."""
        if self.edge_weights is None:
            self.edge_weights = weights.detach().to(next(self.parameters()).device, copy=True)
        else:
            self.edge_weights.copy_(weights.detach(), non_blocking=True)

    def set_edge_gradient(self, mode: str) -> None:
        """Choose how mixed edges get their gradient: one of EDGE_GRADIENTS."""
        if mode not in EDGE_GRADIENTS:
            raise ValueError(f"unknown edge gradient {mode!r}, expected one of {EDGE_GRADIENTS}")
        for module in self.modules():
            if isinstance(module, MixedEdge):
                module.edge_gradient = mode
