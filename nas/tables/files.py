"""Files of tables, compressed by gzip or not."""

from __future__ import annotations

import gzip
import os
import zlib
from pathlib import Path

from nas.runs.files import atomic_path
from recipes import InputError
from recipes.errors import first_line
from recipes.text_files import LARGEST_FILE


def read_text(path: Path) -> str:
    """The text of a file, decompressed. Raises InputError."""
    if not os.path.isfile(path):
        raise InputError(
            f"the table {path} {'is not a file' if os.path.exists(path) else 'does not exist'}: "
            "give another `table`"
        )
    try:
        with open(path, "rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else open(path, "rb") as file:
            data = file.read(LARGEST_FILE + 1)
        if len(data) > LARGEST_FILE:
            raise InputError(
                f"{path} holds more than {LARGEST_FILE:,} bytes: this is not a table of "
                "accuracies, give another `table`"
            )
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}, line {line}: not UTF-8 text, expected JSON or CSV: save the table as UTF-8"
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"cannot read the table {path} ({first_line(error)}): is it complete? Get it again, "
            "or give another `table`"
        ) from None


def write_text(path: Path, text: str) -> None:
    """Write a file atomically, compressed where its name ends in .gz; equal texts, equal files."""
    data = text.encode()
    with atomic_path(path) as temporary:
        temporary.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
