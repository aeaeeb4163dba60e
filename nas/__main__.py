"""`python -m nas` is the command `nas`."""

from __future__ import annotations

import sys

from recipes.commands import main

if __name__ == "__main__":
    sys.exit(main())
