"""Ground truth on digits: every cell of a space trained from scratch. `run(options)` is `ablate.py truth`.

The networks of a chunk of cells are trained as one stack, by the code and with the results of
train_final.py. Chunks are files; what exists is not computed again, so that a build can be interrupted
at any time.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from concurrent.futures import as_completed
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tqdm import tqdm

import search_spaces
from nas.runs.files import json_text, write_json
from nas.tables import read_all
from nas.tables.json_table import TABLE_FORMAT, write_table
from nas.tables.lookup import enumerable
from recipes import FinalOptions, InputError, one_of, presets
from search_spaces import Genotype
from search_spaces.space import EnumerableSpace
from studies.options import TruthOptions
from studies.pool import workers
from studies.truth import truth_report
from studies.truth.stack import StackedTraining

RECIPE = presets.TABLES
SEEDS = {"micro": 10, "nasbench201": 3}
CHUNK = 64  # cells trained at once


def run(options: TruthOptions) -> None:
    """Build the table of `options.space`, or what is missing of it, and its report. Raises InputError."""
    space = enumerable(one_of("search space", options.space, SEEDS))
    references = read_all(Path(options.reference), space.name) if options.reference else {}
    folder = Path(options.out or f"runs/truth-{space.name}")
    path = Path(options.table or folder / "truth.json.gz")
    texts = cells(space)
    _claim(folder, {"space": space.name, "recipe": RECIPE, "chunk": CHUNK, "cells": len(texts)})
    if path.is_dir() or not path.parent.is_dir():
        raise InputError(f"--table is {path}, expected a file in a folder that exists")
    chunks = [(seed, first) for seed in range(SEEDS[space.name]) for first in range(0, len(texts), CHUNK)]
    missing = [chunk for chunk in chunks if not _file(folder, *chunk).exists()]
    with workers(options.jobs, options.plugins) as pool:
        futures = [
            pool.submit(
                _train,
                space.name,
                texts[first : first + CHUNK],
                seed,
                options.threads or 1,
                _file(folder, seed, first),
            )
            for seed, first in missing
        ]
        done = tqdm(
            as_completed(futures), "training", len(chunks), initial=len(chunks) - len(missing), unit="chunk"
        )
        for future in done:
            future.result()
    table = assemble(folder, space, texts)
    try:
        write_table(path, table)
        truth_report.write(folder, table, references)
    except OSError as error:
        raise InputError(
            f"cannot write the table or its report: {error}; give another --out or --table"
        ) from None
    print(f"table: {path}\nreport: {folder / 'report.html'}")


def cells(space: EnumerableSpace) -> list[str]:
    """The cells to train: all of micro, and one of each kind that computes the same in nasbench201."""
    if space.name == "micro":
        return [space.format(cell) for cell in space.all()]
    distinct: dict[str, Genotype] = {}
    for cell in space.all():
        distinct.setdefault(space.canonical(cell), cell)
    return [space.format(cell) for cell in distinct.values()]


def _train(space_name: str, texts: Sequence[str], seed: int, threads: int, path: Path) -> None:
    """Train cells with one seed and write what came out."""
    space = search_spaces.get(space_name)
    options = FinalOptions(**RECIPE, genotype=texts[0], space=space_name, seed=seed)
    options.device, options.threads = "cpu", threads
    options.evaluate_every = options.epochs
    options.channels_last = False  # a stack has no channels to put last
    training = StackedTraining(options, [space.parse(text) for text in texts])
    for epoch in range(options.epochs):
        for _ in training.epoch(epoch, 0):
            pass
        if not math.isfinite(float(training.mean.loss)):
            raise InputError(f"a loss is not finite in epoch {epoch + 1} of the cells in {path}")
    count = len(training.test.images)
    correct = (training.test_each()[1] * count / 100).round().int().tolist()
    write_json(path, {"correct": correct, "parameters": training.model.sizes, "images": count})


def assemble(folder: Path, space: EnumerableSpace, texts: Sequence[str]) -> dict[str, Any]:
    """The table, from the files of all chunks. Raises InputError if one of them is damaged."""
    correct: list[list[int]] = []
    parameters: list[int] = []
    images = 0
    for seed in range(SEEDS[space.name]):
        column: list[int] = []
        for first in range(0, len(texts), CHUNK):
            chunk = _read(_file(folder, seed, first), len(texts[first : first + CHUNK]))
            column += chunk["correct"]
            images = chunk["images"]
            if seed == 0:
                parameters += chunk["parameters"]
        correct.append(column)
    return {
        "format": TABLE_FORMAT,
        "space": space.name,
        "dataset": "digits",
        "recipe": {k: v for k, v in asdict(FinalOptions(**RECIPE)).items() if k in RECIPE},
        "version": version("reinmax-nas"),
        "torch": version("torch"),
        "seeds": list(range(SEEDS[space.name])),
        "test_images": images,
        "cells": list(texts),
        "parameters": parameters,
        "correct": correct,
    }


def _read(path: Path, count: int) -> dict[str, Any]:
    """What `_train` wrote about `count` cells. Raises InputError if it is damaged."""
    try:
        chunk: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if len(chunk["correct"]) == len(chunk["parameters"]) == count and chunk["images"] > 0:
            return chunk
    except (OSError, ValueError, TypeError, LookupError):
        pass
    raise InputError(f"{path} is damaged: delete it, and the same command trains its {count} cells again")


def _file(folder: Path, seed: int, first: int) -> Path:
    return folder / "chunks" / f"seed{seed}-{first:05d}.json"


def _claim(folder: Path, settings: dict[str, Any]) -> None:
    """Make the folder this build's. Raises InputError if it holds chunks of another one."""
    path = folder / "settings.json"
    try:
        (folder / "chunks").mkdir(parents=True, exist_ok=True)
        if path.exists() and path.read_text(encoding="utf-8") != json_text(settings):
            raise InputError(f"{folder} holds a table of other settings: give another --out, or delete it")
        write_json(path, settings)
    except OSError as error:
        raise InputError(f"cannot write the folder {folder}: {error}; give another --out") from None
