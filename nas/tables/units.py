"""What the numbers of a column are: accuracies in % or as fractions, or errors."""

from __future__ import annotations

import re
from typing import Literal

import numpy as np

from recipes import InputError

Values = Literal["auto", "percent", "fraction", "error", "error_fraction"]
_ERRORS = {"error", "errors", "err"}
_OTHERS = {
    "loss", "losses", "nll", "perplexity", "ppl", "latency", "time", "seconds", "flops", "macs", "params",
    "parameters", "rank",
}  # fmt: skip


def as_percent(
    numbers: np.ndarray, where: str, name: str, values: Values = "auto"
) -> tuple[np.ndarray, str, float]:
    """Accuracies in % (n,) from the numbers (n,) of a whole column; in a few words what was made of them; and
    by how much a difference of them was multiplied.

    Args:
        numbers: from 0 to 100.
        where: the file, for errors.
        name: of the column.
        values: what they are; auto: accuracies, in % or as fractions, whichever all of them can be.

    Raises:
        InputError: the name says that more is not better, the units are mixed, or they are not as stated.
    """
    words = set(re.findall(r"[a-z]+", name.casefold()))
    if values == "auto" and words & _OTHERS:
        raise InputError(
            f"{where}: the column {name} holds no accuracies by its name: choose another `column`, or give "
            "`table_values=percent` if it does"
        )
    if values == "auto" and words & _ERRORS:
        raise InputError(
            f"{where}: the column {name} holds errors by its name, of which less is better: give "
            "`table_values=error` (in %) or `table_values=error_fraction`, or choose another `column`"
        )
    largest = float(numbers.max())
    if values == "auto":
        _require_one_unit(numbers, where, name)
        values = "fraction" if 0 < largest <= 1 else "percent"
    factor = 1.0
    if values.endswith("fraction"):
        if largest > 1:
            raise InputError(
                f"{where}: the column {name} reaches {largest:g}, `table_values={values}` is for 0 to 1: "
                f"give `table_values={'percent' if values == 'fraction' else 'error'}`"
            )
        factor, numbers = 100.0, 100 * numbers
    said = {
        "percent": "",
        "fraction": "fractions, times 100",
        "error": "errors in %, taken from 100",
        "error_fraction": "errors as fractions, taken from 1, times 100",
    }[values]
    return (100 - numbers if values.startswith("error") else numbers), said, factor


def _require_one_unit(numbers: np.ndarray, where: str, name: str) -> None:
    """Raise InputError where some numbers are fractions and the others percentages.

    A percentage may be below 1: that of a cell which guesses among a hundred classes. As a fraction it would
    then be better than all others.
    """
    low, high = numbers[(numbers > 0) & (numbers <= 1)], numbers[numbers > 1]
    if not len(low) or not len(high):
        return
    apart = high.min() >= 4 * low.max()
    if apart and 100 * float(np.median(low)) <= high.max():
        raise InputError(
            f"{where}: the column {name} mixes units, {len(low)} fractions such as {low[0]:g} and "
            f"{len(high)} percentages such as {high[0]:g}: write all of them in %, or give "
            "`table_values=percent` if they are"
        )
