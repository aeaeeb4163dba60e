"""Chains of blocks, in stages: every block is a decision of its own.

A stage is a kind of cell whose edges lead from each node to the next. Blocks after the first of a stage keep
the shape, so that the identity among their candidates makes depth a decision.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from search_spaces.cell import Cell, CellPlan, Chain, EdgeFactory, PlannedEdge, in_turn
from search_spaces.feature_maps import FeatureMaps, Stage
from search_spaces.inverted_residual import ACTIVATIONS, separable
from search_spaces.mixed_edge import Choice
from search_spaces.operations import DropPath, Residual
from search_spaces.skeleton import Size, Skeleton
from search_spaces.slot import Slot
from search_spaces.space import SearchSpace


@dataclass(frozen=True)
class ChainLayout:
    """The numbers of a network: channels and strides of all that is not a decision.

    Attributes:
        stem, stem_stride: channels and stride of the 3x3 convolution at the start.
        separable: whether a depthwise-separable block of as many channels follows it.
        stages: channels and stride of the first block of every stage.
        features: channels of the 1x1 convolution at the end.
        activation: one of ACTIVATIONS, around the blocks.
    """

    stem: int
    stem_stride: int
    separable: bool
    stages: tuple[tuple[int, int], ...]
    features: int
    activation: str


class ChainSpace(SearchSpace):
    """Stages of blocks after one another; `size`, `random`, `discretise` are those of independent decisions.

    Args:
        name: registry name.
        first: candidates of the first block of a stage, which changes channels and resolution.
        others: candidates of the other blocks.
        blocks: number of blocks of every stage.
    """

    cells = most_cells = 1
    cells_help = "blocks are decisions"
    features = frozenset({"drop_path"})

    def __init__(
        self, name: str, first: Sequence[str], others: Sequence[str], blocks: Sequence[int], channels: int
    ) -> None:
        self.name, self.channels = name, channels
        self.slots = tuple(
            Slot(f"stage {stage}", i, i + 1, tuple(others if i else first), f"stage {stage} block {i + 1}")
            for stage, count in enumerate(blocks, start=1)
            for i in range(count)
        )

    @abstractmethod
    def layout(self, channels: int, planned_size: int) -> ChainLayout:
        """The numbers of a network of `channels` for images of `planned_size` pixels a side."""

    def skeleton(self, plans: dict[str, CellPlan], factory: EdgeFactory, size: Size) -> Skeleton:
        return ChainSkeleton(plans, factory, size, self.layout(size.channels, size.planned_size))


class ChainSkeleton(Skeleton):
    """Stem, stages of blocks, 1x1 convolution with normalisation and activation, pooling, classifier.

    `blocks[s][i]` is block i of stage s: a cell of one mixed edge in a supernet, the operation itself in a
    derived network.
    """

    def __init__(
        self, plans: dict[str, CellPlan], factory: EdgeFactory, size: Size, layout: ChainLayout
    ) -> None:
        super().__init__()
        self.layout = layout
        norm, act = factory.frame_norm, ACTIVATIONS[layout.activation]
        channels = layout.stem
        self.stem = nn.Sequential(
            nn.Conv2d(size.in_channels, channels, 3, layout.stem_stride, 1, bias=False), norm(channels), act()
        )
        if layout.separable:
            self.stem.append(separable(channels, norm, layout.activation))
        self.blocks = nn.ModuleList()
        maps, resolution = dict[int, Stage](), layout.stem_stride  # the last stage of every resolution
        for plan, (width, stride) in zip(plans.values(), layout.stages, strict=True):
            stage = nn.ModuleList()
            for i, block in enumerate(plan.chain()):
                edge = partial(
                    factory.edge,
                    channels_in=width if i else channels,
                    channels_out=width,
                    stride=1 if i else stride,
                )
                stage.append(_block(block, edge))
            channels, resolution = width, resolution * stride
            maps[resolution] = Stage(f"blocks.{len(self.blocks)}", width, resolution)
            self.blocks.append(stage)
        self.stages = tuple(maps.values())
        self.chain, self.num_features = Chain(), layout.features
        self.last = nn.Sequential(
            nn.Conv2d(channels, layout.features, 1, bias=False), norm(layout.features), act()
        )
        if size.drop_path:
            self.drop_path = DropPath()
            for module in self.blocks.modules():
                if isinstance(module, Residual):
                    module.drop_path = self.drop_path
        self.reset_classifier(size.num_classes)

    def features(
        self, x: Tensor, choice: Choice | None, seen: FeatureMaps | None = None
    ) -> tuple[Tensor, Tensor | None]:
        x, stages = self.stem(x), [list(stage) for stage in self.blocks]  # type: ignore[call-overload]
        if seen is None:
            return self.last(self.chain([block for stage in stages for block in stage], x, choice)), None
        for number, stage in enumerate(stages):
            x = in_turn(stage, x, choice)
            if seen.add(number, x):
                return x, None
        return self.last(x), None


def _block(plan: CellPlan, make_edge: partial[nn.Module]) -> nn.Module:
    """The module of a block, whose plan is that of a cell with one edge."""
    edge: PlannedEdge
    (edge,) = plan.edges
    return Cell(plan, make_edge) if edge.operation is None else make_edge(edge)
