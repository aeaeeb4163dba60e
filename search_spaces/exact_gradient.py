"""The exact gradient of a one-hot draw, for the memory of one network and the time of forward passes.

With D the draw of an edge, y = sum_k D_k o_k(x), so that the gradient of D_k is <dL/dy, o_k(x)> for every
candidate k, chosen or not. Only the chosen path runs with a graph. Its backward pass brings dL/dy to the
nodes of a cell; then the other candidates of the cell are evaluated without a graph, and all that is kept of
them is the inner product. This happens cell by cell, so that edges which leave the same node share what
has no weights: a ReLU, a pooling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from search_spaces.batched_products import compiled_products, planned
from search_spaces.products import Pixels, Source, inner_product, normalised, product
from search_spaces.split import Cache, Split

Products = dict[tuple[int, int], Tensor]  # <dL/dy, o_k(x)> by row and candidate


class RecordedEdge(NamedTuple):
    """An edge of a cell, with its row of the draw, its candidates, and which of them is chosen."""

    source: int
    target: int
    row: int
    candidates: Sequence[Split]
    chosen: int


@dataclass
class _Record:
    """One pass of a cell: nodes so far, the gradients of the loss at them as far as backward has come, and
    for chosen candidates their outputs (where these are kept) and their products. Outputs and products are
    those of the branch of a residual candidate. These products have the weights of the edges (E,) in them
    where there are such: `weights`."""

    edges: Sequence[RecordedEdge]
    compiled: bool
    nodes: list[Source]
    weights: Tensor | None
    at_node: dict[int, Pixels] = field(default_factory=dict)
    outputs: dict[int, Tensor] = field(default_factory=dict)
    products: Products = field(default_factory=dict)


class Recorder:
    """Follows one forward pass of a cell and adds the gradient of the draw to its backward pass.

    Args:
        weights: (E, K), the one-hot draw that gets the gradient.
        edges: of the cell.
        inputs: the input nodes, as the candidates see them.
        compiled: whether the candidates are evaluated by a compiled function.
        edge_weights: (E,), what the values of the edges are multiplied by on their way into a node; None: 1.
    """

    def __init__(
        self,
        weights: Tensor,
        edges: Sequence[RecordedEdge],
        inputs: Sequence[Tensor],
        compiled: bool,
        edge_weights: Tensor | None,
    ) -> None:
        self._record = _Record(edges, compiled, [Source(x.detach()) for x in inputs], edge_weights)
        self._root: Tensor = _Root.apply(weights, self._record)  # type: ignore[no-untyped-call]

    def edge(self, index: int, x: Tensor, cache: Cache) -> Tensor:
        """The value of the chosen candidate of an edge for its source x, whose `cache` all edges share."""
        record, edge = self._record, self._record.edges[index]
        chosen = edge.candidates[edge.chosen]
        y = chosen.before_norm(x, cache)
        if chosen.norm is not None:
            y = _Normalise.apply(y, self._root, record, edge, chosen.norm.eps)  # type: ignore[no-untyped-call]
        elif chosen.body:  # what follows drew from a random generator, maybe; a shared layer did not
            record.outputs[index] = y.detach()
        # What the graph keeps anyway is not computed again.
        kept = {key: output.detach() for key, output in cache.items() if key[0] is torch.nn.ReLU}
        record.nodes[edge.source].cache.update(kept)
        return x + y if chosen.residual else y

    def node(self, index: int, total: Tensor) -> Tensor:
        """The sum of the edges into a node; what this returns takes the place of it."""
        return _Node.apply(total, self._root, self._record, index)  # type: ignore[no-any-return, no-untyped-call]

    def source(self, x: Tensor) -> None:
        """Record the value of the next node, as the candidates of edges that leave it see it."""
        self._record.nodes.append(Source(x.detach()))


class _Node(torch.autograd.Function):
    """Identity on the value of a node; backward records its gradient.

    It also depends on the root of the cell, so that autograd runs `_Root` after all nodes.
    """

    @staticmethod
    def forward(ctx: Any, total: Tensor, root: Tensor, record: _Record, index: int) -> Tensor:
        ctx.record, ctx.index = record, index
        return total.view_as(total)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None, None]:
        ctx.record.at_node[ctx.index] = Pixels(grad)
        return grad if ctx.needs_input_grad[0] else None, None, None, None


class _Normalise(torch.autograd.Function):
    """Normalisation of the chosen candidate of an edge, which keeps its result instead of its input.

    The gradient of a scale behind it is <dL/dy, y>, channel by channel. Like `_Node` it depends on the root.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, root: Tensor, record: _Record, edge: RecordedEdge, eps: float) -> Tensor:
        y, mean, inverse = normalised(z, eps)
        ctx.save_for_backward(y, torch.zeros_like(mean), torch.ones_like(mean), inverse)
        ctx.record, ctx.edge, ctx.eps = record, edge, eps
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None, None, None]:
        y, zeros, ones, inverse = ctx.saved_tensors
        at_z, at_scale, _ = torch.ops.aten.native_batch_norm_backward(
            grad, y, inverse, None, None, zeros, ones, True, ctx.eps, [ctx.needs_input_grad[0], True, False]
        )
        ctx.record.products[ctx.edge.row, ctx.edge.chosen] = at_scale.sum()
        return at_z, None, None, None, None


