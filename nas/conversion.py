"""Cells from one notation to another: in Python, and `nas convert`."""

from __future__ import annotations

import sys
from pathlib import Path

import search_spaces
from nas.api import Result
from nas.genotypes import read_cell
from recipes import InputError
from recipes.convert import ConvertOptions
from search_spaces import Genotype, GenotypeError
from search_spaces.notations.writers import WRITERS, write


def convert(cell: str | Path | Genotype | Result, to: str = "text", space: str | None = None) -> str:
    """A cell in the notation of a tool.

    Args:
        cell: a Genotype, the result of a run, or a text as for `nas.train`.
        to: name of the notation, one of `search_spaces.notations.writers.WRITERS`.
        space: the search space of the cell; None: found from it.

    Raises:
        InputError: the cell cannot be read, or the notation cannot say it.
    """
    return converted(cell, to, space)[0]


def converted(
    cell: str | Path | Genotype | Result, to: str, space: str | None
) -> tuple[str, tuple[str, ...]]:
    """What `convert` returns, and notes on how the cell was read."""
    WRITERS.get(to)
    notes: tuple[str, ...] = ()
    if isinstance(cell, Result):
        cell = cell.genotype
    if not isinstance(cell, Genotype):
        if not isinstance(cell, str | Path) or not str(cell):
            raise InputError(f"the cell is {str(cell)[:60]!r}, expected a text, a path or a Genotype")
        cell, notes = read_cell(str(cell), space)
    try:
        return write(search_spaces.get(cell.space).validate(cell), to), notes
    except GenotypeError as error:
        raise InputError(f"{error}") from None


def run(options: ConvertOptions) -> None:
    """What `nas convert` does: print the cell. Raises InputError."""
    if not options.cell:
        raise InputError(
            "no cell is given: expected a notation, the name of a published cell, a file or a run folder"
        )
    text, notes = converted(options.cell, options.to, options.space)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    print(text)
