"""Search an architecture: `python train_search.py --help`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from recipes import SearchOptions, command_line


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return command_line.main(SearchOptions, search, argv)


def search(options: SearchOptions) -> None:
    """Run the search. Imported late, so that --help and bad options answer at once."""
    from nas import entry

    entry.search(options)


if __name__ == "__main__":
    sys.exit(main())
