"""The contract of a search space."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from search_spaces.genotype import CellGenotype, Edge, Genotype, GenotypeError
from search_spaces.operations import candidate_norm, derived_norm, supernet_norm
from search_spaces.skeleton import CellPlan, Materials, PlannedEdge, Size, Skeleton


class RandomSource(Protocol):
    """Anything with `random() -> float in [0, 1)`: random.Random, numpy.random.Generator."""

    def random(self) -> float: ...


class SearchSpace(ABC):
    """Cell topology, candidate operations and macro skeleton.

    Attributes:
        name: registry name.
        operations: candidate operations, in the order of the columns of the logits.
        cell_names: kinds of cell; each has a block of `cell_edges` rows of the logits.
        cell_edges: (source, target) of every edge of a cell's supernet, in the order of the rows.
        channels, cells: default size of a network.
        fewest_cells: smallest value of `cells` with which every kind of cell occurs.
        cells_help: what `cells` counts.
    """

    name: str
    operations: tuple[str, ...]
    cell_names: tuple[str, ...]
    cell_edges: tuple[tuple[int, int], ...]
    inputs: int
    nodes: int
    channels: int
    cells: int
    fewest_cells: int
    cells_help: str
    pool_norm = False

    @property
    def num_edges(self) -> int:
        """Rows of the logits."""
        return len(self.cell_names) * len(self.cell_edges)

    @property
    def edge_labels(self) -> list[str]:
        """A readable label for every row of the logits."""
        prefix = [f"{name} " if len(self.cell_names) > 1 else "" for name in self.cell_names]
        return [f"{p}{source}→{target}" for p in prefix for source, target in self.cell_edges]

    @property
    @abstractmethod
    def size(self) -> int:
        """Number of architectures that can be derived."""

    @abstractmethod
    def parse(self, text: str) -> Genotype:
        """Read the notation of the space. Raises GenotypeError."""

    @abstractmethod
    def format(self, genotype: Genotype) -> str:
        """Inverse of `parse`."""

    @abstractmethod
    def derive(self, scores: Tensor) -> Genotype:
        """The architecture that log-probabilities (num_edges, K) of the operations speak for."""

    @abstractmethod
    def random(self, rng: RandomSource) -> Genotype:
        """An architecture drawn uniformly."""

    @abstractmethod
    def skeleton(self, plans: dict[str, CellPlan], materials: Materials, size: Size) -> Skeleton:
        """The network around the cells."""

    def validate(self, genotype: Genotype) -> Genotype:
        """Return `genotype` if it belongs to this space; raises GenotypeError otherwise."""
        if genotype.space != self.name:
            raise GenotypeError(f"genotype belongs to the space '{genotype.space}', expected '{self.name}'")
        if tuple(cell.name for cell in genotype.cells) != self.cell_names:
            raise GenotypeError(f"the cells of the genotype do not fit the space '{self.name}'")
        parsed = self.parse(self.format(genotype))
        for mine, theirs in zip(parsed.cells, genotype.cells, strict=True):
            same_edges = sorted(mine.edges, key=_position) == sorted(theirs.edges, key=_position)
            if (mine.name, mine.concat) != (theirs.name, theirs.concat) or not same_edges:
                raise GenotypeError(
                    f"the cell '{theirs.name[:40]}' of the genotype does not fit the space '{self.name}'"
                )
        return parsed

    def choice(self, genotype: Genotype) -> list[int]:
        """Operation index of every row of the logits; edges that are absent count as `none`."""
        chosen = {
            (cell.name, edge.source, edge.target): edge.operation
            for cell in genotype.cells
            for edge in cell.edges
        }
        return [
            self.operations.index(chosen.get((name, source, target), "none"))
            for name in self.cell_names
            for source, target in self.cell_edges
        ]

    def network(
        self,
        genotype: Genotype,
        *,
        channels: int | None = None,
        cells: int | None = None,
        num_classes: int = 10,
        in_channels: int = 3,
        auxiliary: bool = False,
        drop_path: bool = False,
    ) -> Skeleton:
        """The derived network of `genotype`.

        Args:
            channels: channels of the first cells (C).
            cells: number of cells; see `cells_help`.
            auxiliary: add the auxiliary classifier, where the space has one.
            drop_path: build drop-path in; its probability starts at 0 (`set_drop_path`).

        Raises:
            GenotypeError: the genotype is not of this space.
        """
        genotype = self.validate(genotype)
        plans = {cell.name: self._plan(cell) for cell in genotype.cells}
        materials = Materials(self.operations, derived_norm, derived_norm)
        size = Size(
            channels or self.channels, cells or self.cells, num_classes, in_channels, auxiliary, drop_path
        )
        return self.skeleton(plans, materials, size)

    def supernet(
        self,
        *,
        channels: int | None = None,
        cells: int | None = None,
        num_classes: int = 10,
        in_channels: int = 3,
        edge_gradient: str = "lean",
    ) -> Skeleton:
        """The supernet: the same skeleton with a mixed edge wherever an edge can be.

        Args:
            edge_gradient: one of EDGE_GRADIENTS; see `mixed_edge`.
        """
        plans = {}
        for block, name in enumerate(self.cell_names):
            first = block * len(self.cell_edges)
            edges = tuple(
                PlannedEdge(source, target, first + row, None)
                for row, (source, target) in enumerate(self.cell_edges)
            )
            plans[name] = CellPlan(self.inputs, self.nodes, edges, self.supernet_concat)
        materials = Materials(self.operations, candidate_norm, supernet_norm, self.pool_norm)
        size = Size(channels or self.channels, cells or self.cells, num_classes, in_channels)
        network = self.skeleton(plans, materials, size)
        network.is_supernet = True
        network.set_edge_gradient(edge_gradient)
        return network

    @property
    def supernet_concat(self) -> tuple[int, ...]:
        """Nodes that a cell of the supernet concatenates; empty: its output is the last node."""
        return ()

    def _plan(self, cell: CellGenotype) -> CellPlan:
        first = self.cell_names.index(cell.name) * len(self.cell_edges)
        edges = tuple(
            PlannedEdge(e.source, e.target, first + self.cell_edges.index((e.source, e.target)), e.operation)
            for e in cell.edges
        )
        return CellPlan(self.inputs, self.nodes, edges, cell.concat)

    def _require_operation(self, name: str, allowed: Sequence[str] | None = None) -> str:
        allowed = allowed or self.operations
        if name not in allowed:
            raise GenotypeError(
                f"unknown operation {name[:60]!r} for the space '{self.name}', "
                f"expected one of {', '.join(allowed)}"
            )
        return name


def _position(edge: Edge) -> tuple[int, int, str]:
    return edge.target, edge.source, edge.operation


def edges_by_target(edges: Sequence[Edge]) -> dict[int, list[Edge]]:
    """Edges grouped by the node they lead to."""
    groups: dict[int, list[Edge]] = {}
    for edge in edges:
        groups.setdefault(edge.target, []).append(edge)
    return groups
