"""Cells of a supernet, one or a chain of them, as pieces of work that are each launched as one CUDA graph.

A small cell is a hundred small kernels, which a GPU computes faster than a host can launch them. Every step
runs other candidates, so that no whole cell is worth recording; but one candidate of one edge does the same
each time. It is recorded when it is run for the second time (`recording.Piece`); on other devices than CUDA
it is run as it is.

A pass, whose nodes and gradients stay where they are in memory (`_Places`, one for each kind of input):

1. The inputs are copied to their nodes; other nodes and all gradients are 0.
2. The chosen candidate of each edge adds to the node that the edge leads to.
3. The output nodes are handed out as they are, good until the next pass.
4. Backward, the gradients of the outputs are copied to theirs, and the candidates, last ones first, add to
   the gradient of the node that their edge comes from, and leave those of their weights.
5. When the gradients at all nodes of a cell are there, the products of all its candidates are computed, one
   piece, compiled (`batched_products`).
6. The gradients of inputs and weights are handed out as copies, that of the draw is made of the products.

In a chain of cells, and of layers between them, a node that one leads to is the node that the next one starts
from, and the host has nothing else to do in between.

The candidates of an edge share the memory of their graphs, as a pass runs only one of them: the backward pass
comes before the next forward pass.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from search_spaces.batched_products import batched_products, calls, compiled_products, planned
from search_spaces.depthwise import AvgPool3x3, DepthwiseConv2d
from search_spaces.inverted_residual import SqueezeExcite
from search_spaces.memory_order import memory_order
from search_spaces.products import inner_product
from search_spaces.recording import Piece, memory_pool
from search_spaces.slot import ABSENT
from search_spaces.split import Split

Key = tuple[object, ...]
# Layers that compute the same from the same input.
_CERTAIN = (
    nn.Identity, nn.Conv2d, DepthwiseConv2d, nn.BatchNorm2d, nn.ReLU, nn.Hardswish, nn.AvgPool2d, AvgPool3x3,
    nn.MaxPool2d, SqueezeExcite,
)  # fmt: skip


@dataclass(frozen=True)
class Edge:
    """An edge, with its row of the draw and its candidates; `nothing(x)` is a target that is zero, and
    `auxiliary` is added whatever is drawn. An edge without candidates has nothing else; its row is -1."""

    source: int
    target: int
    row: int
    candidates: Sequence[Split]
    nothing: Callable[[Tensor], Tensor]
    auxiliary: Split | None = None

    def drawn(self, chosen: Sequence[int]) -> int:
        """The candidate in a draw."""
        return chosen[self.row] if self.candidates else ABSENT

    def moved(self, nodes: Sequence[int]) -> Edge:
        """The same between other nodes, numbered `nodes`."""
        return replace(self, source=nodes[self.source], target=nodes[self.target])


class _Operation(nn.Module):
    """A candidate as a module, whose parameters can be given in a call."""

    def __init__(self, split: Split) -> None:
        super().__init__()
        self.split = split
        self.layers = nn.ModuleList(m for m in (split.shared, *split.body, split.pointwise) if m is not None)

    def forward(self, x: Tensor) -> Tensor:
        """o(x), of the residual ones with x."""
        return self.split(x, {})


class _Candidate:
    """The two passes of a candidate of an edge, or of what is added to it, in the places of a cell.

    Args:
        number: of the edge.
        column: of the candidate in the draw; None for what is added.

    Attributes:
        is_identity: whether it is, without even a normalisation.
        parameters, gradients: those that are trained, and where their gradients are left.
        reached: which of these there are: those of the parameters on the way to y.
        product: where <dL/dy, y> is left, if y may be random and cannot be had again; else None.
        silent: whether the backward pass has nothing to do, as that of noise.
    """

    def __init__(self, places: _Places, number: int, split: Split, column: int | None, pool: Any) -> None:
        self.places, self.number, self.split, self.column = places, number, split, column
        self.edge = places.edges[number]
        self.module = _Operation(self.split)
        trained = [(name, p) for name, p in self.module.named_parameters() if p.requires_grad]
        self.names, self.parameters = [name for name, _ in trained], [p for _, p in trained]
        self.gradients = [torch.zeros_like(p) for p in self.parameters]
        self.reached = [False] * len(self.gradients)
        self.is_identity = all(type(layer) is nn.Identity for layer in self.module.layers) and not (
            split.norm is not None or split.residual
        )
        certain = (nn.Identity,) if split.norm is None else _CERTAIN
        drawn = any(type(layer) not in certain for layer in split.body)
        wanted = drawn and places.learns and column is not None
        self.product = torch.zeros_like(places.zero) if wanted else None
        self.silent = False
        self.forward = Piece(self._forward, places.device, pool)
        self.backward = Piece(self._backward, places.device, pool)

    def launch(self) -> None:
        """The forward pass."""
        if self.is_identity:  # one kernel is launched sooner than a graph
            self.places.values[self.edge.target].add_(self.places.values[self.edge.source])
            return
        if self.backward.graph is None and not self.silent:
            self.forward.forget()  # what was recorded of a pass that had no backward is of no use
        self.forward.launch()

    def launch_backward(self) -> None:
        """The backward pass."""
        if self.is_identity:
            self.places.grads[self.edge.source].add_(self.places.grads[self.edge.target])
        elif not self.silent:  # a graph of nothing is a warning
            self.backward.launch()

    def _forward(self) -> None:
        with torch.enable_grad(), self.places.autocast():
            self.x = self.places.values[self.edge.source].detach().requires_grad_()
            # Leaves of their own: the graph around the cell holds the parameters on its stream, on which a
            # backward pass that is recorded must not wait.
            self.leaves = [p.detach().requires_grad_() for p in self.parameters]
            named = dict(zip(self.names, self.leaves, strict=True))
            self.y = torch.func.functional_call(self.module, named, (self.x,))
        with torch.no_grad():
            self.places.values[self.edge.target].add_(self.y)

    def _backward(self) -> None:
        y, grads = self.y, self.places.grads
        grad = grads[self.edge.target].to(y.dtype)
        wanted = [self.x, *self.leaves] if y.requires_grad else []  # noise has no gradient
        self.silent = not wanted and self.product is None
        found: Sequence[Tensor | None] = [None] * (1 + len(self.leaves))
        if wanted:
            found = torch.autograd.grad(y, wanted, grad, allow_unused=True)
        self.reached = [gradient is not None for gradient in found[1:]]
        with torch.no_grad():
            if found[0] is not None:
                grads[self.edge.source].add_(found[0])
            for place, gradient in zip(self.gradients, found[1:], strict=True):
                if gradient is not None:
                    place.copy_(gradient)
            if self.product is not None:
                self.product.copy_(inner_product(grad, y.detach()))
        del self.x, self.y, self.leaves
        self.forward.warm = self.backward.warm = True


class _Places:
    """Where nodes, their gradients and the products are kept, for passes of one kind."""

    def __init__(
        self, cells: Sequence[Sequence[Edge]], inputs: Sequence[Tensor], shape: torch.Size, learns: bool
    ) -> None:
        edges = self.edges = [edge for cell in cells for edge in cell]
        self.device, self.learns = inputs[0].device, learns
        kind = self.device.type
        self._autocast = (kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))
        with torch.no_grad():
            self.values = [torch.zeros_like(x) for x in inputs]
            for target in range(len(inputs), max(edge.target for edge in edges) + 1):
                edge = next(edge for edge in edges if edge.target == target)
                zeros = edge.nothing(self.values[edge.source])
                self.values.append(zeros.clone(memory_format=memory_order(inputs[0])))
            self.grads = [torch.zeros_like(x) for x in self.values]
            dtype = torch.promote_types(inputs[0].dtype, torch.float32)
            self.zero = torch.zeros((), device=self.device, dtype=dtype)  # what a product is like
        self.candidates: dict[tuple[int, int | None], _Candidate] = {}
        for i, edge in enumerate(edges):
            pool = memory_pool(self.device)
            for k, split in enumerate(edge.candidates):
                if not split.is_zero:
                    self.candidates[i, k] = _Candidate(self, i, split, k, pool)
            if edge.auxiliary is not None:
                self.candidates[i, None] = _Candidate(self, i, edge.auxiliary, None, memory_pool(self.device))
        self.cells = _Products.of(cells, self) if learns else []
        self.shape, self.number = shape, 0  # of the pass whose values are here
        self.selection = _selection(self.cells, shape).to(self.zero, non_blocking=True)

    def autocast(self) -> torch.autocast:
        """The precision of these passes."""
        device, dtype, enabled = self._autocast
        return torch.autocast(device, dtype=dtype, enabled=enabled, cache_enabled=False)


class _Products:
    """The products of a cell.

    Attributes:
        first: the number of its first edge among those of all cells.
        entries: of every product, (row, column) of the candidates that it belongs to.
        found: where the products are left.
    """

    def __init__(self, cell: Sequence[Edge], first: int, places: _Places) -> None:
        edges = [edge for edge in cell if edge.candidates]
        nodes = sorted({node for edge in edges for node in (edge.source, edge.target)})
        values, grads = [places.values[n] for n in nodes], [places.grads[n] for n in nodes]
        at = {node: i for i, node in enumerate(nodes)}
        plan = [(at[edge.source], at[edge.target], edge.candidates) for edge in edges]
        batches, found = planned(plan, residuals=True)
        self.calls = calls(batches, values, grads)
        self.first, self.entries = first, [[(edges[i].row, k) for i, k in place] for place in found]
        self.found = places.zero.new_zeros(len(found))
        self.autocast = places.autocast
        self.piece = Piece(self._compute, places.device, memory_pool(places.device))

    @staticmethod
    def of(cells: Sequence[Sequence[Edge]], places: _Places) -> list[_Products]:
        """Of every cell that has candidates other than `none`."""
        firsts = itertools.accumulate((len(cell) for cell in cells), initial=0)
        found = (_Products(cell, first, places) for cell, first in zip(cells, firsts, strict=False))
        return [one for one in found if one.calls]

    def _compute(self) -> None:
        compute = compiled_products if self.found.device.type == "cuda" else batched_products
        with torch.no_grad(), self.autocast():
            self.found.copy_(torch.cat([compute(*call) for call in self.calls]))
        self.piece.warm = True


def _selection(cells: Sequence[_Products], shape: torch.Size) -> Tensor:
    """(E * K, P), 1 where a product is of an entry of the draw, or a part of it."""
    places = [entries for cell in cells for entries in cell.entries]
    selection = torch.zeros(shape.numel(), len(places))
    for column, entries in enumerate(places):
        for row, k in entries:
            selection[row * shape[1] + k, column] = 1
    return selection


class Captured:
    """The passes of cells by their pieces.

    Args:
        cells: the edges of each, in an order in which they can be run.
        outputs: the nodes that are wanted.
    """

    def __init__(self, cells: Sequence[Sequence[Edge]], outputs: Sequence[int]) -> None:
        self.cells = [sorted(cell, key=lambda edge: edge.target) for cell in cells]
        self.edges = [edge for cell in self.cells for edge in cell]
        self.outputs = tuple(outputs)
        splits = [s for edge in self.edges for s in (*edge.candidates, edge.auxiliary) if s is not None]
        layers = [m for split in splits for layer in _Operation(split).layers for m in layer.modules()]
        self.some = layers[:1]  # all layers are in training, or none
        self.kept = [(m._parameters, n) for m in layers for n, p in m._parameters.items() if p is not None]
        self.parameters: list[nn.Parameter | None] = []
        self.places: dict[Key, _Places] = {}

    def __deepcopy__(self, memo: Any) -> None:
        """None: a copy of a cell has other weights, and makes its own."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(None), ())

    def __call__(
        self, inputs: Sequence[Tensor], weights: Tensor | None, chosen: Sequence[int]
    ) -> list[Tensor]:
        """The output nodes for the input nodes.

        Args:
            weights: (E, K), the one-hot draw that gets the gradient; None where none is wanted.
            chosen: the candidate of every slot.
        """
        learns = weights is not None and weights.requires_grad
        shape = weights.shape if weights is not None and learns else torch.Size((1, 1))
        kind = inputs[0].device.type
        parameters = [there[name] for there, name in self.kept]
        if list(map(id, parameters)) != list(map(id, self.parameters)):  # others in their place
            self.parameters, self.places = parameters, {}
        key = (
            learns, shape, *(m.training for m in self.some),
            *(p is not None and p.requires_grad for p in parameters),
            torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind),
            *((x.shape, x.dtype, x.device, memory_order(x)) for x in inputs),
        )  # fmt: skip
        if key not in self.places:
            self.places[key] = _Places(self.cells, inputs, shape, learns)
        places = self.places[key]
        drawn = ((i, k) for i, edge in enumerate(self.edges) for k in (edge.drawn(chosen), None))
        run = [places.candidates[pair] for pair in drawn if pair in places.candidates]
        tensors = (*inputs, *(p for candidate in run for p in candidate.parameters))
        found: tuple[Tensor, ...] = _Pass.apply(  # type: ignore[no-untyped-call]
            places, run, self.outputs, len(inputs), weights if learns else None, *tensors
        )
        return list(found)


