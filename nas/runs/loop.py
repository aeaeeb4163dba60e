"""The life of a run, the same for a search and a final training: steps, metrics, checkpoints, signals."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from safetensors import SafetensorError

from nas import device, distributed
from nas.report.run_report import render_report, write_cell
from nas.report.tensorboard import Board
from nas.runs.files import write_json
from nas.runs.interruption import Interruption
from nas.runs.job import Job, Outcome
from nas.runs.progress import progress_bar
from nas.runs.run_folder import TIMINGS, NoFolder, RunFolder, Spectator
from recipes import RESUME_ME, InputError, InterruptionError, RunOptions, first_line
from recipes.config_file import config_json

AJob = TypeVar("AJob", bound=Job)
Callback = Callable[[dict[str, Any]], Any]
Announce = Callable[[str], Any]
POLL = 50  # steps between two reads of the number of skipped steps, for which the host waits for a GPU


@dataclass
class Ended(Generic[AJob]):
    """A run that has come to its end, or was stopped.

    Attributes:
        job: as the last step left it.
        folder: of the run, or what stands for one.
        outcome: None where the run was stopped.
        stopped: what stopped it and how to go on, in one line.
    """

    job: AJob
    folder: RunFolder
    outcome: Outcome | None = None
    stopped: str | None = None


def run(
    options: RunOptions,
    make_job: Callable[[torch.device], AJob],
    *,
    objects: Collection[str] = (),
    callback: Callback | None = None,
    progress: bool | None = None,
    announce: Announce | None = None,
) -> Ended[AJob]:
    """Do or continue the run that `options` describe, in the folder `options.out`, or in memory where it is
    None.

    Nothing is written before the options, the data and an existing checkpoint have been checked. Started by
    torchrun, all ranks do this together, and rank 0 writes.

    Args:
        make_job: of the device.
        objects: options whose values are objects.
        callback: gets the metrics of every epoch; where it returns what is true the run stops as if a
            signal had asked it to.
        progress: whether to show a bar; None: on a terminal and in a notebook.
        announce: gets the lines that are to be read before the first step; None: they are printed.

    Raises:
        InputError: bad input, or a run that cannot go on.
    """
    with (
        distributed.group(),
        _failures(options, objects),
        _open(options, objects) as folder,
        device.prepared(options.device, options.threads, options.deterministic) as place,
    ):
        return _run(options, folder, make_job, place, callback, progress, announce or _print)


def _print(line: str) -> None:
    print(line, flush=True)


def finished(options: RunOptions) -> bool:
    """Whether `options.out` is to be continued and has ended already; then says so, and mends its report."""
    path = Path(options.out or "")
    if not (options.out and options.resume and (path / "result.json").exists()):
        return False
    with distributed.group(), _failures(options), _open(options, ()):
        if distributed.rank() == 0:
            if not (path / "report.html").exists():
                render_report(path)
            print(f"{path} holds a finished run already")
    return True


@contextmanager
def _failures(options: RunOptions, objects: Collection[str] = ()) -> Iterator[None]:
    """Turns what a run may die of from outside into one line."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        where = f"the run in {options.out}" if options.out else "the run"
        raise InputError(
            f"{where} has ended: {first_line(error)}; what was saved is kept; {_go_on(options, objects)}"
        ) from None
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or any(
            text in str(error) for text in ("can't allocate memory", "CUDA error: out of memory")
        ):
            raise InputError(
                "out of memory: lower `channels`, `cells`, `batch_size` or `image_size`"
            ) from None
        if distributed.is_loss(error):
            if distributed.rank() > 1:  # rank 0 and, in case it is the one, rank 1 say so
                sys.exit(RESUME_ME)
            raise InterruptionError(
                f"another rank of this job has ended; the last checkpoint is kept; {_go_on(options, objects)}"
            ) from None
        raise


def _open(options: RunOptions, objects: Collection[str]) -> RunFolder:
    """The run folder, on all ranks as rank 0 finds it."""
    if options.out is None:
        if options.resume:
            raise InputError("`resume` needs `out`, the folder of the run to continue")
        return NoFolder(options, objects)
    folder = None
    with distributed.together():
        if distributed.rank() == 0:
            folder = RunFolder(options, objects)
    found = distributed.broadcast(None if folder is None else (folder.finished, folder.checkpoint))
    return folder or Spectator(options, *found)


def _run(
    options: RunOptions,
    folder: RunFolder,
    make_job: Callable[[torch.device], AJob],
    place: torch.device,
    callback: Callback | None,
    progress: bool | None,
    announce: Announce,
) -> Ended[AJob]:
    with distributed.together():
        job = make_job(place)
        if folder.checkpoint is not None:
            folder.require_options(job.options)
            try:
                job.restore(folder.checkpoint["state"])
            except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
                raise InputError(
                    f"the checkpoint in {folder.path} does not fit this configuration: {first_line(error)}; "
                    "restore it, or start again with `overwrite`"
                ) from None
            for file, content in job.documents.items():
                folder.require_unchanged(file, content)
    how = folder.options  # a restart by torchrun continues, whatever its command says
    folder.options = replace(job.options, resume=how.resume, overwrite=how.overwrite)
    distributed.require_agreement([job.documents, job.state()], "the data or the first weights")
    ended = Ended(job, folder)
    if folder.finished:
        if folder.checkpoint is None:
            raise InputError(
                f"{folder.path} holds a result but no checkpoint any more: its genotype.json and "
                "model.safetensors are what is left; `overwrite` starts again"
            )
        for _ in job.finish():
            pass
        ended.outcome = job.conclude()
        return ended
    with distributed.together():
        folder.create(job.device)
    if distributed.rank() == 0:
        for line in job.announcement:
            announce(line)
    board = None
    if folder.writes:
        for file, content in job.documents.items():
            write_json(folder.path / file, content)
        if options.tensorboard:
            board = Board(folder.path, job.space, folder.position[0], options.epochs)
    try:
        ended.stopped = _work(options, folder, job, board, callback, progress)
        if ended.stopped is None:
            ended.outcome = job.conclude()
            if folder.writes:
                leave(ended, board)
    finally:
        if board is not None:
            board.close()
    return ended


