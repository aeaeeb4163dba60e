"""Searches compared: `python ablate.py nas`.

Every trial of the grid, a method with a seed, is an ordinary run folder made by train_search.py. What has
finished is not repeated and what was killed continues, so the same command completes any interrupted
grid.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

import search_spaces
from ablation import grid_ranking, grid_report, zero_cost
from ablation.executors import Run, execute
from ablation.grid_records import Trial, curves, gradients, look_up, notes, record
from ablation.methods import method_words, split_words, without
from nas import tables
from nas.bilevel import parts
from nas.genotypes import read_genotype
from nas.runs.files import read_json
from nas.runs.interruption import Interruption
from nas.tables import Truth
from nas.tables.lookup import enumerable
from nas.zero_cost import ZeroCost
from recipes import (
    FinalOptions,
    InputError,
    InterruptionError,
    RunOptions,
    SearchOptions,
    command_line,
    one_of,
    presets,
)
from recipes.ablation import GridOptions
from recipes.config_file import free, read_config

MEASURED_MOMENTS = {"micro": 4}
# Beside those that are free, options that may differ between a run and the plan.
_WITHOUT_EFFECT = {"config", "preset", "threads"}


def run(options: GridOptions) -> None:
    """Run what is missing of the grid, evaluate the cells and write the report.

    Raises InputError, also where a run failed: then the report is of the seeds that all methods have.
    """
    folder = Path(options.out or f"runs/ablation-nas-{options.space}-{options.dataset.partition(':')[0]}")
    options = replace(options, out=str(folder))
    _require_used(options)
    trials = plan(options, folder)
    known = find_truth(options)
    grid_ranking.require_sound(options, known)
    scores = zero_cost_scores(options)
    if known is not None:
        print(f"table: {known.source}", flush=True)
    failures = work(trials, "train_search", "searching", options)
    trials = _with_ended(trials, trials, failures)
    randoms = list[dict[str, Any]]()
    if known is None:
        trials, accuracies, randoms, failed = retrain(trials, folder, options)
        failures += failed
        records = [record(trial) | {"accuracy": a} for trial, a in zip(trials, accuracies, strict=True)]
    else:
        records = [record(trial) | look_up(trial, known, options.evaluations) for trial in trials]
        if options.rank_cells:
            ranked = grid_ranking.figures([trial.folder for trial in trials], known, options)
            records = [row | figures for row, figures in zip(records, ranked, strict=True)]
    scored = zero_cost.score_cells(scores, trials[0].options, folder)
    grid_report.write(
        folder, records, curves(trials, known), gradients(trials), known, options, scored, randoms,
        notes(trials, options),
    )  # fmt: skip
    print(f"report {folder / 'report.html'}")
    if failures:
        raise InputError(f"{_summary(failures)}; the report is of what every method has")


def _require_used(options: GridOptions) -> None:
    """Raise InputError where an option would be ignored, or those of the trainings are none."""
    retrains, usual = options.evaluate == "retrain", GridOptions()
    for name, used, by in (
        ("final", retrains, "evaluate=retrain"),
        ("random_cells", retrains, "evaluate=retrain"),
        ("evaluations", not retrains, "a table"),
        ("column", options.table is not None, "table"),
        ("table_values", options.table is not None, "table"),
    ):
        if not used and getattr(options, name) != getattr(usual, name):
            raise InputError(f"`{name}` is for {by if ' ' in by else f'`{by}`'}: drop it")
    if retrains:
        _final("random", options.first_seed, "", "", options)


def plan(options: GridOptions, folder: Path) -> list[Trial]:
    """All trials of the grid, by method and seed. Raises InputError."""
    one_of("search space", options.space, search_spaces.names())
    if not options.methods:
        raise InputError("--methods is empty, expected at least one estimator")
    if len(set(options.methods)) < len(options.methods):
        raise InputError(f"--methods names a method twice: {' '.join(options.methods)}; drop one")
    recipe = _recipe(presets.TABLES_SEARCH, options)
    place = ["--space", options.space, "--dataset", options.dataset, *_plugins(options)]
    common = split_words(options.search, "search")
    trials = []
    for method in options.methods:
        words = method_words(method)
        try:
            base = command_line.parse(SearchOptions, [*place, *without(common, words), *words], recipe)
        except InputError as error:
            raise InputError(f"in the searches of '{method}': {error}") from None
        moments = _moments(options, base)
        every = -(-base.epochs // moments) if moments else base.measure_every
        base = replace(base, measure_every=every)
        _require_sound(base, method)
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            out = str(folder / "runs" / f"{method}-s{seed}")
            trial = replace(base, seed=seed, out=out, tensorboard=False)
            trials.append(Trial(method, seed, _threaded(trial, options)))
    return trials


def _recipe(usual: dict[str, Any], options: GridOptions) -> dict[str, Any] | None:
    """That of the tables that come along, with as many cells as the space needs; None for other images."""
    if options.dataset != "digits":
        return None
    return usual | {"cells": max(usual["cells"], search_spaces.get(options.space).fewest_cells)}


def _moments(options: GridOptions, base: SearchOptions) -> int:
    """How often the gradient of the loss is measured in a search with these options. Raises InputError."""
    if base.architecture_loss == "error":
        return 0
    if options.measure is None:
        return min(MEASURED_MOMENTS.get(options.space, 0), base.epochs)
    moments = options.measure
    if moments > base.epochs:
        raise InputError(f"--measure is {moments}, expected at most the {base.epochs} epochs of a search")
    return moments


def _require_sound(options: SearchOptions, method: str) -> None:
    """Raise InputError where what the options of a search name is none, or does not go together: all that can
    be told without the data."""
    try:
        parts.without_data(options, {})
    except InputError as error:
        raise InputError(f"in the searches of '{method}': {error}") from None


def _plugins(options: GridOptions) -> list[str]:
    return ["--plugins", *options.plugins] if options.plugins else []


def _threaded(options: Any, grid: GridOptions) -> Any:
    """The options with the CPU threads of one job: small networks do not gain from a second one."""
    return replace(options, threads=grid.threads or options.threads or 1)


def find_truth(options: GridOptions) -> Truth | None:
    """The table that the cells are looked up in; None where they are retrained. Raises InputError."""
    if options.evaluate == "retrain":
        if options.table is not None:
            raise InputError("`table` and `evaluate=retrain` were both given: drop one")
        return None
    if options.table is not None:
        return tables.read(Path(options.table), options.space, options.column, options.table_values)
    try:
        return tables.packaged(options.space, options.dataset)
    except InputError as error:
        raise InputError(
            f"{error}; without one, `evaluate=retrain` trains every cell that is found and "
            "compares them by that"
        ) from None


def zero_cost_scores(options: GridOptions) -> dict[str, ZeroCost]:
    """The zero-cost scores that the searches are compared with, none without a table. Raises InputError."""
    if options.evaluate != "retrain":
        return zero_cost.chosen(options.zero_cost, enumerable(options.space))
    if options.zero_cost:
        raise InputError("--zero-cost needs a table, and --evaluate retrain uses none: drop one")
    return {}


# Running


def work(trials: Sequence[Trial], module: str, what: str, options: GridOptions) -> list[str]:
    """Bring every run to its end where the options say; returns a line for each that failed.

    Raises:
        InterruptionError: a signal came, and the runs under way have saved themselves.
    """
    missing = [Run(module, trial.options) for trial in trials if not is_finished(trial.options)]
    failures = list[str]()
    if not missing:
        return failures
    there = len(trials) - len(missing)
    try:
        with Interruption(raises=True), closing(execute(missing, options)) as ends:
            for failure in tqdm(ends, what, len(trials), initial=there, unit="run"):
                failures += [failure] if failure else []
    except KeyboardInterrupt:
        raise InterruptionError("the runs under way are saved, the same command goes on") from None
    return failures


def _with_ended(trials: Sequence[Trial], runs: Sequence[Trial], failures: Sequence[str]) -> list[Trial]:
    """The trials of the seeds of which all `runs`, one for each trial, have ended. Raises InputError where
    none is left."""
    lost = {trial.seed for trial, run in zip(trials, runs, strict=True) if not is_finished(run.options)}
    if left := [trial for trial in trials if trial.seed not in lost]:
        return left
    raise InputError(f"{_summary(failures)}; the others are kept")


def _summary(failures: Sequence[str]) -> str:
    return failures[0] + (f" (and {len(failures) - 1} more)" if len(failures) > 1 else "")


def is_finished(options: RunOptions) -> bool:
    """Whether the run that `options` describe has ended. Raises InputError if the folder holds another."""
    folder = Path(options.out or "")
    path = folder / "config.json"
    if not path.exists():
        return False
    stored = read_config(type(options), path)
    wanted, may_differ = asdict(options), free(type(options)) | _WITHOUT_EFFECT
    for name, value in stored.items():
        if name not in may_differ and value != wanted[name]:
            raise InputError(
                f"{folder} holds a run with {name} {value} instead of {wanted[name]}: give another --out, "
                "or delete it"
            )
    return (folder / "result.json").exists()


def retrain(
    trials: Sequence[Trial], folder: Path, options: GridOptions
) -> tuple[list[Trial], list[float], list[dict[str, Any]], list[str]]:
    """Trainings from scratch with the same options: of every cell that was found, with the seed of its
    search, and of random cells, with seeds from the first on.

    Returns:
        the trials of the seeds whose trainings have all ended, the test accuracies (%) of their cells, of
        every random cell a row, and a line for each training that failed.

    Raises:
        InputError: no seed is left; or a folder holds the training of a cell that its search does not find
            now.
        InterruptionError: see `work`.
    """
    finals = [
        _final(
            trial.method, trial.seed, str(trial.folder / "genotype.json"), f"{trial.folder}-final", options
        )
        for trial in trials
    ]
    space, rng = search_spaces.get(options.space), random.Random("random cells")
    cells = [space.format(space.random(rng)) for _ in range(options.random_cells)]
    randoms = [
        _final("random", options.first_seed + i, text, f"{folder}/random/cell-{i}", options)
        for i, text in enumerate(cells)
    ]
    for trial, final in zip(trials, finals, strict=True):
        _require_cell(trial, final)
    failures = work([*finals, *randoms], "train_final", "retraining", options)
    left = _with_ended(trials, finals, failures)
    accuracies = [_accuracy(trial.folder.with_name(f"{trial.folder.name}-final")) for trial in left]
    rows = [
        {"method": "random cells", "seed": cell.seed, "genotype": text, "accuracy": _accuracy(cell.folder)}
        for cell, text in zip(randoms, cells, strict=True)
        if is_finished(cell.options)
    ]
    return left, accuracies, rows, failures


def _accuracy(folder: Path) -> float:
    """The test accuracy (%) of a finished training."""
    return float(read_json(folder / "result.json")["test_accuracy"])


def _require_cell(search: Trial, final: Trial) -> None:
    """Raise InputError where a training has begun with another cell than its search has found: its options
    only name the file."""
    begun, found = (trial.folder / "genotype.json" for trial in (final, search))
    space = search.options.space
    if begun.exists() and read_genotype(str(begun), space) != read_genotype(str(found), space):
        raise InputError(f"{final.folder} holds the training of another cell than {found}: delete it")


def _final(method: str, seed: int, genotype: str, out: str, options: GridOptions) -> Trial:
    """The training of a cell, given as a file or in its space's notation."""
    recipe = _recipe(presets.TABLES, options)
    words = ["--space", options.space, "--genotype", genotype, "--dataset", options.dataset]
    parsed = command_line.parse(
        FinalOptions, [*words, *_plugins(options), *split_words(options.final, "final")], recipe
    )
    return Trial(method, seed, _threaded(replace(parsed, seed=seed, out=out, tensorboard=False), options))