class _Root(torch.autograd.Function):
    """Where the graph of a cell begins: backward returns <dL/dy, o_k(x)> for all its edges and candidates."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, record: _Record) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.record, ctx.shape, ctx.dtype = record, weights.shape, weights.dtype
        device = weights.device.type
        ctx.autocast = (device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))
        return weights.new_empty(0)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, _: None) -> tuple[Tensor, None]:
        device, dtype, enabled = ctx.autocast
        record: _Record = ctx.record
        if not record.nodes:
            raise RuntimeError("the gradient of this draw was computed already: run the supernet again")
        with torch.autocast(device, dtype=dtype, enabled=enabled, cache_enabled=False):
            found = _products(record)
            _add_residuals(found, record)
        zero = record.nodes[0].value.new_zeros((), dtype=ctx.dtype)
        drawn, weights = record.products, record.weights
        if weights is None:
            products = _matrix(_sum(found, drawn), ctx.shape, zero)
        else:
            products = _matrix(found, ctx.shape, zero) * weights.unsqueeze(1).to(ctx.dtype)
            products = products + _matrix(drawn, ctx.shape, zero)
        record.nodes, record.at_node, record.outputs, record.products = [], {}, {}, {}
        return products, None


def _sum(products: Products, others: Products) -> Products:
    """Both together, the sum where both have a product."""
    return products | {key: products[key] + x if key in products else x for key, x in others.items()}


def _matrix(products: Products, shape: torch.Size, zero: Tensor) -> Tensor:
    """(E, K), the products by row and candidate, zero where there are none."""
    rows, columns = shape
    flat = [products.get((row, k), zero).to(zero.dtype) for row in range(rows) for k in range(columns)]
    return torch.stack(flat).view(rows, columns)


def _add_residuals(products: Products, record: _Record) -> None:
    """Add <dL/dy, x> to the products of candidates that add their input x, once computed for each edge."""
    for edge in record.edges:
        residual = [k for k, candidate in enumerate(edge.candidates) if candidate.residual]
        if residual and edge.target in record.at_node:
            alone = inner_product(record.at_node[edge.target].map, record.nodes[edge.source].value)
            products |= _sum(products, {(edge.row, k): alone for k in residual})


def _products(record: _Record) -> Products:
    """The inner product of every row and candidate that can be other than zero and has none yet, without what
    residual ones add."""
    at_node, products = record.at_node, Products()
    for index, output in record.outputs.items():
        edge = record.edges[index]
        if edge.target in at_node:  # else the loss does not depend on this node
            products[edge.row, edge.chosen] = inner_product(at_node[edge.target].map, output)
    if record.compiled:
        grads = [at_node[i].map if i in at_node else None for i in range(len(record.nodes))]
        edges = [(edge.source, edge.target, edge.candidates) for edge in record.edges]
        batches, places = planned(edges, residuals=False)
        found = compiled_products(batches, [node.value for node in record.nodes], grads).unbind()
        for ((i, k),), value in zip(places, found, strict=True):
            key = (record.edges[i].row, k)
            if key not in products and key not in record.products:
                products[key] = value
        return products
    for edge in record.edges:
        if edge.target in at_node:
            grad, source = at_node[edge.target], record.nodes[edge.source]
            for k, candidate in enumerate(edge.candidates):
                key = (edge.row, k)
                if not candidate.is_zero and key not in products and key not in record.products:
                    products[edge.row, k] = product(grad, candidate, source)
    return products
