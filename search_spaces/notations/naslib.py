"""Architectures as NASLib writes them: indices of operations.

Of NAS-Bench-201 six of them, `(4, 0, 3, 1, 4, 3)`, and of DARTS (its NAS-Bench-301) for each of the two cells
pairs (source, index), `(((0, 3), (1, 3), ...), (...))`.
"""

from __future__ import annotations

from recipes.literals import Item, numbers
from search_spaces.genotype import Genotype, GenotypeError
from search_spaces.notations.genotype_call import FIRST, KINDS
from search_spaces.written import Written, WrittenCell, WrittenEdge

DENSE = ("skip_connect", "none", "nor_conv_3x3", "nor_conv_1x1", "avg_pool_3x3")
"""Operations of NAS-Bench-201 in the order of the indices."""
DENSE_EDGES = ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))
"""Edges (source, target) of NAS-Bench-201 in the order of the six indices."""
DARTS = (
    "max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3",
    "dil_conv_5x5",
)  # fmt: skip
"""Operations of DARTS in the order of the indices."""
ORDER = (
    f"six indices are read as NASLib writes them: edges {', '.join(f'{s}→{t}' for s, t in DENSE_EDGES)}, "
    f"operations {', '.join(f'{i} {name}' for i, name in enumerate(DENSE))}"
)


def read(item: Item) -> Written | None:
    """The cells of six indices, or of pairs for each of two cells; None if it is something else."""
    if (found := numbers(item)) is not None:
        return _read_dense(item) if len(found) == len(DENSE_EDGES) else None
    if not isinstance(item.value, tuple) or len(item.value) != len(KINDS):
        return None
    cells = []
    for kind, pairs in zip(KINDS, item.value, strict=True):
        indices = [numbers(pair) for pair in pairs.value] if isinstance(pairs.value, tuple) else []
        if not indices or not all(pair is not None and len(pair) == 2 for pair in indices):
            return None
        if len(indices) % 2:
            raise GenotypeError(f"'{kind}' has {len(indices)} pairs, expected two for every node", pairs.at)
        edges = []
        for number, pair in enumerate(pairs.value):
            source, index = pair.value
            name = _operation(index, DARTS)
            edges.append(WrittenEdge(name, source.value, FIRST + number // 2, pair.at))
        cells.append(WrittenCell(kind, tuple(edges), None, pairs.at))
    return cells


def _read_dense(item: Item) -> Written:
    edges = [
        WrittenEdge(_operation(index, DENSE), source, target, index.at)
        for (source, target), index in zip(DENSE_EDGES, item.value, strict=True)
    ]
    return [WrittenCell("cell", tuple(edges), None, item.at)]


def _operation(index: Item, names: tuple[str, ...]) -> str:
    if not 0 <= index.value < len(names):
        raise GenotypeError(
            f"{index.value} is no operation, expected an index of NASLib from 0 to {len(names) - 1}: "
            f"{', '.join(names)}",
            index.at,
        )
    return names[int(index.value)]


def write(genotype: Genotype) -> str:
    """The indices of a cell of nasbench201 or darts. Raises GenotypeError where they cannot say it."""
    if genotype.space == "nasbench201":
        chosen = {(e.source, e.target): e.operation for e in genotype.cells[0].edges}
        return str(tuple(DENSE.index(chosen[ends]) for ends in DENSE_EDGES))
    for cell in genotype.cells:
        if cell.concat != tuple(range(FIRST, 6)):
            raise GenotypeError(
                f"the output of '{cell.name}' is of the nodes {cell.concat}, that of NASLib all"
            )
    return str(
        tuple(
            tuple((edge.source, DARTS.index(edge.operation)) for edge in cell.edges)
            for cell in genotype.cells
        )
    )
