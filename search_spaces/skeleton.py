"""The skeleton that the supernet and every derived network are built from.

A skeleton asks a factory for the module of each edge: the supernet's factory answers with a mixed
edge, a derived network's with one operation. Nothing else differs between the two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from search_spaces import operations
from search_spaces.exact_gradient import Recorder
from search_spaces.mixed_edge import EDGE_GRADIENTS, RECORDED, Choice, Draw, MixedEdge, read_draw
from search_spaces.operations import DropPath, Norm, Parts, Zero
from search_spaces.slot import ABSENT


class PlannedEdge(NamedTuple):
    """An edge of a cell: its slot's row in the logits and candidates; `operation` None for a mixed edge."""

    source: int
    target: int
    row: int
    operation: str | None
    candidates: tuple[str, ...]


@dataclass(frozen=True)
class CellPlan:
    """Topology of one kind of cell: nodes 0..inputs-1 are its inputs, then come the others."""

    inputs: int
    nodes: int
    edges: tuple[PlannedEdge, ...]
    concat: tuple[int, ...] = ()

    def chain(self) -> list[CellPlan]:
        """Every edge as a cell of its own, for a space whose one kind of cell is a chain of blocks."""
        return [CellPlan(1, 2, (edge._replace(source=0, target=1),)) for edge in self.edges]


@dataclass(frozen=True)
class EdgeFactory:
    """Makes the module of an edge; `frame_norm` is the normalisation of what is around the cells."""

    edge_norm: Norm
    frame_norm: Norm
    pool_norm: bool = False  # DARTS normalises pooling candidates, in the supernet only

    def edge(self, planned: PlannedEdge, channels_in: int, channels_out: int, stride: int) -> nn.Module:
        """(B, channels_in, H, W) to (B, channels_out, ceil(H / stride), ceil(W / stride))."""
        if planned.operation is not None:
            return self._operation(planned.operation, channels_in, channels_out, stride)
        candidates = ((n, self._operation(n, channels_in, channels_out, stride)) for n in planned.candidates)
        return MixedEdge(candidates, Zero(channels_out, stride))

    def _operation(self, name: str, channels_in: int, channels_out: int, stride: int) -> nn.Module:
        module = operations.build(name, channels_in, channels_out, stride, self.edge_norm)
        if self.pool_norm and operations.family(name) == "pooling":
            return nn.Sequential(module, self.edge_norm(channels_out))
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

    def forward(self, inputs: Sequence[Tensor], choice: Choice | None) -> Tensor:
        states = list(inputs)
        stems: list[dict[tuple[object, ...], Tensor]] = [{} for _ in range(self.plan.nodes)]
        recorder = self._recorder(choice, states)
        for target in range(self.plan.inputs, self.plan.nodes):
            terms = []
            for i, edge in enumerate(self.plan.edges):
                if edge.target == target:
                    y = self._run(i, states[edge.source], stems[edge.source], choice, recorder)
                    if y is not None:
                        terms.append(y)
            total = _sum(terms) if terms else self._nothing(target, states)
            states.append(total if recorder is None else recorder.node(target, total))
        if self.plan.concat:
            return torch.cat([dense_gradient(states[node]) for node in self.plan.concat], 1)
        return states[-1]

    def _run(
        self,
        i: int,
        x: Tensor,
        stems: dict[tuple[object, ...], Tensor],
        choice: Choice | None,
        recorder: Recorder | None,
    ) -> Tensor | None:
        """The value of edge i for its source x, whose `stems` all edges share; None for zero."""
        module, row = self.edges[i], self.plan.edges[i].row
        if choice is None:
            if isinstance(module, Zero):
                return None
            y = Parts.of(module)(x, stems)
            if self.drop_path is not None and not isinstance(module, nn.Identity):
                y = self.drop_path(y)
            return y
        assert isinstance(module, MixedEdge)
        if module.mixes(choice):
            return module(x, choice, row)  # type: ignore[no-any-return]
        assert choice.chosen is not None
        chosen = choice.chosen[row]
        if chosen == ABSENT or isinstance(module.operations[chosen], Zero):
            return None
        return module.parts[chosen](x, stems) if recorder is None else recorder.edge(i, x, stems)

    def _nothing(self, target: int, states: Sequence[Tensor]) -> Tensor:
        """The value of a node that nothing but `none` leads to."""
        i, source = next((i, e.source) for i, e in enumerate(self.plan.edges) if e.target == target)
        module = self.edges[i]
        zero = module.nothing if isinstance(module, MixedEdge) else module
        return zero(states[source])  # type: ignore[no-any-return]

    def _recorder(self, choice: Choice | None, inputs: Sequence[Tensor]) -> Recorder | None:
        """What adds the exact gradient of a one-hot choice, where one is wanted."""
        if choice is None or choice.weights is None or choice.chosen is None:
            return None
        edges = [module for module in self.edges if isinstance(module, MixedEdge)]
        wanted = torch.is_grad_enabled() and choice.weights.requires_grad
        if not wanted or edges[0].edge_gradient not in RECORDED:
            return None
        ends = [(edge.source, edge.target, edge.row) for edge in self.plan.edges]
        candidates = [edge.parts for edge in edges]
        compiled = edges[0].edge_gradient == "compiled"
        return Recorder(choice.weights, choice.chosen, ends, candidates, inputs, compiled)


class _DenseGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.order = torch.contiguous_format if x.is_contiguous() else torch.channels_last
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad.contiguous(memory_format=ctx.order)


def dense_gradient(x: Tensor) -> Tensor:
    """x (B, C, H, W), with a gradient in the memory order of x.

    The gradient of a part of a concatenation is a slice, which the layers before it are slow to read.
    """
    return _DenseGradient.apply(x)  # type: ignore[no-any-return, no-untyped-call]


def _sum(terms: Sequence[Tensor]) -> Tensor:
    """The sum of one or more tensors of equal shape."""
    total = terms[0]
    for i, term in enumerate(terms[1:]):
        total = total + term if i == 0 else total.add_(term)  # only the first may belong to another node
    return total


class Skeleton(nn.Module):
    """Stem, cells, global average pooling and a linear classifier; the interface timm expects.

    Subclasses set `num_features` and `drop_path` and implement `features`.
    """

    is_supernet = False
    num_features: int
    num_classes: int
    classifier: nn.Module
    drop_path: DropPath | None

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
