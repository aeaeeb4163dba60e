"""The products of a cell in few kernels, for a GPU: what reads the same node is evaluated together.

Convolutions of equal settings are one convolution with the weights of all, what has no weights is computed
once, and a product with the result of a normalisation comes from sums over the map before it. All candidates
of a cell are evaluated, the chosen ones too, so that this is one static function of the nodes and their
gradients, for torch.compile and for CUDA graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces.memory_order import memory_order
from search_spaces.split import Cache, Split, has_its_weight

Edge = tuple[int, int, Sequence[Split]]  # source, target, candidates
Place = tuple[int, int]  # number of an edge, and of a candidate of it
RECOMPILE_LIMIT = 1024  # kinds of cells and candidates, each with and without frozen weights


class Batch(NamedTuple):
    """Candidates that are evaluated together.

    Attributes:
        source: the node that all of them read.
        targets: the node that each leads to.
        first: one of them; the others differ at most in the weights of a convolution. None: the node itself.
        convolutions: of each, if that is all they have; else there is but one candidate, or all are equal.
    """

    source: int
    targets: tuple[int, ...]
    first: Split | None
    convolutions: tuple[nn.Conv2d, ...]

    @property
    def is_alone(self) -> bool:
        """Whether it is one candidate with weights other than those of a convolution."""
        return self.first is not None and not self.convolutions and self.first.has_weights


def planned(edges: Sequence[Edge], residuals: bool) -> tuple[list[Batch], list[list[Place]]]:
    """The batches of a cell, those of one candidate with weights of its own last, and the candidates whose
    product each of their products is, or is a part of.

    Args:
        residuals: whether <grad, x> is to be a product too, a part of those of residual candidates.
    """
    found: dict[tuple[object, ...], list[tuple[int, int, Split | None, list[Place]]]] = {}
    for i, (source, target, candidates) in enumerate(edges):
        for k, split in enumerate(candidates):
            if not split.is_zero:
                found.setdefault((source, *_kind(split, (i, k))), []).append(
                    (source, target, split, [(i, k)])
                )
        added = [(i, k) for k, split in enumerate(candidates) if split.residual]
        if residuals and added:
            found.setdefault((source, "node"), []).append((source, target, None, added))
    batches, places = [], []
    for _, members in sorted(found.items(), key=lambda item: item[0][1] == "alone"):
        convolutions = [None if split is None else _convolution(split) for *_, split, _ in members]
        batches.append(
            Batch(
                members[0][0],
                tuple(target for _, target, _, _ in members),
                members[0][2],
                tuple(layer for layer in convolutions if layer is not None),
            )
        )
        places += [place for *_, place in members]
    return batches, places


def _kind(split: Split, place: Place) -> tuple[object, ...]:
    """Equal for candidates that can be evaluated together where they read the same node."""
    eps = None if split.norm is None else split.norm.eps
    if not split.has_weights:
        return ("no weights", split.key, eps)
    layer = _convolution(split)
    if layer is None:
        return ("alone", place)
    settings = (layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.out_channels)
    return ("convolution", split.key, eps, *settings)


def _convolution(split: Split) -> nn.Conv2d | None:
    """The convolution that is all that a candidate has between a shared layer and a normalisation."""
    layers = (*split.body, *(() if split.pointwise is None else (split.pointwise,)))
    layer = layers[0] if len(layers) == 1 else None
    if type(layer) is not nn.Conv2d or layer.groups > 1 or layer.bias is not None:
        return None
    plain = layer.padding_mode == "zeros" and not isinstance(layer.padding, str) and has_its_weight(layer)
    return layer if plain else None


def batched_products(batches: Sequence[Batch], values: Sequence[Tensor], grads: Sequence[Tensor]) -> Tensor:
    """(P,), <grad, o(x)> of the candidates of all batches, one batch after the other, without what residual
    ones add.

    With z the map before a normalisation that is <grad, (z - m) / sqrt(v + eps)>, m and v the mean and the
    variance of each channel of z, from the sums of z, z * z, grad and grad * z over its pixels.

    Args:
        values, grads: (B, C, H, W) of every node; those that the candidates of a batch lead to are equal in
            shape.
    """
    caches: list[Cache] = [{} for _ in values]
    together: dict[tuple[int, ...], Tensor] = {}
    products = []
    for source, targets, first, convolutions in batches:
        x, count = values[source], len(targets)
        if convolutions:
            assert first is not None
            x = first.shared_part(x, caches[source])
            layer, weight = convolutions[0], torch.cat([layer.weight for layer in convolutions])
            z = F.conv2d(x, weight, None, layer.stride, layer.padding, layer.dilation)
            z = z.unflatten(1, (count, -1))
        else:
            z = (x if first is None else first.before_norm(x, caches[source])).unsqueeze(1)
        dtype = torch.promote_types(z.dtype, torch.float32)
        if targets not in together:
            stacked = torch.cat([grads[target] for target in targets], 1)
            together[targets] = stacked.unflatten(1, (count, -1)).to(dtype)
        grad, z = together[targets], z.to(dtype)
        if first is None or first.norm is None:
            products.append((grad * z).sum((0, 2, 3, 4)))
        else:
            # One pass over the map. Sums of squares lose the digits of a large mean, so each channel is
            # taken from its first pixel, which changes no product.
            over, pixels, z = (0, 3, 4), z[:, 0, 0].numel(), z - z[:1, :, :, :1, :1]
            mean = z.sum(over) / pixels
            variance = ((z * z).sum(over) / pixels - mean * mean).clamp_min(0)
            scaled = (grad * z).sum(over) - mean * grad.sum(over)
            products.append((scaled * (variance + first.norm.eps).rsqrt()).sum(1))
    return torch.cat(products)


Call = tuple[list[Batch], list[Tensor], list[Tensor]]  # the arguments of `batched_products`


def calls(batches: Sequence[Batch], values: Sequence[Tensor], grads: Sequence[Tensor]) -> list[Call]:
    """Calls that together give what one would: each candidate that is alone has its own, equal for all
    candidates of the same kind and shape, so that there is little to compile for deep ones."""
    together = [batch for batch in batches if not batch.is_alone]
    found: list[Call] = [(together, list(values), list(grads))] if together else []
    for batch in batches[len(together) :]:
        (target,) = batch.targets
        found.append(([batch._replace(source=0, targets=(0,))], [values[batch.source]], [grads[target]]))
    return found


def compiled_products(
    batches: Sequence[Batch], values: Sequence[Tensor], grads: Sequence[Tensor | None]
) -> Tensor:
    """`batched_products` by a compiled function.

    Args:
        grads: None where the loss does not depend on a node.
    """
    # Of one memory order, and no tensor twice: each difference would be compiled for.
    order = memory_order(values[0])
    values = [x.contiguous(memory_format=order) for x in values]
    filled = [torch.zeros_like(x) if g is None else g for x, g in zip(values, grads, strict=True)]
    filled = [grad.contiguous(memory_format=order).view_as(grad) for grad in filled]
    with compiled_up_to(RECOMPILE_LIMIT):
        return _compiled()(batches, values, filled)


def compiled_up_to(times: int) -> AbstractContextManager[None]:
    """Lets torch.compile compile a function so many times; past its own limit dynamo would run it as it is,
    without a word."""
    patched: AbstractContextManager[None] = torch._dynamo.config.patch(
        recompile_limit=times, accumulated_recompile_limit=times, fail_on_recompile_limit_hit=True
    )
    return patched


@cache
def _compiled() -> Callable[..., Tensor]:
    """Compiled anew for every shape of a cell or candidate, with and without frozen weights."""
    return torch.compile(batched_products, dynamic=False)
