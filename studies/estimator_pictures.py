"""The pictures of docs/estimators.md: `python -m studies.estimator_pictures`.

One for each estimator, all on the same two problems of two choices among three candidates. The gradient of
the first choice has three entries that sum to 0, so it is a point in a plane, and so is every estimate.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

import estimators
from ablation import gradient
from ablation.gradient_plots import label
from ablation.objectives import OBJECTIVES, Problems, draw_problems
from estimators import Estimator
from estimators.compare import Errors
from nas.report.figures import new_grid, styled, to_png
from nas.report.palette import FAINT, INK, QUIET, estimator_colour
from nas.runs.files import atomic_path
from nas.seeding import generator
from recipes import command_line
from recipes.options import option

SHOWN = ("quadratic", "network")
CHOICES, CANDIDATES = 2, 3
PAST = 24  # draws that an estimator that learns has seen
DOTS, MEASURED = 300, 4000  # estimates that are drawn, and that the figures come from
REACH = 2.8  # of a panel, in norms of the exact gradient
_SAME = 0.02  # estimates that are so near to each other are one larger dot

# Two directions at right angles in which the entries sum to 0.
_PLANE = torch.tensor([[1.0, -1.0, 0.0], [1.0, 1.0, -2.0]], dtype=torch.float64)
_PLANE = _PLANE / _PLANE.norm(dim=1, keepdim=True)


@dataclass(kw_only=True)
class PictureOptions:
    """Draw every estimator: its estimates around the exact gradient."""

    out: str = "docs/images/estimators"
    """Folder of the pictures, NAME.png each."""
    estimators: tuple[str, ...] = ()
    """Estimators, with settings if wanted, at temperature 1 (default: all)."""
    seed: int = option(3, at_least=0, at_most=2**63 - 1)
    """Seed of the problems and of the draws."""


class Cloud(NamedTuple):
    """Estimates of one problem, in norms of the exact gradient.

    Attributes:
        dots: (N, 2), of the first choice.
        mean, exact: (2,).
        bias, std: of both choices together.
    """

    dots: Tensor
    mean: Tensor
    exact: Tensor
    bias: float
    std: float


def clouds(estimator: Estimator, problems: Mapping[str, Problems], seed: int) -> dict[str, Cloud]:
    """The estimates of every objective, after a past of PAST draws where the estimator learns."""
    rng = generator(seed, f"picture of {estimator.name}")
    taught = gradient.teach(estimator, problems, rng, PAST) if estimator.learns else {}
    every = gradient.estimates(estimator, problems, MEASURED, rng, taught=taught)
    found = {}
    for name, estimates in every.items():
        exact = problems[name].gradient
        errors = Errors(exact)
        errors.add(estimates)
        metrics = errors.measured().metrics()
        unit = exact[0, 0].norm()
        flat = estimates[:, 0, 0] @ _PLANE.T / unit
        found[name] = Cloud(
            flat[:DOTS],
            flat.mean(0),
            _PLANE @ exact[0, 0] / unit,
            float(metrics["bias"]),
            float(metrics["std"]),
        )
    return found


@styled
def plot(name: str, found: Mapping[str, Cloud]) -> Figure:
    """A panel for each problem: estimates, their mean, the exact gradient, and 0."""
    figure, (row,) = new_grid(
        1, len(found), 2.0, left=0.08, right=0.08, top=0.3, bottom=0.24, between=(0.16, 0), width=4.4
    )
    for axes, (objective, cloud) in zip(row, found.items(), strict=True):
        _panel(axes, cloud, estimator_colour(name))
        kind = OBJECTIVES[objective].title.split(":")[0].replace(" of 3 choices", "")
        axes.set_title(f"{label(name)}, {kind}", size=8.5)
        axes.set_xlabel(f"bias {cloud.bias:.2f}, spread {cloud.std:.2f}", size=8, labelpad=3)
    return figure


def _panel(axes: Axes, cloud: Cloud, colour: str) -> None:
    axes.set(xlim=(-REACH, REACH), ylim=(-REACH, REACH), xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(visible=True, color=FAINT)
    axes.grid(False)
    axes.plot([0], [0], "+", color=QUIET, markersize=6, zorder=1)
    arrow = {"arrowstyle": "-|>", "color": INK, "linewidth": 1.4}
    axes.annotate("", (float(cloud.exact[0]), float(cloud.exact[1])), (0, 0), arrowprops=arrow)
    places, times = (cloud.dots / _SAME).round().unique(dim=0, return_counts=True)
    x, y = (_SAME * places).unbind(1)
    axes.scatter(x, y, s=7 * times.double().sqrt(), color=colour, alpha=0.45, linewidths=0, zorder=2)
    mean = cloud.mean.tolist()
    axes.plot(
        *([value] for value in mean), "X", color=colour, markersize=8, markeredgecolor="white", zorder=4
    )


def run(options: PictureOptions) -> None:
    """Write the pictures."""
    names = options.estimators or tuple(estimators.names())
    chosen = [estimators.get(name, 1.0) for name in names]
    problems = draw_problems(SHOWN, 1, CHOICES, CANDIDATES, options.seed)
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for estimator in chosen:
        figure = plot(estimator.name, clouds(estimator, problems, options.seed))
        with atomic_path(folder / f"{estimator.name}.png") as path:
            path.write_bytes(to_png(figure, dpi=110))


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return command_line.main(PictureOptions, run, argv, "python -m studies.estimator_pictures")


if __name__ == "__main__":
    sys.exit(main())
