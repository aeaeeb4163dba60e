"""Inner products of a gradient with what candidates compute, and short cuts to them on the CPU."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from search_spaces.short_cuts import allowed
from search_spaces.split import Cache, Split


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


@dataclass
class Source:
    """The value of a node, with the outputs of layers that its edges share, as they are and as pixels."""

    value: Tensor
    cache: Cache = field(default_factory=dict)
    pixels: dict[tuple[object, ...], Pixels] = field(default_factory=dict)


def product(grad: Pixels, candidate: Split, source: Source) -> Tensor:
    """<grad, o(x)> of a candidate o and the value x of its source."""
    if candidate.norm is None:
        return inner_product(grad.map, candidate.before_norm(source.value, source.cache))
    x = candidate.before_pointwise(source.value, source.cache)
    if candidate.pointwise is None:
        return normalised_inner_product(grad.map, x, candidate.norm)
    # Covariances of many channels cost more than the convolution to few; a shared layer needs them once.
    narrows = candidate.body and candidate.pointwise.out_channels < candidate.pointwise.in_channels
    if narrows or not _plain(grad.map, x):
        return normalised_inner_product(grad.map, candidate.pointwise(x), candidate.norm)
    pixels = Pixels(x)
    if not candidate.body:  # x is the output of a shared layer, or that of the source
        pixels = source.pixels.setdefault(candidate.key, pixels)
    return pointwise_product(grad, pixels, candidate.pointwise.weight, candidate.norm.eps)


def pointwise_product(grad: Pixels, x: Pixels, weight: Tensor, eps: float) -> Tensor:
    """<grad, norm(z)> of z the 1x1 convolution of x with `weight` (O, C, 1, 1), without computing z.

    The variance of z comes from the covariances of the channels of x.
    """
    weight = weight.flatten(1)
    variance = ((weight @ x.covariance) * weight).sum(1)
    products = (weight * _products_of_columns(grad.rows, x.centred)).sum(1)
    return torch.dot(products, (variance + eps).rsqrt())


def inner_product(a: Tensor, b: Tensor) -> Tensor:
    """<a, b> of two tensors (B, C, H, W), on the CPU without a temporary."""
    if _plain(a, b):
        return torch.dot(_rows(a).view(-1), _rows(b).view(-1))
    if allowed(a) and a.dtype == b.dtype:
        zeros = torch.zeros(a.shape[1])
        return _at_scale(a, b, zeros, torch.ones_like(zeros)).sum()
    dtype = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    return (a.to(dtype) * b.to(dtype)).sum()


def normalised_inner_product(grad: Tensor, z: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    """<grad, norm(z)>, by the kernel that the chosen candidate gets its product from, in its precision."""
    if allowed(z):  # without computing norm(z)
        mean, variance = torch.batch_norm_update_stats(z, None, None, 0.0)
        inverse = (variance + norm.eps).rsqrt()
    else:
        _, mean, inverse = normalised(z, norm.eps)
    return _at_scale(grad.to(z.dtype), z, mean, inverse).sum()


def normalised(z: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """norm(z), and the mean (C,) of z and one over its deviation (C,)."""
    scale = shift = None
    if z.device.type == "cpu" and z.dtype == torch.bfloat16 and not allowed(z):
        # A GPU keeps these in float32; the CPU does so where it is given a scale and a shift in it.
        scale, shift = torch.ones(z.shape[1]), torch.zeros(z.shape[1])
    return torch.native_batch_norm(z, scale, shift, None, None, True, 0.0, eps)


def _plain(a: Tensor, b: Tensor) -> bool:
    return allowed(a) and a.dtype == b.dtype and a.dtype in (torch.float32, torch.float64)


def _at_scale(grad: Tensor, z: Tensor, mean: Tensor, inverse: Tensor) -> Tensor:
    """(C,), the sums of grad * (z - mean) * inverse: what a scale behind a normalisation would get.

    The scale is given although it is one: without it a GPU returns an empty tensor for its gradient.
    """
    result: Tensor
    _, result, _ = torch.ops.aten.native_batch_norm_backward(
        grad, z, torch.ones_like(mean), None, None, mean, inverse, True, 0.0, [False, True, False]
    )
    return result


def _products_of_columns(a: Tensor, b: Tensor) -> Tensor:
    """(C, C'), the inner products of the columns of a (parts, n, C) and b (parts, n, C')."""
    return torch.bmm(a.transpose(1, 2), b).sum(0)


def _rows(x: Tensor) -> Tensor:
    """(B, C, H, W) as contiguous (B, H, W, C)."""
    return x.permute(0, 2, 3, 1).contiguous()
