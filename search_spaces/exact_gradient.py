"""The exact gradient of a one-hot draw, for the memory of one network and the time of forward passes.

With D the draw of an edge, y = sum_k D_k o_k(x), so that the gradient of D_k is <dL/dy, o_k(x)> for every
candidate k, chosen or not. Only the chosen path runs with a graph. Its backward pass brings dL/dy to the
nodes of a cell; then the other candidates of the cell are evaluated without a graph, and all that is kept of
them is the inner product. This happens cell by cell, so that edges which leave the same node share what
has no weights: a ReLU, a pooling.

Compiled, all candidates of a cell are evaluated, the chosen ones too, so that this is one static function of
the nodes and their gradients: a few large kernels for a GPU that small ones keep waiting.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor, nn

from search_spaces.operations import Parts, Zero


class Recorder:
    """Follows one forward pass of a cell and adds the gradient of the draw to its backward pass.

    Args:
        weights: (E, K), the one-hot draw that gets the gradient.
        chosen: index of the chosen candidate of every row.
        ends: source, target and row of every edge of the cell.
        candidates: of every edge.
        inputs: the input nodes.
        compiled: whether the candidates are evaluated by a compiled function.
    """

    def __init__(
        self,
        weights: Tensor,
        chosen: Sequence[int],
        ends: Sequence[tuple[int, int, int]],
        candidates: Sequence[Sequence[Parts]],
        inputs: Sequence[Tensor],
        compiled: bool = False,
    ) -> None:
        sources = [_Source(x.detach(), {}, {}) for x in inputs]
        self._tape = _Tape(chosen, ends, candidates, compiled, sources, {}, {})
        self._token: Tensor = _Products.apply(weights, self._tape)  # type: ignore[no-untyped-call]

    def edge(self, index: int, x: Tensor, stems: dict[tuple[object, ...], Tensor]) -> Tensor:
        """The value of the chosen candidate of an edge for its source x, whose `stems` are shared; notes
        how its own product will be had."""
        tape = self._tape
        source, _, row = tape.ends[index]
        chosen = tape.candidates[index][tape.chosen[row]]
        y = chosen.before_norm(x, stems)
        if chosen.norm is not None:
            y = _Normalise.apply(y, self._token, tape, row, chosen.norm.eps)  # type: ignore[no-untyped-call]
        # What the graph keeps anyway is not computed again.
        kept = {key: stem.detach() for key, stem in stems.items() if key[0] is nn.ReLU}
        tape.sources[source].stems.update(kept)
        return y

    def node(self, index: int, total: Tensor) -> Tensor:
        """Note the value of a node; what it returns takes the place of it."""
        self._tape.sources.append(_Source(total.detach(), {}, {}))
        return _Node.apply(total, self._token, self._tape, index)  # type: ignore[no-any-return, no-untyped-call]


class Pixels:
    """A feature map (B, C, H, W), and what products need of its channels as vectors over all pixels."""

    def __init__(self, x: Tensor) -> None:
        self.map = x

    @cached_property
    def rows(self) -> Tensor:
        """(parts, pixels / parts, C); products of several parts at once keep all cores busy."""
        return _rows(self.map).view(math.gcd(len(self.map), 8), -1, self.map.shape[1])

    @cached_property
    def centred(self) -> Tensor:
        """The rows less their mean; not left to the products, which would lose digits by it."""
        return self.rows - self.rows.mean(1).mean(0)

    @cached_property
    def covariance(self) -> Tensor:
        """(C, C)"""
        return _products_of_columns(self.centred, self.centred) / self.centred[..., 0].numel()


def _products_of_columns(a: Tensor, b: Tensor) -> Tensor:
    """(C, C'), the inner products of the columns of a (parts, n, C) and b (parts, n, C')."""
    return torch.bmm(a.transpose(1, 2), b).sum(0)


@dataclass
class _Source:
    """The value of a node, with the stems that its edges share, as they are and as pixels."""

    value: Tensor
    stems: dict[tuple[object, ...], Tensor]
    pixels: dict[tuple[object, ...], Pixels]


@dataclass
class _Tape:
    """`sources` are the nodes, `at_node` the gradients of the loss at the nodes and `products` the inner
    products of chosen candidates, as far as backward has reached them."""

    chosen: Sequence[int]
    ends: Sequence[tuple[int, int, int]]
    candidates: Sequence[Sequence[Parts]]
    compiled: bool
    sources: list[_Source]
    at_node: dict[int, Pixels]
    products: dict[tuple[int, int], Tensor]


class _Node(torch.autograd.Function):
    """Identity on the value of a node; backward notes its gradient.

    It also depends on the token of the cell, so that autograd runs `_Products` after all nodes.
    """

    @staticmethod
    def forward(ctx: Any, total: Tensor, token: Tensor, tape: _Tape, index: int) -> Tensor:
        ctx.tape, ctx.index = tape, index
        return total.view_as(total)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None, None]:
        ctx.tape.at_node[ctx.index] = Pixels(grad)
        return grad if ctx.needs_input_grad[0] else None, None, None, None


class _Normalise(torch.autograd.Function):
    """Normalisation of the chosen candidate of an edge, which keeps its result instead of its input.

    The gradient of a scale behind it is <dL/dy, y>, channel by channel. Like `_Node` it depends on the token.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, token: Tensor, tape: _Tape, row: int, eps: float) -> Tensor:
        y, mean, inverse = torch.native_batch_norm(z, None, None, None, None, True, 0.0, eps)
        ctx.save_for_backward(y, torch.zeros_like(mean), torch.ones_like(mean), inverse)
        ctx.tape, ctx.row, ctx.eps = tape, row, eps
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None, None, None]:
        y, zeros, ones, inverse = ctx.saved_tensors
        at_z, at_scale, _ = torch.ops.aten.native_batch_norm_backward(
            grad, y, inverse, None, None, zeros, ones, True, ctx.eps, [ctx.needs_input_grad[0], True, False]
        )
        ctx.tape.products[ctx.row, ctx.tape.chosen[ctx.row]] = at_scale.sum()
        return at_z, None, None, None, None


