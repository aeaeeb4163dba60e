"""scores.csv: what cells reach with the shared weights of searches, written one by one."""

from __future__ import annotations

import csv
import hashlib
import io
import math
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from nas.runs.files import append
from recipes import InputError, first_line

Score = tuple[float, float]
"""Loss and accuracy (%)."""
COLUMNS = ("run", "weights", "cell", "loss", "accuracy", "parameters")


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of the names and numbers of a supernet's weights, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, tensor in state.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class Scores:
    """The scores of the cells of one run.

    Args:
        path: the file, which may hold other runs, too; None: they are kept in memory only.
        run: which run it is.
        weights: fingerprint of its shared weights.

    Attributes:
        known: scores by cell.

    Raises:
        InputError: the file is something else, or holds scores of this run with other weights.
    """

    def __init__(self, path: Path | None, run: str, weights: str) -> None:
        self.path, self._about, self.known = path, (run, weights), dict[str, Score]()
        for number, row in _rows(path) if path is not None else ():
            if row["run"] != run:
                continue
            if row["weights"] != weights:
                raise InputError(
                    f"{path}, line {number}: the scores of {run} are of other weights, the search has gone "
                    "on since: give another `out`, or delete the file"
                )
            self.known[row["cell"]] = float(row["loss"]), float(row["accuracy"])

    def add(self, cell: str, score: Score, parameters: int) -> None:
        """Keep a score, on the disk when this returns. Raises InputError where it cannot be written."""
        self.known[cell] = score
        if self.path is None:
            return
        try:
            there = self.path.exists() and self.path.stat().st_size > 0
            head = "" if there else _line(COLUMNS)
            append(self.path, head + _line((*self._about, cell, *map(repr, score), parameters)))
        except OSError as error:
            raise InputError(f"cannot write {self.path}: {error}; give another `out`") from None


def _line(values: tuple[object, ...]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(values)
    return buffer.getvalue()


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """The rows of a file, with the number of their line; a last line that was cut off is removed."""
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
    if whole and tuple(reader.fieldnames or ()) != COLUMNS:
        raise InputError(f"{path}, line 1: expected the columns {', '.join(COLUMNS)}: {advice}")
    for number, row in rows:
        if len(row) != len(COLUMNS) or None in row.values() or not _sound(row):
            raise InputError(f"{path}, line {number}: not the scores of a cell: {advice}")
    return rows


def _sound(row: Mapping[str, str]) -> bool:
    try:
        _, accuracy = float(row["loss"]), float(row["accuracy"])
    except ValueError:
        return False
    return not math.isnan(accuracy)
