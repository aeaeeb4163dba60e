"""The layers with fast paths against the plain ones."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from search_spaces import short_cuts
from search_spaces.depthwise import AvgPool3x3, DepthwiseConv2d, every_second

GRADIENTS = "x", "weight"


def gradients(run, x, weight, upstream):
    return dict(zip(GRADIENTS, torch.autograd.grad(run(x), [x, weight], upstream), strict=True))


class SlowKernels(TorchDispatchMode):
    """Counts gradients of depthwise convolutions that oneDNN has no fast kernel for: those of dilated ones,
    and those of weights that are more than 3 wide."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.convolution_backward.default:
            weight, dilation, wanted = args[2], args[6], args[10]
            self.count += max(dilation) > 1 or (wanted[1] and weight.shape[3] > 3)
        return function(*args, **(kwargs or {}))


def test_slow_kernels_are_seen():
    x = channels_last(2, 4, 8, 8)
    for kernel, dilation, found in ((3, 1, 0), (5, 1, 1), (3, 2, 1)):
        weight = torch.randn(4, 1, kernel, kernel, dtype=torch.float64, requires_grad=True)
        y = torch.nn.functional.conv2d(x, weight, groups=4, dilation=dilation)
        with SlowKernels() as slow:
            y.sum().backward()
        assert slow.count == found


def channels_last(*shape):
    return torch.randn(*shape, dtype=torch.float64).to(memory_format=torch.channels_last).requires_grad_()


@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (3, 3)])
@pytest.mark.parametrize("size", [(8, 8), (9, 10), (7, 5), (3, 4)])
def test_equals_plain_convolution(kernel, stride, dilation, size):
    torch.manual_seed(0)
    layer = DepthwiseConv2d(4, kernel, stride, dilation).double()
    x = channels_last(2, 4, *size)
    y = layer(x)
    torch.testing.assert_close(y, nn.Conv2d.forward(layer, x))
    upstream = torch.randn_like(y)
    with SlowKernels() as slow:
        mine = gradients(layer, x, layer.weight, upstream)
    if stride == 1 or stride == dilation == 2:
        assert slow.count == 0
    plain = gradients(lambda x: nn.Conv2d.forward(layer, x), x, layer.weight, upstream)
    torch.testing.assert_close(mine, plain)


@pytest.mark.parametrize("stride", [1, 2])
def test_can_be_differentiated_twice(stride):
    torch.manual_seed(0)
    layer = DepthwiseConv2d(2, 5, stride, 2).double()
    assert torch.autograd.gradgradcheck(
        lambda x, w: torch.func.functional_call(layer, {"weight": w}, x),
        (channels_last(1, 2, 5, 5), layer.weight),
    )


@pytest.mark.parametrize("size", [(8, 8), (9, 2), (1, 5), (1, 1), (2, 2)])
def test_average_equals_plain_pooling(size):
    torch.manual_seed(0)
    x = channels_last(2, 4, *size)
    layer = AvgPool3x3(1)
    y = layer(x)
    plain = nn.AvgPool2d.forward(layer, x)
    torch.testing.assert_close(y, plain, rtol=1e-12, atol=1e-12)
    upstream = torch.randn_like(y)
    at_x = torch.autograd.grad(y, x, upstream)
    torch.testing.assert_close(at_x, torch.autograd.grad(plain, x, upstream))
    assert torch.autograd.gradgradcheck(layer, channels_last(1, 2, *size))


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(8, 8), (9, 2), (1, 5), (1, 1)])
def test_average_as_a_gpu_computes_it(size, stride, order):
    torch.manual_seed(0)
    x = torch.randn(2, 4, *size, dtype=torch.float64).contiguous(memory_format=order).requires_grad_()
    layer = AvgPool3x3(stride)
    with short_cuts.without_short_cuts():
        y = layer(x)
        plain = nn.AvgPool2d.forward(layer, x)
        upstream = torch.randn_like(y)
        (at_x,) = torch.autograd.grad(y, x, upstream)
        assert torch.autograd.gradgradcheck(layer, x)
    assert torch.equal(y, plain)
    torch.testing.assert_close(at_x, *torch.autograd.grad(plain, x, upstream))
    assert at_x.is_contiguous(memory_format=order)


def test_average_keeps_the_precision_that_it_gets():
    x = torch.rand(2, 4, 6, 6).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert AvgPool3x3(1)(x).dtype == torch.float32
        low = AvgPool3x3(1)(x.bfloat16())
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), AvgPool3x3(1)(x), rtol=0.02, atol=0.02)
    assert AvgPool3x3(2)(x).shape == (2, 4, 3, 3)


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(6, 6), (5, 4)])
def test_every_second_pixel_and_its_gradient(order, size):
    torch.manual_seed(0)
    x = torch.randn(2, 3, *size, dtype=torch.float64).contiguous(memory_format=order).requires_grad_()
    found, expected = every_second(x, 0, 1), (x[:, :, ::2, ::2], x[:, :, 1::2, 1::2])
    torch.testing.assert_close(found, expected)
    upstream = [torch.randn_like(y) for y in found]
    (at_x,) = torch.autograd.grad(found, x, upstream)
    torch.testing.assert_close(at_x, *torch.autograd.grad(expected, x, upstream))
    assert at_x.is_contiguous(memory_format=order)
    (at_x,) = torch.autograd.grad(every_second(x, 0, 1)[1].sum(), x)  # the other one is not used
    torch.testing.assert_close(at_x, *torch.autograd.grad(x[:, :, 1::2, 1::2].sum(), x))
    assert torch.autograd.gradgradcheck(lambda x: every_second(x, 1), x)


def test_strides_autocast_and_frozen_weights():
    layer = DepthwiseConv2d(4, 5, 2, 2)
    x = torch.randn(2, 4, 9, 9).to(memory_format=torch.channels_last)
    assert layer(x).shape == (2, 4, 5, 5)
    layer = DepthwiseConv2d(4, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert layer.weight.grad.dtype == torch.float32
    layer.weight.requires_grad_(False)
    x.requires_grad_()
    layer(x).sum().backward()
    assert x.grad is not None


def test_float64_stays_float64_under_autocast():
    x = channels_last(2, 4, 6, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert DepthwiseConv2d(4, 5).double()(x).dtype == torch.float64


def test_average_after_inference_mode():
    """What is kept between calls serves graphs, too."""
    with torch.inference_mode():
        AvgPool3x3(1)(torch.ones(1, 3, 11, 7).to(memory_format=torch.channels_last))
    assert torch.autograd.gradgradcheck(AvgPool3x3(1), channels_last(1, 3, 11, 7))
