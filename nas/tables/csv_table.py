"""Tables of accuracies as CSV: a first line of names, then a line for every cell of a space."""

from __future__ import annotations

import csv
import io
import itertools
import math
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from nas.tables.lookup import Truth, fixed, positions
from nas.tables.units import Values, as_percent
from recipes import InputError
from search_spaces.space import EnumerableSpace

_NUMBER = re.compile(r"[0-9.eE+-]+")
STD = "std"  # the column of deviations over seeds, where there is one column of accuracies
_OTHERS = ("index", "arch", STD, "parameters", "macs")  # columns that hold no accuracies


def columns(
    path: Path, space: EnumerableSpace, text: str, values: Values = "auto"
) -> dict[str, Callable[[], Truth]]:
    """The columns of accuracies in a CSV, still to be read; `values` as for `as_percent`. Raises
    InputError."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        names = [name.strip() for name in next(reader, [])]
        # One line more than there are cells is as wrong as a million.
        filled = ((reader.line_num, record) for record in reader if record)
        records = list(itertools.islice(filled, space.size + 1))
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: not valid CSV ({error}): correct it") from None
    named = [name for name in names if name not in _OTHERS]
    if "arch" not in names or not named or len(set(names)) < len(names):
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
    rows = _rows(path, space, [(line, record[names.index("arch")].strip()) for line, record in records])

    def column(name: str) -> np.ndarray:
        position = names.index(name)
        return np.array([_number(path, line, name, record[position]) for line, record in records])

    def truth(name: str) -> Truth:
        numbers = column(name)
        accuracies, said, factor = as_percent(numbers, str(path), name, values)
        deviations = None
        if STD in names and len(named) == 1:  # in the unit of the accuracies
            deviations = fixed(column(STD)[rows] * factor)
        source = f"{name} of {path.name}" + (f" ({said})" if said else "")
        return Truth(space.name, source, fixed(accuracies[rows]), deviations)

    return {name: partial(truth, name) for name in named}


def _rows(path: Path, space: EnumerableSpace, texts: Sequence[tuple[int, str]]) -> np.ndarray:
    """Row (n,) of every cell of the space, from the line and the text of every row. Raises InputError."""
    known = positions(space)
    rows: dict[str, int] = {}
    for row, (line, text) in enumerate(texts):
        if text not in known:
            raise InputError(
                f"{path}, line {line}: {text[:100]!r} is not a cell of the space '{space.name}', expected "
                f"the form {next(iter(known))!r}"
            )
        if text in rows:
            raise InputError(
                f"{path}, line {line}: the cell {text} is also in line {texts[rows[text]][0]}: keep one"
            )
        rows[text] = row
    if len(rows) < len(known):
        missing = next(text for text in known if text not in rows)
        raise InputError(
            f"{path} has {len(rows):,} of the {len(known):,} cells of the space '{space.name}', missing "
            f"is {missing}: expected a line for every cell"
        )
    return np.array([rows[text] for text in known])


def _number(path: Path, line: int, column: str, text: str) -> float:
    try:
        value = float(text) if _NUMBER.fullmatch(text.strip()) else math.nan
    except ValueError:
        value = math.nan
    if not 0 <= value <= 100:
        raise InputError(
            f"{path}, line {line}: {column} is {text[:40]!r}, expected an accuracy, a number from 0 to 100 "
            "(%) or to 1: correct the line"
        )
    return value
