"""Inverted residual blocks: a 1x1 convolution to more channels, a depthwise one, a 1x1 convolution to few.

Sources: Sandler et al., 2018, "MobileNetV2", arXiv 1801.04381; squeeze-and-excitation as in Tan & Le, 2019,
"EfficientNet", arXiv 1905.11946. The layers are those of timm's `InvertedResidual`, with its defaults.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from torch import Tensor, nn

from search_spaces import operations
from search_spaces.depthwise import DepthwiseConv2d
from search_spaces.operations import Norm, Residual

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "hard_swish": nn.Hardswish}
SQUEEZE = 0.25  # channels of the bottleneck of squeeze-and-excitation, as a share of those of the input


class SqueezeExcite(nn.Module):
    """Scales every channel by a number in (0, 1), a function of the mean of all channels.

    Args:
        channels: of input and output.
        narrow: channels of the bottleneck.
    """

    def __init__(self, channels: int, narrow: int, activation: str) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, narrow, 1)
        self.activation = ACTIVATIONS[activation]()
        self.expand = nn.Conv2d(narrow, channels, 1)
        self.gate = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        scale = self.expand(self.activation(self.reduce(x.mean((2, 3), keepdim=True))))
        out: Tensor = x * self.gate(scale)
        return out


class Block(NamedTuple):
    """What is chosen of an inverted residual block.

    Attributes:
        kernel: side of the kernel of the depthwise convolution.
        expansion: channels between the 1x1 convolutions, in units of those of the input.
        squeeze: whether there is squeeze-and-excitation.
        activation: one of ACTIVATIONS.
    """

    kernel: int
    expansion: int
    squeeze: bool = False
    activation: str = "hard_swish"


def inverted_residual(
    channels_in: int, channels_out: int, stride: int, norm: Norm, block: Block
) -> nn.Module:
    """The block with these numbers of channels; residual where its input and output have the same shape."""
    wide = block.expansion * channels_in
    act = ACTIVATIONS[block.activation]
    narrow = max(1, round(SQUEEZE * channels_in))
    squeeze = [SqueezeExcite(wide, narrow, block.activation)] if block.squeeze else []
    layers = nn.Sequential(
        nn.Conv2d(channels_in, wide, 1, bias=False),
        norm(wide),
        act(),
        DepthwiseConv2d(wide, block.kernel, stride),
        norm(wide),
        act(),
        *squeeze,
        nn.Conv2d(wide, channels_out, 1, bias=False),
        norm(channels_out),
    )
    return Residual(layers) if stride == 1 and channels_in == channels_out else layers


def separable(channels: int, norm: Norm, activation: str) -> nn.Module:
    """A 3x3 depthwise convolution, then a 1x1 convolution without an activation, plus the input."""
    act = ACTIVATIONS[activation]
    conv = nn.Conv2d(channels, channels, 1, bias=False)
    return Residual(nn.Sequential(DepthwiseConv2d(channels, 3), norm(channels), act(), conv, norm(channels)))


BLOCKS: dict[str, Block] = {
    f"ir_k{kernel}_e{expansion}{'_se' * squeeze}": Block(kernel, expansion, squeeze)
    for squeeze in (False, True)
    for kernel in (3, 5, 7)
    for expansion in (3, 6)
} | {"mb3_k3": Block(3, 3, activation="relu"), "mb6_k5": Block(5, 6, activation="relu")}
for _name, _block in BLOCKS.items():
    operations.register(_name, partial(inverted_residual, block=_block), "convolution")
