"""The life of a run, the same for a search and a final training: steps, metrics, checkpoints, signals."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from safetensors import SafetensorError
from tqdm import tqdm

from nas import distributed, runtime
from nas.report.run_report import render_report, write_cell
from nas.report.tensorboard import Board
from nas.runs.files import write_json
from nas.runs.interruption import Interruption
from nas.runs.run_folder import TIMINGS, Bystander, RunFolder, path_of
from recipes import InputError, InterruptionError, RunOptions, first_line
from recipes.command_line import RESUME_ME, config_json
from search_spaces import Genotype, SearchSpace

Options = TypeVar("Options", bound=RunOptions)
POLL = 50  # steps between two looks at the number of skipped steps, for which the host waits for a GPU


class Outcome(NamedTuple):
    """What a run ends with: its genotype, the content of result.json, and lines to print."""

    genotype: Genotype
    result: dict[str, Any]
    messages: list[str]


class Job(Protocol):
    """What a run does, step by step.

    Attributes:
        device: where it computes.
        space: of its genotype.
        steps: weight steps an epoch.
        documents: JSON files to write into the folder at the start, by name.
    """

    device: torch.device
    space: SearchSpace
    steps: int
    documents: dict[str, Any]

    def epoch(self, epoch: int, start: int) -> Iterator[None]:
        """Do the steps of epoch number `epoch` (from 0), from step `start` on, and yield after each."""

    def skipped(self) -> int:
        """Steps of this epoch that were skipped because a loss or a gradient was not finite. May wait for
        the device."""

    def describe(self, epoch: int) -> dict[str, Any]:
        """The metrics line of an epoch whose steps are done."""

    def summary(self, metrics: dict[str, Any]) -> str:
        """A few words about a metrics line, for the progress bar."""

    def state(self) -> dict[str, Any]:
        """All that determines the rest of the run, besides its options, the epoch and the step."""

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a state."""

    def conclude(self) -> Outcome:
        """Finish after the last epoch."""

    def save(self, folder: Path, outcome: Outcome) -> None:
        """Write what only this kind of run has, and add a line to print if there is something to say."""


def run(options: Options, name: str, make_job: Callable[[Options], Job]) -> None:
    """Do or continue the run that `options` describe. Raises InputError, or InterruptionError after a signal.

    Nothing is written before the options, the data and an existing checkpoint have been checked. Started by
    torchrun, all ranks do this together, and rank 0 writes.
    """
    with distributed.group():
        path = path_of(options, name)
        go_on = f"go on with: {_command(options)} --resume --out {shlex.quote(str(path))}"
        try:
            with _open(options, name) as folder:
                if not folder.finished:
                    _run(options, folder, make_job, go_on)
                elif distributed.rank() == 0:
                    if not (path / "report.html").exists():
                        render_report(path)
                    print(f"{path} holds a finished run already")
        except (OSError, SafetensorError) as error:
            raise InputError(
                f"the run in {path} has ended: {first_line(error)}; what was saved is kept; {go_on}"
            ) from None
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
                raise InputError(
                    "out of memory: lower --channels, --cells, --batch-size or --image-size"
                ) from None
            if distributed.is_loss(error):
                if distributed.rank() > 1:  # rank 0 and, in case it is the one, rank 1 say so
                    sys.exit(RESUME_ME)
                raise InterruptionError(
                    f"another rank of this job has ended; the last checkpoint is kept; {go_on}"
                ) from None
            raise


def _open(options: Options, name: str) -> RunFolder:
    """The run folder, on all ranks as rank 0 finds it."""
    folder = None
    with distributed.together():
        if distributed.rank() == 0:
            folder = RunFolder(options, name)
    found = distributed.broadcast(None if folder is None else (folder.finished, folder.checkpoint))
    return folder or Bystander(options, *found)


def _run(options: Options, folder: RunFolder, make_job: Callable[[Options], Job], go_on: str) -> None:
    writes = distributed.rank() == 0
    with distributed.together():
        job = make_job(options)
        if folder.checkpoint is not None:
            try:
                job.restore(folder.checkpoint["state"])
            except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
                raise InputError(
                    f"the checkpoint in {folder.path} does not fit this configuration: {first_line(error)}; "
                    "restore it, or start again with --overwrite"
                ) from None
            for file, content in job.documents.items():
                folder.require_unchanged(file, content)
    distributed.require_agreement([job.documents, job.state()], "the data or the first weights")
    with distributed.together():
        folder.create(job.device)
    board = None
    if writes:
        for file, content in job.documents.items():
            write_json(folder.path / file, content)
        if options.tensorboard:
            board = Board(folder.path, job.space, folder.position[0], options.epochs)
    try:
        _train(options, folder, job, board, go_on)
        outcome = job.conclude()
        if writes:
            _conclude(options, folder, job, board, outcome)
    finally:
        if board is not None:
            board.close()


