"""Cells: graphs of edges, planned once and made of mixed edges or of single operations.

A skeleton asks a factory for the module of each planned edge: in a supernet it is a mixed edge, in a derived
network one operation. Nothing else differs between the two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.fx
from torch import Tensor, nn

from search_spaces import operations
from search_spaces.captured import Captured, Edge
from search_spaces.depthwise import recorded
from search_spaces.exact_gradient import RecordedEdge, Recorder
from search_spaces.memory_order import memory_order
from search_spaces.mixed_edge import RECORDED, Choice, MixedEdge
from search_spaces.operations import DropPath, Norm, Zero
from search_spaces.partial_channels import bypassed, parted, shuffled
from search_spaces.skips import AuxiliarySkip, SkipDropout, Strength
from search_spaces.slot import ABSENT
from search_spaces.split import Cache, Split


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
    """Makes the module of an edge; `frame_norm` is the normalisation of what is around the cells.

    Attributes:
        pool_norm: whether pooling candidates are normalised, as DARTS does in the supernet only.
        partial: 1 / partial of the channels go through the candidates of a mixed edge.
        skip, auxiliary_skip: the operation that is added to every mixed edge, and its strength, if wanted.
        skip_dropout: the probability of dropout behind candidates that are the identity, if wanted.
    """

    edge_norm: Norm
    frame_norm: Norm
    pool_norm: bool = False
    partial: int = 1
    skip: str | None = None
    auxiliary_skip: Strength | None = None
    skip_dropout: Strength | None = None

    def edge(self, planned: PlannedEdge, channels_in: int, channels_out: int, stride: int) -> nn.Module:
        """(B, channels_in, H, W) to (B, channels_out, ceil(H / stride), ceil(W / stride)).

        Raises ValueError where only a part of the channels goes through, and that cannot be.
        """
        if planned.operation is not None:
            return self._operation(planned.operation, channels_in, channels_out, stride)
        if self.partial > 1 and channels_in != channels_out:
            raise ValueError(
                f"an edge has {channels_in} channels before and {channels_out} behind it, which those that "
                "bypass the candidates cannot follow"
            )
        if channels_out % self.partial:
            raise ValueError(f"an edge of {channels_out} channels has no {self.partial} equal parts")
        channels_in, channels_out = channels_in // self.partial, channels_out // self.partial
        candidates = ((n, self._candidate(n, channels_in, channels_out, stride)) for n in planned.candidates)
        mixed = MixedEdge(candidates, Zero(channels_out, stride), self.partial)
        if self.auxiliary_skip is not None and self.skip is not None:
            skip = self._operation(self.skip, channels_in, channels_out, stride)
            mixed.auxiliary = AuxiliarySkip(skip, self.auxiliary_skip)
        return mixed

    def _candidate(self, name: str, channels_in: int, channels_out: int, stride: int) -> nn.Module:
        module = self._operation(name, channels_in, channels_out, stride)
        if self.skip_dropout is not None and type(module) is nn.Identity:
            return SkipDropout(self.skip_dropout)
        return module

    def _operation(self, name: str, channels_in: int, channels_out: int, stride: int) -> nn.Module:
        module = operations.build(name, channels_in, channels_out, stride, self.edge_norm)
        if self.pool_norm and operations.family(name) == "pooling":
            return nn.Sequential(module, self.edge_norm(channels_out))
        return module


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
        self._pieces: Captured | None = None

    def forward(self, inputs: Sequence[Tensor], choice: Choice | None) -> Tensor:
        if choice is not None and self.captures(choice):
            assert choice.chosen is not None
            return self._together(self.captured()(inputs, choice.weights, choice.chosen))
        states, partial = list(inputs), self.partial
        parts = [parted(x, partial) for x in inputs] if partial > 1 else []
        heads = [first for first, _ in parts] or list(inputs)  # what the edges of the plan see
        rests = [rest for _, rest in parts]
        caches: list[Cache] = [{} for _ in range(self.plan.nodes)]
        pooled: Cache = {}
        recorder = self._recorder(choice, heads)
        for target in range(self.plan.inputs, self.plan.nodes):
            terms = []
            for i, edge in enumerate(self.plan.edges):
                if edge.target == target:
                    x = heads[edge.source]
                    y = (
                        self._derived(i, x)
                        if choice is None
                        else self._mixed(i, x, caches[edge.source], choice, recorder)
                    )
                    if y is not None:
                        terms.append(y)
                    module = self.edges[i]
                    if isinstance(module, MixedEdge) and module.auxiliary is not None:
                        assert choice is not None
                        terms.append(choice.weighed(module.auxiliary(x), edge.row))
            total = _sum(terms) if terms else self._nothing(target, heads)
            total = total if recorder is None else recorder.node(target, total)
            if partial > 1:
                assert choice is not None
                rest = self._bypass(target, rests, choice, pooled)
                states.append(shuffled(self._densely(total), rest, partial))
                total, rest = parted(states[-1], partial)
                rests.append(rest)
            else:
                states.append(total)
            heads.append(total)
            if recorder is not None:
                recorder.source(heads[-1])
        return self._together([states[node] for node in self._outputs])

    @property
    def partial(self) -> int:
        """1 / partial of the channels go through candidates."""
        first = self.edges[0]
        return first.partial if isinstance(first, MixedEdge) else 1

    @property
    def _outputs(self) -> tuple[int, ...]:
        """The nodes that make the output."""
        return self.plan.concat or (self.plan.nodes - 1,)

    def _together(self, parts: Sequence[Tensor]) -> Tensor:
        """The output of the cell, of these nodes."""
        if not self.plan.concat:
            return parts[0]
        return torch.cat([self._densely(part) for part in parts], 1)

    def _densely(self, part: Tensor) -> Tensor:
        """A part of a concatenation, see `dense_gradient`."""
        return dense_gradient(part) if self.training and torch.is_grad_enabled() else part

    def captures(self, choice: Choice) -> bool:
        """Whether a pass is to be run by pieces: one that has a backward, of one candidate for each edge."""
        first = self.edges[0]
        captured = isinstance(first, MixedEdge) and first.edge_gradient == "captured"
        if captured and (self.partial > 1 or choice.edges is not None):
            raise ValueError("cells that run by pieces know neither partial channels nor weights of edges")
        return captured and choice.chosen is not None and torch.is_grad_enabled()

    def captured(self) -> Captured:
        """What runs the cell by pieces."""
        if self._pieces is None:
            self._pieces = Captured([self.captured_edges()], self._outputs)
        return self._pieces

    def captured_edges(self) -> list[Edge]:
        """The edges of the cell, for what runs it by pieces."""
        edges = []
        for planned, edge in zip(self.plan.edges, self.edges, strict=True):
            assert isinstance(edge, MixedEdge)
            auxiliary = None if edge.auxiliary is None else Split.of(edge.auxiliary)
            edges.append(
                Edge(planned.source, planned.target, planned.row, edge.splits, edge.nothing, auxiliary)
            )
        return edges

    def _derived(self, i: int, x: Tensor) -> Tensor | None:
        """The value of edge i of a derived network for its source x; None for zero."""
        module = self.edges[i]
        if isinstance(module, Zero):
            return None
        y: Tensor = module(x)
        if self.drop_path is not None and not isinstance(module, nn.Identity):
            y = self.drop_path(y)
        return y

    def _mixed(
        self, i: int, x: Tensor, cache: Cache, choice: Choice, recorder: Recorder | None
    ) -> Tensor | None:
        """The value of edge i of a supernet for its source x, whose edges share `cache`; None for zero."""
        module, row = self.edges[i], self.plan.edges[i].row
        assert isinstance(module, MixedEdge)
        if module.mixes(choice):
            return choice.weighed(module(x, choice, row), row)
        assert choice.chosen is not None
        chosen = choice.chosen[row]
        if chosen == ABSENT or module.splits[chosen].is_zero:
            return None
        y = module.splits[chosen](x, cache) if recorder is None else recorder.edge(i, x, cache)
        return choice.weighed(y, row)

    def _bypass(self, target: int, rests: Sequence[Tensor], choice: Choice, known: Cache) -> Tensor:
        """The channels of a node that no candidate makes, from those of its sources; `known` holds what edges
        have in common."""
        terms = []
        for module, edge in zip(self.edges, self.plan.edges, strict=True):
            if edge.target == target:
                assert isinstance(module, MixedEdge)
                key = (edge.source, module.nothing.stride)
                if key not in known:
                    known[key] = bypassed(rests[edge.source], module.nothing.stride)
                if not choice.is_absent(edge.row):
                    terms.append(choice.weighed(known[key], edge.row))
        return _sum(terms) if terms else torch.zeros_like(known[key])

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
        compiled = edges[0].edge_gradient == "compiled"  # for all candidates, once
        recorded = []
        for plan, edge in zip(self.plan.edges, edges, strict=True):
            chosen = choice.chosen[plan.row]
            splits = edge.splits if compiled else edge.with_products(chosen)
            recorded.append(RecordedEdge(plan.source, plan.target, plan.row, splits, chosen))
        weights = None if choice.edges is None else choice.edges.detach()
        return Recorder(choice.weights, recorded, inputs, compiled, weights)


class Chain:
    """Cells of one input and one output node, and layers between them, one after another.

    A supernet that is to run by pieces runs all of them so, see `captured`.

    Attributes:
        pieces: of the last of these passes; None: there was none.
    """

    def __init__(self) -> None:
        self.pieces: Captured | None = None

    def __deepcopy__(self, memo: Any) -> Chain:
        return Chain()

    def __reduce__(self) -> tuple[Any, ...]:
        return Chain, ()

    def __call__(self, blocks: Sequence[nn.Module], x: Tensor, choice: Choice | None) -> Tensor:
        """The output of the last of `blocks` for x; all calls have the same blocks."""
        cell = next((block for block in blocks if isinstance(block, Cell)), None)
        if choice is None or cell is None or not cell.captures(choice):
            return in_turn(blocks, x, choice)
        if self.pieces is None:
            self.pieces = _captured_chain(blocks)
        assert choice.chosen is not None
        return self.pieces([x], choice.weights, choice.chosen)[0]


def in_turn(blocks: Iterable[nn.Module], x: Tensor, choice: Choice | None) -> Tensor:
    """The output of the last of some cells of one input, and layers between them, for x."""
    for block in blocks:
        x = block([x], choice) if isinstance(block, Cell) else block(x)
    return x


def _captured_chain(blocks: Sequence[nn.Module]) -> Captured:
    """What runs cells and layers by pieces, on the nodes of all of them."""
    cells, last = [], 0  # the node that the next block starts from
    for block in blocks:
        if isinstance(block, Cell):
            nodes = [last, *range(last + 1, last + block.plan.nodes)]
            cells.append([edge.moved(nodes) for edge in block.captured_edges()])
            (output,) = block._outputs
            last = nodes[output]
        else:
            cells.append([Edge(last, last + 1, -1, (), partial(_zeros, block), Split.of(block))])
            last += 1
    return Captured(cells, [last])


def _zeros(block: nn.Module, x: Tensor) -> Tensor:
    """Zeros of the shape of the output of a layer."""
    return torch.zeros_like(block(x))


def candidates_in(supernet: nn.Module) -> Iterator[tuple[int, int, nn.Module]]:
    """Row, index and module of every candidate of a supernet, cell by cell."""
    for cell in supernet.modules():
        if isinstance(cell, Cell):
            for edge, planned in zip(cell.edges, cell.plan.edges, strict=True):
                assert isinstance(edge, MixedEdge)
                yield from ((planned.row, k, operation) for k, operation in enumerate(edge.operations))


def leave_out(supernet: nn.Module, mask: Tensor | None) -> None:
    """Let a supernet spare candidates where `mask` (E, K) is False, to which no draw gives a weight from now
    on; None: no candidate."""
    for cell in supernet.modules():
        if isinstance(cell, Cell):
            for edge, planned in zip(cell.edges, cell.plan.edges, strict=True):
                assert isinstance(edge, MixedEdge)
                there = [True] * len(edge.operations) if mask is None else mask[planned.row].tolist()
                edge.left_out = frozenset(k for k in range(len(edge.operations)) if not there[k])


def candidate_parameters(supernet: nn.Module, rows: int, width: int) -> Tensor:
    """Parameters of every candidate of a supernet, in all its cells together: (rows, width) int64."""
    sizes = torch.zeros(rows, width, dtype=torch.int64)
    for row, k, operation in candidates_in(supernet):
        sizes[row, k] += sum(p.numel() for p in operation.parameters())
    return sizes


class _DenseGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.order = memory_order(x)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad.contiguous(memory_format=ctx.order)


@torch.fx.wrap
def dense_gradient(x: Tensor) -> Tensor:
    """x (B, C, H, W), with a gradient in the memory order of x.

    The gradient of a part of a concatenation is a slice, which the layers before it are slow to read.
    """
    if not torch.jit.is_scripting():  # noqa: SIM102
        if not recorded():
            return _DenseGradient.apply(x)  # type: ignore
    return x


def _sum(terms: Sequence[Tensor]) -> Tensor:
    """The sum of one or more tensors of equal shape."""
    total = terms[0]
    for i, term in enumerate(terms[1:]):
        total = total + term if i == 0 else total.add_(term)  # only the first may belong to another node
    return total
