"""Candidate operations and the building blocks of the macro skeletons.

Every operation maps (B, channels_in, H, W) to (B, channels_out, ceil(H / stride), ceil(W / stride)) and works
out of place, because the candidates of an edge read the same tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.fx
from torch import Tensor, nn

from recipes.registry import Registry
from search_spaces.depthwise import AvgPool3x3, DepthwiseConv2d, halves
from search_spaces.genotype import Genotype

Norm = Callable[[int], nn.Module]

torch.fx.wrap("halves")

# A derived network learns its normalisation and keeps running statistics for inference.
derived_norm: Norm = nn.BatchNorm2d
# A supernet always normalises with the batch at hand: a running average over ever-changing
# architectures describes none of them. Nothing can be moved by an extra evaluation either.
supernet_norm: Norm = partial(nn.BatchNorm2d, track_running_stats=False)
# Inside the candidates a learned scale would compete with the architecture weights (DARTS).
candidate_norm: Norm = partial(nn.BatchNorm2d, affine=False, track_running_stats=False)


class Zero(nn.Module):
    """The operation `none`."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.channels, self.stride = channels, stride

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(_shaped(x, self.channels, self.stride))


class Noise(nn.Module):
    """Standard normal noise of the shape of an output, whatever the input is (RobustDARTS)."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.channels, self.stride = channels, stride

    def forward(self, x: Tensor) -> Tensor:
        return torch.randn_like(_shaped(x, self.channels, self.stride))


@torch.fx.wrap
def _shaped(x: Tensor, channels: int, stride: int) -> Tensor:
    """A tensor like the output of an operation on x."""
    if stride > 1:
        x = x[:, :, ::stride, ::stride]
    return x if x.shape[1] == channels else x[:, :1].expand(-1, channels, -1, -1)


class FactorizedReduce(nn.Module):
    """Halves the resolution by two 1x1 convolutions, one of them shifted by a pixel (DARTS).

    In DARTS a ReLU goes before; here it is the caller's, who may need its output elsewhere too.
    """

    def __init__(self, channels_in: int, channels_out: int, norm: Norm) -> None:
        super().__init__()
        half = channels_out // 2
        self.conv_1 = nn.Conv2d(channels_in, half, 1, bias=False)
        self.conv_2 = nn.Conv2d(channels_in, channels_out - half, 1, bias=False)
        self.norm = norm(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        first, second = halves(x)
        out: Tensor = self.norm(torch.cat([self.conv_1(first), self.conv_2(second)], 1))
        return out


class ResidualReduction(nn.Module):
    """Residual block of stride 2 between the stages of NAS-Bench-201."""

    def __init__(self, channels_in: int, channels_out: int, norm: Norm) -> None:
        super().__init__()
        self.conv_1 = relu_conv_norm(channels_in, channels_out, 3, 2, norm)
        self.conv_2 = relu_conv_norm(channels_out, channels_out, 3, 1, norm)
        self.shortcut = nn.Sequential(
            # Nothing is padded; torch.compile would count what hangs over the edge if it were not told.
            nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False),
            nn.Conv2d(channels_in, channels_out, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.shortcut(x) + self.conv_2(self.conv_1(x))
        return out


class Residual(nn.Module):
    """A branch beside the identity: x + branch(x). `drop_path` may drop the branch in training."""

    def __init__(self, branch: nn.Sequential) -> None:
        super().__init__()
        self.branch = branch
        self.drop_path: nn.Module = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.drop_path(self.branch(x))
        return out


class DropPath(nn.Module):
    """Drops its input per image with `probability`, scaled to keep the mean, in training only.

    The probability is a tensor, so that a schedule moves it without recompiling a compiled model.
    """

    probability: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("probability", torch.zeros(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return _drop_path(x, self.probability) if self.training else x


@torch.fx.wrap
def _drop_path(x: Tensor, probability: Tensor) -> Tensor:
    keep = 1 - probability
    mask = torch.rand(x.shape[0], 1, 1, 1, device=x.device) < keep
    return x * (mask / keep).to(x.dtype)


def conv_norm(channels_in: int, channels_out: int, norm: Norm) -> nn.Sequential:
    """1x1 convolution, normalisation."""
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 1, bias=False), norm(channels_out))


def relu_conv_norm(
    channels_in: int, channels_out: int, kernel: int, stride: int, norm: Norm
) -> nn.Sequential:
    """ReLU, convolution that pads to keep the size, normalisation."""
    conv = nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(nn.ReLU(), conv, norm(channels_out))


def _depthwise_separable(
    channels_in: int,
    channels_out: int,
    kernel: int,
    stride: int,
    dilation: int,
    norm: Norm,
    inplace: bool = False,
) -> list[nn.Module]:
    return [
        nn.ReLU(inplace),
        DepthwiseConv2d(channels_in, kernel, stride, dilation),
        nn.Conv2d(channels_in, channels_out, 1, bias=False),
        norm(channels_out),
    ]


def _sep_conv(channels_in: int, channels_out: int, stride: int, norm: Norm, kernel: int) -> nn.Module:
    first = _depthwise_separable(channels_in, channels_in, kernel, stride, 1, norm)
    second = _depthwise_separable(channels_in, channels_out, kernel, 1, 1, norm, inplace=True)
    return nn.Sequential(*first, *second)


def _dil_conv(channels_in: int, channels_out: int, stride: int, norm: Norm, kernel: int) -> nn.Module:
    return nn.Sequential(*_depthwise_separable(channels_in, channels_out, kernel, stride, 2, norm))


def _nor_conv(channels_in: int, channels_out: int, stride: int, norm: Norm, kernel: int) -> nn.Module:
    return relu_conv_norm(channels_in, channels_out, kernel, stride, norm)


def _two_convs(channels_in: int, channels_out: int, stride: int, norm: Norm, kernel: int) -> nn.Module:
    """A convolution along rows, then one along columns."""
    side = kernel // 2
    along = nn.Conv2d(channels_in, channels_out, (1, kernel), (1, stride), (0, side), bias=False)
    across = nn.Conv2d(channels_out, channels_out, (kernel, 1), (stride, 1), (side, 0), bias=False)
    return nn.Sequential(nn.ReLU(), along, across, norm(channels_out))


def _max_pool(stride: int, kernel: int) -> nn.Module:
    return nn.MaxPool2d(kernel, stride, kernel // 2)


def _skip_connect(channels_in: int, channels_out: int, stride: int, norm: Norm) -> nn.Module:
    if stride > 1:
        return nn.Sequential(nn.ReLU(), FactorizedReduce(channels_in, channels_out, norm))
    if channels_in != channels_out:
        return relu_conv_norm(channels_in, channels_out, 1, 1, norm)
    return nn.Identity()


def _identity(channels_in: int, channels_out: int, stride: int, norm: Norm) -> nn.Module:
    if stride == 1 and channels_in == channels_out:
        return nn.Identity()
    conv = nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)
    return nn.Sequential(conv, norm(channels_out))


def _pooling(
    channels_in: int, channels_out: int, stride: int, norm: Norm, layer: Callable[[int], nn.Module]
) -> nn.Module:
    if channels_in != channels_out:
        raise ValueError(f"a pooling cannot turn {channels_in} channels into {channels_out}")
    return layer(stride)


FAMILIES = ("none", "skip", "pooling", "convolution", "other")


class Operation(NamedTuple):
    """A candidate: `build(channels_in, channels_out, stride, norm)` makes its module."""

    build: Callable[[int, int, int, Norm], nn.Module]
    family: str


_OPERATIONS: Registry[Operation] = Registry(
    "operation",
    {
        "none": Operation(lambda _, channels, stride, norm: Zero(channels, stride), "none"),
        "skip_connect": Operation(_skip_connect, "skip"),
        "identity": Operation(_identity, "skip"),
        "nor_conv_1x1": Operation(partial(_nor_conv, kernel=1), "convolution"),
        "nor_conv_3x3": Operation(partial(_nor_conv, kernel=3), "convolution"),
        "avg_pool_3x3": Operation(partial(_pooling, layer=AvgPool3x3), "pooling"),
        "max_pool_3x3": Operation(partial(_pooling, layer=partial(_max_pool, kernel=3)), "pooling"),
        "max_pool_5x5": Operation(partial(_pooling, layer=partial(_max_pool, kernel=5)), "pooling"),
        "max_pool_7x7": Operation(partial(_pooling, layer=partial(_max_pool, kernel=7)), "pooling"),
        "sep_conv_3x3": Operation(partial(_sep_conv, kernel=3), "convolution"),
        "sep_conv_5x5": Operation(partial(_sep_conv, kernel=5), "convolution"),
        "sep_conv_7x7": Operation(partial(_sep_conv, kernel=7), "convolution"),
        "dil_conv_3x3": Operation(partial(_dil_conv, kernel=3), "convolution"),
        "dil_conv_5x5": Operation(partial(_dil_conv, kernel=5), "convolution"),
        "conv_3x1_1x3": Operation(partial(_two_convs, kernel=3), "convolution"),
        "conv_7x1_1x7": Operation(partial(_two_convs, kernel=7), "convolution"),
        "noise": Operation(lambda _, channels, stride, norm: Noise(channels, stride), "other"),
    },
)
names = _OPERATIONS.names


def register(name: str, build: Callable[[int, int, int, Norm], nn.Module], family: str = "other") -> None:
    """Add an operation that any space can name as a candidate.

    Args:
        name: lower-case letters, digits and _.
        build: `build(channels_in, channels_out, stride, norm)` returns the module; `norm(channels)` makes a
            normalisation, which a supernet makes without weights. Of layers in an `nn.Sequential`, a first
            ReLU or pooling is shared in supernets, and a last normalisation makes the exact gradient cheaper.
        family: one of FAMILIES.

    Raises:
        ValueError: the name is taken or malformed, `build` is no function, or there is no such family.
    """
    if not callable(build):
        raise ValueError(
            f"operation {name!r} is a {type(build).__name__}, expected a function that builds it"
        )
    if family not in FAMILIES:
        raise ValueError(f"unknown family of operations {family!r}, expected one of {', '.join(FAMILIES)}")
    _OPERATIONS.register(name, Operation(build, family))


def build(name: str, channels_in: int, channels_out: int, stride: int, norm: Norm) -> nn.Module:
    """The operation `name`. Raises ValueError where it cannot change the number of channels."""
    return _OPERATIONS.get(name).build(channels_in, channels_out, stride, norm)


def family(name: str) -> str:
    """The family of the operation `name`, one of FAMILIES."""
    return _OPERATIONS.get(name).family


def count(genotype: Genotype, of: str) -> dict[str, int]:
    """Number of edges that hold an operation of the family `of`, per kind of cell."""
    return {cell.name: sum(family(e.operation) == of for e in cell.edges) for cell in genotype.cells}
