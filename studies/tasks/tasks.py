"""The tasks of the ReinMax paper that need no GPU, with every discrete estimator.

For every task and estimator a small grid of temperatures and learning rates is tried with one seed, the
setting with the best validation figure is run with several seeds, and these are reported on test. Every
run is kept in the folder `cells` and is not repeated with the same settings.

An estimator that learns from past draws fits polynomials only: elsewhere every draw is of another problem.
Dense relaxations (softmax, concrete, Dirichlet) are left out: what they train takes mixtures, and is not
the discrete model that is measured here.

Source: Liu et al., 2023, "Bridging Discrete and Backpropagation: Straight-Through and Beyond",
arXiv 2304.08612.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

import estimators
from recipes.errors import InputError, one_of
from studies.options import TasksOptions
from studies.tasks import task_report
from studies.tasks.latent_tree import ListOps
from studies.tasks.polynomial import Polynomial
from studies.tasks.task_grid import Comparison, Result, Setting, Task, Trial, choose, complete
from studies.tasks.vae import MnistVAE, load_mnist

POWERS = (1.5, 2.0, 3.0)
FAMILIES = ("polynomial", "listops", "vae")


def run(options: TasksOptions) -> None:
    """Do what the options ask for, and write report.html, results.csv and results.md. Raises InputError."""
    names, tasks = choose_estimators(options), choose_tasks(options)
    for name in names if options.estimators else ():
        if not any(task.takes(name) for task in tasks):
            raise InputError(
                f"the estimator '{name}' learns from past draws of one problem: leave it out, or add "
                "polynomial to --tasks"
            )
    folder = Path(options.out or "runs/ablation-tasks")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {folder} cannot be used as a folder: {error}") from None
    comparisons = compare(tasks, names, options, folder / "cells")
    task_report.write(comparisons, options, folder)
    print(f"report  {folder / 'report.html'}")


def choose_estimators(options: TasksOptions) -> list[str]:
    """Names of the estimators that the options ask for. Raises InputError."""
    discrete = [name for name in estimators.names() if estimators.family(name).discrete]
    return [one_of("discrete estimator", name, discrete) for name in options.estimators] or discrete


def choose_tasks(options: TasksOptions) -> list[Task]:
    """The tasks that the options ask for; the data they need are there. Raises InputError."""
    families = [one_of("task", name, FAMILIES) for name in options.tasks]
    shapes = dict.fromkeys(map(_shape, options.vae_shapes))
    with_data = options.data is not None or options.download
    if not families:
        families = [name for name in FAMILIES if name != "vae" or with_data]
        if not with_data:
            print("vae is left out: it needs MNIST, give --data FOLDER or --download", file=sys.stderr)
    elif "vae" in families and not shapes:
        raise InputError("--vae-shapes is empty, expected CLASSESxLATENTS such as 8x4, or other --tasks")
    elif "vae" in families and not with_data:
        raise InputError("the task vae needs MNIST: give --data FOLDER, --download, or other --tasks")
    tasks: list[Task] = []
    if "polynomial" in families:
        tasks += [Polynomial(power, options.polynomial_steps) for power in POWERS]
    if "listops" in families:
        tasks.append(ListOps(options.listops_steps, options.seed))
    if "vae" in families:
        root = options.data or "data"
        load_mnist(root, options.download)
        tasks += [MnistVAE(*shape, options.vae_epochs, root) for shape in shapes]
    return tasks


def _shape(text: str) -> tuple[int, int]:
    """Classes and latent variables of an auto-encoder, such as 8x4. Raises InputError."""
    if not re.fullmatch(r"[1-9]\d{0,3}x[1-9]\d{0,3}", text, re.ASCII) or text.startswith("1x"):
        raise InputError(
            f"--vae-shapes has '{text}', expected CLASSESxLATENTS with 2 classes at least, such as 8x4"
        )
    classes, latents = text.split("x")
    return int(classes), int(latents)


def compare(
    tasks: Sequence[Task], names: Sequence[str], options: TasksOptions, folder: Path
) -> list[Comparison[Task]]:
    """Run the grid of every estimator on every task, then the chosen settings with all seeds.

    Args:
        folder: of the trials.
    """
    fitting = {task: [*filter(task.takes, names), *task.controls] for task in tasks}
    grid = [
        Trial(task, setting, task.selection_seed(options.seed))
        for task in tasks
        for name in fitting[task]
        for setting in task.grid(name)
    ]
    found = _complete(grid, "grid", options, folder)
    tried: dict[Task, dict[str, dict[Setting, Result]]] = {
        task: {n: {} for n in fitting[task]} for task in tasks
    }
    for trial in grid:
        tried[trial.task][trial.setting.estimator][trial.setting] = found[trial]
    chosen = {task: {name: choose(results) for name, results in tried[task].items()} for task in tasks}
    seeds = range(options.seed, options.seed + options.seeds)
    final = [
        Trial(task, chosen[task][name], seed) for task in tasks for name in fitting[task] for seed in seeds
    ]
    found = _complete(final, "chosen settings", options, folder)
    return [
        Comparison(
            task,
            tried[task],
            chosen[task],
            {
                name: {seed: found[Trial(task, setting, seed)] for seed in seeds}
                for name, setting in chosen[task].items()
            },
        )
        for task in tasks
    ]


def _complete(trials: Sequence[Trial], what: str, options: TasksOptions, folder: Path) -> dict[Trial, Result]:
    found = {}
    with tqdm(total=len(trials), desc=what, unit="run", disable=None) as bar:
        for trial, result in complete(trials, folder, options.jobs, options.threads or 1, options.plugins):
            found[trial] = result
            bar.update()
    return found
