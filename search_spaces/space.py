"""The contract of a search space."""

from __future__ import annotations

import difflib
import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from math import prod
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from search_spaces import operations
from search_spaces.cell import CellPlan, EdgeFactory, PlannedEdge
from search_spaces.genotype import CellGenotype, Edge, Genotype, GenotypeError
from search_spaces.operations import candidate_norm, derived_norm, supernet_norm
from search_spaces.skeleton import Size, Skeleton
from search_spaces.skips import Strength
from search_spaces.slot import ABSENT, Slot
from search_spaces.written import Written, WrittenCell, WrittenEdge


class RandomSource(Protocol):
    """Anything with `random() -> float in [0, 1)`: random.Random, numpy.random.Generator."""

    def random(self) -> float: ...


class SearchSpace(ABC):
    """Decisions, and the network around them.

    A subclass gives the attributes and `skeleton`. Here, every slot holds one of its candidates, whatever the
    others hold, and the notation is `name(operation, operation, ...)` in the order of the slots. A space with
    other rules overrides `size`, `random`, `discretise` and the notation.

    Attributes:
        name: registry name.
        slots: the decisions, in the order of the rows of the logits (E, K).
        channels, cells: default size of a network.
        fewest_cells: smallest value of `cells` with which every kind of cell occurs.
        most_cells: largest value of `cells`; None: any.
        cells_help: what `cells` counts.
        plans_size: whether stem and strides follow the size of the images (`planned_size`).
        concat: nodes that a cell concatenates; empty: its output is the last node.
        edges_per_node: edges that a derived cell keeps into each node, each with an operation other than
            `none`; None: all.
        features: what derived networks can be built with: `auxiliary`, `drop_path`.
        pool_norm: whether pooling candidates are normalised in the supernet.
    """

    name: str
    slots: tuple[Slot, ...]
    channels: int
    cells: int
    fewest_cells = 1
    most_cells: int | None = None
    cells_help = "number of cells"
    plans_size = False
    concat: tuple[int, ...] = ()
    edges_per_node: int | None = None
    features: frozenset[str] = frozenset()
    pool_norm = False

    @property
    def num_slots(self) -> int:
        """Rows of the logits, E."""
        return len(self.slots)

    @property
    def width(self) -> int:
        """Columns of the logits, K: the most candidates that a slot has."""
        return max(len(slot.candidates) for slot in self.slots)

    @property
    def labels(self) -> list[str]:
        """A readable label for every row of the logits."""
        return [slot.label for slot in self.slots]

    def derivable(self, slot: Slot) -> list[str]:
        """The candidates of a slot that a derived network can have."""
        names = slot.candidates
        return [n for n in names if self.edges_per_node is None or operations.family(n) != "none"]

    @cached_property
    def operations(self) -> tuple[str, ...]:
        """All candidates, in the order of their first appearance."""
        return tuple(dict.fromkeys(name for slot in self.slots for name in slot.candidates))

    @property
    def has_skips(self) -> bool:
        """Whether a skip connection is among the candidates."""
        return any(operations.family(name) == "skip" for name in self.operations)

    @property
    def skip(self) -> str | None:
        """The operation that is a skip connection on any edge; by default the first candidate that is one."""
        return next((name for name in self.operations if operations.family(name) == "skip"), None)

    @property
    def usual_skips(self) -> int | None:
        """Skip connections of a normal cell beyond which the field says that a search has collapsed; None:
        nobody has named a number."""
        return None

    @cached_property
    def cell_names(self) -> tuple[str, ...]:
        """Kinds of cell."""
        return tuple(dict.fromkeys(slot.cell for slot in self.slots))

    @property
    def normal_cells(self) -> tuple[str, ...]:
        """Kinds of cell that keep the resolution; by default all."""
        return self.cell_names

    @cached_property
    def _rows(self) -> dict[tuple[str, int, int], int]:
        return {(slot.cell, slot.source, slot.target): row for row, slot in enumerate(self.slots)}

    def row(self, cell: str, source: int, target: int) -> int:
        """The row of the slot between two nodes of a cell. Raises KeyError if there is none."""
        return self._rows[cell, source, target]

    def mask(self) -> Tensor | None:
        """(E, K), true where a slot has a candidate; None if all of it is."""
        counts = torch.tensor([len(slot.candidates) for slot in self.slots])
        mask = torch.arange(self.width) < counts.unsqueeze(1)
        return None if mask.all() else mask

    def contested(self) -> list[tuple[list[int], int]]:
        """Rows of the slots into a node that has more of them than a derived network keeps, and how many it
        keeps; for every such node."""
        kept = self.edges_per_node
        return [] if kept is None else [(rows, kept) for rows in self.into_nodes() if len(rows) > kept]

    def into_nodes(self) -> list[list[int]]:
        """Rows of the slots that lead to the same node, for every node."""
        into: dict[tuple[str, int], list[int]] = {}
        for row, slot in enumerate(self.slots):
            into.setdefault((slot.cell, slot.target), []).append(row)
        return list(into.values())

    @property
    def size(self) -> int:
        """Number of architectures that can be derived."""
        return prod(len(slot.candidates) for slot in self.slots)

    def recognises(self, text: str) -> bool:
        """Whether a text looks like an architecture in the notation of this space."""
        return text.lstrip().startswith(f"{self.name}(")

    def parse(self, text: str) -> Genotype:
        """Read the notation of the space. Raises GenotypeError."""
        inner = text.strip().removeprefix(f"{self.name}(").removesuffix(")")
        names = [name.strip() for name in inner.split(",")]
        if text.strip() != f"{self.name}({inner})" or len(names) != self.num_slots:
            form = self.format(self.genotype([slot.candidates[0] for slot in self.slots]))
            raise self._malformed(text, form)
        for slot, name in zip(self.slots, names, strict=True):
            self._require_operation(name, slot.candidates)
        return self.genotype(names)

    def format(self, genotype: Genotype) -> str:
        """Inverse of `parse`."""
        return f"{self.name}({', '.join(edge.operation for cell in genotype.cells for edge in cell.edges)})"

    def discretise(self, scores: Tensor) -> Genotype:
        """The architecture that scores (E, K) of the candidates speak for, e.g. log-probabilities."""
        best = [
            slot.candidates[int(row[: len(slot.candidates)].argmax())]
            for slot, row in zip(self.slots, scores, strict=True)
        ]
        return self.genotype(best)

    def random(self, rng: RandomSource) -> Genotype:
        """An architecture drawn uniformly."""
        return self.genotype([draw_one(slot.candidates, rng) for slot in self.slots])

    @abstractmethod
    def skeleton(self, plans: dict[str, CellPlan], factory: EdgeFactory, size: Size) -> Skeleton:
        """The network around the cells, from a plan for every kind of cell."""

    def genotype(self, chosen: Sequence[str | None]) -> Genotype:
        """The architecture with the operation `chosen[i]` in slot i, no edge where that is None.

        It need not be one that can be derived: that is what `validate` tells.
        """
        edges: dict[str, list[Edge]] = {name: [] for name in self.cell_names}
        for slot, operation in zip(self.slots, chosen, strict=True):
            if operation is not None:
                edges[slot.cell].append(Edge(slot.source, slot.target, operation))
        return Genotype(
            self.name, tuple(CellGenotype(name, tuple(found), self.concat) for name, found in edges.items())
        )

    def hold(self, written: Written) -> Genotype:
        """The architecture that a text says, in whatever notation. Raises GenotypeError."""
        for problem in self.problems(written):
            raise problem
        return self._held(written)

    def problems(self, written: Written) -> Iterator[GenotypeError]:
        """What keeps the architecture out of this space, each with its place in the text."""
        if tuple(cell.name for cell in written) != self.cell_names:
            yield GenotypeError(
                f"the genotype has the cells {', '.join(repr(cell.name[:40]) for cell in written)}, those of "
                f"the space '{self.name}' are {', '.join(map(repr, self.cell_names))}"
            )
            return
        for cell in written:
            yield from self._problems_of(cell)

    def _held(self, written: Written) -> Genotype:
        """The architecture of cells without problems."""
        chosen: list[str | None] = ["none"] * self.num_slots
        for cell in written:
            for edge in cell.edges:
                chosen[self.row(cell.name, edge.source, edge.target)] = edge.operation
        return self.genotype(chosen)

    def _problems_of(self, cell: WrittenCell) -> Iterator[GenotypeError]:
        """Here: every slot has one edge; one that is not mentioned, of a node that is, holds `none`."""
        seen = set()
        for edge in cell.edges:
            place = (edge.source, edge.target)
            row = self._rows.get((cell.name, *place))
            if row is None:
                yield GenotypeError(
                    f"the space '{self.name}' has no edge from node {edge.source} to node {edge.target}: its "
                    f"edges are {', '.join(f'{s.source}→{s.target}' for s in self._slots_of(cell.name))}",
                    edge.at,
                )
                continue
            if place in seen:
                yield GenotypeError(
                    f"the edge from node {edge.source} to node {edge.target} is given twice: the space "
                    f"'{self.name}' has one operation on every edge",
                    edge.at,
                )
            seen.add(place)
            yield from self._unknown(edge, self.slots[row].candidates)
        reached = {target for _, target in seen}
        for slot in self._slots_of(cell.name):
            if slot.target not in reached:
                reached.add(slot.target)
                yield GenotypeError(
                    f"no edge leads to node {slot.target} of '{cell.name}' in the space '{self.name}'",
                    cell.at,
                )
            elif (slot.source, slot.target) not in seen and "none" not in slot.candidates:
                yield GenotypeError(
                    f"there is no edge from node {slot.source} to node {slot.target}, the space "
                    f"'{self.name}' needs one of {', '.join(slot.candidates)}",
                    cell.at,
                )

    def _unknown(self, edge: WrittenEdge, allowed: Sequence[str]) -> Iterator[GenotypeError]:
        try:
            self._require_operation(edge.operation, allowed)
        except GenotypeError as error:
            yield GenotypeError(str(error), edge.at)

    def _slots_of(self, cell: str) -> list[Slot]:
        return [slot for slot in self.slots if slot.cell == cell]

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
        """Index of the candidate in every slot; without an edge that of `none`, or ABSENT."""
        chosen = {
            self.row(cell.name, edge.source, edge.target): edge.operation
            for cell in genotype.cells
            for edge in cell.edges
        }
        indices = []
        for row, slot in enumerate(self.slots):
            name = chosen.get(row, "none")
            absent = row not in chosen and name not in slot.candidates
            indices.append(ABSENT if absent else slot.candidates.index(name))
        return indices

    def path(self, genotype: Genotype) -> list[int]:
        """As `choice`, and ABSENT for every edge that the genotype has not, also where it could be `none`."""
        present = {(c.name, edge.source, edge.target) for c in genotype.cells for edge in c.edges}
        return [
            k if (slot.cell, slot.source, slot.target) in present else ABSENT
            for slot, k in zip(self.slots, self.choice(genotype), strict=True)
        ]

    def is_connected(self, genotype: Genotype) -> bool:
        """Whether the output of every kind of cell depends on one of its inputs."""
        for cell in genotype.cells:
            slots = self._slots_of(cell.name)
            targets = {slot.target for slot in slots}
            alive = set(cell.concat or (max(targets),))
            for edge in sorted(cell.edges, key=_position, reverse=True):
                if edge.target in alive and operations.family(edge.operation) != "none":
                    alive.add(edge.source)
            if not alive & ({slot.source for slot in slots} - targets):
                return False
        return True

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
        planned_size: int = 32,
    ) -> Skeleton:
        """The derived network of `genotype`.

        Args:
            channels: channels of the first cells (C).
            cells: number of cells; see `cells_help`.
            auxiliary: add the auxiliary classifier, where the space has one.
            drop_path: build drop-path in; its probability starts at 0 (`set_drop_path`).
            planned_size: side in pixels of the images that stem and strides are meant for, where the space
                has plans for several; images of any size can be run.

        Raises:
            GenotypeError: the genotype is not of this space.
            ValueError: the space has no such feature.
        """
        for feature, wanted in (("auxiliary", auxiliary), ("drop_path", drop_path)):
            if wanted and feature not in self.features:
                raise ValueError(f"networks of the space '{self.name}' have no {feature}")
        size = Size(
            channels or self.channels,
            cells or self.cells,
            num_classes,
            in_channels,
            auxiliary,
            drop_path,
            planned_size,
        )
        plans = self.plans(self.validate(genotype))
        return self.skeleton(plans, EdgeFactory(derived_norm, derived_norm), size)

    def supernet(
        self,
        *,
        channels: int | None = None,
        cells: int | None = None,
        num_classes: int = 10,
        in_channels: int = 3,
        edge_gradient: str = "lean",
        planned_size: int = 32,
        auxiliary_skip: bool = False,
        skip_dropout: bool = False,
        partial_channels: int = 1,
    ) -> Skeleton:
        """The supernet: the same skeleton with a mixed edge wherever an edge can be.

        Args:
            edge_gradient: one of EDGE_GRADIENTS; see `mixed_edge`.
            auxiliary_skip: add a skip connection to every edge, whatever is drawn, whose strength starts at 0
                (`set_skips`).
            skip_dropout: build dropout in behind candidates that are the identity, whose probability starts
                at 0 (`set_skips`).
            partial_channels: 1 / so many of the channels go through candidates; see `partial_channels`.

        Raises:
            ValueError: the space has no skip connection, or the channels of an edge cannot be parted so.
        """
        for wanted, there in ((auxiliary_skip, self.skip is not None), (skip_dropout, self.has_skips)):
            if wanted and not there:
                raise ValueError(f"the space '{self.name}' has no skip connection")
        if auxiliary_skip and partial_channels > 1:
            raise ValueError("channels that bypass the candidates are a skip connection already")
        auxiliary, dropout = Strength() if auxiliary_skip else None, Strength() if skip_dropout else None
        factory = EdgeFactory(
            candidate_norm, supernet_norm, self.pool_norm, partial_channels, self.skip, auxiliary, dropout
        )
        size = Size(
            channels or self.channels,
            cells or self.cells,
            num_classes,
            in_channels,
            planned_size=planned_size,
        )
        network = self.skeleton(self.plans(), factory, size)
        network.is_supernet = True
        network.auxiliary_skip, network.skip_dropout = auxiliary, dropout
        network.set_edge_gradient(edge_gradient)
        return network

    def plans(self, genotype: Genotype | None = None) -> dict[str, CellPlan]:
        """The plan of every kind of cell: of the edges of a genotype, by default of all slots."""
        plans = {}
        for number, name in enumerate(self.cell_names):
            slots = [slot for slot in self.slots if slot.cell == name]
            edges: Sequence[Edge | Slot] = slots
            concat = self.concat
            if genotype is not None:
                edges, concat = genotype.cells[number].edges, genotype.cells[number].concat
            planned = []
            for edge in edges:
                row = self.row(name, edge.source, edge.target)
                operation = edge.operation if isinstance(edge, Edge) else None
                candidates = self.slots[row].candidates
                planned.append(PlannedEdge(edge.source, edge.target, row, operation, candidates))
            targets = [slot.target for slot in slots]
            plans[name] = CellPlan(min(targets), max(targets) + 1, tuple(planned), concat)
        return plans

    def _require_operation(self, name: str, allowed: Sequence[str]) -> str:
        if name not in allowed:
            near = difflib.get_close_matches(name[:60], allowed, n=2, cutoff=0.5)
            raise GenotypeError(
                f"unknown operation {name[:60]!r} for the space '{self.name}', expected one of "
                f"{', '.join(allowed)}" + (f"; nearest: {' or '.join(near)}" if near else "")
            )
        return name

    def _malformed(self, text: str, form: str) -> GenotypeError:
        return GenotypeError(
            f"malformed genotype for the space '{self.name}': {text[:100]!r}, expected the form {form}"
        )


def _position(edge: Edge) -> tuple[int, int, str]:
    return edge.target, edge.source, edge.operation


def draw_one(names: Sequence[str], rng: RandomSource) -> str:
    """One of `names`, drawn uniformly."""
    return names[int(rng.random() * len(names))]


AnEdge = TypeVar("AnEdge", Edge, WrittenEdge)


def edges_by_target(edges: Sequence[AnEdge]) -> dict[int, list[AnEdge]]:
    """Edges grouped by the node they lead to."""
    groups: dict[int, list[AnEdge]] = {}
    for edge in edges:
        groups.setdefault(edge.target, []).append(edge)
    return groups


class EnumerableSpace(SearchSpace):
    """A space small enough to list: the accuracies of all its architectures can be tables."""

    def all(self) -> Iterator[Genotype]:
        """All architectures, in an order that stays. Here every choice of a candidate for each slot, where
        that of the last slot changes first; a space whose slots may have no edge overrides it."""
        return map(self.genotype, itertools.product(*(slot.candidates for slot in self.slots)))

    @abstractmethod
    def canonical(self, genotype: Genotype) -> str:
        """A text that architectures have in common if they compute the same."""
