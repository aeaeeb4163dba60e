"""What the searches of a grid tell: figures for the tables and pictures of its report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import estimators
import search_spaces
from nas.runs.files import read_json, read_json_lines
from nas.tables import Truth
from recipes import SearchOptions
from recipes.ablation import GridOptions
from search_spaces import Genotype, operations


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
    images = float(metrics(trial)[-1]["step"] * options.batch_size)
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
        for line in metrics(trial)
        if line["epoch"] >= trial.options.warmup
    ]


def gradients(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """The measurements of the architecture gradient: one row for run, moment and estimator."""
    rows = []
    for trial in trials:
        for line in metrics(trial):
            if moment := line.get("gradient"):
                about = {"method": trial.method, "seed": trial.seed, "epoch": line["epoch"]}
                about |= {key: moment[key] for key in ("loss", "norm", "reference", "reference_error")}
                rows += [
                    about | {"estimator": _as_measured(trial, name)} | values
                    for name, values in moment["estimators"].items()
                ]
    return rows


def _as_measured(trial: Trial, name: str) -> str:
    """The estimator that a search measured by a name: with the settings of its own, where it is that of the
    search and they are not the defaults."""
    options = trial.options
    own, _, settings = options.estimator.partition(":")
    if name != own:
        return name
    said = [own, *([settings] if settings else []), *([f"tau={options.tau}"] if options.tau else [])]
    if options.draws and estimators.family(name).signal != "gradient":
        said.append(f"draws={options.draws}")
    return ",".join(said)


def notes(trials: Sequence[Trial], options: GridOptions) -> str:
    """What a reader of the report has to know of these trials, the ones of `options` that are left."""
    lost = sorted({*range(options.first_seed, options.first_seed + options.seeds)} - {t.seed for t in trials})
    said = f" Left out, as a run failed: seed {', '.join(map(str, lost))}." if lost else ""
    if any(trial.options.budget or trial.options.budgets for trial in trials):
        said += " The searches keep to a budget; random cells and all else without a search do not."
    moments = [line["gradient"] for trial in trials for line in metrics(trial) if line.get("gradient")]
    if noisy := sum(not moment["estimators"] for moment in moments):
        said += (
            f" At {noisy} of {len(moments)} moments the reference was too noisy to compare gradients with: "
            "these are left out."
        )
    return said


def _genotype(trial: Trial, text: str) -> Genotype:
    return search_spaces.get(trial.options.space).parse(text)


def metrics(trial: Trial) -> list[dict[str, Any]]:
    return read_json_lines(trial.folder / "metrics.jsonl")
