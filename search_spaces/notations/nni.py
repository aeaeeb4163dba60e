"""The choices of NNI, a dictionary from labels.

Of the cells of DARTS and NASNet `normal/op_2_0` is the first operation of node 2 and `normal/input_2_0` the
node that it reads; of NAS-Bench-201 `cell/0_1` is the operation from node 0 to node 1.
"""

from __future__ import annotations

import json
import re

from recipes.literals import Item, numbers
from search_spaces.genotype import Genotype, GenotypeError
from search_spaces.notations.genotype_call import FIRST, KINDS, pairs_of
from search_spaces.written import Written, WrittenCell, WrittenEdge

OURS = {"conv_1x1": "nor_conv_1x1", "conv_3x3": "nor_conv_3x3"}
THEIRS = {ours: theirs for theirs, ours in OURS.items()}
_PAIR = re.compile(r"(?:.*/)?(normal|reduce)/(op|input)_([0-9]{1,3})_([0-9]{1,3})")
_EDGE = re.compile(r"(?:.*/)?([0-9]{1,3})_([0-9]{1,3})")
_ALL_OF = 4  # nodes up to which NNI's output is all nodes, as in DARTS
LOOSE_ENDS = (
    "NNI says nothing of the output of a cell: of more than four nodes those are taken that no other reads, "
    "as in its NASNet and AmoebaNet (not PNAS)"
)


def read(item: Item) -> Written | None:
    """The cells of a dictionary of choices, of which others are left out; None if it is something else."""
    if not isinstance(item.value, dict):
        return None
    choices: dict[tuple[str, int, int], dict[str, Item]] = {}
    edges = []
    for key, value in item.value.items():
        if found := _PAIR.fullmatch(key):
            kind, what, node, number = found.groups()
            choices.setdefault((kind, int(node), int(number)), {})[what] = value
        elif (found := _EDGE.fullmatch(key)) and isinstance(value.value, str):
            name = OURS.get(value.value, value.value)
            edges.append(WrittenEdge(name, int(found[1]), int(found[2]), value.at))
    if choices:
        return [_cell(kind, choices, item.at) for kind in KINDS]
    return [WrittenCell("cell", tuple(edges), None, item.at)] if edges else None


def _cell(kind: str, choices: dict[tuple[str, int, int], dict[str, Item]], at: int) -> WrittenCell:
    edges = []
    for (of, node, number), chosen in sorted(choices.items()):
        if of != kind:
            continue
        name = f"{kind}/op_{node}_{number}"
        if len(chosen) < 2:
            other = f"{kind}/input_{node}_{number}"
            raise GenotypeError(f"'{name}' and '{other}' belong together, but only one is given", at)
        operation, source = chosen["op"].value, chosen["input"]
        sources = numbers(source) or (source.value,)
        if not isinstance(operation, str) or len(sources) != 1 or type(sources[0]) is not int:
            raise GenotypeError(f"'{name}' is not an operation with one input", chosen["op"].at)
        edges.append(WrittenEdge(OURS.get(operation, operation), sources[0], node, chosen["op"].at))
    if not edges:
        raise GenotypeError(f"the choices have no cell '{kind}'", at)
    nodes = {edge.target for edge in edges}
    loose = tuple(sorted(nodes - {edge.source for edge in edges}))
    return WrittenCell(kind, tuple(edges), loose if len(nodes) > _ALL_OF else None, at)


def write(genotype: Genotype) -> str:
    """The choices as JSON. Raises GenotypeError where NNI has no such cell."""
    choices: dict[str, str | list[int]] = {}
    if tuple(cell.name for cell in genotype.cells) != KINDS:
        (cell,) = genotype.cells
        return json.dumps(
            {f"cell/{e.source}_{e.target}": THEIRS.get(e.operation, e.operation) for e in cell.edges}
        )
    for cell in genotype.cells:
        nodes = pairs_of(cell.edges)
        for node, pairs in enumerate(nodes, start=FIRST):
            for number, (operation, source) in enumerate(pairs):
                choices[f"{cell.name}/op_{node}_{number}"] = THEIRS.get(operation, operation)
                choices[f"{cell.name}/input_{node}_{number}"] = [source]
            if len(pairs) != 2:
                raise GenotypeError(
                    f"node {node} of '{cell.name}' has {len(pairs)} edges, those of NNI have two"
                )
        every = tuple(range(FIRST, FIRST + len(nodes)))
        loose = tuple(sorted(set(every) - {edge.source for edge in cell.edges}))
        if cell.concat != (loose if len(nodes) > _ALL_OF else every):
            what = "the nodes that no other reads" if len(nodes) > _ALL_OF else "all nodes"
            raise GenotypeError(
                f"the output of '{cell.name}' is of the nodes {cell.concat}, that of NNI of {what}"
            )
    return json.dumps(choices)
