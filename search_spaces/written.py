"""An architecture as a text says it, before a space is found that can hold it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from search_spaces.genotype import Genotype


class WrittenEdge(NamedTuple):
    """An operation between two nodes; `at` is its offset in the text, None where there is no text."""

    operation: str
    source: int
    target: int
    at: int | None = None


class WrittenCell(NamedTuple):
    """The edges of a cell, in their order; `concat` None where the text says nothing of the output."""

    name: str
    edges: tuple[WrittenEdge, ...]
    concat: tuple[int, ...] | None = None
    at: int | None = None


Written = Sequence[WrittenCell]


def as_written(genotype: Genotype) -> Written:
    """A genotype as if it had been read."""
    return [
        WrittenCell(
            cell.name,
            tuple(
                WrittenEdge(e.operation, e.source, e.target)
                for e in sorted(cell.edges, key=lambda e: e.target)
            ),
            cell.concat,
        )
        for cell in genotype.cells
    ]
