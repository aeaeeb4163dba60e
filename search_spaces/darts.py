"""The cell space of DARTS.

Source: Liu et al., 2019, "DARTS: Differentiable Architecture Search", arXiv 1806.09055.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import combinations
from math import prod

import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces import operations
from search_spaces.cell import Cell, CellPlan, EdgeFactory
from search_spaces.feature_maps import FeatureMaps, Stage
from search_spaces.genotype import CellGenotype, Edge, Genotype, GenotypeError
from search_spaces.mixed_edge import Choice
from search_spaces.notations import genotype_call
from search_spaces.operations import DropPath, FactorizedReduce, Norm, conv_norm
from search_spaces.skeleton import Size, Skeleton
from search_spaces.slot import Slot, cell_slots
from search_spaces.space import RandomSource, SearchSpace, draw_one, edges_by_target
from search_spaces.written import Written, WrittenCell, WrittenEdge

CANDIDATES = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)


class DartsSpace(SearchSpace):
    """Normal and reduction cells with two inputs and 4 intermediate nodes, two edges into each.

    `none` can be a candidate of the supernet but is never derived.

    Args:
        name: registry name.
        normal, reduce: candidates of the edges of a cell, or a list of them for each of the 14 edges.
    """

    channels, cells, fewest_cells = 36, 20, 3
    cells_help = "cells in all; two of them, at 1/3 and 2/3 of the depth, are reduction cells"
    features = frozenset({"auxiliary", "drop_path"})
    pool_norm = plans_size = True
    inputs, nodes, edges_per_node = 2, 6, 2
    concat = tuple(range(inputs, nodes))

    def __init__(
        self,
        name: str,
        normal: Sequence[Sequence[str]] | Sequence[str],
        reduce: Sequence[Sequence[str]] | Sequence[str],
    ) -> None:
        self.name = name
        self.slots = (
            *cell_slots("normal", self.inputs, self.nodes, normal, "normal "),
            *cell_slots("reduce", self.inputs, self.nodes, reduce, "reduce "),
        )

    @property
    def skip(self) -> str:
        return "skip_connect"  # as in DARTS-, also where it is no candidate (s4)

    @property
    def usual_skips(self) -> int | None:
        """2, as in P-DARTS (arXiv 1904.12760) and DARTS+ (arXiv 1909.06035), where every normal edge has
        something else to derive, and some have a skip connection."""
        normal = [slot for slot in self.slots if slot.cell in self.normal_cells]
        skips = [name for name in self.operations if operations.family(name) == "skip"]
        return 2 if skips and all(set(self.derivable(slot)) - set(skips) for slot in normal) else None

    @property
    def normal_cells(self) -> tuple[str, ...]:
        return ("normal",)

    @cached_property
    def _into(self) -> dict[tuple[str, int], list[Slot]]:
        """The slots that lead to every node."""
        into: dict[tuple[str, int], list[Slot]] = {}
        for slot in self.slots:
            into.setdefault((slot.cell, slot.target), []).append(slot)
        return into

    @property
    def size(self) -> int:
        sets = (combinations(slots, self.edges_per_node) for slots in self._into.values())
        return prod(sum(self._ways(slots) for slots in of_node) for of_node in sets)

    def recognises(self, text: str) -> bool:
        return text.lstrip().startswith("Genotype")

    def parse(self, text: str) -> Genotype:
        return self.hold(genotype_call.parse(text))

    def _held(self, written: Written) -> Genotype:
        return Genotype(
            self.name,
            tuple(
                CellGenotype(
                    cell.name,
                    tuple(
                        Edge(edge.source, edge.target, edge.operation)
                        for edge in sorted(cell.edges, key=lambda e: e.target)
                    ),
                    tuple(sorted({e.target for e in cell.edges})) if cell.concat is None else cell.concat,
                )
                for cell in written
            ),
        )

    def _problems_of(self, cell: WrittenCell) -> Iterator[GenotypeError]:
        name, intermediate = cell.name, range(self.inputs, self.nodes)
        into = edges_by_target(cell.edges)
        if set(into) != set(intermediate):
            yield GenotypeError(
                f"'{name}' has edges into the nodes {_listed(sorted(into))}, the {len(intermediate)} "
                f"intermediate nodes of the space '{self.name}' are {intermediate[0]} to {intermediate[-1]}",
                next((e.at for e in cell.edges if e.target not in intermediate), cell.at),
            )
        for target, edges in into.items():
            for edge in edges:
                yield from self._wrong_source(name, edge)
                yield from self._unknown(edge, self._allowed(name, edge))
            if len(edges) != self.edges_per_node:
                yield GenotypeError(
                    f"node {target} of '{name}' has {len(edges)} edges, the space '{self.name}' has "
                    f"{self.edges_per_node} into every node",
                    edges[0].at,
                )
            elif len({edge.source for edge in edges}) < len(edges):
                others = [n for n in range(min(target, self.nodes)) if n != edges[0].source]
                yield GenotypeError(
                    f"both edges into node {target} of '{name}' have the same source {edges[0].source}: in "
                    f"the space '{self.name}' one of them reads {_listed(others)}",
                    edges[1].at,
                )
        yield from self._wrong_concat(cell, intermediate)

    def _allowed(self, name: str, edge: WrittenEdge) -> Sequence[str]:
        """The operations that may be between the nodes of an edge; all, where the space has no such edge."""
        row = self._rows.get((name, edge.source, edge.target))
        return _not_none(self.operations if row is None else self.slots[row].candidates)

    def _wrong_source(self, name: str, edge: WrittenEdge) -> Iterator[GenotypeError]:
        if not 0 <= edge.source < edge.target:
            yield GenotypeError(
                f"the source {edge.source} of '{edge.operation[:40]}' in '{name}' is not a node before node "
                f"{edge.target}, expected 0 to {edge.target - 1}",
                edge.at,
            )

    def _wrong_concat(self, cell: WrittenCell, nodes: Sequence[int]) -> Iterator[GenotypeError]:
        concat = nodes if cell.concat is None else cell.concat
        if not concat or not set(concat) <= set(nodes) or len(set(concat)) < len(concat):
            yield GenotypeError(
                f"'{cell.name}_concat' must name distinct nodes from {nodes[0]} to {nodes[-1]}", cell.at
            )

    def format(self, genotype: Genotype) -> str:
        return genotype_call.write(genotype)

    def discretise(self, scores: Tensor) -> Genotype:
        rows = scores.tolist()
        cells: dict[str, list[Edge]] = {name: [] for name in self.cell_names}
        for (cell, target), slots in self._into.items():
            ranked = []
            for slot in slots:
                row = rows[self.row(cell, slot.source, target)]
                own = dict(zip(slot.candidates, row, strict=False))  # the row can be longer
                best = max(self.derivable(slot), key=own.__getitem__)
                ranked.append((own[best], Edge(slot.source, target, best)))
            ranked.sort(key=lambda pair: -pair[0])
            best_edges = [edge for _, edge in ranked[: self.edges_per_node]]
            cells[cell] += sorted(best_edges, key=lambda e: e.source)
        return self._of_edges(cells)

    def random(self, rng: RandomSource) -> Genotype:
        cells: dict[str, list[Edge]] = {name: [] for name in self.cell_names}
        for (cell, target), slots in self._into.items():
            most = max(self._ways(chosen) for chosen in combinations(slots, self.edges_per_node))
            while True:  # a pair of edges is accepted as often as there are ways to fill it
                chosen = list(slots)
                while len(chosen) > self.edges_per_node:
                    chosen.pop(int(rng.random() * len(chosen)))
                if self._ways(chosen) == most or rng.random() * most < self._ways(chosen):
                    break
            cells[cell] += [Edge(slot.source, target, draw_one(self.derivable(slot), rng)) for slot in chosen]
        return self._of_edges(cells)

    def _of_edges(self, cells: dict[str, list[Edge]]) -> Genotype:
        return Genotype(self.name, tuple(CellGenotype(n, tuple(e), self.concat) for n, e in cells.items()))

    def _ways(self, slots: Sequence[Slot]) -> int:
        """Number of ways to fill slots with something."""
        return prod(len(self.derivable(slot)) for slot in slots)

    def skeleton(self, plans: dict[str, CellPlan], factory: EdgeFactory, size: Size) -> Skeleton:
        return NasnetSkeleton(plans, factory, size)


def _not_none(names: Sequence[str]) -> list[str]:
    return [name for name in names if operations.family(name) != "none"]


class NasnetCell(nn.Module):
    """A cell behind the two layers that bring its inputs, whose ReLU they share, to the same shape."""

    def __init__(
        self,
        plan: CellPlan,
        factory: EdgeFactory,
        channels_before: tuple[int, int],
        channels: int,
        reduction: bool,
        previous_reduction: bool,
        drop_path: DropPath | None,
    ) -> None:
        super().__init__()
        norm = factory.edge_norm
        self.preprocess_0: nn.Module = (
            FactorizedReduce(channels_before[0], channels, norm)
            if previous_reduction
            else conv_norm(channels_before[0], channels, norm)
        )
        self.preprocess_1 = conv_norm(channels_before[1], channels, norm)
        self.cell = Cell(
            plan,
            lambda e: factory.edge(e, channels, channels, 2 if reduction and e.source < 2 else 1),
            drop_path,
        )

    def forward(self, s0: Tensor, s1: Tensor, choice: Choice | None) -> Tensor:
        out: Tensor = self.cell([self.preprocess_0(s0), self.preprocess_1(s1)], choice)
        return out


class AuxiliaryHead(nn.Module):
    """Classifier on the rectified features at 2/3 of the depth, used in training only.

    For 8x8 features, those of CIFAR, and 7x7, those of ImageNet, the pooling is that of DARTS; other sizes
    are pooled to its 2x2 too.
    """

    def __init__(self, channels: int, num_classes: int, norm: Norm) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, 128, 1, bias=False),
            norm(128),
            nn.ReLU(),
            nn.Conv2d(128, 768, 2, bias=False),
            norm(768),
            nn.ReLU(),
        )
        self.classifier = nn.Linear(768, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.classifier(self.features(_pooled(x)).flatten(1))
        return out


@torch.fx.wrap
def _pooled(x: Tensor) -> Tensor:
    if x.shape[2] == 8 and x.shape[3] == 8:
        return F.avg_pool2d(x, 5, 3)
    if x.shape[2] == 7 and x.shape[3] == 7:
        return F.avg_pool2d(x, 5, 2)
    # What adaptive_avg_pool2d(x, 2) computes, whose backward pass is not deterministic on a GPU.
    for dim in (2, 3):
        size = x.shape[dim]
        half = (size + 1) // 2  # with odd sizes both halves have the middle
        parts = [x.narrow(dim, first, half).mean(dim, keepdim=True) for first in (0, size // 2)]
        x = torch.cat(parts, dim)
    return x


LARGE = 128  # pixels from which on images are reduced before the cells


class NasnetSkeleton(Skeleton):
    """Stem, `cells` cells of which those at 1/3 and 2/3 of the depth halve the resolution and
    double the channels, pooling, classifier.

    Planned for images of LARGE pixels or more, the stem is that of the published ImageNet networks: three
    convolutions of stride 2, of which the first cell sees the second and the third.
    """

    def __init__(self, plans: dict[str, CellPlan], factory: EdgeFactory, size: Size) -> None:
        super().__init__()
        channels, cells, norm = size.channels, size.cells, factory.frame_norm
        self.stem_1: nn.Sequential | None = None
        if large := size.planned_size >= LARGE:
            stem, half = channels, max(1, channels // 2)
            self.stem = nn.Sequential(
                *_halving(size.in_channels, half, norm), nn.ReLU(), *_halving(half, stem, norm)
            )
            self.stem_1 = nn.Sequential(*_halving(stem, stem, norm))
        else:
            stem = 3 * channels
            self.stem = nn.Sequential(nn.Conv2d(size.in_channels, stem, 3, padding=1, bias=False), norm(stem))
        self.drop_path = DropPath() if size.drop_path else None
        self.cells = nn.ModuleList()
        before, previous_reduction = (stem, stem), large
        self.auxiliary_at = 2 * cells // 3
        maps: dict[int, Stage] = {}  # the last cell of every resolution
        resolution = 8 if large else 1
        for i in range(cells):
            reduction = i in (cells // 3, 2 * cells // 3)
            channels *= 2 if reduction else 1
            plan = plans["reduce" if reduction else "normal"]
            self.cells.append(
                NasnetCell(plan, factory, before, channels, reduction, previous_reduction, self.drop_path)
            )
            before, previous_reduction = (before[1], channels * len(plan.concat)), reduction
            resolution *= 2 if reduction else 1
            maps[resolution] = Stage(f"cells.{i}", before[1], resolution)
            if size.auxiliary and i == self.auxiliary_at:
                self.auxiliary = AuxiliaryHead(before[1], size.num_classes, norm)
        self.stages = tuple(maps.values())
        self.num_features = before[1]
        self.reset_classifier(size.num_classes)

    def features(
        self, x: Tensor, choice: Choice | None, seen: FeatureMaps | None = None
    ) -> tuple[Tensor, Tensor | None]:
        s0 = s1 = F.relu(self.stem(x))
        if self.stem_1 is not None:
            s1 = F.relu(self.stem_1(s0))
        logits = None
        for i, cell in enumerate(self.cells):
            out = cell(s0, s1, choice)
            if seen is not None and seen.add(i, out):
                return out, None
            s0, s1 = s1, F.relu(out) if i + 1 < len(self.cells) else out
            if i == self.auxiliary_at and self.auxiliary is not None and self.training:
                logits = self.auxiliary(F.relu(out))
        return s1, logits


def _halving(channels_in: int, channels_out: int, norm: Norm) -> tuple[nn.Module, nn.Module]:
    """Convolution of stride 2, normalisation."""
    return nn.Conv2d(channels_in, channels_out, 3, 2, 1, bias=False), norm(channels_out)


def _listed(nodes: Sequence[int]) -> str:
    """Nodes in words, the first few of many."""
    return ", ".join(map(str, nodes[:8])) + (", ..." if len(nodes) > 8 else "")


darts = DartsSpace("darts", CANDIDATES, CANDIDATES)
