"""The exact gradient of a one-hot draw, for the memory of one network and the time of forward passes.

With D the draw of an edge, y = sum_k D_k o_k(x), so that the gradient of D_k is <dL/dy, o_k(x)> for every
candidate k, chosen or not. Only the chosen path runs with a graph. Its backward pass brings dL/dy to the
nodes of a cell; then the other candidates of the cell are evaluated without a graph, and all that is kept of
them is the inner product. This happens cell by cell, so that edges which leave the same node share what
has no weights: a ReLU, a pooling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
    """

    def __init__(
        self,
        weights: Tensor,
        chosen: Sequence[int],
        ends: Sequence[tuple[int, int, int]],
        candidates: Sequence[Sequence[Parts]],
        inputs: Sequence[Tensor],
    ) -> None:
        self._tape = _Tape(chosen, ends, candidates, [x.detach() for x in inputs], [None] * len(ends), {})
        self._token: Tensor = _Products.apply(weights, self._tape)  # type: ignore[no-untyped-call]

    def edge(self, index: int, output: Tensor | None) -> None:
        """Note the value of an edge, None for `none`. What has no weights is had again for nothing."""
        tape = self._tape
        chosen = tape.candidates[index][tape.chosen[tape.ends[index][2]]]
        if output is not None and chosen.body:
            tape.outputs[index] = output.detach()

    def node(self, index: int, total: Tensor) -> Tensor:
        """Note the value of a node; what it returns takes the place of it."""
        self._tape.states.append(total.detach())
        return _Node.apply(total, self._token, self._tape, index)  # type: ignore[no-any-return, no-untyped-call]


@dataclass
class _Tape:
    """`states` are the values of the nodes, `outputs` those of edges with weights, `at_node` the gradients
    of the loss at the nodes, as far as backward has reached them."""

    chosen: Sequence[int]
    ends: Sequence[tuple[int, int, int]]
    candidates: Sequence[Sequence[Parts]]
    states: list[Tensor]
    outputs: list[Tensor | None]
    at_node: dict[int, Tensor]


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
        ctx.tape.at_node[ctx.index] = grad
        return grad if ctx.needs_input_grad[0] else None, None, None, None


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
        with torch.autocast(device, dtype=dtype, enabled=enabled, cache_enabled=False):
            products = _products(tape)
        zero = tape.states[0].new_zeros((), dtype=ctx.dtype)
        rows, columns = ctx.shape
        flat = [products.get((row, k), zero).to(ctx.dtype) for row in range(rows) for k in range(columns)]
        tape.states, tape.outputs, tape.at_node = [], [], {}
        return torch.stack(flat).view(rows, columns), None


def _products(tape: _Tape) -> dict[tuple[int, int], Tensor]:
    """The inner product of every row and candidate that can be other than zero."""
    products = {}
    stems: list[dict[tuple[object, ...], Tensor]] = [{} for _ in tape.states]
    for (source, target, row), output, candidates in zip(
        tape.ends, tape.outputs, tape.candidates, strict=True
    ):
        if target not in tape.at_node:
            continue  # the loss does not depend on this node
        grad = tape.at_node[target]
        for k, candidate in enumerate(candidates):
            if k == tape.chosen[row] and output is not None:
                products[row, k] = inner_product(grad, output)
            elif Zero not in map(type, candidate.body):
                z = candidate.before_norm(tape.states[source], stems[source])
                if candidate.norm is None:
                    products[row, k] = inner_product(grad, z)
                else:
                    products[row, k] = normalised_inner_product(grad, z, candidate.norm)
    return products


def inner_product(a: Tensor, b: Tensor) -> Tensor:
    """<a, b> of two tensors (B, C, H, W), on the CPU without a temporary."""
    if a.device.type == "cpu" and a.dtype == b.dtype and a.dtype in (torch.float32, torch.float64):
        return torch.dot(_rows(a).view(-1), _rows(b).view(-1))
    return (a * b).sum(dtype=torch.promote_types(a.dtype, torch.float32))


def normalised_inner_product(grad: Tensor, z: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    """<grad, norm(z)>, on the CPU without computing norm(z).

    It is the sum of the gradients that a scale behind the normalisation would get.
    """
    if z.device.type != "cpu":
        return inner_product(grad, norm(z))
    mean, variance = torch.batch_norm_update_stats(z, None, None, 0.0)
    at_scale: Tensor
    _, at_scale, _ = torch.ops.aten.native_batch_norm_backward(
        grad.to(z.dtype), z, torch.ones_like(mean), None, None, mean, (variance + norm.eps).rsqrt(), True,
        norm.eps, [False, True, False],
    )  # fmt: skip
    return at_scale.sum()


def _rows(x: Tensor) -> Tensor:
    """(B, C, H, W) as contiguous (B, H, W, C)."""
    return x.permute(0, 2, 3, 1).contiguous()
