"""Tables of accuracies: what is known about every cell of a space.

A table is JSON as `ablate.py truth` writes it, or CSV with a line for every cell. A CSV of the published
accuracies comes from the official API of NATS-Bench (or of NAS-Bench-201), which its owner has installed:

    import nats_bench; from nas import truth
    api = nats_bench.create(None, "tss", fast_mode=True, verbose=False)
    truth.write_csv("nats.csv.gz", truth.from_api(api))
"""

from __future__ import annotations

import csv
import gzip
import inspect
import io
import itertools
import json
import math
import os
import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from tqdm import tqdm

from nas.runs.files import atomic_path
from recipes import InputError, one_of
from recipes.errors import first_line
from recipes.text_files import LARGEST_FILE, parse_json
from search_spaces import Genotype
from search_spaces.nasbench201 import DenseCellSpace, micro, nasbench201

TABLE_FORMAT = 1
SPACES: dict[str, DenseCellSpace] = {space.name: space for space in (micro, nasbench201)}
TABLES = Path(__file__).parent
DATASETS = {"cifar10": "cifar10", "cifar100": "cifar100", "imagenet16-120": "ImageNet16-120"}
"""Columns of a table of published accuracies, and their names in the official APIs."""

_DIGITS = 1797  # images of the data set `digits`
_NUMBER = re.compile(r"[0-9.eE+-]+")
_AGAIN = "build it again with ablate.py truth, or take an undamaged copy"


class Known(NamedTuple):
    """What a table says about a cell.

    Attributes:
        accuracy: mean test accuracy in %.
        std: sample standard deviation over seeds in %, where the table has one.
        rank: 1 is the best; equal cells share the best of their ranks.
        cells: cells of the space.
    """

    accuracy: float
    std: float | None
    rank: int
    cells: int


@dataclass(frozen=True, eq=False)
class Truth:
    """The test accuracy of all n cells of a space, in the order of `space.all()`.

    Attributes:
        space: name of the space.
        source: where the numbers come from, in a few words.
        accuracies: (n,), mean test accuracy in %.
        stds: (n,), sample standard deviation over seeds in %, or None where there is no more than one.
        seeds: trainings of every cell, where known.
        images_per_training: training images that one training sees (steps times batch size), where known.
        recipe: options of the trainings, where known.
    """

    space: str
    source: str
    accuracies: np.ndarray
    stds: np.ndarray | None = None
    seeds: int | None = None
    images_per_training: int | None = None
    recipe: dict[str, Any] | None = None

    @cached_property
    def _index(self) -> dict[str, int]:
        return _positions(SPACES[self.space])

    @cached_property
    def _ascending(self) -> np.ndarray:
        return np.sort(self.accuracies)

    def lookup(self, genotype: Genotype) -> Known:
        """What is known about a cell. Raises GenotypeError if it is not of this space."""
        space = SPACES[self.space]
        index = self._index.get(space.format(genotype)) if genotype.space == self.space else None
        if index is None:
            index = self._index[space.format(space.validate(genotype))]  # says what is wrong
        return self._known(index)

    @property
    def optimum(self) -> tuple[str, Known]:
        """The best cell, the first of equals, and what is known about it."""
        index = int(self.accuracies.argmax())
        text = next(text for text, position in self._index.items() if position == index)
        return text, self._known(index)

    def _known(self, index: int) -> Known:
        accuracy, cells = float(self.accuracies[index]), len(self.accuracies)
        better = cells - int(self._ascending.searchsorted(accuracy, "right"))
        std = None if self.stds is None else float(self.stds[index])
        return Known(accuracy, std, better + 1, cells)

    def beats_random(self, accuracy: float, evaluations: int) -> float:
        """Probability that `accuracy` is above the best of `evaluations` cells drawn uniformly, and
        independently; a tie counts half.

        With m draws and the share F(a) of cells of at most accuracy a, the best is at most a with
        probability F(a)^m. Hence (F(a-)^m + F(a)^m) / 2, where F(a-) leaves cells of accuracy a out.

        Raises:
            ValueError: `evaluations` is below 1.
        """
        _require_draws(evaluations)
        cells = len(self.accuracies)
        below, up_to = (
            float(self._ascending.searchsorted(accuracy, side)) / cells for side in ("left", "right")
        )
        return (below**evaluations + up_to**evaluations) / 2

    def best_of(self, evaluations: int) -> float:
        """Expected accuracy (%) of the best of `evaluations` cells drawn uniformly, and independently.

        With m draws from n cells, the j-th lowest accuracy is the best with probability
        (j / n)^m - ((j - 1) / n)^m.

        Raises:
            ValueError: `evaluations` is below 1.
        """
        _require_draws(evaluations)
        cells = len(self.accuracies)
        at_most = (np.arange(cells + 1) / cells) ** evaluations
        return float(np.diff(at_most) @ self._ascending)


