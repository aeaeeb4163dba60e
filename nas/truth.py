"""Tables of accuracies: what is known about every cell of a space."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from nas.files import atomic_path

TABLE_FORMAT = 1


def write_table(path: Path, table: dict[str, Any]) -> None:
    """Write `table` as JSON, compressed where the name ends in .gz; equal tables, equal files."""
    text = json.dumps(table, separators=(",", ":")).encode()
    with atomic_path(path) as temporary:
        temporary.write_bytes(gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)