class _Pass(torch.autograd.Function):
    """A forward pass by pieces, and its backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        places: _Places,
        run: Sequence[_Candidate],
        outputs: Sequence[int],
        count: int,
        weights: Tensor | None,
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.places, ctx.run, ctx.outputs, ctx.count = places, run, outputs, count
        places.number += 1
        ctx.number = places.number
        torch._foreach_copy_(places.values[:count], list(tensors[:count]))
        torch._foreach_zero_([*places.values[count:], *places.grads])
        for candidate in run:
            candidate.launch()
        return tuple(places.values[node].detach() for node in outputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        places: _Places = ctx.places
        if places.number != ctx.number:
            raise RuntimeError(
                "the backward pass of cells that run by pieces came after another pass, whose values are in "
                "their place: run it once, before the next forward pass"
            )
        places.number += 1
        known = {node: grad for node, grad in zip(ctx.outputs, grads, strict=True) if grad is not None}
        if not known:  # the loss depends on other cells only
            return None, None, None, None, None, *(None for _ in ctx.needs_input_grad[5:])
        torch._foreach_copy_([places.grads[node] for node in known], list(known.values()))
        reached = set(known)  # other nodes, and the weights on the way to them, have no gradient
        done: list[_Candidate] = []
        waiting = list(places.cells)  # for the gradients at their nodes
        for candidate in reversed(ctx.run):
            while waiting and candidate.number < waiting[-1].first:
                waiting.pop().piece.launch()
            if candidate.edge.target in reached:
                reached.add(candidate.edge.source)
                candidate.launch_backward()
                done.append(candidate)
        while waiting:
            waiting.pop().piece.launch()
        at_inputs = [places.grads[node].clone() if node in reached else None for node in range(ctx.count)]
        at_parameters = iter(_copies([g for c in done for g in itertools.compress(c.gradients, c.reached)]))
        found = {id(c): [next(at_parameters) if there else None for there in c.reached] for c in done}
        flat = [g for c in ctx.run for g in found.get(id(c), [None] * len(c.gradients))]
        return None, None, None, None, _at_weights(places, done), *at_inputs, *flat


def _at_weights(places: _Places, done: Sequence[_Candidate]) -> Tensor | None:
    """The gradient of the draw (E, K), where it is wanted."""
    if not places.learns:
        return None
    flat = torch.cat([cell.found for cell in places.cells])
    products = torch.mv(places.selection, flat).view(places.shape)
    drawn: dict[tuple[int, int | None], list[Tensor]] = {}  # of all cells
    for candidate in done:
        if candidate.product is not None:
            drawn.setdefault((candidate.edge.row, candidate.column), []).append(candidate.product)
    for entry, found in drawn.items():
        products[entry].copy_(torch.stack(found).sum())
    return products


def _copies(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copies of tensors whose places will be written to again, made at once."""
    made = [torch.empty_like(x) for x in tensors]
    if made:
        torch._foreach_copy_(made, list(tensors))
    return made
