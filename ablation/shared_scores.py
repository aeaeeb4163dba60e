"""scores.csv: what cells reach with the shared weights of searches, written one by one."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ablation.cell_file import add_rows, read_rows
from recipes import InputError

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
        for number, row in read_rows(path, COLUMNS, _sound) if path is not None else ():
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
        if self.path is not None:
            add_rows(self.path, COLUMNS, [(*self._about, cell, *map(repr, score), parameters)])


def _sound(row: Mapping[str, str]) -> bool:
    float(row["loss"])
    return not math.isnan(float(row["accuracy"]))
