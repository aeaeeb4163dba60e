"""CSV files with what is known about cells, to which rows are added while it is found."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from nas.runs.files import append, lock
from recipes import InputError, first_line


@contextmanager
def held(folder: Path, name: str = "lock") -> Iterator[None]:
    """Make a folder and keep other processes out of what the file `name` in it stands for. Raises
    InputError where one is in, or the folder cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = lock(folder / name)
    except BlockingIOError:
        raise InputError(
            f"{folder} is in use by another process: wait for it, or give another `out`"
        ) from None
    except OSError as error:
        raise InputError(f"cannot write the folder {folder}: {error}; give another `out`") from None
    with file:
        yield


def add_rows(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Add rows, after the names of the columns where the file is new; on the disk when this returns. Raises
    InputError where it cannot be written."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    try:
        if not (path.exists() and path.stat().st_size > 0):
            writer.writerow(columns)
        writer.writerows(rows)
        append(path, buffer.getvalue())
    except OSError as error:
        raise InputError(f"cannot write {path}: {error}; give another `out`") from None


def read_rows(
    path: Path, columns: Sequence[str], sound: Callable[[Mapping[str, str]], bool]
) -> list[tuple[int, dict[str, str]]]:
    """The rows of a file, with the number of their line; a last line that was cut off is removed.

    Args:
        sound: whether the values of a row are what they should be; may raise ValueError.

    Raises:
        InputError: the file is something else.
    """
    if not path.exists():
        return []
    advice = "restore it, or delete it"
    try:
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            os.truncate(path, whole)
        reader = csv.DictReader(io.StringIO(data[:whole].decode(), newline=""), strict=True)
        rows = [(reader.line_num, row) for row in reader]
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"cannot read the scores {path} ({first_line(error)}): {advice}") from None
    if whole and tuple(reader.fieldnames or ()) != tuple(columns):
        raise InputError(f"{path}, line 1: expected the columns {', '.join(columns)}: {advice}")
    for number, row in rows:
        if len(row) != len(columns) or None in row.values() or not _holds(sound, row):
            raise InputError(f"{path}, line {number}: not the scores of a cell: {advice}")
    return rows


def _holds(sound: Callable[[Mapping[str, str]], bool], row: Mapping[str, str]) -> bool:
    try:
        return sound(row)
    except ValueError:
        return False
