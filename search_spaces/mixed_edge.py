"""A mixed edge: all candidate operations between two nodes, combined by a draw.

With D the draw of the edge, y = sum_k D_k o_k(x), so that the gradient of D_k is <dL/dy, o_k(x)>
for every candidate k, chosen or not. `lean` computes exactly this while only the chosen candidate
keeps a graph; the others are evaluated without one in the backward pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

EDGE_GRADIENTS = ("lean", "dense", "surrogate")


class EdgeDraw(NamedTuple):
    """The draw of one edge: `weights` (K,), or (B, K) for each image, on the device of the features,
    or None where nothing is to be learned from them; `chosen`, the operation whose weight is 1
    and the only one that is not 0, or None."""

    weights: Tensor | None
    chosen: int | None


Draw = Tensor | Sequence[int]


def split_draw(draw: Draw, device: torch.device) -> list[EdgeDraw]:
    """One EdgeDraw per edge.

    Args:
        draw: either operation indices, one per edge (only these candidates are run), or a tensor
            (E, K) of weights, or (B, E, K) with the weights of each image. Keep the tensor on the
            CPU: the choice is read from it.
        device: where the features are.
    """
    if not isinstance(draw, Tensor):
        return [EdgeDraw(None, index) for index in draw]
    if draw.dim() == 3:
        return [EdgeDraw(weights, None) for weights in draw.to(device, non_blocking=True).unbind(1)]
    chosen = draw.argmax(-1).tolist()
    one_hot = (((draw != 0).sum(-1) == 1) & (draw.amax(-1) == 1)).tolist()
    rows = draw.to(device, non_blocking=True).unbind(0)
    return [EdgeDraw(r, c if h else None) for r, c, h in zip(rows, chosen, one_hot, strict=True)]


class MixedEdge(nn.Module):
    """The candidates of one edge; `forward` combines them by an EdgeDraw.

    Args:
        candidates: (name, module) of every candidate operation, in the order of the logits.
    """

    edge_gradient = "lean"

    def __init__(self, candidates: Iterable[tuple[str, nn.Module]]) -> None:
        super().__init__()
        self.candidates = nn.ModuleDict(dict(candidates))
        self.operations = list(self.candidates.values())
        self.names = list(self.candidates)

    def forward(self, x: Tensor, draw: EdgeDraw) -> Tensor:
        weights, chosen = draw
        if weights is None:
            assert chosen is not None
            return self.operations[chosen](x)  # type: ignore[no-any-return]
        if chosen is None or self.edge_gradient == "dense":
            return self._mixture(x, weights)
        y = self.operations[chosen](x)
        if self.edge_gradient == "surrogate":
            others = weights.sum() - weights[chosen]
            return weights[chosen] * y + others  # type: ignore[no-any-return]
        if not (torch.is_grad_enabled() and weights.requires_grad):
            return y  # type: ignore[no-any-return]
        return _ExactEdgeGradient.apply(y, weights, x.detach(), chosen, self)  # type: ignore

    def _mixture(self, x: Tensor, weights: Tensor) -> Tensor:
        terms = []
        for name, operation, weight in zip(self.names, self.operations, weights.unbind(-1), strict=True):
            if name != "none":
                y = operation(x)
                terms.append(weight.view(-1, 1, 1, 1).to(y.dtype) * y)
        return torch.stack(terms).sum(0)


class _ExactEdgeGradient(torch.autograd.Function):
    """Identity on y = o_chosen(x); backward adds <dL/dy, o_k(x)> as the gradient of weight k."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, weights: Tensor, x: Tensor, chosen: int, edge: MixedEdge) -> Tensor:
        ctx.save_for_backward(y, x)
        ctx.chosen, ctx.edge, ctx.dtype = chosen, edge, weights.dtype
        device = x.device.type
        ctx.autocast = (device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))
        return y.view_as(y)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, None, None, None]:
        y, x = ctx.saved_tensors
        device, autocast_dtype, autocast = ctx.autocast
        products = []
        with torch.autocast(device, dtype=autocast_dtype, enabled=autocast, cache_enabled=False):
            for k, (name, operation) in enumerate(ctx.edge.candidates.items()):
                if name == "none":
                    products.append(grad.new_zeros((), dtype=ctx.dtype))
                else:
                    output = y if k == ctx.chosen else operation(x)
                    products.append((grad * output).sum(dtype=ctx.dtype))
        return grad if ctx.needs_input_grad[0] else None, torch.stack(products), None, None, None
