"""The cell space of NAS-Bench-201, and `micro`, the same with one node less.

Source: Dong & Yang, 2020, "NAS-Bench-201", arXiv 2001.00326.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from search_spaces.cell import Cell, CellPlan, Chain, EdgeFactory, in_turn
from search_spaces.feature_maps import FeatureMaps, Stage
from search_spaces.genotype import Genotype, GenotypeError
from search_spaces.mixed_edge import Choice
from search_spaces.operations import ResidualReduction
from search_spaces.skeleton import Size, Skeleton
from search_spaces.slot import cell_slots
from search_spaces.space import EnumerableSpace, edges_by_target

CANDIDATES = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")


class DenseCellSpace(EnumerableSpace):
    """Cells in which every node is connected to all nodes before it.

    Architecture strings are those of the benchmark: nodes joined by `+`, each a list
    `|operation~source|...|` of its incoming edges in the order of their sources.
    """

    cells_help = "cells per stage (N); there are 3 stages"

    def __init__(
        self, name: str, nodes: int, channels: int, cells: int, candidates: Sequence[str] = CANDIDATES
    ) -> None:
        self.name, self.nodes, self.channels, self.cells = name, nodes, channels, cells
        self.slots = cell_slots("cell", 1, nodes, candidates)

    def recognises(self, text: str) -> bool:
        return "|" in text and text.count("+") == self.nodes - 2

    def parse(self, text: str) -> Genotype:
        nodes = text.strip().split("+")
        chosen = []
        for target, node in enumerate(nodes, start=1):
            terms = node.split("|")
            if len(nodes) != self.nodes - 1 or len(terms) != target + 2 or terms[0] or terms[-1]:
                form = self.format(self.genotype([slot.candidates[0] for slot in self.slots]))
                raise self._malformed(text, repr(form))
            for source, term in enumerate(terms[1:-1]):
                operation, _, origin = term.partition("~")
                if origin != str(source):
                    raise GenotypeError(
                        f"malformed edge {term[:60]!r} in a genotype for the space '{self.name}': "
                        f"expected 'operation~{source}'"
                    )
                candidates = self.slots[self.row("cell", source, target)].candidates
                chosen.append(self._require_operation(operation, candidates))
        return self.genotype(chosen)

    def format(self, genotype: Genotype) -> str:
        (cell,) = genotype.cells
        groups = edges_by_target(cell.edges)
        return "+".join(
            "|" + "".join(f"{e.operation}~{e.source}|" for e in groups[target]) for target in sorted(groups)
        )

    def canonical(self, genotype: Genotype) -> str:
        """A string that is equal for cells computing the same function, as the benchmark counts.

        A `none` edge is the term `#`, any operation on `#` is `#`, a skip passes its term through
        and the terms of a node are sorted.
        """
        (cell,) = genotype.cells
        terms: dict[int, str] = {0: "0"}
        for target, edges in sorted(edges_by_target(cell.edges).items()):
            terms[target] = "+".join(sorted(_term(e.operation, terms[e.source]) for e in edges))
        return terms[self.nodes - 1]

    def skeleton(self, plans: dict[str, CellPlan], factory: EdgeFactory, size: Size) -> Skeleton:
        return StagedSkeleton(plans["cell"], factory, size)


def _term(operation: str, source: str) -> str:
    if operation == "none" or source == "#":
        return "#"
    return source if operation == "skip_connect" else f"({source})@{operation}"


class StagedSkeleton(Skeleton):
    """Stem, three stages of `cells` cells with C, 2C, 4C channels and residual reductions between
    them, normalisation and ReLU, pooling, classifier."""

    def __init__(self, plan: CellPlan, factory: EdgeFactory, size: Size) -> None:
        super().__init__()
        channels = size.channels
        norm = factory.frame_norm
        self.stem = nn.Sequential(
            nn.Conv2d(size.in_channels, channels, 3, padding=1, bias=False), norm(channels)
        )
        blocks: list[nn.Module] = []
        stages: list[Stage] = []
        for stage in range(3):
            c = channels * 2**stage
            if stage > 0:
                blocks.append(ResidualReduction(c // 2, c, norm))
            blocks += [Cell(plan, lambda e, c=c: factory.edge(e, c, c, 1)) for _ in range(size.cells)]  # type: ignore[misc]
            stages.append(Stage(f"blocks.{len(blocks) - 1}", c, 2**stage))
        self.blocks, self.stages = nn.ModuleList(blocks), tuple(stages)
        self.chain, self.num_features = Chain(), channels * 4
        self.last = nn.Sequential(norm(self.num_features), nn.ReLU())
        self.reset_classifier(size.num_classes)

    def features(
        self, x: Tensor, choice: Choice | None, seen: FeatureMaps | None = None
    ) -> tuple[Tensor, Tensor | None]:
        x = self.stem(x)
        if seen is None:
            return self.last(self.chain(list(self.blocks), x, choice)), None
        for i, block in enumerate(self.blocks):
            x = in_turn([block], x, choice)
            if seen.add(i, x):
                return x, None
        return self.last(x), None


nasbench201 = DenseCellSpace("nasbench201", nodes=4, channels=16, cells=5)
micro = DenseCellSpace("micro", nodes=3, channels=8, cells=1)
