"""Train an architecture from scratch and test it: `python train_final.py --help`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from recipes import FinalOptions, command_line


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return command_line.main(FinalOptions, train, argv)


def train(options: FinalOptions) -> None:
    """Run the training. Imported late, so that --help and bad options answer at once."""
    from nas import entry

    entry.train(options)


if __name__ == "__main__":
    sys.exit(main())
