"""A training step of DARTS_V2, ours against plain eager float32: `python -m benchmarks.final`."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import Any

import torch

from benchmarks import subjects, timing
from benchmarks.timing import Action, BenchmarkOptions, Report, Row, timed
from nas.training.final import Training
from recipes import FinalOptions
from recipes.options import option
from recipes.presets import FINAL

PLAIN = "NCHW, float32"


@dataclass(kw_only=True)
class FinalStepOptions(BenchmarkOptions):
    """The network of the published training: auxiliary head, drop-path, clipping."""

    repeats: int = option(3, at_least=1)
    """Alternations; the medians over them are reported."""
    batch_size: int = option(96, at_least=2)
    """Images a step."""
    channels: int = option(36, at_least=1)
    """Channels of the first cells."""
    cells: int = option(20, at_least=1)
    """Cells in all."""
    compile: bool = False
    """Also measure torch.compile of our network, which takes minutes to compile."""
    memory: bool = True
    """Also measure peak memory, each in a process of its own."""


def run(options: FinalStepOptions) -> Report:
    """All rows."""
    subject = variants(options)
    times = timing.alternate(
        {name: action(build(options, **v)) for name, v in subject.items()}, options.repeats
    )
    report = Report("final", options)
    for name in subject:
        target = "<= 0.50" if name == list(subject)[-1] else None
        report.add(timed(times, name) if name == PLAIN else timed(times, name, PLAIN, target))
    if options.memory:
        costs = {name: timing.in_fresh_process(memory, options, v) for name, v in subject.items()}
        peaks = {name: cost.bytes / 2**20 for name, cost in costs.items()}
        plain = f"peak memory, {PLAIN}"
        for name, peak in peaks.items():
            row = Row(f"peak memory, {name}", peak, "MiB")
            report.add(row if name == PLAIN else replace(row, ratio=peak / peaks[PLAIN], to=plain))
    return report


def variants(options: FinalStepOptions) -> dict[str, dict[str, Any]]:
    """Options of the training that are compared, the plain ones first."""
    ours = {"channels_last": True, "precision": "bfloat16"}
    found = {
        PLAIN: {"channels_last": False, "precision": "float32"},
        "channels-last, float32": {"channels_last": True, "precision": "float32"},
        "channels-last, bfloat16": ours,
    }
    if options.compile:
        found["channels-last, bfloat16, compiled"] = ours | {"compile": True}
    return found


def build(options: FinalStepOptions, **variant: Any) -> Training:
    """The published training of DARTS_V2 on random images, late in its course."""
    size = {name: getattr(options, name) for name in ("batch_size", "channels", "cells")}
    recipe = FINAL["darts-600"] | size | variant
    final_options = FinalOptions(genotype="darts_v2", device="cpu", **recipe)
    training = subjects.training(final_options, subjects.random_images(2 * options.batch_size))
    training.model.train()
    training.model.set_drop_path(final_options.drop_path / 2)
    return training


def action(training: Training) -> Action:
    """A step on one fixed batch."""
    images, labels = next(training.train.epoch(0))
    return lambda call: training.step(images, labels)


def memory(options: FinalStepOptions, variant: dict[str, Any]) -> None:
    """Two steps, for their peak memory."""
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    step = action(build(options, **variant))
    for call in range(2):
        step(call)


if __name__ == "__main__":
    sys.exit(timing.main("final", FinalStepOptions, run))
