"""Inverted residual blocks: a 1x1 convolution to more channels, a depthwise one, a 1x1 convolution to few.

Sources: Sandler et al., 2018, "MobileNetV2", arXiv 1801.04381; squeeze-and-excitation as in Tan & Le, 2019,
"EfficientNet", arXiv 1905.11946. The layers are those of timm's `InvertedResidual`, with its defaults.
"""

from __future__ import annotations

import re
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
    """

    kernel: int
    expansion: int
    squeeze: bool = False

    @property
    def name(self) -> str:
        """E.g. `ir_k3_e6`, or `ir_k3_e6_se`."""
        return f"ir_k{self.kernel}_e{self.expansion}{'_se' * self.squeeze}"

    @staticmethod
    def read(name: str) -> Block | None:
        """The block of that name; None where it is none."""
        found = re.fullmatch(r"ir_k(\d+)_e(\d+)(_se)?", name)
        return Block(int(found[1]), int(found[2]), found[3] is not None) if found else None


def inverted_residual(
    channels_in: int, channels_out: int, stride: int, norm: Norm, block: Block, activation: str
) -> nn.Module:
    """The block with these numbers of channels; residual where its input and output have the same shape."""
    wide = block.expansion * channels_in
    act = ACTIVATIONS[activation]
    squeeze = [SqueezeExcite(wide, max(1, round(SQUEEZE * channels_in)), activation)] if block.squeeze else []
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


BLOCKS = {
    block.name: block
    for se in (False, True)
    for k in (3, 5, 7)
    for e in (3, 6)
    for block in (Block(k, e, se),)
}
for _name, _block in BLOCKS.items():
    build = partial(inverted_residual, block=_block, activation="hard_swish")
    operations.register(_name, build, "convolution")
