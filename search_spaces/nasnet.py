"""The cells of NASNet and its descendants in the skeleton of DARTS.

Source: Zoph et al., 2018, "Learning Transferable Architectures for Scalable Image Recognition", arXiv
1707.07012.
A search decides about five intermediate nodes with two edges each, between the eight operations of PNASNet
(Liu et al., 2018, arXiv 1712.00559). A derived network can have any number of nodes and of edges, also
several edges from the same source, and any operation that there is: cells that others have found so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from search_spaces import operations
from search_spaces.cell import CellPlan, PlannedEdge
from search_spaces.darts import DartsSpace
from search_spaces.genotype import Genotype, GenotypeError
from search_spaces.space import edges_by_target
from search_spaces.written import WrittenCell, WrittenEdge, as_written

MOST_NODES = 30  # intermediate nodes of a cell
MOST_EDGES = 100  # edges of a cell
PNASNET = (
    "skip_connect", "avg_pool_3x3", "max_pool_3x3", "sep_conv_3x3", "sep_conv_5x5", "sep_conv_7x7",
    "dil_conv_3x3", "conv_7x1_1x7",
)  # fmt: skip


class NasnetSpace(DartsSpace):
    """Normal and reduction cells with two inputs and five intermediate nodes, of which derived ones have any
    number."""

    nodes = 7
    concat = tuple(range(2, 7))

    def _allowed(self, name: str, edge: WrittenEdge) -> Sequence[str]:
        return [name for name in operations.names() if operations.family(name) != "none"]

    def _problems_of(self, cell: WrittenCell) -> Iterator[GenotypeError]:
        into = edges_by_target(cell.edges)
        intermediate = range(self.inputs, self.inputs + len(into))
        if not 0 < len(into) <= MOST_NODES or len(cell.edges) > MOST_EDGES:
            yield GenotypeError(
                f"'{cell.name}' has {len(cell.edges)} edges into {len(into)} nodes, the space '{self.name}' "
                f"holds up to {MOST_EDGES} edges into 1 to {MOST_NODES} nodes",
                cell.at,
            )
            return
        for target in intermediate:
            if target not in into:
                yield GenotypeError(f"no edge leads to node {target} of '{cell.name}'", cell.at)
        for edge in cell.edges:
            yield from self._wrong_source(cell.name, edge)
            yield from self._unknown(edge, self._allowed(cell.name, edge))
        yield from self._wrong_concat(cell, intermediate)

    def validate(self, genotype: Genotype) -> Genotype:
        if genotype.space != self.name:
            raise GenotypeError(f"genotype belongs to the space '{genotype.space}', expected '{self.name}'")
        return self.hold(as_written(genotype))

    def choice(self, genotype: Genotype) -> list[int]:
        """As of any space. Raises GenotypeError for a cell that the supernet has not."""
        for cell in as_written(genotype):
            for problem in super()._problems_of(cell):
                raise problem
            for edge in cell.edges:
                self._require_operation(edge.operation, PNASNET)
        return super().choice(genotype)

    def plans(self, genotype: Genotype | None = None) -> dict[str, CellPlan]:
        if genotype is None:
            return super().plans()
        return {
            cell.name: CellPlan(
                self.inputs,
                1 + max(edge.target for edge in cell.edges),
                tuple(
                    PlannedEdge(edge.source, edge.target, 0, edge.operation, (edge.operation,))
                    for edge in cell.edges
                ),
                cell.concat,
            )
            for cell in genotype.cells
        }


nasnet = NasnetSpace("nasnet", PNASNET, PNASNET)
