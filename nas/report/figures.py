"""The look of every figure, and how figures become files.

A figure belongs to the caller; `to_svg` and `to_png` render it. The look does not depend on the
user's matplotlib configuration, and nothing opens a window.
"""

from __future__ import annotations

import io
import re

import numpy as np
from matplotlib import style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

# One hue per family (grey: no weights, orange: pooling, blue and green: convolutions), and within
# a family the larger kernel is the darker one.
OPERATION_COLOURS: dict[str, str] = {
    "none": "#c9ced6",
    "skip_connect": "#7b8494",
    "avg_pool_3x3": "#f5b25c",
    "max_pool_3x3": "#d9691b",
    "nor_conv_1x1": "#85c4ea",
    "nor_conv_3x3": "#1c6fb4",
    "sep_conv_3x3": "#6cc58d",
    "sep_conv_5x5": "#18804f",
    "dil_conv_3x3": "#86a5ec",
    "dil_conv_5x5": "#3a52bd",
    "noise": "#a05fb0",
}

INK, QUIET, FAINT = "#1f2933", "#66707d", "#e8ebef"
WIDTH = 9.0  # inches: 900 px at 100 dpi

styled = style.context(
    [
        "default",
        {
            "axes.axisbelow": True,
            "axes.edgecolor": QUIET,
            "axes.grid": True,
            "axes.labelcolor": QUIET,
            "axes.linewidth": 0.8,
            "axes.spines.right": False,
            "axes.spines.top": False,
            "axes.titlecolor": INK,
            "axes.titlelocation": "left",
            "axes.titlesize": 10,
            "axes.titleweight": "bold",
            "font.monospace": ["DejaVu Sans Mono", "Menlo", "Consolas", "monospace"],
            "font.sans-serif": ["DejaVu Sans", "Verdana", "Helvetica", "sans-serif"],
            "font.size": 9,
            "grid.color": FAINT,
            "lines.linewidth": 1.8,
            "lines.solid_capstyle": "round",
            "svg.fonttype": "none",
            "svg.hashsalt": "figure",
            "text.color": INK,
            "text.parse_math": False,
            "xtick.color": QUIET,
            "xtick.labelsize": 8,
            "ytick.color": QUIET,
            "ytick.labelsize": 8,
        },
    ]
)


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


def to_pixels(figure: Figure, dpi: int = 100) -> np.ndarray:
    """The figure as an image, uint8 (H, W, 3)."""
    return np.array(Image.open(io.BytesIO(to_png(figure, dpi))).convert("RGB"))


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, sizes in inches."""
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    return figure
