"""The life of a run, the same for a search and a final training: steps, metrics, checkpoints, signals."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from safetensors import SafetensorError
from tqdm import tqdm

from nas import runtime
from nas.files import write_json
from nas.interruption import Interruption
from nas.report import render_report, write_cell
from nas.run_folder import METRICS, TIMINGS, RunFolder
from nas.tensorboard import Board
from recipes import InputError, InterruptionError, RunOptions, first_line
from recipes.command_line import config_json
from search_spaces import Genotype

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
        steps: weight steps an epoch.
        documents: JSON files to write into the folder at the start, by name.
    """

    device: torch.device
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

    def conclude(self, folder: RunFolder) -> Outcome:
        """Finish after the last epoch, writing what only this kind of run has."""


def run(options: Options, name: str, make_job: Callable[[Options], Job]) -> None:
    """Do or continue the run that `options` describe. Raises InputError, or InterruptionError after a signal.

    Nothing is written before the options, the data and an existing checkpoint have been checked.
    """
    with RunFolder(options, name) as folder:
        try:
            if folder.finished:
                if not (folder.path / "report.html").exists():
                    render_report(folder.path)
                print(f"{folder.path} holds a finished run already")
            else:
                _run(options, folder, make_job)
        except (OSError, SafetensorError) as error:
            raise InputError(
                f"the run in {folder.path} has ended: {first_line(error)}; what was saved is kept; "
                f"{_go_on(folder)}"
            ) from None
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
                raise InputError(
                    "out of memory: lower --channels, --cells, --batch-size or --image-size"
                ) from None
            raise


def _run(options: Options, folder: RunFolder, make_job: Callable[[Options], Job]) -> None:
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
    folder.create(job.device)
    for file, content in job.documents.items():
        write_json(folder.path / file, content)
    board = Board(folder.path, folder.position[0], options.epochs) if options.tensorboard else None

    _train(options, folder, job, board)

    genotype, result, messages = job.conclude(folder)
    result["skipped_steps"] = sum(line["skipped_steps"] for line in folder.lines(METRICS))
    result["total_seconds"] = sum(line["seconds"] for line in folder.lines(TIMINGS))
    result["peak_memory_bytes"] = runtime.peak_memory(job.device)
    write_cell(folder.path, genotype)
    if board is not None:
        board.conclude(genotype, config_json(options), result)
        board.close()
    write_json(folder.path / "result.json", result)
    render_report(folder.path)
    print("\n".join([*messages, f"report {folder.path / 'report.html'}"]))


def _train(options: Options, folder: RunFolder, job: Job, board: Board | None) -> None:
    """Do all epochs from the position of `folder` on."""
    first, start, seconds = folder.position
    skipped = sum(line["skipped_steps"] for line in folder.lines(METRICS))
    timer = _Timer(options)
    done = first * job.steps + start
    bar = tqdm(total=options.epochs * job.steps, initial=done, disable=None, unit="step")
    with Interruption() as interruption, bar:
        for epoch in range(first, options.epochs):
            began = time.perf_counter() - seconds
            for step, _ in enumerate(job.epoch(epoch, start), start + 1):
                bar.update()
                if job.device.type == "cpu" or step % POLL == 0 or step == job.steps:
                    _limit(skipped + job.skipped(), options, f"epoch {epoch + 1} step {step}")
                if interruption.asked or timer.is_due(epoch * job.steps + step):
                    folder.save_checkpoint(epoch, step, time.perf_counter() - began, job.state())
                    timer.restart()
                if interruption.asked:
                    raise InterruptionError(f"saved in epoch {epoch + 1} after step {step}; {_go_on(folder)}")
            metrics = job.describe(epoch)
            seconds = time.perf_counter() - began
            skipped += metrics["skipped_steps"]
            bar.set_postfix_str(job.summary(metrics))
            folder.log(metrics, seconds)
            if board is not None:
                board.epoch(metrics | {"epoch_seconds": seconds})
            last = epoch + 1 == options.epochs
            if interruption.asked or last or (epoch + 1) % options.checkpoint_every == 0:
                folder.save_checkpoint(epoch + 1, 0, 0.0, job.state())
                timer.restart()
            if interruption.asked:
                raise InterruptionError(f"saved after epoch {epoch + 1}; {_go_on(folder)}")
            start, seconds = 0, 0.0


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
        raise InputError(
            f"the loss or its gradient was not finite in {skipped} steps, the last in {where}: lower --lr or "
            "keep --clip on in another run; this one has its last checkpoint, which a larger "
            "--max-skipped-steps, given with --resume, continues"
        )


def _go_on(folder: RunFolder) -> str:
    """The command that continues a run."""
    return f"go on with: train_{folder.options.kind} --resume --out {shlex.quote(str(folder.path))}"
