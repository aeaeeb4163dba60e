"""Tables of accuracies read from files: JSON as `ablate.py truth` writes it, or CSV."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from nas.tables import csv_table, json_table
from nas.tables.files import read_text
from nas.tables.lookup import Truth, enumerable
from nas.tables.units import Values
from recipes import InputError, one_of
from recipes.errors import first_line
from recipes.text_files import parse_json
from search_spaces.space import EnumerableSpace

TABLES = Path(__file__).parent


def packaged(space: str, dataset: str) -> Truth:
    """The table of `space` on `dataset` that comes with this package.

    Raises:
        InputError: there is none.
    """
    names = sorted(path.name.partition(".")[0] for path in TABLES.glob("*.json*"))
    if f"{space}-{dataset}" not in names:
        raise InputError(
            f"no table of the space '{space}' on '{dataset}' comes with this package, expected one of: "
            f"{', '.join(names) or '(none)'}; give `table=FILE`, or build one with ablate.py truth"
        )
    (path,) = TABLES.glob(f"{space}-{dataset}.json*")
    return read(path, space)


def read(path: Path, space: str, column: str | None = None, values: Values = "auto") -> Truth:
    """Read the table of a space from a file: JSON or CSV, either of them also compressed by gzip.

    JSON is what `ablate.py truth` writes. CSV has a first line of names, the column `arch` with every
    cell of the space once, and columns of accuracies, in % or as fractions; `index`, `parameters` and `macs`
    are not read, and `std` holds the deviations over seeds where there is one column of accuracies. In JSON,
    a cell that is missing has the value of the first one that computes the same.

    Args:
        space: name of the space that the table must be of.
        column: the accuracies to take; by default those of a JSON table, or `cifar10` of a CSV.
        values: what the numbers of a CSV are: auto (accuracies, in % or as fractions, as the whole column
            shows), percent, fraction, error (in %) or error_fraction.

    Raises:
        InputError: the file cannot be read, is damaged or incomplete, or of something else.
    """
    default, columns = _columns(Path(path), enumerable(space), values)
    return columns[one_of(f"column of {path}", column or default, columns)]()


def read_all(path: Path, space: str) -> dict[str, Truth]:
    """All columns of accuracies in a table; see `read`. Raises InputError."""
    _, columns = _columns(Path(path), enumerable(space))
    return {name: column() for name, column in columns.items()}


def _columns(
    path: Path, space: EnumerableSpace, values: Values = "auto"
) -> tuple[str, dict[str, Callable[[], Truth]]]:
    """The column that is meant by default, and all columns, still to be read."""
    text = read_text(path)
    if values != "auto" and text.lstrip()[:1] in ("{", "["):
        raise InputError(
            f"`table_values={values}` is for CSV tables, {path} says itself what it holds: drop it"
        )
    if text.lstrip()[:1] not in ("{", "["):
        return "cifar10", csv_table.columns(path, space, text, values)
    try:
        table = parse_json(text)
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({first_line(error)}): {json_table.AGAIN}") from None
    truth = json_table.from_table(table, str(path))
    if truth.space != space.name:
        raise InputError(
            f"{path} is a table of the space '{truth.space}', expected '{space.name}': give another `table`"
        )
    return table["dataset"], {table["dataset"]: lambda: truth}
