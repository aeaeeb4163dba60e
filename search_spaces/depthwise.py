"""Layers that treat every channel by itself, as fast on the CPU as it allows.

oneDNN has fast kernels for the gradient of a depthwise convolution only where it is not dilated and, for the
weights, at most 3 wide; elsewhere it takes ten times as long as the forward pass. Both gradients can be had
from the fast kernels: that of the input is a convolution with the mirrored kernel, that of the weights falls
into columns, three at a time, of which each set is the gradient of a narrower kernel on a shifted input.
Stride 2 with dilation 2 reads every second pixel only, whose own map needs neither.
An average over 3x3 pixels is such a convolution too, and faster than a pooling in channels-last order.

A program that is recorded to run elsewhere (torch.jit, torch.export) gets torch's own layers instead.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces.memory_order import memory_order
from search_spaces.short_cuts import allowed


class DepthwiseConv2d(nn.Conv2d):
    """A convolution of every channel by itself that pads to keep the size, without bias.

    Args:
        channels: channels of input and output.
        kernel: side of the kernel, 3, 5 or 7.
        stride, dilation: as in `nn.Conv2d`, of rows and columns alike.
    """

    def __init__(self, channels: int, kernel: int, stride: int = 1, dilation: int = 1) -> None:
        padding = dilation * (kernel // 2)
        super().__init__(channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, ceil(H / stride), ceil(W / stride))."""
        return depthwise(x, self.weight, self.stride[0], self.dilation[0])


# The functions below that look at their input are single nodes to torch.fx, which cannot. TorchScript
# compiles them, but for the blocks that begin with `if not torch.jit.is_scripting():`, and would take a
# `type: ignore` with several codes for their signature.


