"""What every candidate of a space costs in its place: parameters and multiply-adds.

The skeleton of a space is built on the meta device as a derived network that has every edge, with a `Place`
on each of them that computes nothing. One pass shows each place its input; what a candidate costs there is
that of the operation which a derived network would have, in all the cells that its slot occurs in.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from search_spaces import operations
from search_spaces.cell import EdgeFactory, PlannedEdge
from search_spaces.genotype import Genotype
from search_spaces.operations import Zero, derived_norm
from search_spaces.skeleton import Size, Skeleton
from search_spaces.slot import ABSENT
from search_spaces.space import SearchSpace


class Candidate(NamedTuple):
    """An operation in a place of a network: equal ones cost the same.

    Attributes:
        shape: of its input for one image, (channels, H, W).
    """

    operation: str
    channels_out: int
    stride: int
    shape: tuple[int, int, int]

    def build(self) -> nn.Module:
        """The operation, as a derived network has it."""
        return operations.build(self.operation, self.shape[0], self.channels_out, self.stride, derived_norm)


class Place(nn.Module):
    """An edge that computes nothing and remembers the shape of its input."""

    def __init__(self, planned: PlannedEdge, channels_out: int, stride: int) -> None:
        super().__init__()
        self.row, self.names = planned.row, planned.candidates
        self.channels_out, self.stride = channels_out, stride
        self.output = Zero(channels_out, stride)
        self.shape = (0, 0, 0)

    def forward(self, x: Tensor) -> Tensor:
        _, channels, height, width = x.shape
        self.shape = (channels, height, width)
        return self.output(x)  # type: ignore[no-any-return]

    def candidates(self) -> list[Candidate]:
        """Those of its slot, as they are here."""
        return [Candidate(name, self.channels_out, self.stride, self.shape) for name in self.names]


class _PlaceFactory(EdgeFactory):
    """Makes a place of every edge."""

    def edge(self, planned: PlannedEdge, channels_in: int, channels_out: int, stride: int) -> nn.Module:
        return Place(planned, channels_out, stride)


@dataclass(frozen=True)
class NetworkSize:
    """Of a derived network and its images; see `SearchSpace.network`.

    Attributes:
        image_size: height and width.
        planned_size: side of the images that strides and stem are meant for; default: the shorter one.
    """

    channels: int
    cells: int
    num_classes: int
    in_channels: int
    image_size: tuple[int, int]
    planned_size: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "planned_size", self.planned_size or min(self.image_size))

    def network(self, space: SearchSpace, genotype: Genotype) -> Skeleton:
        """The derived network in this size."""
        return space.network(
            genotype,
            channels=self.channels,
            cells=self.cells,
            num_classes=self.num_classes,
            in_channels=self.in_channels,
            planned_size=self.planned_size,
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of an image, (channels, H, W)."""
        return (self.in_channels, *self.image_size)


class CostTable(NamedTuple):
    """An additive cost of the architectures of a space, in whole units.

    Attributes:
        fixed: of what all networks have.
        table: (E, K) int64, of every candidate in all its places together; 0 where there is none.
    """

    fixed: int
    table: Tensor

    def of(self, choice: Sequence[int]) -> int:
        """Of the network with these candidates, ABSENT where a slot has no edge."""
        rows: list[list[int]] = self.table.tolist()
        return self.fixed + sum(row[k] for row, k in zip(rows, choice, strict=True) if k != ABSENT)


def frame(space: SearchSpace, size: NetworkSize) -> tuple[Skeleton, list[Place]]:
    """The network around the edges, on the meta device, and all places of edges in it, which know their
    input."""
    with torch.device("meta"):
        network = space.skeleton(
            space.plans(),
            _PlaceFactory(derived_norm, derived_norm),
            Size(
                size.channels,
                size.cells,
                size.num_classes,
                size.in_channels,
                planned_size=size.planned_size,
            ),
        )
        with torch.no_grad():
            network.eval()(torch.zeros(1, *size.shape))
    return network, [module for module in network.modules() if isinstance(module, Place)]


def added_up(space: SearchSpace, places: Sequence[Place], cost: Callable[[Candidate], int]) -> Tensor:
    """The (E, K) table of a cost of single candidates; that of equal ones is asked for once."""
    known: dict[Candidate, int] = {}
    table = torch.zeros(space.num_slots, space.width, dtype=torch.int64)
    for place in places:
        for k, candidate in enumerate(place.candidates()):
            if candidate not in known:
                known[candidate] = cost(candidate)
            table[place.row, k] += known[candidate]
    return table


def count_costs(space: SearchSpace, size: NetworkSize) -> dict[str, CostTable]:
    """`parameters` and `macs` of all networks of a space: what `count_parameters` and `count_macs` count of
    the derived one."""
    network, places = frame(space, size)

    def parameters(candidate: Candidate) -> int:
        with torch.device("meta"):
            return count_parameters(candidate.build())

    def macs(candidate: Candidate) -> int:
        with torch.device("meta"):
            return count_macs(candidate.build(), candidate.shape)

    return {
        "parameters": CostTable(count_parameters(network), added_up(space, places, parameters)),
        "macs": CostTable(count_macs(network, size.shape), added_up(space, places, macs)),
    }


def count_parameters(model: nn.Module) -> int:
    """Parameters of a network without its auxiliary head."""
    return sum(p.numel() for name, p in model.named_parameters() if not name.startswith("auxiliary."))


def count_macs(model: nn.Module, shape: tuple[int, ...]) -> int:
    """Multiply-accumulates of the convolutions and linear layers for one image (C, H, W)."""
    shadow = copy.deepcopy(model).to("meta").eval()  # computes nothing, and knows no short cuts
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        shadow(torch.zeros(1, *shape, device="meta"))
    return int(counter.get_total_flops()) // 2