def _conclude(options: Options, folder: RunFolder, job: Job, board: Board | None, outcome: Outcome) -> None:
    """Write what remains to be written of a finished run."""
    job.save(folder.path, outcome)
    genotype, result, messages = outcome
    result["skipped_steps"] = folder.skipped_steps
    result["total_seconds"] = sum(line["seconds"] for line in folder.lines(TIMINGS))
    result["peak_memory_bytes"] = runtime.peak_memory(job.device)
    write_cell(folder.path, genotype)
    if board is not None:
        board.conclude(genotype, config_json(options), result)
        board.close()
    write_json(folder.path / "result.json", result)
    render_report(folder.path, job.space)
    print("\n".join([*messages, f"report {folder.path / 'report.html'}"]))


def _train(options: Options, folder: RunFolder, job: Job, board: Board | None, go_on: str) -> None:
    """Do all epochs from the position of `folder` on."""
    first, start, seconds = folder.position
    skipped: int = distributed.broadcast(folder.skipped_steps)
    timer = _Timer(options)
    done = first * job.steps + start
    bar = tqdm(
        total=options.epochs * job.steps, initial=done, disable=distributed.rank() > 0 or None, unit="step"
    )
    with Interruption() as interruption, bar:
        for epoch in range(first, options.epochs):
            began = time.perf_counter() - seconds
            for step, _ in enumerate(job.epoch(epoch, start), start + 1):
                bar.update()
                if job.device.type == "cpu" or step % POLL == 0 or step == job.steps:
                    _limit(skipped + job.skipped(), options, f"epoch {epoch + 1} step {step}")
                due = timer.is_due(epoch * job.steps + step)
                asked, due = distributed.any_of(interruption.asked, due)
                if asked or due:
                    _save(folder, epoch, step, time.perf_counter() - began, job)
                    timer.restart()
                if asked:
                    raise _interrupted(f"saved in epoch {epoch + 1} after step {step}; {go_on}")
            metrics = job.describe(epoch)
            seconds = time.perf_counter() - began
            skipped += metrics["skipped_steps"]
            bar.set_postfix_str(job.summary(metrics))
            folder.log(metrics, seconds)
            if board is not None:
                board.epoch(metrics | {"epoch_seconds": seconds})
            last = epoch + 1 == options.epochs
            (asked,) = distributed.any_of(interruption.asked)
            if asked or last or (epoch + 1) % options.checkpoint_every == 0:
                _save(folder, epoch + 1, 0, 0.0, job)
                timer.restart()
            if asked:
                raise _interrupted(f"saved after epoch {epoch + 1}; {go_on}")
            start, seconds = 0, 0.0


def _save(folder: RunFolder, epoch: int, step: int, seconds: float, job: Job) -> None:
    """Leave a checkpoint, if all ranks have the same state."""
    state = job.state()
    distributed.require_agreement(state, "weights, logits or statistics")
    folder.save_checkpoint(epoch, step, seconds, state)


def _interrupted(message: str) -> BaseException:
    return distributed.agreed(InterruptionError(message), RESUME_ME)


class _Timer:
    """Tells when a checkpoint inside an epoch is due: after so many steps, or minutes since the last one."""

    def __init__(self, options: RunOptions) -> None:
        self.steps, self.seconds = options.checkpoint_steps, 60 * options.checkpoint_minutes
        self.restart()

    def restart(self) -> None:
        """There is a checkpoint now."""
        self.saved = time.monotonic()

    def is_due(self, step: int) -> bool:
        """Whether the run wants one after so many steps in all."""
        late = self.seconds > 0 and time.monotonic() - self.saved >= self.seconds
        return late or (self.steps > 0 and step % self.steps == 0)


def _limit(skipped: int, options: RunOptions, where: str) -> None:
    """Raise InputError if more steps were skipped than the options allow."""
    if skipped > options.max_skipped_steps:
        error = InputError(
            f"the loss or its gradient was not finite in {skipped} steps, the last in {where}: lower --lr or "
            "keep --clip on in another run; this one has its last checkpoint, which a larger "
            "--max-skipped-steps, given with --resume, continues"
        )
        raise distributed.agreed(error, 2)


def _command(options: RunOptions) -> str:
    """What a run of this kind is started with."""
    if distributed.world() == 1:
        return f"train_{options.kind}"
    return f"torchrun --nproc-per-node {os.environ['LOCAL_WORLD_SIZE']} train_{options.kind}.py"
