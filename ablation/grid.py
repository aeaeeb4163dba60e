"""Searches compared: `python ablate.py nas`.

Every trial of the grid, a method with a seed, is an ordinary run folder made by train_search.py. What has
finished is not repeated and what was killed continues, so the same command completes any interrupted
grid.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

import estimators
import search_spaces
from ablation import grid_ranking, grid_report, zero_cost
from ablation.executors import Run, execute
from ablation.methods import method_words, split_words, without
from nas import tables
from nas.bilevel import parts
from nas.genotypes import read_genotype
from nas.runs.files import read_json, read_json_lines
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
from search_spaces import Genotype, operations

MEASURED_MOMENTS = {"micro": 4}
# Beside those that are free, options that may differ between a run and the plan.
_WITHOUT_EFFECT = {"config", "preset", "threads"}


@dataclass(frozen=True)
class Trial:
    """A method with a seed.

    Attributes:
        options: of the search; `out` is its folder.
    """

    method: str
    seed: int
    options: SearchOptions

    @property
    def folder(self) -> Path:
        return Path(self.options.out or "")


def run(options: GridOptions) -> None:
    """Run what is missing of the grid, evaluate the cells and write the report. Raises InputError."""
    folder = Path(options.out or f"runs/ablation-nas-{options.space}-{options.dataset.partition(':')[0]}")
    options = replace(options, out=str(folder))
    _require_used(options)
    trials = plan(options, folder)
    known = find_truth(options)
    grid_ranking.require_sound(options, known)
    scores = zero_cost_scores(options)
    if known is not None:
        print(f"table: {known.source}", flush=True)
    work(trials, "train_search", "searching", options)
    randoms = list[dict[str, Any]]()
    if known is None:
        accuracies, randoms = retrain(trials, folder, options)
        records = [record(trial) | {"accuracy": a} for trial, a in zip(trials, accuracies, strict=True)]
    else:
        records = [record(trial) | look_up(trial, known, options.evaluations) for trial in trials]
        if options.rank_cells:
            ranked = grid_ranking.figures([trial.folder for trial in trials], known, options)
            records = [row | figures for row, figures in zip(records, ranked, strict=True)]
    scored = zero_cost.score_cells(scores, trials[0].options, folder)
    grid_report.write(
        folder, records, curves(trials, known), gradients(trials), known, options, scored, randoms
    )
    print(f"report {folder / 'report.html'}")


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
    recipe = presets.TABLES_SEARCH if options.dataset == "digits" else None
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


def work(trials: Sequence[Trial], module: str, what: str, options: GridOptions) -> None:
    """Bring every run to its end where the options say.

    Raises:
        InputError: one of them fails; the others have been finished all the same.
        InterruptionError: a signal came, and the runs under way have saved themselves.
    """
    missing = [Run(module, trial.options) for trial in trials if not is_finished(trial.options)]
    if not missing:
        return
    there = len(trials) - len(missing)
    failures = []
    try:
        with Interruption(raises=True), closing(execute(missing, options)) as ends:
            for failure in tqdm(ends, what, len(trials), initial=there, unit="run"):
                failures += [failure] if failure else []
    except KeyboardInterrupt:
        raise InterruptionError("the runs under way are saved, the same command goes on") from None
    if failures:
        more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
        raise InputError(f"{failures[0]}{more}; the others are kept")


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
) -> tuple[list[float], list[dict[str, Any]]]:
    """Trainings from scratch with the same options: of every cell that was found, with the seed of its
    search, and of random cells, with seeds from the first on.

    Returns:
        test accuracies (%) of the cells that were found, and of every random cell a row.

    Raises:
        InputError: see `work`; or a folder holds the training of a cell that its search does not find now.
    """
    finals = [
        _final(
            trial.method, trial.seed, str(trial.folder / "genotype.json"), f"{trial.folder}-final", options
        )
        for trial in trials
    ]
    space, rng = search_spaces.get(options.space), random.Random("random cells")
    cells = [space.format(space.random(rng)) for _ in range(options.random_cells)]
    finals += [
        _final("random", options.first_seed + i, text, f"{folder}/random/cell-{i}", options)
        for i, text in enumerate(cells)
    ]
    for trial, final in zip(trials, finals, strict=False):
        _require_cell(trial, final)
    work(finals, "train_final", "retraining", options)
    accuracies = [read_json(final.folder / "result.json")["test_accuracy"] for final in finals]
    rows = [
        {"method": "random cells", "seed": final.seed, "genotype": text, "accuracy": accuracy}
        for final, text, accuracy in zip(finals[len(trials) :], cells, accuracies[len(trials) :], strict=True)
    ]
    return accuracies[: len(trials)], rows


def _require_cell(search: Trial, final: Trial) -> None:
    """Raise InputError where a training has begun with another cell than its search has found: its options
    only name the file."""
    begun, found = (trial.folder / "genotype.json" for trial in (final, search))
    space = search.options.space
    if begun.exists() and read_genotype(str(begun), space) != read_genotype(str(found), space):
        raise InputError(f"{final.folder} holds the training of another cell than {found}: delete it")


def _final(method: str, seed: int, genotype: str, out: str, options: GridOptions) -> Trial:
    """The training of a cell, given as a file or in its space's notation."""
    recipe = presets.TABLES if options.dataset == "digits" else None
    words = ["--space", options.space, "--genotype", genotype, "--dataset", options.dataset]
    parsed = command_line.parse(
        FinalOptions, [*words, *_plugins(options), *split_words(options.final, "final")], recipe
    )
    return Trial(method, seed, _threaded(replace(parsed, seed=seed, out=out, tensorboard=False), options))