def leave(ended: Ended[Any], board: Board | None = None) -> None:
    """Write what a run that has come to its end leaves in its folder."""
    job, folder, outcome = ended.job, ended.folder, ended.outcome
    assert outcome is not None
    job.save(folder.path, outcome)
    genotype, result, messages = outcome
    result["skipped_steps"] = folder.skipped_steps
    selecting = folder.position[2]
    result["total_seconds"] = sum(line["seconds"] for line in folder.lines(TIMINGS)) + selecting
    result["peak_memory_bytes"] = device.peak_memory(job.device)
    write_cell(folder.path, genotype)
    if board is not None:
        board.conclude(genotype, config_json(folder.options), result)
    write_json(folder.path / "result.json", result)
    render_report(folder.path, job.space)
    messages.append(f"report {folder.path / 'report.html'}")


def _work(
    options: RunOptions,
    folder: RunFolder,
    job: Job,
    board: Board | None,
    callback: Callback | None,
    progress: bool | None,
) -> str | None:
    """Do all epochs and what follows them, from the position of `folder` on; what stopped it, if anything."""
    first, start, seconds = folder.position
    skipped: int = distributed.broadcast(folder.skipped_steps)
    timer = _Timer(options)
    go_on = _go_on(options, folder.objects)
    total, done = options.epochs * job.steps, first
    shown = False if distributed.rank() > 0 else progress
    with Interruption() as interruption, progress_bar(total, first * job.steps + start, shown) as bar:
        for epoch in range(first, options.epochs):
            if start == 0 and job.has_settled(epoch):
                break
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
                    return f"saved in epoch {epoch + 1} after step {step}; {go_on}"
            metrics = job.describe(epoch)
            seconds = time.perf_counter() - began
            skipped += metrics["skipped_steps"]
            bar.set_postfix_str(job.summary(metrics))
            folder.log(metrics, seconds)
            if (weights := job.kept(epoch + 1)) is not None:  # before the checkpoint, so that none is missing
                folder.keep(epoch + 1, weights)
            if board is not None:
                board.epoch(metrics | {"epoch_seconds": seconds})
            done = epoch + 1
            last = done == options.epochs or job.has_settled(done)
            enough = callback is not None and bool(callback(dict(metrics))) and not last
            (asked,) = distributed.any_of(interruption.asked or enough)
            if asked or last or (epoch + 1) % options.checkpoint_every == 0:
                _save(folder, epoch + 1, 0, 0.0, job)
                timer.restart()
            if asked:
                return f"saved after epoch {epoch + 1}; {go_on}"
            start, seconds = 0, 0.0
        bar.total, piece = done * job.steps + job.pieces(), 0
        began = time.perf_counter() - seconds
        for piece, _ in enumerate(job.finish(), 1):
            bar.update()
            asked, due = distributed.any_of(interruption.asked, timer.is_due(total + piece))
            if asked or due:
                _save(folder, done, 0, time.perf_counter() - began, job)
                timer.restart()
            if asked:
                return f"saved while selecting an architecture; {go_on}"
        if piece:
            _save(folder, done, 0, time.perf_counter() - began, job)
    return None


def _save(folder: RunFolder, epoch: int, step: int, seconds: float, job: Job) -> None:
    """Leave a checkpoint, if all ranks have the same state."""
    state = job.state()
    distributed.require_agreement(state, "weights, logits or statistics")
    folder.save_checkpoint(epoch, step, seconds, state)


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
            f"the loss, a term or a gradient was not finite in {skipped} steps, the last in {where}: "
            "lower `lr`, keep `clip` on or look at `terms` in another run"
            + (
                "; this one has its last checkpoint, which a larger `max_skipped_steps`, given with "
                "`resume`, continues"
                if options.out
                else ""
            )
        )
        raise distributed.agreed(error, 2)


def _go_on(options: RunOptions, objects: Collection[str] = ()) -> str:
    """How a run is continued."""
    if options.out is None:
        return "it is in memory only: `save` of its result writes a folder to continue it from"
    if objects:
        return "go on with the same call and resume=True"
    command = f"train_{options.kind}"
    if distributed.world() > 1:
        command = f"torchrun --nproc-per-node {os.environ['LOCAL_WORLD_SIZE']} {command}.py"
    plugins = f" --plugins {shlex.join(options.plugins)}" if options.plugins else ""
    return f"go on with: {command}{plugins} --resume --out {shlex.quote(str(options.out))}"
