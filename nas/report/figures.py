"""The look of every figure, and how figures become files.

A figure belongs to the caller; `to_svg` and `to_png` render it. The look does not depend on the
user's matplotlib configuration, and nothing opens a window.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nas.report.palette import FAINT, INK, QUIET, readable

WIDTH = 9.0  # inches: 900 px at 100 dpi

_STYLE = {
    "axes.axisbelow": True, "axes.edgecolor": QUIET, "axes.grid": True, "axes.labelcolor": QUIET,
    "axes.linewidth": 0.8, "axes.spines.right": False, "axes.spines.top": False, "axes.titlecolor": INK,
    "axes.titlelocation": "left", "axes.titlesize": 10, "axes.titleweight": "bold",
    "font.monospace": ["DejaVu Sans Mono", "Menlo", "Consolas", "monospace"],
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Helvetica", "sans-serif"], "font.size": 9,
    "grid.color": FAINT, "lines.linewidth": 1.8, "lines.solid_capstyle": "round", "svg.fonttype": "none",
    "svg.hashsalt": "figure", "text.color": INK, "text.parse_math": False, "xtick.color": QUIET,
    "xtick.labelsize": 8, "ytick.color": QUIET, "ytick.labelsize": 8,
}  # fmt: skip
styled = style.context(["default", _STYLE])


# Rendering


@styled
def to_svg(figure: Figure) -> str:
    """The figure as an `<svg>` element, to be inlined in HTML or saved; equal figures, equal text."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", metadata=nothing)
    text = buffer.getvalue()
    # Without the prolog, the names of groups, which would repeat from figure to figure, and digits
    # beyond a hundredth of a point.
    text = re.sub(r'<g id="\w+">', "<g>", text[text.index("<svg") :])
    return re.sub(r' d="[^"]+"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), text)


@styled
def to_png(figure: Figure, dpi: int = 200) -> bytes:
    """The figure as a PNG file of `dpi` pixels per inch."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


@styled
def to_pixels(figure: Figure) -> np.ndarray:
    """The figure as an image, uint8 (H, W, 3)."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3]


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, sizes in inches."""
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def new_grid(
    rows: int,
    columns: int,
    panel: float,
    *,
    left: float,
    right: float,
    top: float,
    bottom: float,
    between: tuple[float, float] = (0.0, 0.0),
    width: float = WIDTH,
    sharex: bool = False,
    sharey: bool = False,
) -> tuple[Figure, np.ndarray]:
    """A figure and its axes (rows, columns). Sizes are in inches; the figure grows with the rows.

    Args:
        panel: height of a panel.
        left, right, top, bottom: margins.
        between: columns, and rows.
        sharex, sharey: whether all panels have one scale.
    """
    height = top + rows * panel + (rows - 1) * between[1] + bottom
    figure = new_figure(width, height)
    side = (width - left - right - (columns - 1) * between[0]) / columns
    place = {
        "left": left / width, "right": 1 - right / width, "top": 1 - top / height, "bottom": bottom / height,
        "wspace": between[0] / side, "hspace": between[1] / panel,
    }  # fmt: skip
    axes: np.ndarray = figure.subplots(
        rows, columns, squeeze=False, gridspec_kw=place, sharex=sharex, sharey=sharey
    )
    return figure, axes


def bare(axes: Axes) -> None:
    """Leave only what is in the axes, and the labels beside it."""
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def heat_map(
    axes: Axes,
    table: np.ndarray,
    rows: Mapping[str, str],
    columns: Mapping[str, str],
    colours: Callable[[float], Any],
    *,
    text: str = ".2f",
    bold: np.ndarray | None = None,
    size: float = 9.0,
) -> None:
    """A table (R, C) of numbers in coloured fields; fields without a number (NaN) stay white.

    Args:
        rows, columns: names, and the colours they are written in.
        colours: from a number to the colour of its field.
        text: how numbers are written.
        bold: which (R, C) are bold.
    """
    fields = np.array([[colours(value) for value in row] for row in table])
    fields[np.isnan(table)] = 1.0
    axes.imshow(fields, aspect="auto")
    for (row, column), value in np.ndenumerate(table):
        if not np.isnan(value):
            dark = fields[row, column, :3] @ (0.3, 0.59, 0.11) < 0.55
            weight = "bold" if bold is not None and bold[row, column] else "normal"
            axes.text(
                column, row, format(value, text), size=8, weight=weight, color="white" if dark else INK,
                ha="center", va="center_baseline",
            )  # fmt: skip
    axes.set_xticks(range(len(columns)), list(columns), rotation=35, ha="left", rotation_mode="anchor")
    axes.set_yticks(range(len(rows)), list(rows))
    axes.xaxis.tick_top()
    for ticks, names in ((axes.get_xticklabels(), columns), (axes.get_yticklabels(), rows)):
        for tick, colour in zip(ticks, names.values(), strict=True):
            tick.set(color=readable(colour), size=size)
    bare(axes)
