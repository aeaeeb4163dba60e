"""The skeleton that the supernet and every derived network are built from.

A skeleton asks a factory for the module of each edge: the supernet's factory answers with a mixed
edge, a derived network's with one operation. Nothing else differs between the two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from search_spaces import operations
from search_spaces.mixed_edge import EDGE_GRADIENTS, Draw, EdgeDraw, MixedEdge, split_draw
from search_spaces.operations import DropPath, Norm


class PlannedEdge(NamedTuple):
    """An edge of a cell: `row` is its row in the logits, `operation` None for a mixed edge."""

    source: int
    target: int
    row: int
    operation: str | None


@dataclass(frozen=True)
class CellPlan:
    """Topology of one kind of cell: nodes 0..inputs-1 are its inputs, then come the others."""

    inputs: int
    nodes: int
    edges: tuple[PlannedEdge, ...]
    concat: tuple[int, ...] = ()


@dataclass(frozen=True)
class Materials:
    """What an edge and the frame around the cells are made of."""

    candidates: tuple[str, ...]
    edge_norm: Norm
    frame_norm: Norm
    pool_norm: bool = False  # DARTS normalises pooling candidates, in the supernet only

    def edge(self, planned: PlannedEdge, channels: int, stride: int) -> nn.Module:
        if planned.operation is not None:
            return self.operation(planned.operation, channels, stride)
        return MixedEdge((name, self.operation(name, channels, stride)) for name in self.candidates)

    def operation(self, name: str, channels: int, stride: int) -> nn.Module:
        module = operations.build(name, channels, stride, self.edge_norm)
        if self.pool_norm and "pool" in name:
            return nn.Sequential(module, self.edge_norm(channels))
        return module


@dataclass(frozen=True)
class Size:
    """How large a network is, and what it ends in; see `SearchSpace.network`."""

    channels: int
    cells: int
    num_classes: int
    in_channels: int
    auxiliary: bool = False
    drop_path: bool = False


class Cell(nn.Module):
    """A directed acyclic graph of edges; node values are the sums of their incoming edges.

    Args:
        plan: the topology.
        make_edge: returns the module of a planned edge.
        drop_path: applied to every edge of a derived network that is not the identity.
    """

    def __init__(
        self,
        plan: CellPlan,
        make_edge: Callable[[PlannedEdge], nn.Module],
        drop_path: DropPath | None = None,
    ) -> None:
        super().__init__()
        self.plan = plan
        self.edges = nn.ModuleList(make_edge(edge) for edge in plan.edges)
        self.drop_path = drop_path

    def forward(self, inputs: Sequence[Tensor], draws: Sequence[EdgeDraw] | None) -> Tensor:
        states = list(inputs)
        for node in range(self.plan.inputs, self.plan.nodes):
            terms = [
                self._run(module, states[planned.source], planned, draws)
                for planned, module in zip(self.plan.edges, self.edges, strict=True)
                if planned.target == node
            ]
            states.append(sum(terms[1:], start=terms[0]))
        if self.plan.concat:
            return torch.cat([states[node] for node in self.plan.concat], 1)
        return states[-1]

    def _run(
        self, module: nn.Module, x: Tensor, planned: PlannedEdge, draws: Sequence[EdgeDraw] | None
    ) -> Tensor:
        if draws is not None:
            return module(x, draws[planned.row])  # type: ignore[no-any-return]
        y: Tensor = module(x)
        if self.drop_path is not None and not isinstance(module, nn.Identity):
            y = self.drop_path(y)
        return y


class Skeleton(nn.Module):
    """Stem, cells, global average pooling and a linear classifier; the interface timm expects.

    Subclasses set `num_features` and `drop_path` and implement `features`.
    """

    is_supernet = False
    num_features: int
    num_classes: int
    classifier: nn.Module
    drop_path: DropPath | None

    def features(self, x: Tensor, draws: Sequence[EdgeDraw] | None) -> tuple[Tensor, Tensor | None]:
        """Feature map (B, num_features, H, W), and auxiliary logits (B, classes) or None."""
        raise NotImplementedError

    def forward(self, x: Tensor, draw: Draw | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Logits (B, classes) of images (B, C, H, W).

        Args:
            x: normalised images.
            draw: supernet only; see `split_draw`. A derived network takes none.

        Returns:
            logits; in training mode with an auxiliary head (logits, auxiliary logits).
        """
        if self.is_supernet != (draw is not None):
            raise TypeError("a supernet is called with a draw, a derived network without one")
        draws = None if draw is None else split_draw(draw, x.device)
        features, auxiliary = self.features(x, draws)
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