def _require_draws(evaluations: int) -> None:
    if evaluations < 1:
        raise ValueError(f"evaluations is {evaluations}, expected an integer of at least 1")


def _positions(space: DenseCellSpace) -> dict[str, int]:
    """Every cell of a space, with its position in `space.all()`."""
    return {space.format(cell): i for i, cell in enumerate(space.all())}


# Reading


def packaged(space: str, dataset: str) -> Truth:
    """The table of `space` on `dataset` that comes with this package.

    Raises:
        InputError: there is none.
    """
    names = sorted(path.name.partition(".")[0] for path in TABLES.glob("*.json*"))
    if f"{space}-{dataset}" not in names:
        raise InputError(
            f"no table of the space '{space}' on '{dataset}' comes with this package, expected one of: "
            f"{', '.join(names) or '(none)'}; give a table of your own, or build one with ablate.py truth"
        )
    (path,) = TABLES.glob(f"{space}-{dataset}.json*")
    return read(path, space)


def read(path: Path, space: str, column: str | None = None) -> Truth:
    """Read the table of a space from a file: JSON or CSV, either of them also compressed by gzip.

    JSON is what `ablate.py truth` writes. CSV has a first line of names, the column `arch` with every
    cell of the space once, and columns of accuracies in %; a column `index` is not needed. In JSON, a
    cell that is missing has the value of the first one that computes the same.

    Args:
        space: name of the space that the table must be of.
        column: the accuracies to take; by default those of a JSON table, or `cifar10` of a CSV.

    Raises:
        InputError: the file cannot be read, is damaged or incomplete, or of something else.
    """
    default, columns = _columns(Path(path), one_of("space of a table", space, SPACES))
    return columns[one_of(f"column of {path}", column or default, columns)]()


def read_all(path: Path, space: str) -> dict[str, Truth]:
    """All columns of accuracies in a table; see `read`. Raises InputError."""
    _, columns = _columns(Path(path), one_of("space of a table", space, SPACES))
    return {name: column() for name, column in columns.items()}


def _columns(path: Path, space: str) -> tuple[str, dict[str, Callable[[], Truth]]]:
    """The column that is meant by default, and all columns, still to be read."""
    text = _text(path)
    if text.lstrip()[:1] not in ("{", "["):
        return "cifar10", _csv_columns(path, SPACES[space], text)
    try:
        table = parse_json(text)
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({first_line(error)}): {_AGAIN}") from None
    truth = from_table(table, str(path))
    if truth.space != space:
        raise InputError(f"{path} is a table of the space '{truth.space}', expected '{space}'")
    return table["dataset"], {table["dataset"]: lambda: truth}


def _text(path: Path) -> str:
    """The text of a file, decompressed. Raises InputError."""
    if not os.path.isfile(path):
        raise InputError(f"the table {path} {'is not a file' if os.path.exists(path) else 'does not exist'}")
    try:
        with open(path, "rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else open(path, "rb") as file:
            data = file.read(LARGEST_FILE + 1)
        if len(data) > LARGEST_FILE:
            raise InputError(
                f"{path} holds more than {LARGEST_FILE:,} bytes: this is not a table of accuracies"
            )
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}, line {line}: not UTF-8 text, expected JSON or CSV: save the table as UTF-8"
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"cannot read the table {path} ({first_line(error)}): is it complete?") from None


# CSV


