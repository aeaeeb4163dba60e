"""The format of `ablate.py truth`: how many test images every cell gets right, seed by seed, as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nas.tables.files import write_text
from nas.tables.lookup import Truth, enumerable, enumerable_names, fixed
from recipes import InputError
from search_spaces.space import EnumerableSpace

TABLE_FORMAT = 1
AGAIN = "build it again with ablate.py truth, or take an undamaged copy"
Require = Callable[[bool, str], None]  # what must hold, and what is wrong where it does not
_DIGITS = 1797  # images of the data set `digits`; a table of another one says how many it trained on


def from_table(table: Any, name: str) -> Truth:
    """The truth that a table of `ablate.py truth` states.

    Args:
        table: what `studies.truth.build.assemble` returns; one of another data set than digits also has the
            number of `train_images`.
        name: what errors call the table.

    Raises:
        InputError: the table is incomplete, or something else.
    """

    def require(valid: bool, problem: str) -> None:
        if not valid:
            raise InputError(f"{name}: {problem}; {AGAIN}")

    _check(table, require)
    space, recipe = enumerable(table["space"]), table["recipe"]
    seeds, images = len(table["seeds"]), table["test_images"]
    correct = np.array(table["correct"], float).reshape(seeds, -1)[:, _rows(space, table["cells"], require)]
    batches = _train_images(table) // recipe["batch_size"]
    return Truth(
        space.name,
        f"{table['dataset']}, {seeds} seed{'s'[: seeds != 1]}",
        accuracies=fixed(100 * correct.sum(0) / (images * seeds)),
        stds=fixed(100 / images * correct.std(0, ddof=1)) if seeds > 1 else None,
        seeds=seeds,
        images_per_training=recipe["epochs"] * batches * recipe["batch_size"],
        recipe=recipe,
    )


def _check(table: Any, require: Require) -> None:
    """Require all of a table but that its cells are those of its space."""
    require(isinstance(table, dict) and "format" in table, "this JSON is not a table of accuracies")
    version = table["format"]
    require(
        type(version) is int and version == TABLE_FORMAT,
        f"the format of the table is {str(version)[:40]!r}, expected {TABLE_FORMAT}",
    )
    kinds = {"space": str, "dataset": str, "recipe": dict, "test_images": int}
    for key, kind in (kinds | dict.fromkeys(("seeds", "cells", "parameters", "correct"), list)).items():
        require(type(table.get(key)) is kind, f"'{key}' is missing or not of type {kind.__name__}")
    known, space = enumerable_names(), table["space"]
    require(space in known, f"unknown space {space[:60]!r}, expected {' or '.join(known)}")
    for key in ("epochs", "batch_size"):
        valid = _is_count(table["recipe"].get(key), 1, 10**9)
        require(valid, f"'{key}' of the recipe is not a positive integer")
    images, seeds, cells = table["test_images"], len(table["seeds"]), len(table["cells"])
    require(0 < images < 10**9, f"'test_images' is {str(images)[:40]}, expected a positive integer")
    require(_is_count(_train_images(table), 1, 10**9), "'train_images' is not a positive integer")
    require(seeds > 0, "'seeds' is empty")
    require(len(table["correct"]) == seeds, f"'correct' has {len(table['correct'])} lists for {seeds} seeds")
    for row, column in enumerate(table["correct"], start=1):
        require(
            type(column) is list and len(column) == cells,
            f"list {row} of 'correct' has not one entry for each of the {cells} cells",
        )
        for cell, count in enumerate(column, start=1):
            if not _is_count(count, 0, images):
                text = str(count)[:40]
                require(False, f"entry {cell} of list {row} of 'correct' is {text!r}, expected 0 to {images}")
    sizes = table["parameters"]
    require(
        len(sizes) == cells and all(_is_count(count, 1, 10**12) for count in sizes),
        f"'parameters' is not a positive integer for each of the {cells} cells",
    )


def _train_images(table: Mapping[str, Any]) -> Any:
    """What the table says, or, of digits, what its test images leave."""
    return table.get("train_images", _DIGITS - table["test_images"] if table["dataset"] == "digits" else None)


def _rows(space: EnumerableSpace, texts: Sequence[Any], require: Require) -> np.ndarray:
    """Row (n,) that says something about each cell of the space: its own, or that of the first cell in
    the table that computes the same."""
    canonical = {space.format(cell): space.canonical(cell) for cell in space.all()}
    own: dict[str, int] = {}
    alike: dict[str, int] = {}
    for row, text in enumerate(texts):
        known = isinstance(text, str) and text in canonical
        require(known, f"entry {row + 1} of 'cells' is {str(text)[:100]!r}, not a cell of '{space.name}'")
        require(text not in own, f"entry {row + 1} of 'cells', {text}, is there twice")
        own[text] = row
        alike.setdefault(canonical[text], row)
    for text, form in canonical.items():
        require(form in alike, f"'cells' has neither {text} nor a cell that computes the same")
    return np.array([own.get(text, alike[form]) for text, form in canonical.items()])


def rows(table: Mapping[str, Any]) -> np.ndarray:
    """Position (n,) in `table["cells"]` of the cell that stands for each cell of the space.

    Args:
        table: one that `from_table` accepts.
    """
    return _rows(enumerable(table["space"]), table["cells"], lambda valid, problem: None)


def _is_count(value: Any, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high


def write_table(path: Path, table: dict[str, Any]) -> None:
    """Write `table` as JSON, compressed where the name ends in .gz; equal tables, equal files."""
    write_text(path, json.dumps(table, separators=(",", ":")))
