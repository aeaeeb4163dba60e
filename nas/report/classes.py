"""What a report says of the classes: their accuracies, and which are taken for which."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from nas.data.names import natural
from nas.report.figures import heat_map, new_grid, styled
from nas.report.page import Picture, Table, Tile
from nas.report.palette import INK

MOST_IN_FIGURE = 20  # classes
MOST_ROWS = 30  # of the pairs that are confused
_PARTS = {"train": "training images", "valid": "validation images", "test": "test images"}


def tiles(result: Mapping[str, Any]) -> list[Tile]:
    """The balanced accuracy, where it was measured and says something else than the accuracy."""
    balanced = result.get("balanced_accuracy")
    accuracy = result.get("test_accuracy", result.get("derived_accuracy"))
    if balanced is None or f"{balanced:.2f}" == f"{accuracy:.2f}":
        return []
    return [Tile("Balanced accuracy", f"{balanced:.2f}", "%", "mean over the classes")]


def pictures(result: Mapping[str, Any]) -> list[Picture]:
    """The confusion matrix, where there are not too many classes for one."""
    found = result.get("confusion")
    if not found or "counts" not in found or len(found["counts"]) > MOST_IN_FIGURE:
        return []
    names = [row["class"] for row in result["classes"]]
    order = sorted(range(len(names)), key=lambda c: natural(names[c]))
    counts = np.array(found["counts"])[np.ix_(order, order)]
    caption = (
        f"Rows: the class of an image; columns: what it is taken for. Numbers are {_PARTS[found['part']]}, "
        "colours their share of the row."
    )
    return [Picture("Confusion", plot_confusion([names[c] for c in order], counts), caption, wide=False)]


@styled
def plot_confusion(names: list[str], counts: np.ndarray) -> Figure:
    """Counts (C, C) as a table with coloured fields."""
    shown = [name if len(name) <= 22 else f"{name[:20]}…" for name in names]
    shown = [name if shown.count(name) == 1 else f"{name} ({i})" for i, name in enumerate(shown, 1)]
    longest = max(map(len, shown))
    left, top, field = 0.25 + 0.085 * longest, 0.35 + 0.055 * longest, 0.4
    width = left + max(field * len(names), 1.2) + 0.5 + 0.06 * longest
    figure, grid = new_grid(
        1, 1, field * len(names), left=left, right=0.5 + 0.06 * longest, top=top, bottom=0.1, width=width
    )
    blues = matplotlib.colormaps["Blues"]
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    labels = dict.fromkeys(shown, INK)
    heat_map(grid[0, 0], shares, labels, labels, lambda share: blues(share / 1.1), text=".0%")
    for text, count in zip(list(grid[0, 0].texts), counts.ravel(), strict=True):
        text.set_text(str(count) if count else "")
    return figure


def tables(result: Mapping[str, Any]) -> list[Table]:
    """Images and accuracy of every class, and the pairs that are confused most."""
    rows = result.get("classes", [])
    if not rows:
        return []
    parts = [part for part in _PARTS if part in rows[0]]
    measured = result["confusion"]["part"]
    ordered = sorted(rows, key=lambda row: natural(row["class"]))
    cells = [
        [row["class"], *(f"{row[part]:,}" for part in parts), _percent(row["accuracy"])] for row in ordered
    ]
    columns = ["class", *(_PARTS[part] for part in parts), f"accuracy on the {_PARTS[measured]}"]
    found = [
        Table(
            "Classes", columns, cells, f"Balanced accuracy, their mean: {result['balanced_accuracy']:.2f} %."
        )
    ]
    pairs = result["confusion"]["most"]
    if pairs and len(rows) > MOST_IN_FIGURE:
        listed = [[p["class"], p["taken_for"], str(p["images"])] for p in pairs[:MOST_ROWS]]
        found.append(Table("Confused most", ["class", "taken for", _PARTS[measured]], listed))
    return found


def _percent(value: float | None) -> str:
    return "none to measure it" if value is None else f"{value:.2f} %"
