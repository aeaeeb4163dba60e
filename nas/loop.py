"""The life of a run, the same for a search and a final training: epochs, metrics, checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from tqdm import tqdm

from nas import runtime
from nas.files import write_json
from nas.report import render_report, write_cell
from nas.run_folder import RunFolder
from nas.tensorboard import Board
from recipes import InputError, RunOptions, first_line
from recipes.command_line import config_json
from search_spaces import Genotype

Options = TypeVar("Options", bound=RunOptions)


class Outcome(NamedTuple):
    """What a run ends with: its genotype, the content of result.json, and lines to print."""

    genotype: Genotype
    result: dict[str, Any]
    messages: list[str]


class Job(Protocol):
    """What a run does, epoch by epoch.

    Attributes:
        device: where it computes.
        steps: weight steps an epoch.
        documents: JSON files to write into the folder at the start, by name.
    """

    device: torch.device
    steps: int
    documents: dict[str, Any]

    def epoch(self, epoch: int, tick: Callable[[], object]) -> dict[str, Any]:
        """Do epoch number `epoch` (from 0), calling `tick` after each step; its metrics line."""

    def summary(self, metrics: dict[str, Any]) -> str:
        """A few words about a metrics line, for the progress bar."""

    def state(self) -> dict[str, Any]:
        """All that determines the rest of the run, besides its options and the epoch."""

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a state."""

    def conclude(self, folder: RunFolder) -> Outcome:
        """Finish after the last epoch, writing what only this kind of run has."""


def run(options: Options, name: str, make_job: Callable[[Options], Job]) -> None:
    """Do or continue the run that `options` describe. Raises InputError.

    Nothing is written before the options, the data and an existing checkpoint have been checked.
    """
    folder = RunFolder(options, name)
    if folder.finished:
        if not (folder.path / "report.html").exists():
            render_report(folder.path)
        print(f"{folder.path} holds a finished run already")
        return
    try:
        _run(options, folder, make_job)
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            raise InputError(
                "out of memory: lower --channels, --cells, --batch-size or --image-size"
            ) from None
        raise


def _run(options: Options, folder: RunFolder, make_job: Callable[[Options], Job]) -> None:
    job, start = make_job(options), 0
    if folder.checkpoint is not None:
        try:
            job.restore(folder.checkpoint["state"])
        except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise InputError(
                f"the checkpoint in {folder.path} does not fit this configuration: {first_line(error)}; "
                "restore it, or start again with --overwrite"
            ) from None
        start = folder.checkpoint["epoch"]
        for file, content in job.documents.items():
            folder.require_unchanged(file, content)
    folder.create(job.device)
    for file, content in job.documents.items():
        write_json(folder.path / file, content)
    board = Board(folder.path, start) if options.tensorboard else None

    bar = tqdm(total=options.epochs * job.steps, initial=start * job.steps, disable=None, unit="step")
    with bar:
        for epoch in range(start, options.epochs):
            started = time.perf_counter()
            metrics = job.epoch(epoch, bar.update)
            metrics["epoch_seconds"] = time.perf_counter() - started
            bar.set_postfix_str(job.summary(metrics))
            folder.log(metrics)
            if board is not None:
                board.epoch(metrics)
            if (epoch + 1) % options.checkpoint_every == 0 or epoch + 1 == options.epochs:
                folder.save_checkpoint(epoch + 1, job.state())

    genotype, result, messages = job.conclude(folder)
    result["total_seconds"] = sum(line["epoch_seconds"] for line in folder.metrics())
    result["peak_memory_bytes"] = runtime.peak_memory(job.device)
    write_cell(folder.path, genotype)
    if board is not None:
        board.cell(genotype, options.epochs)
        board.hparams(config_json(options), result)
        board.close()
    write_json(folder.path / "result.json", result)
    render_report(folder.path)
    print("\n".join([*messages, f"report {folder.path / 'report.html'}"]))
