"""What is known about every architecture of a space: tables of accuracies, read, looked up and converted."""

from __future__ import annotations

from nas.tables.lookup import Known, Truth
from nas.tables.published import from_api, write_csv
from nas.tables.reading import packaged, read, read_all

__all__ = ["Known", "Truth", "from_api", "packaged", "read", "read_all", "write_csv"]