def _csv_columns(path: Path, space: DenseCellSpace, text: str) -> dict[str, Callable[[], Truth]]:
    """The columns of accuracies in a CSV, still to be read. Raises InputError."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        names = [name.strip() for name in next(reader, [])]
        # One line more than there are cells is as wrong as a million.
        filled = ((reader.line_num, record) for record in reader if record)
        records = list(itertools.islice(filled, space.size + 1))
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: not valid CSV ({error}): correct it") from None
    values = [name for name in names if name not in ("index", "arch")]
    if "arch" not in names or not values or len(set(names)) < len(names):
        found = ", ".join(names)[:120] or "nothing"
        raise InputError(
            f"{path}, line 1: the columns are {found}; expected index, arch and columns of accuracies such "
            "as cifar10, each once"
        )
    for line, record in records:
        if len(record) != len(names):
            raise InputError(
                f"{path}, line {line}: {len(record)} values for {len(names)} columns: correct the line"
            )
    rows = _csv_rows(path, space, [(line, record[names.index("arch")].strip()) for line, record in records])

    def truth(name: str, position: int) -> Truth:
        column = np.array([_percent(path, line, name, record[position]) for line, record in records])
        return Truth(space.name, f"{name} of {path.name}", _fixed(column[rows]))

    return {name: partial(truth, name, names.index(name)) for name in values}


def _csv_rows(path: Path, space: DenseCellSpace, texts: Sequence[tuple[int, str]]) -> np.ndarray:
    """Row (n,) of every cell of the space, from the line and the text of every row. Raises InputError."""
    positions = _positions(space)
    rows: dict[str, int] = {}
    for row, (line, text) in enumerate(texts):
        if text not in positions:
            raise InputError(
                f"{path}, line {line}: {text[:100]!r} is not a cell of the space '{space.name}', expected "
                f"the form {next(iter(positions))!r}"
            )
        if text in rows:
            raise InputError(
                f"{path}, line {line}: the cell {text} is also in line {texts[rows[text]][0]}: keep one"
            )
        rows[text] = row
    if len(rows) < len(positions):
        missing = next(text for text in positions if text not in rows)
        raise InputError(
            f"{path} has {len(rows):,} of the {len(positions):,} cells of the space '{space.name}', missing "
            f"is {missing}: expected a line for every cell"
        )
    return np.array([rows[text] for text in positions])


def _percent(path: Path, line: int, column: str, text: str) -> float:
    try:
        value = float(text) if _NUMBER.fullmatch(text.strip()) else math.nan
    except ValueError:
        value = math.nan
    if not 0 <= value <= 100:
        raise InputError(
            f"{path}, line {line}: {column} is {text[:40]!r}, expected an accuracy in %, a number from 0 to "
            "100: correct the line"
        )
    return value


# Tables of `ablate.py truth`


def from_table(table: Any, name: str) -> Truth:
    """The truth that a table of `ablate.py truth` states.

    Args:
        table: what `studies.truth.build.assemble` returns.
        name: what errors call the table.

    Raises:
        InputError: the table is incomplete, or something else.
    """

    def require(valid: bool, problem: str) -> None:
        if not valid:
            raise InputError(f"{name}: {problem}; {_AGAIN}")

    require(isinstance(table, dict) and "format" in table, "this JSON is not a table of accuracies")
    version = table["format"]
    require(
        type(version) is int and version == TABLE_FORMAT,
        f"the format of the table is {str(version)[:40]!r}, expected {TABLE_FORMAT}",
    )
    kinds = {"space": str, "dataset": str, "recipe": dict, "test_images": int}
    for key, kind in (kinds | dict.fromkeys(("seeds", "cells", "parameters", "correct"), list)).items():
        require(type(table.get(key)) is kind, f"'{key}' is missing or not of type {kind.__name__}")
    spaces = " or ".join(SPACES)
    require(table["space"] in SPACES, f"unknown space {table['space'][:60]!r}, expected {spaces}")
    require(table["dataset"] == "digits", f"the data set is {table['dataset'][:60]!r}, expected 'digits'")
    recipe, seeds, images, cells = (table[key] for key in ("recipe", "seeds", "test_images", "cells"))
    for key in ("epochs", "batch_size"):
        require(_is_count(recipe.get(key), 1, 10**9), f"'{key}' of the recipe is not a positive integer")
    require(0 < images < _DIGITS, f"'test_images' is {str(images)[:40]}, expected 1 to {_DIGITS - 1}")
    require(len(seeds) > 0, "'seeds' is empty")
    require(
        len(table["correct"]) == len(seeds),
        f"'correct' has {len(table['correct'])} lists for {len(seeds)} seeds",
    )
    for row, column in enumerate(table["correct"], start=1):
        require(
            type(column) is list and len(column) == len(cells),
            f"list {row} of 'correct' has not one entry for each of the {len(cells)} cells",
        )
        for cell, count in enumerate(column, start=1):
            require(
                _is_count(count, 0, images),
                f"entry {cell} of list {row} of 'correct' is {str(count)[:40]!r}, expected 0 to {images}",
            )
    require(
        len(table["parameters"]) == len(cells)
        and all(_is_count(count, 1, 10**12) for count in table["parameters"]),
        f"'parameters' is not a positive integer for each of the {len(cells)} cells",
    )
    space = SPACES[table["space"]]
    rows = _table_rows(space, cells, require)
    correct = np.array(table["correct"], float).reshape(len(seeds), -1)[:, rows]
    batches = (_DIGITS - images) // recipe["batch_size"]
    return Truth(
        space.name,
        f"{table['dataset']}, {len(seeds)} seed{'s'[: len(seeds) != 1]}",
        accuracies=_fixed(100 * correct.sum(0) / (images * len(seeds))),
        stds=_fixed(100 / images * correct.std(0, ddof=1)) if len(seeds) > 1 else None,
        seeds=len(seeds),
        images_per_training=recipe["epochs"] * batches * recipe["batch_size"],
        recipe=recipe,
    )


def _table_rows(
    space: DenseCellSpace, texts: Sequence[Any], require: Callable[[bool, str], None]
) -> np.ndarray:
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
    return _table_rows(SPACES[table["space"]], table["cells"], lambda valid, problem: None)


def _is_count(value: Any, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high


def _fixed(values: np.ndarray) -> np.ndarray:
    """The values, not to be changed any more."""
    values.setflags(write=False)
    return values


# Writing


def write_table(path: Path, table: dict[str, Any]) -> None:
    """Write `table` as JSON, compressed where the name ends in .gz; equal tables, equal files."""
    _write(path, json.dumps(table, separators=(",", ":")))


def _write(path: Path, text: str) -> None:
    data = text.encode()
    with atomic_path(path) as temporary:
        temporary.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


class BenchmarkAPI(Protocol):
    """What `from_api` needs of `nats_bench.NATStopology` or `nas_201_api.NASBench201API`."""

    def __len__(self) -> int: ...

    def arch(self, index: int, /) -> str: ...

    def get_more_info(
        self, index: int, dataset: str, *, hp: str, is_random: bool
    ) -> Mapping[str, float | None]: ...


class PublishedRow(NamedTuple):
    """A line of a table of published accuracies.

    Attributes:
        number: position of the cell in the benchmark.
        arch: the cell.
        accuracies: (3,), mean test accuracies in %, in the order of DATASETS.
    """

    number: int
    arch: str
    accuracies: tuple[float, ...]


def from_api(api: BenchmarkAPI) -> list[PublishedRow]:
    """The published test accuracies of all cells of nasbench201, means over the seeds, 200 epochs.

    Args:
        api: made by `nats_bench.create(FILE or None, "tss", fast_mode, verbose=False)` (nats_bench 1.8),
            or by `nas_201_api.NASBench201API(FILE, verbose=False)` (nas-bench-201 2.1). They load
            pickles: use files from their authors only.

    Raises:
        InputError: the object is something else, or its files are incomplete.

    Source: https://github.com/D-X-Y/NATS-Bench, `get_more_info` of nats_bench/api_topology.py.
    """
    query = getattr(api, "get_more_info", None)
    if query is None or not hasattr(api, "arch") or "hp" not in inspect.signature(query).parameters:
        raise InputError(
            f"{type(api).__name__} has no arch(index) and get_more_info(index, dataset, hp, is_random): "
            "expected the API of nats_bench 1.8 or nas-bench-201 2.1"
        )
    known = _positions(nasbench201)
    if len(api) != len(known) or api.arch(0) not in known:
        raise InputError(
            f"the API has {len(api):,} architectures, the first {str(api.arch(0))[:100]!r}; expected the "
            f'{len(known):,} cells of nasbench201: create it for the topology search space "tss"'
        )
    return [
        PublishedRow(i, api.arch(i), tuple(_published(api, i, name) for name in DATASETS.values()))
        for i in tqdm(range(len(api)), "reading", unit="cell", disable=None)
    ]


def _published(api: BenchmarkAPI, index: int, dataset: str) -> float:
    accuracy = api.get_more_info(index, dataset, hp="200", is_random=False).get("test-accuracy")
    if accuracy is None or not 0 <= accuracy <= 100:
        raise InputError(
            f"the API gives the test accuracy {accuracy} on {dataset} for architecture {index}, expected 0 "
            "to 100: get complete files of the benchmark"
        )
    return float(accuracy)


def write_csv(path: str | Path, rows: Iterable[PublishedRow]) -> None:
    """Write published accuracies as a table for `read`, compressed where the name ends in .gz."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["index", "arch", *DATASETS])
    writer.writerows([row.number, row.arch, *(f"{value:.4f}" for value in row.accuracies)] for row in rows)
    _write(Path(path), buffer.getvalue())
