"""The products of a cell by one compiled function: a few large kernels instead of many small ones.

All candidates of a cell are evaluated, the chosen ones too, so that this is one static function of the nodes
and their gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

from search_spaces.split import Cache, Split

Edge = tuple[int, int, Sequence[Split]]  # source, target, candidates
RECOMPILE_LIMIT = 256  # kinds of cells, each with and without frozen weights


def compiled_products(
    edges: Sequence[Edge], values: Sequence[Tensor], grads: Sequence[Tensor | None]
) -> list[list[Tensor | None]]:
    """<grad, o(x)> of every edge and candidate, None for `none`.

    Args:
        values, grads: of every node; None where the loss does not depend on the node.
    """
    # Of one memory order, and no tensor twice: each difference would be compiled for.
    order = torch.contiguous_format if values[0].is_contiguous() else torch.channels_last
    values = [x.contiguous(memory_format=order) for x in values]
    filled = [torch.zeros_like(x) if g is None else g for x, g in zip(values, grads, strict=True)]
    filled = [grad.contiguous(memory_format=order).view_as(grad) for grad in filled]
    kept = [
        (source, target, [c for c in candidates if not c.is_zero]) for source, target, candidates in edges
    ]
    # Past its limit dynamo would run the function as it is, without a word.
    with torch._dynamo.config.patch(
        recompile_limit=RECOMPILE_LIMIT,
        accumulated_recompile_limit=RECOMPILE_LIMIT,
        fail_on_recompile_limit_hit=True,
    ):
        found = iter(_compiled()(kept, values, filled).unbind())
    return [[None if c.is_zero else next(found) for c in candidates] for _, _, candidates in edges]


@cache
def _compiled() -> Callable[..., Tensor]:
    """Compiled anew for every shape of a cell, with and without frozen weights."""
    return torch.compile(_all_products, dynamic=False)


def _all_products(edges: Sequence[Edge], values: Sequence[Tensor], grads: Sequence[Tensor]) -> Tensor:
    """The inner products of all candidates, one edge after the other."""
    caches: list[Cache] = [{} for _ in values]
    products = []
    for source, target, candidates in edges:
        for candidate in candidates:
            z = candidate.before_norm(values[source], caches[source])
            dtype = torch.promote_types(z.dtype, torch.float32)
            grad, z = grads[target].to(dtype), z.to(dtype)
            if candidate.norm is None:
                products.append((grad * z).sum())
            else:
                variance, mean = torch.var_mean(z, (0, 2, 3), correction=0, keepdim=True)
                scaled = (grad * (z - mean)).sum((0, 2, 3), keepdim=True)
                products.append((scaled * (variance + candidate.norm.eps).rsqrt()).sum())
    return torch.stack(products)
