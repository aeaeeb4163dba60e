"""A search space of one's own: a chain of inverted residual blocks, as in MobileNetV2 and ProxylessNAS.

Every block is a decision with candidates of its own: its kernel and its expansion, and, where its input and
output have equal shapes, whether there is a block at all. Run: python examples/own_space.py
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

import nas
import search_spaces
from search_spaces import Cell, CellPlan, EdgeFactory, SearchSpace, Size, Skeleton, Slot, operations
from search_spaces.mixed_edge import Choice
from search_spaces.operations import Norm

# 1. Operations: what a decision chooses between. Their names are those of genotypes and reports.


class InvertedResidual(nn.Module):
    """1x1 convolution to more channels, depthwise convolution, 1x1 convolution to few; plus its input.

    The last layer of `layers` is a normalisation without an activation. `norm` has weights in a derived
    network and none in a supernet, where a learned scale would compete with the logits.
    """

    def __init__(
        self, channels_in: int, channels_out: int, stride: int, norm: Norm, kernel: int, expansion: int
    ) -> None:
        super().__init__()
        wide = expansion * channels_in
        self.residual = stride == 1 and channels_in == channels_out
        self.layers = nn.Sequential(
            nn.Conv2d(channels_in, wide, 1, bias=False),
            norm(wide),
            nn.ReLU(),
            nn.Conv2d(wide, wide, kernel, stride, kernel // 2, groups=wide, bias=False),
            norm(wide),
            nn.ReLU(),
            nn.Conv2d(wide, channels_out, 1, bias=False),
            norm(channels_out),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + y if self.residual else y


BLOCKS = {f"mb{k}_{e}": partial(InvertedResidual, kernel=k, expansion=e) for k in (3, 5) for e in (2, 4)}
for name, build in BLOCKS.items():
    operations.register(name, build, "convolution")

# 2. The space: one slot for each block of the chain.

# Channels (in units of those of the first stage), stride of the first block, number of blocks.
STAGES = ((1, 1, 2), (2, 2, 2), (4, 2, 3))
SHAPES = [  # units in and out, and stride, of every block
    (STAGES[max(0, s - (i == 0))][0], units, stride if i == 0 else 1)
    for s, (units, stride, count) in enumerate(STAGES)
    for i in range(count)
]


def candidates(units_in: int, units_out: int, stride: int) -> tuple[str, ...]:
    """Operations of a block: also the identity, where it is one."""
    same = units_in == units_out and stride == 1
    return (*BLOCKS, "skip_connect") if same else tuple(BLOCKS)


class MobileChain(SearchSpace):
    """Blocks one after another; `size`, `random`, `discretise` and the notation are those of all spaces whose
    decisions are independent."""

    name = "small_mobile"
    slots = tuple(
        Slot("chain", i, i + 1, candidates(*shape), f"block {i + 1}") for i, shape in enumerate(SHAPES)
    )
    channels, cells = 8, 1
    cells_help = "of no effect in this space"

    def skeleton(self, plans: dict[str, CellPlan], factory: EdgeFactory, size: Size) -> Skeleton:
        return MobileNetwork(plans["chain"], factory, size)


# 3. The network around the decisions. The factory returns a mixed edge for a supernet and a single operation
#    for a derived network, so that both are made here.


class MobileNetwork(Skeleton):
    """Stem, blocks, pooling, classifier."""

    def __init__(self, plan: CellPlan, factory: EdgeFactory, size: Size) -> None:
        super().__init__()
        width = size.channels
        stem = nn.Conv2d(size.in_channels, width, 3, padding=1, bias=False)
        self.stem = nn.Sequential(stem, factory.frame_norm(width), nn.ReLU())
        self.blocks = nn.ModuleList(
            Cell(block, partial(factory.edge, channels_in=a * width, channels_out=b * width, stride=stride))
            for block, (a, b, stride) in zip(plan.chain(), SHAPES, strict=True)
        )
        self.num_features = STAGES[-1][0] * width
        self.reset_classifier(size.num_classes)

    def features(self, x: Tensor, choice: Choice | None) -> tuple[Tensor, Tensor | None]:
        x = self.stem(x)
        for block in self.blocks:
            x = block([x], choice)
        return x, None


search_spaces.register(MobileChain())


def main(epochs: int = 2) -> None:
    """Search on scikit-learn's digits, then train what was found."""
    result = nas.search(space="small_mobile", data="digits", estimator="reinmax", epochs=epochs)
    print(result)
    trained = nas.train(result.genotype, data="digits", epochs=epochs)
    print(f"{trained.accuracy:.1f} % of the test images")


if __name__ == "__main__":
    main()
