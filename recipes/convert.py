"""The options of the command that converts cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro


@dataclass
class ConvertOptions:
    """Write a cell in the notation of another tool; notes on how it was read go to the error output."""

    cell: Annotated[str, tyro.conf.arg(metavar="CELL"), tyro.conf.Positional] = ""
    """A notation, the name of a published cell, a file or a run folder."""
    to: str = "text"
    """Notation: text (that of the space), json (genotype.json), darts, confopt, autodl, index (of
    NAS-Bench-201), naslib or nni."""
    space: str | None = None
    """Search space of the cell (default: found from it)."""
    plugins: tuple[str, ...] = ()
    """Python files or modules to import first, for spaces of your own."""
