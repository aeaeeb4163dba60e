"""Polynomial programming: minimise E mean_i |X_i - c|^p over the distribution of 128 binary variables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from nas.report.page import Picture
from nas.seeding import generator
from studies.tasks.task_grid import Comparison, Result, Setting, Task
from studies.tasks.task_plots import Curves, Panel, plot_dots, plot_training

POINTS = 50  # of a training curve


@dataclass(frozen=True)
class Polynomial(Task):
    """min over theta of E[mean_i |X_i - c|^p], X_i in {0, 1} drawn with the logits theta_i (2,).

    Every variable is best at 0 (c < 1/2), and the expected loss is known exactly, so nothing is
    estimated but the gradient. There is no held-out data either: settings are chosen by the final
    expected loss at a seed of their own.

    Source: Liu et al., 2023, section 5.1, arXiv 2304.08612. Steps, draws a step and optimizer are ours.

    Attributes:
        power: p.
        steps: of Adam, from uniform probabilities.
        draws: of all variables in each step; the estimate is their mean.
    """

    power: float
    steps: int
    variables: int = 128
    centre: float = 0.45
    draws: int = 8

    family = "polynomial"
    one_problem = True
    taus = (0.1, 0.3, 0.5, 1.0, 1.5)
    lrs = (0.03, 0.1, 0.3)
    heading = "Polynomials: final expected loss"
    validated = "final expected loss"
    figures = ("test",)
    digits = 5

    @property
    def name(self) -> str:
        return f"polynomial-{self.power:g}"

    @property
    def title(self) -> str:
        return f"p = {self.power:g}"

    @property
    def budget(self) -> str:
        return f"{self.steps} steps with {self.draws} draws each on polynomials"

    @classmethod
    def note(cls, tasks: Sequence[Self]) -> str:
        bounds = (f"{t.title}: {t.optimum:.5f} and {(t.optimum + t.worst) / 2:.5f}" for t in tasks)
        return f"Optimum and start: {'; '.join(bounds)}."

    @classmethod
    def pictures(cls, parts: Sequence[Comparison[Self]]) -> list[Picture]:
        curves, panels = [], []
        for task, runs in ((part.task, part.runs) for part in parts):
            steps = next(iter(next(iter(runs.values())).values()))["steps"]
            excess = {
                name: np.array([[task.excess(value) for value in run["curve"]] for run in of_seeds.values()])
                for name, of_seeds in runs.items()
            }
            curves.append(Curves(task.title, steps, excess))
            panels.append(
                Panel(task.title, {name: values[:, -1].tolist() for name, values in excess.items()}, {})
            )
        words = "excess loss, % of the range"
        return [
            Picture(
                "Polynomials: training",
                plot_training(curves, words),
                f"The exact expected loss of {parts[0].task.variables} binary variables over the steps of "
                "Adam, as its excess over the best choice of all variables: 50 % is where training starts. "
                "Lines are means over the seeds, bands run from the lowest to the highest.",
            ),
            Picture(
                "Polynomials: final loss",
                plot_dots(panels, words, best=min, digits=1, sharex=True),
                "After the last step: means with one standard deviation, strokes are the single seeds. Left "
                "is better.",
            ),
        ]

    def excess(self, loss: float) -> float:
        """How far an expected loss is above the optimum, in % of the range between best and worst: the
        mean probability (%) of the worse value."""
        return 100 * (loss - self.optimum) / (self.worst - self.optimum)

    def selection_seed(self, seed: int) -> int:
        """A seed apart: what is chosen by is also what is reported."""
        return seed + 1_000_000

    def losses(self, draws: Tensor) -> Tensor:
        """Loss of every draw: (N, L, 2) to (N,)."""
        return (draws[..., 1] - self.centre).abs().pow(self.power).mean(-1)

    def expected(self, logits: Tensor) -> float:
        """The exact expected loss for logits (L, 2)."""
        worse = float(logits.detach().double().softmax(-1)[:, 1].mean())
        return worse * self.worst + (1 - worse) * self.optimum

    @property
    def optimum(self) -> float:
        """The smallest expected loss, that of X = 0."""
        return math.pow(self.centre, self.power)

    @property
    def worst(self) -> float:
        """The largest expected loss, that of X = 1."""
        return math.pow(1 - self.centre, self.power)

    def train(self, setting: Setting, seed: int) -> Result:
        """Train; the curve has `POINTS` + 1 values, from the start to the end."""
        estimator, rng = setting.build(), generator(seed, "polynomial draws")
        logits = torch.zeros(self.variables, 2, requires_grad=True)
        optimizer = torch.optim.Adam([logits], lr=setting.lr)
        marks = {round(i * self.steps / POINTS) for i in range(POINTS + 1)}
        steps, curve = [0], [self.expected(logits)]
        for step in range(1, self.steps + 1):
            draws = estimator(logits.expand(self.draws, -1, -1), rng)
            if estimator.signal == "both":
                draws = draws.requires_grad_()
            losses = self.losses(draws)
            optimizer.zero_grad()
            if estimator.signal == "gradient":
                losses.mean().backward()
            else:
                slopes = torch.autograd.grad(losses.sum(), draws) if estimator.signal == "both" else ()
                logits.grad = estimator.gradient(logits, draws, losses, None, *slopes)
            optimizer.step()
            if step in marks:
                steps.append(step)
                curve.append(self.expected(logits))
        return {"validation": curve[-1], "test": curve[-1], "steps": steps, "curve": curve}
