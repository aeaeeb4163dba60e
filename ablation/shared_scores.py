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


class ScoreFile:
    """The scores of cells with the weights of runs, at any of their epochs.

    Args:
        path: the file, read here and added to; None: scores are kept in memory only.

    Raises:
        InputError: the file is something else.
    """

    def __init__(self, path: Path | None) -> None:
        self.path, self._known = path, dict[tuple[str, str], dict[str, Score]]()
        for row in _rows(path) if path is not None else ():
            score = float(row["loss"]), float(row["accuracy"])
            self._known.setdefault((row["run"], row["weights"]), {})[row["cell"]] = score

    def of(self, run: str, weights: str) -> Scores:
        """The scores with the weights of that fingerprint; those of other weights stay in the file."""
        return Scores(self.path, (run, weights), self._known.setdefault((run, weights), {}))


class Scores:
    """The scores of cells with one set of weights.

    Args:
        path: the file; None: none.
        about: which run it is, and the fingerprint of its shared weights.
        known: see there.

    Attributes:
        known: scores by cell.
    """

    def __init__(self, path: Path | None, about: tuple[str, str], known: dict[str, Score]) -> None:
        self.path, self.about, self.known = path, about, known

    def add(self, cell: str, score: Score, parameters: int) -> None:
        """Keep a score, on the disk when this returns. Raises InputError where it cannot be written."""
        self.known[cell] = score
        if self.path is None:
            return
        try:
            there = self.path.exists() and self.path.stat().st_size > 0
            head = "" if there else _line(COLUMNS)
            append(self.path, head + _line((*self.about, cell, *map(repr, score), parameters)))
        except OSError as error:
            raise InputError(f"cannot write {self.path}: {error}; give another `out`") from None


def _line(values: tuple[object, ...]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(values)
    return buffer.getvalue()


def _rows(path: Path) -> list[dict[str, str]]:
    """The rows of a file; a last line that was cut off is removed."""
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
    return [row for _, row in rows]


def _sound(row: Mapping[str, str]) -> bool:
    try:
        _, accuracy = float(row["loss"]), float(row["accuracy"])
    except ValueError:
        return False
    return not math.isnan(accuracy)
