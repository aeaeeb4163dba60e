"""scores.csv: what cells reach with the shared weights of searches, written one by one."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ablation.cell_file import add_rows, read_rows

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
        for _, row in read_rows(path, COLUMNS, _sound) if path is not None else ():
            score = float(row["loss"]), float(row["accuracy"])
            self._known.setdefault((row["run"], row["weights"]), {})[row["cell"]] = score

    def of(self, run: str, weights: str) -> dict[str, Score]:
        """Scores by cell with the weights of that fingerprint; those of other weights stay in the file."""
        return self._known.setdefault((run, weights), {})

    def add(self, run: str, weights: str, cell: str, score: Score, parameters: int) -> None:
        """Keep a score, on the disk when this returns. Raises InputError where it cannot be written."""
        self.of(run, weights)[cell] = score
        if self.path is not None:
            add_rows(self.path, COLUMNS, [(run, weights, cell, *map(repr, score), parameters)])


def _sound(row: Mapping[str, str]) -> bool:
    float(row["loss"])
    return not math.isnan(float(row["accuracy"]))
