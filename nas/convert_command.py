"""`nas convert CELL --to NOTATION`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from nas.conversion import converted
from recipes import InputError, command_line
from recipes.convert import ConvertOptions
from recipes.plugins import import_plugins


def run(options: ConvertOptions) -> None:
    """Print the cell. Raises InputError."""
    import_plugins(options.plugins)
    if not options.cell:
        raise InputError(
            "no cell is given: expected a notation, the name of a published cell, a file or a run folder"
        )
    text, notes = converted(options.cell, options.to, options.space)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    print(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return command_line.main_alone("nas convert", ConvertOptions, run, argv)


if __name__ == "__main__":
    sys.exit(main())
