"""Train an architecture from scratch and test it: `python train_final.py --help`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from recipes import commands


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return commands.TRAIN.main(argv)


if __name__ == "__main__":
    sys.exit(main())
