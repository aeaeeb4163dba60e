"""The cell space of DARTS.

Source: Liu et al., 2019, "DARTS: Differentiable Architecture Search", arXiv 1806.09055.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Sequence
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
from search_spaces.operations import DropPath, FactorizedReduce, Norm, conv_norm
from search_spaces.skeleton import Size, Skeleton
from search_spaces.slot import Slot, cell_slots
from search_spaces.space import RandomSource, SearchSpace, draw_one, edges_by_target

_FORM = (
    "Genotype(normal=[('operation', source), ...], normal_concat=range(2, 6), "
    "reduce=[...], reduce_concat=range(2, 6))"
)
_LONGEST_TEXT = 10_000


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
    pool_norm = True
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
        return prod(sum(_ways(slots) for slots in of_node) for of_node in sets)

    def recognises(self, text: str) -> bool:
        return text.lstrip().startswith("Genotype")

    def parse(self, text: str) -> Genotype:
        fields = _read_call(text)
        return Genotype(self.name, tuple(self._cell(name, fields) for name in self.cell_names))

    def _cell(self, name: str, fields: dict[str, ast.expr]) -> CellGenotype:
        pairs = _literal(fields[name])
        intermediate = range(self.inputs, self.nodes)
        expected = self.edges_per_node * len(intermediate)
        if not isinstance(pairs, list | tuple) or len(pairs) != expected:
            raise GenotypeError(f"'{name}' must be a list of {expected} (operation, source) pairs")
        edges = []
        for position, pair in enumerate(pairs):
            target = self.inputs + position // self.edges_per_node
            if not (isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[0], str)):
                raise GenotypeError(f"item {position} of '{name}' is not an (operation, source) pair")
            operation, source = pair
            if type(source) is not int or not 0 <= source < target:
                raise GenotypeError(
                    f"the source of pair {position} in '{name}' is not a node before node {target}, "
                    f"expected 0 to {target - 1}"
                )
            self._require_operation(operation, _derivable(self.slots[self.row(name, source, target)]))
            edges.append(Edge(source, target, operation))
        for target, pair in edges_by_target(edges).items():
            if len({edge.source for edge in pair}) != len(pair):
                raise GenotypeError(f"both edges into node {target} of '{name}' have the same source")
        concat = _concat(fields[f"{name}_concat"])
        if not concat or not set(concat) <= set(intermediate) or len(set(concat)) != len(concat):
            raise GenotypeError(
                f"'{name}_concat' must name distinct nodes from {intermediate[0]} to {intermediate[-1]}"
            )
        return CellGenotype(name, tuple(edges), concat)

    def format(self, genotype: Genotype) -> str:
        parts = []
        for cell in genotype.cells:
            pairs = [(edge.operation, edge.source) for edge in sorted(cell.edges, key=lambda e: e.target)]
            parts.append(f"{cell.name}={pairs}, {cell.name}_concat={_format_concat(cell.concat)}")
        return f"Genotype({', '.join(parts)})"

    def discretise(self, scores: Tensor) -> Genotype:
        rows = scores.tolist()
        cells: dict[str, list[Edge]] = {name: [] for name in self.cell_names}
        for (cell, target), slots in self._into.items():
            ranked = []
            for slot in slots:
                row = rows[self.row(cell, slot.source, target)]
                own = dict(zip(slot.candidates, row, strict=False))  # the row can be longer
                best = max(_derivable(slot), key=own.__getitem__)
                ranked.append((own[best], Edge(slot.source, target, best)))
            ranked.sort(key=lambda pair: -pair[0])
            best_edges = [edge for _, edge in ranked[: self.edges_per_node]]
            cells[cell] += sorted(best_edges, key=lambda e: e.source)
        return self._of_edges(cells)

    def random(self, rng: RandomSource) -> Genotype:
        cells: dict[str, list[Edge]] = {name: [] for name in self.cell_names}
        for (cell, target), slots in self._into.items():
            most = max(_ways(chosen) for chosen in combinations(slots, self.edges_per_node))
            while True:  # a pair of edges is accepted as often as there are ways to fill it
                chosen = list(slots)
                while len(chosen) > self.edges_per_node:
                    chosen.pop(int(rng.random() * len(chosen)))
                if _ways(chosen) == most or rng.random() * most < _ways(chosen):
                    break
            cells[cell] += [Edge(slot.source, target, draw_one(_derivable(slot), rng)) for slot in chosen]
        return self._of_edges(cells)

    def _of_edges(self, cells: dict[str, list[Edge]]) -> Genotype:
        return Genotype(self.name, tuple(CellGenotype(n, tuple(e), self.concat) for n, e in cells.items()))

    def skeleton(self, plans: dict[str, CellPlan], factory: EdgeFactory, size: Size) -> Skeleton:
        return NasnetSkeleton(plans, factory, size)


def _derivable(slot: Slot) -> list[str]:
    return [name for name in slot.candidates if operations.family(name) != "none"]


def _ways(slots: Sequence[Slot]) -> int:
    """Number of ways to fill slots with something."""
    return prod(len(_derivable(slot)) for slot in slots)


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

    For 8x8 features, those of CIFAR, it is that of DARTS; other sizes are pooled to its 2x2 too.
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
    is_cifar = x.shape[2] == 8 and x.shape[3] == 8
    return F.avg_pool2d(x, 5, 3) if is_cifar else F.adaptive_avg_pool2d(x, 2)


class NasnetSkeleton(Skeleton):
    """Stem, `cells` cells of which those at 1/3 and 2/3 of the depth halve the resolution and
    double the channels, pooling, classifier."""

    def __init__(self, plans: dict[str, CellPlan], factory: EdgeFactory, size: Size) -> None:
        super().__init__()
        channels, cells = size.channels, size.cells
        stem = 3 * channels
        self.stem = nn.Sequential(
            nn.Conv2d(size.in_channels, stem, 3, padding=1, bias=False), factory.frame_norm(stem)
        )
        self.drop_path = DropPath() if size.drop_path else None
        self.cells = nn.ModuleList()
        before, previous_reduction = (stem, stem), False
        self.auxiliary_at = 2 * cells // 3
        self.auxiliary: AuxiliaryHead | None = None
        maps: dict[int, Stage] = {}  # the last cell of every resolution
        resolution = 1
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
                self.auxiliary = AuxiliaryHead(before[1], size.num_classes, factory.frame_norm)
        self.stages = tuple(maps.values())
        self.num_features = before[1]
        self.reset_classifier(size.num_classes)

    def features(
        self, x: Tensor, choice: Choice | None, seen: FeatureMaps | None = None
    ) -> tuple[Tensor, Tensor | None]:
        s0 = s1 = F.relu(self.stem(x))
        logits = None
        for i, cell in enumerate(self.cells):
            out = cell(s0, s1, choice)
            if seen is not None and seen.add(i, out):
                return out, None
            s0, s1 = s1, F.relu(out) if i + 1 < len(self.cells) else out
            if i == self.auxiliary_at and self.auxiliary is not None and self.training:
                logits = self.auxiliary(F.relu(out))
        return s1, logits


def _read_call(text: str) -> dict[str, ast.expr]:
    """Keyword arguments of `Genotype(...)`, unevaluated."""
    names = ["normal", "normal_concat", "reduce", "reduce_concat"]
    try:
        if len(text) > _LONGEST_TEXT:
            raise ValueError
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # of doubtful numbers and escapes
            call = ast.parse(text.strip(), mode="eval").body
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and not call.args):
            raise ValueError
        fields = {str(keyword.arg): keyword.value for keyword in call.keywords}
        if call.func.id != "Genotype" or sorted(fields) != names or len(call.keywords) != len(names):
            raise ValueError
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise GenotypeError(
            f"malformed genotype for the space 'darts': {text[:60]!r}, expected {_FORM}"
        ) from None
    return fields


def _literal(node: ast.expr) -> object:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        raise GenotypeError(f"malformed genotype for the space 'darts', expected {_FORM}") from None


def _concat(node: ast.expr) -> tuple[int, ...]:
    """Nodes written as a list, a tuple or range(a, b)."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range":
        if node.keywords:
            return ()
        bounds = [_literal(argument) for argument in node.args]
        ends = [b for b in bounds if isinstance(b, int) and 0 <= b <= 100]
        if len(ends) == len(bounds) == 2:
            return tuple(range(ends[0], ends[1]))
        return ()
    nodes = _literal(node)
    if isinstance(nodes, list | tuple) and all(type(n) is int for n in nodes):
        return tuple(sorted(nodes))
    return ()


def _format_concat(nodes: tuple[int, ...]) -> str:
    if nodes and nodes == tuple(range(nodes[0], nodes[0] + len(nodes))):
        return f"range({nodes[0]}, {nodes[-1] + 1})"
    return str(list(nodes))


darts = DartsSpace("darts", CANDIDATES, CANDIDATES)
