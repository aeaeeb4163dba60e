"""Feature maps of the stages of a network, as timm's backbones give them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


class Stage(NamedTuple):
    """The blocks of a network between two reductions of the resolution.

    Attributes:
        module: its last block, whose output is the feature map of the stage: `blocks.4`.
        channels, reduction: of the map; pixels of the image along a side for one of the map.
    """

    module: str
    channels: int
    reduction: int

    @property
    def block(self) -> int:
        """Number of the last block."""
        return int(self.module.rpartition(".")[2])


class FeatureMaps:
    """Collects the maps of some stages on the way of a forward pass.

    Args:
        stages: those that are wanted, in the order of the network.
        stop: whether the pass may end with the last of them.
    """

    def __init__(self, stages: Sequence[Stage], stop: bool) -> None:
        self.blocks, self.stop = [stage.block for stage in stages], stop
        self.maps: list[Tensor] = []

    def add(self, block: int, x: Tensor) -> bool:
        """Keep the output of a block if it is wanted; whether the pass may end here."""
        if block in self.blocks:
            self.maps.append(x)
        return self.stop and len(self.maps) == len(self.blocks)


def chosen(count: int, indices: int | Sequence[int] | None) -> list[int]:
    """Which of `count` stages are meant, ascending: all, the last so many, or these, where negative ones
    count from the end. Raises ValueError for one that there is not."""
    if indices is None:
        return list(range(count))
    if isinstance(indices, int):
        indices = range(count - indices, count) if indices <= count else [indices]
    found = sorted({i if i >= 0 else count + i for i in indices})
    if not found or found[0] < 0 or found[-1] >= count:
        raise ValueError(f"feature maps {list(indices)} of a network with {count}: expected 0 to {count - 1}")
    return found
