"""The depthwise convolution against the plain one."""

import pytest
import torch
from torch import nn

from search_spaces.depthwise import DepthwiseConv2d

GRADIENTS = "x", "weight"


def gradients(run, x, weight, upstream):
    return dict(zip(GRADIENTS, torch.autograd.grad(run(x), [x, weight], upstream), strict=True))


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("dilation", [1, 2, 3])
@pytest.mark.parametrize("size", [(8, 8), (9, 10), (7, 5), (3, 4)])
def test_equals_plain_convolution(kernel, dilation, size):
    torch.manual_seed(0)
    layer = DepthwiseConv2d(4, kernel, 1, dilation).double()
    x = torch.randn(2, 4, *size, dtype=torch.float64).to(memory_format=torch.channels_last).requires_grad_()
    y = layer(x)
    assert (kernel == 3 and dilation == 1) or "Depthwise" in y.grad_fn.name()
    torch.testing.assert_close(y, nn.Conv2d.forward(layer, x))
    upstream = torch.randn_like(y)
    mine = gradients(layer, x, layer.weight, upstream)
    plain = gradients(lambda x: nn.Conv2d.forward(layer, x), x, layer.weight, upstream)
    torch.testing.assert_close(mine, plain)


def test_can_be_differentiated_twice():
    torch.manual_seed(0)
    layer = DepthwiseConv2d(2, 5, 1, 2).double()
    x = torch.randn(1, 2, 5, 5, dtype=torch.float64).to(memory_format=torch.channels_last).requires_grad_()
    assert torch.autograd.gradgradcheck(
        lambda x, w: torch.func.functional_call(layer, {"weight": w}, x), (x, layer.weight)
    )


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
