"""Zero-cost scores of all cells of a space, in networks of the size of a search and on its data.

Cells that compute the same are scored once. The scores are added to a file every second or so, and a second
call goes on from there.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ablation.cell_file import add_rows, held, read_rows
from nas import data, device
from nas.data import Batches, DataSet
from nas.genotypes import cells_of, planned_size_of
from nas.given import build_task, load_data
from nas.runs.interruption import Interruption
from nas.seeding import generator, seed_everything
from nas.tables.lookup import distinct, enumerable
from nas.zero_cost import SCORES, ZeroCost
from recipes import InputError, InterruptionError, SearchOptions
from search_spaces.space import EnumerableSpace

FILE = "zero-cost.csv"
COLUMNS = ("score", "setup", "cell", "value", "seconds")
MANY = 1_000  # cells with which not every score is taken unless asked for
CHEAPEST = ("synflow",)
_KEEP_EVERY = 1.0  # seconds
_SEED = 0  # of images and weights, whatever the seeds of the searches


@dataclass(frozen=True, eq=False)
class CellScores:
    """Scores of the m cells that compute something different, in the order of `nas.tables.lookup.distinct`.

    Attributes:
        values: (m,) by score; the higher the better, -inf where there is none.
        seconds: it took to score them all, by score.
        images: that all cells together were shown, by score.
    """

    values: dict[str, np.ndarray] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    images: dict[str, int] = field(default_factory=dict)


NO_SCORES = CellScores()


def chosen(names: Sequence[str] | None, space: EnumerableSpace) -> dict[str, ZeroCost]:
    """The scores of these names, which may have settings; None: what is quick enough. Raises InputError."""
    if names is None:
        names = SCORES.names() if len(distinct(space)) <= MANY else CHEAPEST
    if len(set(names)) < len(names):
        raise InputError(f"`zero_cost` names a score twice: {' '.join(names)}; drop one")
    try:
        found: dict[str, ZeroCost] = {name: SCORES.build(name) for name in names}
    except InputError as error:
        raise InputError(f"`zero_cost`: {error}") from None
    for name, score in found.items():
        if type(score.images) is not int or score.images < 1:
            raise InputError(
                f"`zero_cost`: '{name}' looks at {score.images!r} images, expected an integer of at least 1"
            )
    return found


def score_cells(
    scores: dict[str, ZeroCost], options: SearchOptions, folder: Path, progress: bool | None = None
) -> CellScores:
    """Score the cells of a space that have no score in the folder's file yet, and return all.

    Every network has the size that `options` give a supernet, and starts from the same seed. The images are
    drawn from the training images of the data set, and are the same for all cells.

    Args:
        options: of a search: space, data set, size, device.
        progress: whether to show a bar; None: on a terminal.

    Raises:
        InputError: the file is something else or of another size or data, or cannot be written.
        InterruptionError: a signal came; what has been scored is kept.
    """
    if not scores:
        return NO_SCORES
    with (
        Interruption() as interruption,
        held(folder, "zero-cost.lock"),
        device.prepared(_place(options), options.threads, options.deterministic) as place,
    ):
        return _score(scores, options, folder / FILE, place, interruption, progress)


def _place(options: SearchOptions) -> str:
    """The device of the searches, where this machine has it: they may have been done elsewhere."""
    try:
        device.select(options.device)
    except InputError:
        return "cpu"
    return options.device


def _score(
    scores: dict[str, ZeroCost],
    options: SearchOptions,
    path: Path,
    place: torch.device,
    interruption: Interruption,
    progress: bool | None,
) -> CellScores:
    space = enumerable(options.space)
    cells = {space.format(cell): cell for cell in distinct(space)}
    dataset = load_data(options, {})
    task = build_task(options, dataset, {})
    size: dict[str, Any] = {
        "channels": options.channels,
        "cells": cells_of(space, options.cells),
        "num_classes": task.outputs,
        "in_channels": dataset.in_channels,
    }
    planned = planned_size_of(space, options.planned_size, dataset)
    batches = {name: _images(dataset, score.images, options, place) for name, score in scores.items()}
    setups = {name: _setup(size, *batch) for name, batch in batches.items()}
    known = _known(path, setups)
    file = _File(path)
    total, there = len(cells) * len(scores), sum(map(len, known.values()))
    with file.kept(), tqdm(
        total=total, initial=there, desc="scoring untrained cells", unit="cell",
        disable=None if progress is None else not progress,
    ) as bar:  # fmt: skip
        for name, score in scores.items():
            for text, cell in cells.items():
                if text in known[name]:
                    continue
                if interruption.asked:
                    raise InterruptionError("the scores so far are kept, the same command goes on")
                start = time.perf_counter()
                seed_everything(_SEED, "zero-cost")
                network = space.network(cell, **size, planned_size=planned)
                network = device.place(network, place, options.channels_last)
                value = float(score.score(network, *batches[name], task))
                known[name][text] = value, time.perf_counter() - start
                file.add((name, setups[name], text, repr(value), f"{known[name][text][1]:.6f}"))
                bar.update()
    found = {name: np.array([known[name][text] for text in cells]) for name in scores}
    return CellScores(
        {name: np.where(np.isfinite(rows[:, 0]), rows[:, 0], -np.inf) for name, rows in found.items()},
        {name: float(rows[:, 1].sum()) for name, rows in found.items()},
        {name: len(batch[1]) * len(cells) for name, batch in batches.items()},
    )


def _images(
    dataset: DataSet, count: int, options: SearchOptions, place: torch.device
) -> tuple[Tensor, Tensor]:
    """`count` training images (B, C, H, W), normalised but not augmented, and labels (B,); all where there
    are fewer."""
    order = torch.randperm(len(dataset.train), generator=generator(_SEED, "zero-cost images"))
    delivery = data.delivery(dataset, device=place, channels_last=options.channels_last)
    return next(iter(Batches(dataset.train[order[:count]], count, delivery, seed=_SEED)))


def _setup(size: dict[str, Any], images: Tensor, labels: Tensor) -> str:
    """A few hexadecimal digits that stand for the size of the networks and the images."""
    digest = hashlib.sha256(repr(sorted(size.items())).encode())
    for tensor in (images, labels):
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _known(path: Path, setups: dict[str, str]) -> dict[str, dict[str, tuple[float, float]]]:
    """Values and seconds of the cells in a file, by score. Raises InputError where they are of another
    setup."""
    known: dict[str, dict[str, tuple[float, float]]] = {name: {} for name in setups}
    for number, row in read_rows(path, COLUMNS, _sound):
        name = row["score"]
        if name not in setups:
            continue
        if row["setup"] != setups[name]:
            raise InputError(
                f"{path}, line {number}: the scores by {name} are of networks of another size or of other "
                "images: give another `out`, or delete the file"
            )
        known[name][row["cell"]] = float(row["value"]), float(row["seconds"])
    return known


def _sound(row: Mapping[str, str]) -> bool:
    float(row["value"])
    return float(row["seconds"]) >= 0


class _File:
    """The file, to which rows are added together every now and then."""

    def __init__(self, path: Path) -> None:
        self.path, self.rows, self.last = path, list[tuple[str, ...]](), time.monotonic()

    def add(self, row: tuple[str, ...]) -> None:
        """Keep a row, on the disk within a second or so of more rows."""
        self.rows.append(row)
        if time.monotonic() - self.last > _KEEP_EVERY:
            self._flush()

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Whatever ends the block, all rows are on the disk then."""
        try:
            yield
        finally:
            self._flush()

    def _flush(self) -> None:
        if self.rows:
            add_rows(self.path, COLUMNS, self.rows)
        self.rows, self.last = [], time.monotonic()