# Reading the runs


def record(trial: Trial) -> dict[str, Any]:
    """What a finished search tells of itself, for its row of results.csv."""
    result = read_json(trial.folder / "result.json")
    return {
        "method": trial.method,
        "seed": trial.seed,
        "genotype": result["genotype"],
        "derived_accuracy": result["derived_accuracy"],
        "seconds": result["total_seconds"],
        "peak_memory_bytes": result["peak_memory_bytes"],
        "collapsed": result.get("collapsed", bool(result["warnings"])),  # not said by older versions
        "skip_connects": sum(operations.count(_genotype(trial, result["genotype"]), "skip").values()),
        "folder": str(trial.folder),
    }


def look_up(trial: Trial, known: Truth, evaluations: int | None) -> dict[str, Any]:
    """What is known about the cell that a search found; `evaluations` as in GridOptions."""
    found = known.lookup(_genotype(trial, read_json(trial.folder / "result.json")["genotype"]))
    evaluations = evaluations or fair_evaluations(trial, known)
    return {
        "accuracy": found.accuracy,
        "regret": known.optimum[1].accuracy - found.accuracy,
        "rank": found.rank,
        "cells": found.cells,
        "evaluations": evaluations,
        "beats_random": known.beats_random(found.accuracy, evaluations),
    }


def fair_evaluations(trial: Trial, known: Truth) -> int:
    """How many trainings from scratch do as much work as the search did, at least 1.

    Work is images that go forward and backward, those of all paths of a weight step and of the rule of
    selection, too; one that goes forward only counts a third. What is measured or evaluated only to be told
    is left out. A run that an older version made did not count them: there it is the images of its weight
    steps, of one path each, and of the draws of its architecture steps.
    """
    if known.images_per_training is None:
        return 1
    result = read_json(trial.folder / "result.json")
    if "images_trained" in result:
        images = float(result["images_trained"] + result["images_evaluated"] / 3)
    else:
        images = _images_of_steps(trial)
    return max(1, round(images / known.images_per_training))


def _images_of_steps(trial: Trial) -> float:
    """The images of the steps of a run, as far as its options tell."""
    options = trial.options
    images = float(_metrics(trial)[-1]["step"] * options.batch_size)
    draws = options.draws or estimators.get(options.estimator).default_draws
    return images + draws * images * (options.epochs - options.warmup) / options.epochs


def curves(trials: Sequence[Trial], known: Truth | None) -> list[dict[str, Any]]:
    """True accuracy of the cell that each search would have derived after each epoch, from the last one
    of the warm-up on."""
    if known is None:
        return []
    return [
        {
            "method": trial.method,
            "seed": trial.seed,
            "epoch": line["epoch"],
            "entropy": line["entropy"],
            "accuracy": known.lookup(_genotype(trial, line["genotype"])).accuracy,
        }
        for trial in trials
        for line in _metrics(trial)
        if line["epoch"] >= trial.options.warmup
    ]


def gradients(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """The measurements of the architecture gradient: one row for run, moment and estimator."""
    rows = []
    for trial in trials:
        for line in _metrics(trial):
            if moment := line.get("gradient"):
                about = {"method": trial.method, "seed": trial.seed, "epoch": line["epoch"]}
                about |= {key: moment[key] for key in ("loss", "norm", "reference", "reference_error")}
                rows += [
                    about | {"estimator": name} | values for name, values in moment["estimators"].items()
                ]
    return rows


def _genotype(trial: Trial, text: str) -> Genotype:
    return search_spaces.get(trial.options.space).parse(text)


def _metrics(trial: Trial) -> list[dict[str, Any]]:
    return read_json_lines(trial.folder / "metrics.jsonl")