class _Products(torch.autograd.Function):
    """Makes the token of a cell; backward returns <dL/dy, o_k(x)> for all its edges and candidates."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, tape: _Tape) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.tape, ctx.shape, ctx.dtype = tape, weights.shape, weights.dtype
        device = weights.device.type
        ctx.autocast = (device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))
        return weights.new_empty(0)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, _: None) -> tuple[Tensor, None]:
        device, dtype, enabled = ctx.autocast
        tape: _Tape = ctx.tape
        if not tape.sources:
            raise RuntimeError("the gradient of this draw was computed already: run the supernet again")
        with torch.autocast(device, dtype=dtype, enabled=enabled, cache_enabled=False):
            products = _static_products(tape) if tape.compiled else _products(tape)
        zero = tape.sources[0].value.new_zeros((), dtype=ctx.dtype)
        rows, columns = ctx.shape
        flat = [products.get((row, k), zero).to(ctx.dtype) for row in range(rows) for k in range(columns)]
        tape.sources, tape.at_node, tape.products = [], {}, {}
        return torch.stack(flat).view(rows, columns), None


def _products(tape: _Tape) -> dict[tuple[int, int], Tensor]:
    """The inner product of every row and candidate that can be other than zero."""
    products = tape.products
    for (source, target, row), candidates in zip(tape.ends, tape.candidates, strict=True):
        if target not in tape.at_node:
            continue  # the loss does not depend on this node
        grad = tape.at_node[target]
        for k, candidate in enumerate(candidates):
            if (row, k) not in products and Zero not in map(type, candidate.body):
                products[row, k] = _product(grad, candidate, tape.sources[source])
    return products


def _static_products(tape: _Tape) -> dict[tuple[int, int], Tensor]:
    """What `_products` returns, from one compiled function."""
    values = [source.value for source in tape.sources]
    # Of one memory order, and no tensor twice: each difference would be compiled for.
    order = torch.contiguous_format if values[0].is_contiguous() else torch.channels_last
    values = [x.contiguous(memory_format=order) for x in values]
    grads = [tape.at_node[i].map if i in tape.at_node else torch.zeros_like(x) for i, x in enumerate(values)]
    grads = [grad.contiguous(memory_format=order).view_as(grad) for grad in grads]
    edges, places = [], []
    for (source, target, row), candidates in zip(tape.ends, tape.candidates, strict=True):
        kept = [k for k, candidate in enumerate(candidates) if Zero not in map(type, candidate.body)]
        edges.append((source, target, [candidates[k] for k in kept]))
        places += [(row, k) for k in kept]
    return dict(zip(places, _compiled()(edges, values, grads).unbind(), strict=True))


@cache
def _compiled() -> Callable[..., Tensor]:
    """Compiled anew for every shape of a cell, with and without frozen weights."""
    torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
    return torch.compile(_all_products, dynamic=False)


def _all_products(
    edges: Sequence[tuple[int, int, Sequence[Parts]]], values: Sequence[Tensor], grads: Sequence[Tensor]
) -> Tensor:
    """The inner products of all candidates of edges (source, target, candidates), one after the other."""
    stems: list[dict[tuple[object, ...], Tensor]] = [{} for _ in values]
    products = []
    for source, target, candidates in edges:
        for candidate in candidates:
            z = candidate.before_norm(values[source], stems[source])
            dtype = torch.promote_types(z.dtype, torch.float32)
            grad, z = grads[target].to(dtype), z.to(dtype)
            if candidate.norm is None:
                products.append((grad * z).sum())
            else:
                variance, mean = torch.var_mean(z, (0, 2, 3), correction=0, keepdim=True)
                scaled = (grad * (z - mean)).sum((0, 2, 3), keepdim=True)
                products.append((scaled * (variance + candidate.norm.eps).rsqrt()).sum())
    return torch.stack(products)


def _product(grad: Pixels, candidate: Parts, source: _Source) -> Tensor:
    """<grad, o(x)> of a candidate o and the value x of its source."""
    if candidate.norm is None:
        return inner_product(grad.map, candidate.before_norm(source.value, source.stems))
    x = candidate.before_pointwise(source.value, source.stems)
    if candidate.pointwise is None:
        return normalised_inner_product(grad.map, x, candidate.norm)
    if not _plain(grad.map, x):
        return normalised_inner_product(grad.map, candidate.pointwise(x), candidate.norm)
    pixels = Pixels(x)
    if not candidate.body:  # x is a stem
        pixels = source.pixels.setdefault(candidate.key, pixels)
    return pointwise_product(grad, pixels, candidate.pointwise.weight, candidate.norm.eps)


def _plain(a: Tensor, b: Tensor) -> bool:
    return a.device.type == "cpu" and a.dtype == b.dtype and a.dtype in (torch.float32, torch.float64)


def pointwise_product(grad: Pixels, x: Pixels, weight: Tensor, eps: float) -> Tensor:
    """<grad, norm(z)> of z the 1x1 convolution of x with `weight` (O, C, 1, 1), without computing z."""
    weight = weight.flatten(1)
    variance = ((weight @ x.covariance) * weight).sum(1)
    products = (weight * _products_of_columns(grad.rows, x.centred)).sum(1)
    return torch.dot(products, (variance + eps).rsqrt())


def inner_product(a: Tensor, b: Tensor) -> Tensor:
    """<a, b> of two tensors (B, C, H, W), on the CPU without a temporary."""
    if _plain(a, b):
        return torch.dot(_rows(a).view(-1), _rows(b).view(-1))
    if a.device.type == "cpu" and a.dtype == b.dtype:
        zeros = torch.zeros(a.shape[1])
        return _at_scale(a, b, zeros, torch.ones_like(zeros)).sum()
    return (a * b).sum(dtype=torch.promote_types(a.dtype, torch.float32))


def normalised_inner_product(grad: Tensor, z: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    """<grad, norm(z)>, on the CPU without computing norm(z)."""
    if z.device.type != "cpu":
        return inner_product(grad, norm(z))
    mean, variance = torch.batch_norm_update_stats(z, None, None, 0.0)
    return _at_scale(grad.to(z.dtype), z, mean, (variance + norm.eps).rsqrt()).sum()


def _at_scale(grad: Tensor, z: Tensor, mean: Tensor, inverse: Tensor) -> Tensor:
    """(C,), the sums of grad * (z - mean) * inverse: what a scale behind a normalisation would get."""
    result: Tensor
    _, result, _ = torch.ops.aten.native_batch_norm_backward(
        grad, z, torch.ones_like(mean), None, None, mean, inverse, True, 0.0, [False, True, False]
    )
    return result


def _rows(x: Tensor) -> Tensor:
    """(B, C, H, W) as contiguous (B, H, W, C)."""
    return x.permute(0, 2, 3, 1).contiguous()
