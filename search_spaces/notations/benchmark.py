"""How NAS-Bench-201 and tools around it write its cell: every node reads all nodes before it.

Source: Dong & Yang, 2020, "NAS-Bench-201", arXiv 2001.00326.
"""

from __future__ import annotations

import random
import re
from functools import lru_cache

from recipes.literals import Call, Item
from search_spaces.genotype import GenotypeError
from search_spaces.nasbench201 import nasbench201
from search_spaces.written import Written, WrittenCell, WrittenEdge

CELL = "cell"
_TERM = r"[A-Za-z]\w{0,40}~[0-9]{1,3}\|"
STRING = re.compile(
    r"(?:Structure\s?\([0-9]{1,3} nodes with )?"
    rf"\|(?:{_TERM}){{1,30}}(?:\s{{0,9}}\+\s{{0,9}}\|(?:{_TERM}){{1,30}}){{1,30}}(?![\w|~]|\s{{0,9}}\+)"
)
BROKEN = re.compile(rf"(?:Structure\s?\([0-9]{{1,3}} nodes with )?(\|(?:{_TERM})[^\s\"'<>()]{{0,2000}})")
"""What begins like an architecture string; where it is none, somebody should be told."""
INDEX = re.compile(r"nas-?bench-?201\s{0,9}:\s{0,9}([0-9]{1,9})\b", re.IGNORECASE)
_NODES = re.compile(r"Structure\s?\(([0-9]+) nodes with ")
_EDGE = re.compile(r"(\w+)~([0-9]+)")
_SHUFFLED_WITH = 88  # the seed of the benchmark's authors


@lru_cache(maxsize=1)
def benchmark_order() -> tuple[str, ...]:
    """The architecture strings of the benchmark's 15,625 indices: all combinations, shuffled as its authors
    shuffled them."""
    texts = [nasbench201.format(genotype) for genotype in nasbench201.all()]
    random.Random(_SHUFFLED_WITH).shuffle(texts)
    return tuple(texts)


def read_string(item: Item) -> Written | None:
    """The cell of `|operation~source|+|...|`, which may follow `Structure(4 nodes with `; None if it is
    something else. Edges may be missing."""
    if not isinstance(item.value, str) or not (found := STRING.fullmatch(item.value.strip())):
        return None
    edges, at, nodes = [], item.at, found[0].split("+")
    if (said := _NODES.match(found[0])) and int(said[1]) != len(nodes) + 1:
        raise GenotypeError(
            f"the text says {said[1]} nodes, and its string has {len(nodes) + 1}", item.at, cut_off=True
        )
    for target, node in enumerate(nodes, start=1):
        for term in _EDGE.finditer(node):
            edges.append(WrittenEdge(term[1], int(term[2]), target, at + term.start()))
        at += len(node) + 1
    return [WrittenCell(CELL, tuple(edges), None, item.at)]


def read_index(item: Item) -> Written | None:
    """The cell of `nasbench201:6543`; None if it is something else."""
    if not isinstance(item.value, str) or not (found := INDEX.fullmatch(item.value.strip())):
        return None
    texts = benchmark_order()
    if int(found[1]) >= len(texts):
        raise GenotypeError(
            f"the benchmark has no cell {found[1]}, its indices are 0 to {len(texts) - 1}", item.at
        )
    (cell,) = read_string(Item(texts[int(found[1])], 0)) or ()
    return [WrittenCell(CELL, tuple(edge._replace(at=item.at) for edge in cell.edges), None, item.at)]


def read_nodes(item: Item) -> Written | None:
    """The cell of lists `[(('operation', source), ...), ...]`, one for every node, with or without
    `Structure(...)` around them; None if it is something else."""
    value = item.value
    if isinstance(value, Call):
        if not value.name.endswith("Structure") or len(value.arguments) != 1 or value.keywords:
            return None
        value = value.arguments[0].value
    if not isinstance(value, tuple) or not value:
        return None
    edges = []
    for target, node in enumerate(value, start=1):
        if not isinstance(node.value, tuple) or not node.value:
            return None
        for pair in node.value:
            members = [member.value for member in pair.value] if isinstance(pair.value, tuple) else []
            if len(members) != 2 or not isinstance(members[0], str) or type(members[1]) is not int:
                return None
            edges.append(WrittenEdge(members[0], members[1], target, pair.at))
    return [WrittenCell(CELL, tuple(edges), None, item.at)]