@torch.fx.wrap
def depthwise(x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
    """x (B, C, H, W) convolved channel by channel with `weight` (C, 1, k, k), padded to keep the size."""
    if not torch.jit.is_scripting():  # noqa: SIM102
        if torch.is_grad_enabled() and _here(x) and _is_slow(weight, stride, dilation):
            return _fast_depthwise(x, weight, stride, dilation)
    padding = dilation * (weight.shape[-1] // 2)
    return F.conv2d(x, weight, None, stride, padding, dilation, weight.shape[0])


def _is_slow(weight: Tensor, stride: int, dilation: int) -> bool:
    """Whether `_fast_depthwise` knows gradients that oneDNN is slow to compute."""
    return (weight.shape[-1] > 3 or dilation > 1) and (stride == 1 or stride == dilation == 2)


def _fast_depthwise(x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
    """`depthwise` with gradients from oneDNN's fast kernels."""
    if stride == 2:
        (x,), dilation = every_second(x, 0), 1
    lower = torch.is_autocast_enabled("cpu") and x.dtype != torch.float64
    dtype = torch.get_autocast_dtype("cpu") if lower else x.dtype
    return _Depthwise.apply(x.to(dtype), weight.to(dtype), dilation)  # type: ignore


class AvgPool3x3(nn.AvgPool2d):
    """The average of the 3x3 pixels around each one, those outside the image not counted.

    Args:
        stride: 1 or 2.
    """

    def __init__(self, stride: int) -> None:
        super().__init__(3, stride, padding=1, count_include_pad=False)
        self.stride: int

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, ceil(H / stride), ceil(W / stride))."""
        return average3x3(x, self.stride)


@torch.fx.wrap
def average3x3(x: Tensor, stride: int) -> Tensor:
    """What `AvgPool3x3` computes."""
    if not torch.jit.is_scripting():  # noqa: SIM102
        if not (recorded() or torch.compiler.is_compiling()):
            if stride == 1 and _here(x):
                return _Average.apply(x)  # type: ignore
            if not allowed(x) and torch.is_grad_enabled():
                return _AverageElsewhere.apply(x, stride)  # type: ignore
    return F.avg_pool2d(x, 3, stride, padding=1, count_include_pad=False)


def recorded() -> bool:
    """Whether a program is recorded that has to run without this code."""
    return torch.jit.is_tracing() or torch.compiler.is_exporting()


def _here(x: Tensor) -> bool:
    return not recorded() and allowed(x) and x.is_contiguous(memory_format=torch.channels_last)


class _Average(torch.autograd.Function):
    """Sums over 3x3 pixels, divided by their numbers. Its backward can be differentiated again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _sums(x).mul_(_shares(x.shape[1:], x.dtype))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        shared = grad * _shares(grad.shape[1:], grad.dtype)
        return _sums(shared.contiguous(memory_format=torch.channels_last))


class _AverageElsewhere(torch.autograd.Function):
    """torch's pooling with a backward of its own, which can be differentiated again.

    That of CUDA is wrong for channels-last maps that are padded (pytorch/pytorch#188344, mended in the summer
    of 2026), and right where the padding is part of the map.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, stride: int) -> Tensor:
        ctx.shape, ctx.stride = x.shape, stride
        ctx.order = memory_order(x)
        return F.avg_pool2d(x, 3, stride, padding=1, count_include_pad=False)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        b, c, h, w = ctx.shape
        with torch.no_grad():
            shares = F.avg_pool2d(grad.new_ones(1, 1, h, w), 3, ctx.stride, padding=1)  # pixels counted, of 9
        if ctx.stride == 1:
            return _Ninths.apply(grad / shares), None  # type: ignore[no-untyped-call]
        with torch.no_grad():
            padded = torch.empty(
                b, c, h + 2, w + 2, dtype=grad.dtype, device=grad.device, memory_format=ctx.order
            )
        at_padded = torch.ops.aten.avg_pool2d_backward(
            grad / shares, padded, [3, 3], [ctx.stride] * 2, [0, 0], False, True, None
        )
        return at_padded[:, :, 1:-1, 1:-1].contiguous(memory_format=ctx.order), None


class _Ninths(torch.autograd.Function):
    """A ninth of the sums over 3x3 pixels, which is its own gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 3, 1, padding=1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _Ninths.apply(grad)  # type: ignore[no-any-return, no-untyped-call]


def _sums(x: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        return _convolve(x, torch.ones(x.shape[1], 1, 3, 3, dtype=x.dtype), 1)


@lru_cache(maxsize=64)
def _shares(shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """One over the number of pixels that an average is over, (1, C, H, W) in channels-last order."""
    with torch.inference_mode(False):
        ones = torch.ones(1, *shape, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
        return (1 / _sums(ones)).to(dtype)


def every_second(x: Tensor, *firsts: int) -> tuple[Tensor, ...]:
    """Every second pixel of every second row of x (B, C, H, W), once from each of `firsts` (0 or 1) on.

    The gradient of a slice would have another memory order than x.
    """
    if torch.compiler.is_compiling() or recorded():
        return tuple(x[:, :, f::2, f::2] for f in firsts)
    return _EverySecond.apply(x, *firsts)  # type: ignore[no-any-return, no-untyped-call]


@torch.fx.wrap
def halves(x: Tensor) -> tuple[Tensor, Tensor]:
    """Every second pixel of x (B, C, H, W), from the first and from the second on, padded to equal sizes."""
    if torch.jit.is_tracing() or x.shape[-1] % 2 or x.shape[-2] % 2:  # tracing knows no numbers
        x = F.pad(x, [0, x.shape[-1] % 2, 0, x.shape[-2] % 2])
    if not torch.jit.is_scripting():
        first, second = every_second(x, 0, 1)
        return first, second
    return x[:, :, ::2, ::2], x[:, :, 1::2, 1::2]


class _EverySecond(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *firsts: int) -> tuple[Tensor, ...]:
        ctx.firsts, ctx.shape = firsts, x.shape
        ctx.order = memory_order(x)
        return tuple(x[:, :, f::2, f::2].contiguous(memory_format=ctx.order) for f in firsts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        like = grads[0]
        at_x = torch.empty(ctx.shape, dtype=like.dtype, device=like.device, memory_format=ctx.order).zero_()
        for first, grad in zip(ctx.firsts, grads, strict=True):
            at_x[:, :, first::2, first::2] = grad
        return at_x, *(None for _ in grads)


class _Depthwise(torch.autograd.Function):
    """Stride 1, kernels (C, 1, k, k). Its backward can be differentiated again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, dilation: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.dilation = dilation
        return _convolve(x, weight, dilation)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        at_x = _convolve(grad, weight.flip(2, 3), ctx.dilation) if ctx.needs_input_grad[0] else None
        at_weight = _at_weight(x, grad, weight, ctx.dilation) if ctx.needs_input_grad[1] else None
        return at_x, at_weight, None


def _convolve(x: Tensor, weight: Tensor, dilation: int) -> Tensor:
    return F.conv2d(x, weight, None, 1, dilation * (weight.shape[-1] // 2), dilation, len(weight))


def _at_weight(x: Tensor, grad: Tensor, weight: Tensor, dilation: int) -> Tensor:
    """The gradient of the weights (C, 1, k, k)."""
    if dilation > 1:
        x, grad = _interleaved(x, dilation), _interleaved(grad, dilation)
    kernel = weight.shape[-1]
    half, columns = kernel // 2, []
    if kernel <= 3:
        return _narrow(x, grad, weight, [half, half])
    for first in range(0, kernel, 3):  # columns first, first + 1 and first + 2 of the kernel
        left = half - first  # pixels of padding before the first that they read; negative: to skip
        shifted = F.pad(x, (max(left, 0), 2 - left))[..., max(-left, 0) :]
        at_three = _narrow(shifted, grad, weight[..., :3], [half, 0])
        columns.append(at_three[..., : kernel - first])
    return torch.cat(columns, -1)


def _narrow(x: Tensor, grad: Tensor, weight: Tensor, padding: list[int]) -> Tensor:
    """The gradient of weights of the shape of `weight`, at most 3 wide, with oneDNN's fast kernel."""
    at_weight: Tensor
    _, at_weight, _ = torch.ops.aten.convolution_backward(
        grad, x, weight, None, [1, 1], padding, [1, 1], False, [0, 0], len(weight), [False, True, False]
    )
    return at_weight


def _interleaved(x: Tensor, d: int) -> Tensor:
    """(B, C, H, W) to (d * d * B, C, ceil(H / d), ceil(W / d)): dilation reads each part by itself."""
    if x.shape[2] % d or x.shape[3] % d:
        x = F.pad(x, (0, -x.shape[3] % d, 0, -x.shape[2] % d))
    rows = x.permute(0, 2, 3, 1)
    b, h, w, c = rows.shape
    parts = rows.reshape(b, h // d, d, w // d, d, c).permute(2, 4, 0, 1, 3, 5)
    return parts.reshape(d * d * b, h // d, w // d, c).permute(0, 3, 1, 2)
