"""An operation of one's own, in a space of one's own candidates. Run: python examples/own_operation.py

Any space can name a registered operation as a candidate. Here the cells are those of NAS-Bench-201 with 3
nodes, and a channel shuffle with a grouped convolution takes the place of the 1x1 convolution.
"""

from __future__ import annotations

from torch import nn

import nas
import search_spaces
from search_spaces import operations
from search_spaces.nasbench201 import DenseCellSpace
from search_spaces.operations import Norm


def shuffled_conv(channels_in: int, channels_out: int, stride: int, norm: Norm) -> nn.Module:
    """A 3x3 convolution in two groups, the channels of which are mixed before it.

    It maps (B, channels_in, H, W) to (B, channels_out, ceil(H / stride), ceil(W / stride)). Written as an
    `nn.Sequential` that begins with a ReLU and ends with `norm`, its exact gradient is cheap: the ReLU is
    shared with other candidates, and the normalised output is never computed where it is not chosen.
    """
    conv = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, groups=2, bias=False)
    return nn.Sequential(nn.ReLU(), nn.ChannelShuffle(2), conv, norm(channels_out))


# The family is the colour of the operation in reports, and tells spaces what it is.
operations.register("shuffled_conv", shuffled_conv, family="convolution")

CANDIDATES = ("none", "skip_connect", "shuffled_conv", "nor_conv_3x3", "avg_pool_3x3")
search_spaces.register(DenseCellSpace("micro_shuffled", nodes=3, channels=8, cells=1, candidates=CANDIDATES))


def main(epochs: int = 2) -> None:
    """Search on scikit-learn's digits, then train what was found."""
    result = nas.search(space="micro_shuffled", data="digits", estimator="reinmax", epochs=epochs)
    print(result)
    trained = nas.train(result.genotype, data="digits", epochs=epochs)
    print(f"{trained.accuracy:.1f} % of the test images")


if __name__ == "__main__":
    main()
