"""How DARTS and its descendants write the cells `normal` and `reduce`.

Source: Liu et al., 2019, "DARTS: Differentiable Architecture Search", arXiv 1806.09055.
Nodes 0 and 1 are the inputs of a cell. Of a list of pairs the first two lead to node 2, the next two to node
3.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from recipes import literals
from recipes.literals import Call, Item, LiteralError, numbers
from search_spaces.genotype import Edge, Genotype, GenotypeError
from search_spaces.written import Written, WrittenCell, WrittenEdge

KINDS = ("normal", "reduce")
FIRST = 2  # the first node that is no input
FORM = (
    "Genotype(normal=[('operation', source), ...], normal_concat=range(2, 6), reduce=[...], "
    "reduce_concat=range(2, 6))"
)
_FIELDS = tuple(name for kind in KINDS for name in (kind, f"{kind}_concat"))


def parse(text: str) -> Written:
    """The cells of a text that is one genotype and nothing else. Raises GenotypeError."""
    try:
        item, end = literals.read(text.rstrip())
        if text[end:].strip():
            raise LiteralError("more follows it", end)
    except LiteralError as error:
        raise GenotypeError(
            f"malformed genotype: {error}, expected {FORM}", error.at, error.cut_off
        ) from None
    cells = read(item)
    if cells is None:
        raise GenotypeError(f"malformed genotype {text[:60]!r}, expected {FORM}", item.at)
    return cells


def read(item: Item) -> Written | None:
    """The cells of `Genotype(normal=..., ...)`, under any name that ends so, or of a dictionary with the same
    keys; None if it is neither.

    Pairs are `(operation, source)`, in a list or in a list for every node, and may have a third member: a
    weight, which is ignored, or, as in FairDARTS, `(operation, node, source)`.
    """
    fields = _fields(item)
    if fields is None:
        return None
    cells = []
    for kind in KINDS:
        for name in (kind, f"{kind}_concat"):
            if name not in fields:
                raise GenotypeError(f"the genotype has no '{name}', expected {FORM}", item.at)
        nodes = numbers(fields[f"{kind}_concat"])
        if nodes is None:
            raise GenotypeError(
                f"'{kind}_concat' must be a list of nodes or range(first, end)", fields[f"{kind}_concat"].at
            )
        edges = tuple(_edges(kind, fields[kind]))
        cells.append(WrittenCell(kind, edges, tuple(sorted(nodes)), fields[kind].at))
    return cells


def _fields(item: Item) -> Mapping[str, Item] | None:
    value = item.value
    if isinstance(value, dict):
        return value if value.keys() & set(KINDS) else None
    if not isinstance(value, Call) or not value.name.lower().endswith("genotype"):
        return None
    if not value.arguments and not value.keywords:  # model.genotype()
        return None
    fields = dict(zip(_FIELDS, value.arguments, strict=False)) | value.keywords
    if len(value.arguments) > len(_FIELDS) or len(fields) < len(value.arguments) + len(value.keywords):
        raise GenotypeError(f"a field of the genotype is given twice, expected {FORM}", item.at)
    for name, field in fields.items():
        if name not in _FIELDS and field.value is not None:
            raise GenotypeError(f"the genotype has an unknown field '{name}', expected {FORM}", field.at)
    return fields


def _edges(kind: str, item: Item) -> Iterator[WrittenEdge]:
    groups = item.value
    if not isinstance(groups, tuple) or not groups:
        raise GenotypeError(f"'{kind}' must be a list of (operation, source) pairs", item.at)
    nested = not any(_is_pair(group) for group in groups)
    for number, group in enumerate(groups):
        if not nested:
            yield _edge(f"pair {number} of '{kind}'", group, FIRST + number // 2)
        elif not isinstance(group.value, tuple):
            raise GenotypeError(f"item {number} of '{kind}' is not an (operation, source) pair", group.at)
        else:
            for pair in group.value:
                yield _edge(f"node {FIRST + number} of '{kind}'", pair, FIRST + number)
    explicit = [len(g.value) == 3 and type(g.value[2].value) is int for g in groups] if not nested else []
    if not nested and any(explicit) != all(explicit):
        raise GenotypeError(f"'{kind}' mixes (operation, source) and (operation, node, source)", item.at)
    if not nested and not any(explicit) and len(groups) % 2:
        raise GenotypeError(f"'{kind}' has {len(groups)} pairs, expected two for every node", item.at)


def _is_pair(item: Item) -> bool:
    return isinstance(item.value, tuple) and bool(item.value) and isinstance(item.value[0].value, str)


def _edge(place: str, pair: Item, target: int) -> WrittenEdge:
    if not _is_pair(pair) or len(pair.value) not in (2, 3):
        raise GenotypeError(f"{place} is not an (operation, source) pair", pair.at)
    operation, source, *more = pair.value
    if more and type(more[0].value) is int:
        source, target = more[0], source.value
        if type(target) is not int or target <= source.value:
            raise GenotypeError(
                f"the third member of {place} is neither a weight, such as 0.25, nor a source before the "
                "node that is named second",
                more[0].at,
            )
    elif more and type(more[0].value) is not float:
        raise GenotypeError(f"the third member of {place} is no weight, expected a number", more[0].at)
    if type(source.value) is not int:
        raise GenotypeError(f"the source of {place} is not the number of a node", source.at)
    return WrittenEdge(operation.value, source.value, target, operation.at)


# Writing


def pairs_of(edges: Sequence[Edge]) -> list[tuple[tuple[str, int], ...]]:
    """The (operation, source) pairs of every node, from the first that is no input."""
    nodes: dict[int, list[tuple[str, int]]] = {}
    for edge in edges:
        nodes.setdefault(edge.target, []).append((edge.operation, edge.source))
    return [tuple(nodes[target]) for target in sorted(nodes)]


def is_flat(genotype: Genotype) -> bool:
    """Whether two edges lead to every node, so that pairs need not be grouped."""
    return all(len(pairs) == 2 for cell in genotype.cells for pairs in pairs_of(cell.edges))


def write(genotype: Genotype, name: str = "Genotype") -> str:
    """`Genotype(normal=[...], ...)`: pairs in a list, or in a tuple for every node where one has not two."""
    parts = []
    flat = is_flat(genotype)
    for cell in genotype.cells:
        nodes = pairs_of(cell.edges)
        pairs = [pair for node in nodes for pair in node] if flat else nodes
        parts.append(f"{cell.name}={pairs}, {cell.name}_concat={_concat(cell.concat)}")
    return f"{name}({', '.join(parts)})"


def _concat(nodes: tuple[int, ...]) -> str:
    if nodes and nodes == tuple(range(nodes[0], nodes[0] + len(nodes))):
        return f"range({nodes[0]}, {nodes[-1] + 1})"
    return str(list(nodes))
