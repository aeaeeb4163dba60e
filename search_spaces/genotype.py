"""Genotypes: immutable descriptions of an architecture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


class GenotypeError(ValueError):
    """A genotype that is malformed or does not belong to the search space.

    Attributes:
        at: the offset in the text where that shows, where it is known.
        cut_off: whether the text ends before the genotype does.
    """

    def __init__(self, message: str, at: int | None = None, cut_off: bool = False) -> None:
        super().__init__(message)
        self.at, self.cut_off = at, cut_off


@dataclass(frozen=True)
class Edge:
    """One operation that reads node `source` and is added to node `target`."""

    source: int
    target: int
    operation: str


@dataclass(frozen=True)
class CellGenotype:
    """The edges of one kind of cell; its output concatenates `concat`, or is the last node."""

    name: str
    edges: tuple[Edge, ...]
    concat: tuple[int, ...] = ()


@dataclass(frozen=True)
class Genotype:
    """An architecture of the search space named `space`: one CellGenotype per kind of cell."""

    space: str
    cells: tuple[CellGenotype, ...]

    def count(self, operation: str) -> dict[str, int]:
        """Number of edges that hold `operation`, per kind of cell."""
        return {c.name: sum(e.operation == operation for e in c.edges) for c in self.cells}

    @property
    def is_chain(self) -> bool:
        """Whether all edges lead from a node to the next, in every kind of cell: a chain of blocks."""
        places = ([(edge.source, edge.target) for edge in cell.edges] for cell in self.cells)
        ordered = all(cell == [(i, i + 1) for i in range(len(cell))] for cell in places)
        return ordered and not any(cell.concat for cell in self.cells)

    def to_json(self) -> dict[str, Any]:
        """The genotype as JSON-ready data."""
        return {
            "space": self.space,
            "cells": [
                {
                    "name": cell.name,
                    "edges": [[e.operation, e.source, e.target] for e in cell.edges],
                    "concat": list(cell.concat),
                }
                for cell in self.cells
            ],
        }

    @staticmethod
    def from_json(data: Any) -> Genotype:
        """Inverse of `to_json`; raises GenotypeError. The space's `validate` checks the meaning."""
        try:
            return Genotype(
                _typed(data["space"], str),
                tuple(
                    CellGenotype(
                        _typed(cell["name"], str),
                        tuple(
                            Edge(_typed(source, int), _typed(target, int), _typed(operation, str))
                            for operation, source, target in _typed(cell["edges"], list)
                        ),
                        tuple(_typed(node, int) for node in _typed(cell["concat"], list)),
                    )
                    for cell in _typed(data["cells"], list)
                ),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise GenotypeError(
                "genotype JSON must be an object with 'space' and 'cells', each cell with 'name', "
                f"'edges' [[operation, source, target], ...] and 'concat': {error!r}"
            ) from None


def _typed(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"expected {kind.__name__}, got {type(value).__name__}")
    return value
