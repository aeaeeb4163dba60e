"""The picture of a chain of blocks: a line for each stage, a box for each block.

Boxes are laid out in inches and all have the same width. A stage that is too long goes on in the next line.
"""

from __future__ import annotations

from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from nas.report.figures import WIDTH, new_figure, styled
from nas.report.palette import INK, QUIET, is_dark, operation_colour
from search_spaces import Genotype, operations

_SIZE = 8.5  # points
_HEIGHT, _GAP, _LINE = 0.36, 0.34, 0.62  # of a box, between boxes, from line to line
_END = 0.62  # for `input` and `output`
_MARGIN = 0.2


class ChainLine(NamedTuple):
    """A line of the picture: the name of the stage that begins in it, if one does, and its operations."""

    stage: str
    operations: tuple[str, ...]


def box_width(genotype: Genotype) -> float:
    """Inches of a box: the longest name of an operation fits, in a font of constant width."""
    longest = max(len(edge.operation) for cell in genotype.cells for edge in cell.edges)
    return (0.602 * longest + 1.6) * _SIZE / 72


def label_width(genotype: Genotype) -> float:
    """Inches for the names of the stages, where there are several."""
    several = len(genotype.cells) > 1
    return max(len(cell.name) for cell in genotype.cells) * 0.62 * _SIZE / 72 + 0.1 if several else 0.0


def lines_of(genotype: Genotype) -> list[ChainLine]:
    """The blocks, line by line."""
    room = WIDTH - 2 * _MARGIN - label_width(genotype) - 2 * _END
    most = max(1, int((room - _GAP) / (box_width(genotype) + _GAP)))
    lines = []
    for cell in genotype.cells:
        names = tuple(edge.operation for edge in cell.edges)
        for first in range(0, len(names), most):
            lines.append(ChainLine("" if first else cell.name, names[first : first + most]))
    return lines


@styled
def plot_chain(genotype: Genotype) -> Figure:
    """The architecture of a chain, every block with its operation."""
    lines, box, left = lines_of(genotype), box_width(genotype), label_width(genotype)
    start = _MARGIN + left + _END
    width = start + max(len(line.operations) for line in lines) * (box + _GAP) + _GAP + _END + _MARGIN
    figure = new_figure(width, 2 * _MARGIN + _HEIGHT + (len(lines) - 1) * _LINE)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, figure.get_figheight()))
    axes.set_axis_off()
    for number, line in enumerate(lines):
        y = figure.get_figheight() - _MARGIN - _HEIGHT / 2 - number * _LINE
        if left:
            axes.text(_MARGIN, y, line.stage, size=_SIZE + 0.5, weight="bold", va="center_baseline")
        x = start
        for name in line.operations:
            _plot_arrow(axes, x, y)
            _plot_block(axes, x + _GAP, y, box, name)
            x += _GAP + box
        if number == 0:
            axes.text(start - 0.06, y, "input", size=_SIZE, color=QUIET, ha="right", va="center_baseline")
        _plot_arrow(axes, x, y)
        if number == len(lines) - 1:
            end = x + _GAP + 0.06
            axes.text(end, y, "output", size=_SIZE, color=QUIET, ha="left", va="center_baseline")
    return figure


def _plot_arrow(axes: Axes, x: float, y: float) -> None:
    """An arrow across the gap that begins at x."""
    style = {"arrowstyle": "-|>,head_length=0.3,head_width=0.15", "color": QUIET, "linewidth": 1.1}
    axes.annotate(
        "", (x + _GAP, y), (x, y), arrowprops={**style, "shrinkA": 0, "shrinkB": 0}, annotation_clip=False
    )


def _plot_block(axes: Axes, x: float, y: float, width: float, name: str) -> None:
    """A box from x on; that of the identity, or of nothing, is empty."""
    colour = operation_colour(name)
    empty = name in operations.names() and operations.family(name) in ("skip", "none")
    box = FancyBboxPatch(
        (x, y - _HEIGHT / 2), width, _HEIGHT, boxstyle="round,pad=0,rounding_size=0.08", linewidth=1.1,
        edgecolor=colour, facecolor="white" if empty else colour, linestyle="dashed" if empty else "solid",
    )  # fmt: skip
    axes.add_patch(box)
    ink = QUIET if empty else "white" if is_dark(colour) else INK
    axes.text(
        x + width / 2, y, name, size=_SIZE, family="monospace", color=ink, ha="center", va="center_baseline"
    )
