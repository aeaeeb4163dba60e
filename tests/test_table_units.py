"""Columns of accuracies in %, as fractions, and of errors."""

import numpy as np
import pytest

import search_spaces
from nas import tables
from nas.tables.units import as_percent
from recipes import InputError

MICRO = [search_spaces.get("micro").format(cell) for cell in search_spaces.get("micro").all()]
PERCENT = np.linspace(10, 94.37, len(MICRO)).round(2)


def written(path, **columns):
    lines = [",".join(["arch", *columns])]
    lines += [",".join([text, *(f"{c[i]:.6g}" for c in columns.values())]) for i, text in enumerate(MICRO)]
    path.write_text("\n".join(lines))
    return path


def test_the_whole_column_decides_what_a_number_is(tmp_path):
    path = written(
        tmp_path / "t.csv", cifar10=PERCENT, share=PERCENT / 100, top1_error=100 - PERCENT,
        err=1 - PERCENT / 100, valid_loss=PERCENT / 50,
    )  # fmt: skip
    plain = tables.read(path, "micro")
    assert plain.accuracies == pytest.approx(PERCENT)
    assert plain.source == "cifar10 of t.csv"
    shares = tables.read(path, "micro", "share")
    assert shares.accuracies == pytest.approx(PERCENT, abs=1e-3)
    assert shares.source == "share of t.csv (fractions, times 100)"
    assert shares.optimum[1].accuracy == pytest.approx(94.37, abs=1e-3)
    for column, values in (("top1_error", "error"), ("err", "error_fraction")):
        with pytest.raises(
            InputError, match=r"errors by its name, .* less is better: give `table_values=error`"
        ):
            tables.read(path, "micro", column)
        assert tables.read(path, "micro", column, values).accuracies == pytest.approx(PERCENT, abs=1e-3)
    with pytest.raises(InputError, match="holds no accuracies by its name: choose another `column`"):
        tables.read(path, "micro", "valid_loss")


def test_deviations_have_the_unit_of_what_they_belong_to(tmp_path):
    """Errors below 1 % are no fractions where they are said to be in %."""
    spread = np.full(len(MICRO), 0.05)
    small = tables.read(written(tmp_path / "t.csv", err=PERCENT / 100, std=spread), "micro", "err", "error")
    assert small.stds == pytest.approx(spread)
    share = tables.read(written(tmp_path / "t.csv", share=PERCENT / 100, std=spread), "micro", "share")
    assert share.stds == pytest.approx(100 * spread)


def test_mixed_units_are_refused():
    mixed = PERCENT.copy()
    mixed[::3] /= 100
    with pytest.raises(
        InputError, match=r"t: the column c mixes units, \d+ fractions such as .*`table_values"
    ):
        as_percent(mixed, "t", "c")
    assert as_percent(mixed, "t", "c", "percent")[0] is mixed
    one = PERCENT.copy()
    one[5] = 0.94
    with pytest.raises(InputError, match="mixes units, 1 fractions"):
        as_percent(one, "t", "c")


def test_a_percentage_below_1_is_one():
    """Cells that guess among a hundred or more classes, as in the published tables."""
    for chance, best in ((1.0, 73.5), (0.83, 47.3)):
        numbers = np.array([chance, chance, 20.0, best])
        assert as_percent(numbers, "t", "c")[0] is numbers


def test_what_is_stated_must_hold():
    with pytest.raises(
        InputError, match=r"reaches 94.37, `table_values=fraction` is for 0 to 1: give `table"
    ):
        as_percent(PERCENT, "t", "c", "fraction")
    assert as_percent(np.array([0.2, 0.9]), "t", "c", "percent")[0].tolist() == [0.2, 0.9]
    assert as_percent(np.array([0.2, 0.9]), "t", "loss", "percent")[0].tolist() == [0.2, 0.9]


def test_published_columns_are_percent(shared_data):
    path = shared_data / "nats_tss_test_accuracy.csv.gz"
    for name, table in tables.read_all(path, "nasbench201").items():
        assert table.source == f"{name} of {path.name}"
