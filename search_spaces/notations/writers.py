"""Cells in the notations of other tools."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import NamedTuple

import search_spaces
from recipes.registry import Registry
from search_spaces.genotype import Genotype, GenotypeError
from search_spaces.notations import benchmark, genotype_call, naslib, nni


class Writer(NamedTuple):
    """A notation: `write` is the text of a genotype of one of the spaces, all where there are none."""

    write: Callable[[Genotype], str]
    spaces: tuple[str, ...]


def _text(genotype: Genotype) -> str:
    return search_spaces.get(genotype.space).format(genotype)


def _json(genotype: Genotype) -> str:
    return json.dumps(genotype.to_json() | {"text": _text(genotype)}, indent=2, ensure_ascii=False)


def _call(name: str) -> Callable[[Genotype], str]:
    def write(genotype: Genotype) -> str:
        if not genotype_call.is_flat(genotype):
            raise GenotypeError("a list of pairs has two for every node, this cell has not")
        return genotype_call.write(genotype, name)

    return write


def _autodl(genotype: Genotype) -> str:
    if genotype.space in _DENSE:
        nodes = genotype.cells[0].edges[-1].target + 1
        return f"Structure({nodes} nodes with {_text(genotype)})"
    fields: dict[str, object] = {}
    for cell in genotype.cells:
        fields[cell.name] = genotype_call.pairs_of(cell.edges)
        fields[f"{cell.name}_concat"] = list(cell.concat)
    return str(fields)


def _index(genotype: Genotype) -> str:
    return f"nasbench201:{benchmark.benchmark_order().index(_text(genotype))}"


_DENSE = ("nasbench201", "micro")
_DARTS = ("darts", "s1", "s2", "s3")
_TWO_CELLS = (*_DARTS, "s4", "nasnet")
WRITERS: Registry[Writer] = Registry(
    "notation",
    {
        "text": Writer(_text, ()),
        "json": Writer(_json, ()),
        "darts": Writer(_call("Genotype"), _TWO_CELLS),
        "confopt": Writer(_call("DARTSGenotype"), _TWO_CELLS),
        "autodl": Writer(_autodl, (*_DENSE, *_TWO_CELLS)),
        "index": Writer(_index, ("nasbench201",)),
        "naslib": Writer(naslib.write, ("nasbench201", *_DARTS)),
        "nni": Writer(nni.write, (*_DENSE, *_TWO_CELLS)),
    },
)


def write(genotype: Genotype, name: str) -> str:
    """A genotype in the notation of that name.

    Raises:
        InputError: there is no such notation.
        GenotypeError: it cannot say this cell.
    """
    writer = WRITERS.get(name)
    able = [other for other in WRITERS.names() if _says(WRITERS.get(other), genotype)]
    if name not in able:
        raise GenotypeError(
            f"the notation '{name}' says cells of {', '.join(writer.spaces)}, this is one of "
            f"'{genotype.space}': choose one of {', '.join(able)}"
        )
    return writer.write(genotype)


def _says(writer: Writer, genotype: Genotype) -> bool:
    return not writer.spaces or genotype.space in writer.spaces
