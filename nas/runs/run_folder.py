"""The folder of a run: configuration, metrics, checkpoints and results, and a lock on them."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import shutil
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from nas import distributed
from nas.runs import checkpoint, kept
from nas.runs.files import Lock, append, json_text, lock, read_json_lines, remove_temporary, write_json
from nas.runs.job import Job
from recipes import InputError, RunOptions, first_line
from recipes.config_file import config_json, read_config, require_same
from recipes.text_files import parse_json, read_text

METRICS, TIMINGS, LOCK = "metrics.jsonl", "timings.jsonl", "lock"
# What a run writes into its folder, and --overwrite deletes there: all but the lock and config.json, which
# tells a run folder and is replaced.
_OWN = (
    "environment.json", METRICS, TIMINGS, checkpoint.NEWEST, checkpoint.PREVIOUS, checkpoint.DAMAGED,
    "splits.json", "latency.json", "weights.json", "genotype.json", "result.json", "model.safetensors",
    "data.json", "cell.svg", "cell.png", "report.html", "front", "tensorboard", kept.FOLDER,
)  # fmt: skip


class RunFolder:
    """The folder of a run, new or to be resumed, and locked until `close`.

    Nothing is written before `create`, only the lock file into the folder of an earlier run.

    Args:
        options: `out`, `resume` and `overwrite` decide which folder and what becomes of its content.
        objects: options whose values are objects, which config.json cannot hold.

    Attributes:
        writes: whether anything is written.
        path: the folder.
        checkpoint: the checkpoint to continue from, or None.
        finished: whether the run in it has ended already.

    Raises:
        InputError: the folder is occupied, in use, not a run's, or all its checkpoints are damaged.
    """

    writes = True

    def __init__(self, options: RunOptions, objects: Collection[str] = ()) -> None:
        self.path = Path(options.out or "")
        self.options, self.objects = options, objects
        self.checkpoint: dict[str, Any] | None = None
        self.finished = False
        self._damage: str | None = None
        self._saved_at: tuple[int, int, float] | None = None
        self._lock: Lock | None = None
        if not self._is_occupied():
            if options.resume:
                raise InputError(f"there is no run in {self.path} to resume: check `out`")
            return
        if not self._is_run():
            raise InputError(f"{self.path} is not empty and not a run folder: give another `out`")
        if self._is_of_this_job():
            require_same(options, read_config(type(options), self.path / "config.json", self.objects))
            self.options = options = replace(options, resume=True, overwrite=False)
        if not options.resume and not options.overwrite:
            raise InputError(
                f"{self.path} holds a run already: give `resume` to continue it, `overwrite` to "
                "delete it, or another `out`"
            )
        self._lock = self._take()
        try:
            if options.resume:
                self.finished = (self.path / "result.json").exists()
                self.checkpoint, self._damage = checkpoint.load(self.path)
                self._require_logs()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the folder up for others."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def discard(self) -> None:
        """Delete all that has been written, and the folder if nothing else is in it."""
        for name in (*_OWN, "config.json", LOCK):
            _delete(self.path / name)
        remove_temporary(self.path)
        with contextlib.suppress(OSError):
            self.path.rmdir()

    @property
    def position(self) -> tuple[int, int, float]:
        """Where the last checkpoint is: epochs done, steps done in the next one, seconds spent in that."""
        if self._saved_at is not None:
            return self._saved_at
        if self.checkpoint is None:
            return 0, 0, 0.0
        return self.checkpoint["epoch"], self.checkpoint["step"], self.checkpoint["seconds"]

    def create(self, device: torch.device) -> None:
        """Make the folder ready for writing, and record the options and what it runs on."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if self._lock is None:
                self._lock = self._take()
                if self._is_occupied():
                    raise InputError(f"{self.path} has been taken by another run: give another `out`")
            if self.options.overwrite:
                for name in _OWN:
                    _delete(self.path / name)
            remove_temporary(self.path)
            write_json(
                self.path / "config.json", config_json(self.options, self.objects) | {"out": str(self.path)}
            )
        except OSError as error:
            raise InputError(
                f"cannot write the run folder {self.path}: {error}; give another `out`"
            ) from None
        if self._damage is not None:
            epoch, step, _ = self.position
            print(
                f"note: {self._damage}; the run goes on from the checkpoint before it, epoch {epoch + 1} "
                f"step {step}",
                file=sys.stderr,
            )
            checkpoint.set_aside(self.path)
        for name, size in self._log_sizes().items():
            if (self.path / name).exists():
                os.truncate(self.path / name, size)  # later lines will be written again
        kept.forget_after(self.path, self.position[0])  # and so will later weights
        environment = _environment(device)
        if self.checkpoint is not None:
            self._compare(environment)
        write_json(self.path / "environment.json", environment)

    def _take(self) -> Lock:
        """Keep others out."""
        try:
            return lock(self.path / LOCK)
        except BlockingIOError:
            raise InputError(
                f"{self.path} is in use by another process: wait for it, or give another `out`"
            ) from None
        except OSError as error:
            raise InputError(
                f"cannot write into the run folder {self.path}: {error}; give another `out`"
            ) from None

    def _is_occupied(self) -> bool:
        """Whether there is more in the folder than a process leaves that was killed at its very beginning."""
        try:
            names = [p.name for p in self.path.iterdir()] if self.path.exists() else []
        except OSError as error:
            raise InputError(f"`out` {self.path} cannot be used as a folder: {error}; give another") from None
        return any(name != LOCK and not name.startswith(".config.json.") for name in names)

    def _is_run(self) -> bool:
        """Whether the configuration in the folder is that of a run."""
        try:
            config = parse_json(read_text(self.path / "config.json"))
            return config["kind"] in ("search", "final")
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def _is_of_this_job(self) -> bool:
        """Whether the run was begun by the job of torchrun that has started this process again.

        A job whose run has ended is another of the same name (`--rdzv-id`), unless it says that it has been
        restarted.
        """
        job = distributed.job()
        if job is None or self._environment_before().get("job") != job:
            return False
        return distributed.is_restarted() or not (self.path / "result.json").exists()

    def _environment_before(self) -> dict[str, Any]:
        """What the run ran on so far, as far as it is known."""
        try:
            before = parse_json(read_text(self.path / "environment.json"))
        except (OSError, ValueError):
            return {}
        return before if isinstance(before, dict) else {}

    def _compare(self, environment: dict[str, Any]) -> None:
        """Say what is different from before the interruption and may change the last bits."""
        before = self._environment_before()
        for name in ("torch", "device", "gpu", "threads", "ranks") if before else ():
            if before.get(name) != environment[name]:
                print(
                    f"note: resumed with {name} {environment[name]} instead of {before.get(name)}; results "
                    "may differ from those of an uninterrupted run in the last bits",
                    file=sys.stderr,
                )

    def require_options(self, options: RunOptions) -> None:
        """Raise InputError if the run was begun with other options, or with names in place of objects."""
        path = self.path / "config.json"
        named = sorted(set(self.objects) - set(parse_json(read_text(path)).get("objects", [])))
        if named:
            raise InputError(
                f"the run in {self.path} was begun with a name for `{named[0]}`, not with an object: "
                "drop the object to continue it, or give a new `out`"
            )
        require_same(options, read_config(type(options), path, self.objects))

    def require_unchanged(self, file: str, content: Any) -> None:
        """Raise InputError if `file` was written with another content before the interruption."""
        path = self.path / file
        if path.exists() and path.read_text(encoding="utf-8") != json_text(content):
            raise InputError(
                f"{path} no longer matches the data, the genotype or the weights that the run began with: "
                "restore them, or start again with `overwrite`"
            )

    def log(self, metrics: dict[str, Any], seconds: float) -> None:
        """Append a line to metrics.jsonl, and the time that the epoch took to timings.jsonl.

        Times differ from run to run; metrics.jsonl is the same for an interrupted run and a whole one.
        """
        append(self.path / METRICS, json.dumps(metrics, ensure_ascii=False) + "\n")
        timing = {"epoch": metrics["epoch"], "seconds": seconds}
        append(self.path / TIMINGS, json.dumps(timing) + "\n")

    def lines(self, name: str) -> list[dict[str, Any]]:
        """All lines of METRICS or TIMINGS."""
        path = self.path / name
        if not path.exists():
            return []
        return read_json_lines(path)

    def keep(self, epoch: int, weights: Mapping[str, Tensor]) -> None:
        """Keep weights after so many epochs, besides the checkpoints."""
        kept.save(self.path, epoch, weights)

    def kept_epochs(self) -> list[int]:
        """The epochs that weights were kept after, ascending."""
        return kept.epochs(self.path)

    def kept_weights(self, epoch: int) -> dict[str, Tensor]:
        """The weights kept after so many epochs, one of `kept_epochs`."""
        return kept.load(self.path, epoch)

    @property
    def skipped_steps(self) -> int:
        """Steps that were skipped in the epochs that have ended."""
        return sum(line["skipped_steps"] for line in self.lines(METRICS))

    def save_checkpoint(self, epoch: int, step: int, seconds: float, state: dict[str, Any]) -> None:
        """Leave a checkpoint: at `position` (`epoch`, `step`, `seconds`), `state` determines the rest."""
        logs = {name: _size(self.path / name) for name in (METRICS, TIMINGS)}
        position = {"epoch": epoch, "step": step, "seconds": seconds}
        checkpoint.save(self.path, position | {"logs": logs, "state": state})
        self._saved_at = (epoch, step, seconds)

    def _log_sizes(self) -> dict[str, int]:
        """Bytes of each log that belong to the checkpoint."""
        logs = {} if self.checkpoint is None else self.checkpoint["logs"]
        return {name: logs.get(name, 0) for name in (METRICS, TIMINGS)}

    def _require_logs(self) -> None:
        for name, size in self._log_sizes().items():
            if _size(self.path / name) < size:
                raise InputError(
                    f"{self.path / name} has lost lines that were written before the checkpoint: restore it, "
                    "or start again with `overwrite`"
                )


class NoFolder(RunFolder):
    """What a run has that leaves nothing on the disk: its metrics and kept weights in memory, and no way to
    continue it."""

    writes = False

    def __init__(self, options: RunOptions, objects: Collection[str] = ()) -> None:
        self.options, self.objects = options, objects
        self.finished, self.checkpoint, self._lock, self._saved_at = False, None, None, None
        self._lines: dict[str, list[dict[str, Any]]] = {METRICS: [], TIMINGS: []}
        self._kept: dict[int, dict[str, Tensor]] = {}

    def create(self, device: torch.device) -> None:
        """Nothing."""

    def require_options(self, options: RunOptions) -> None:
        """Nothing."""

    def require_unchanged(self, file: str, content: Any) -> None:
        """Nothing."""

    def log(self, metrics: dict[str, Any], seconds: float) -> None:
        """Keep the metrics of an epoch."""
        self._lines[METRICS].append(metrics)
        self._lines[TIMINGS].append({"epoch": metrics["epoch"], "seconds": seconds})

    def lines(self, name: str) -> list[dict[str, Any]]:
        """All lines of METRICS or TIMINGS."""
        return self._lines[name]

    def keep(self, epoch: int, weights: Mapping[str, Tensor]) -> None:
        """Keep a copy of the weights."""
        self._kept[epoch] = kept.copied(weights)

    def kept_epochs(self) -> list[int]:
        """The epochs that weights were kept after, ascending."""
        return sorted(self._kept)

    def kept_weights(self, epoch: int) -> dict[str, Tensor]:
        """The weights kept after so many epochs, one of `kept_epochs`."""
        return self._kept[epoch]

    def save_checkpoint(self, epoch: int, step: int, seconds: float, state: dict[str, Any]) -> None:
        """Note the position only."""
        self._saved_at = (epoch, step, seconds)

    def write_to(self, folder: RunFolder, job: Job) -> None:
        """Write what this run has brought so far into a new folder."""
        folder.create(job.device)
        for name, content in job.documents.items():
            write_json(folder.path / name, content)
        for metrics, timing in zip(self._lines[METRICS], self._lines[TIMINGS], strict=True):
            folder.log(metrics, timing["seconds"])
        for epoch, weights in self._kept.items():
            folder.keep(epoch, weights)
        folder.save_checkpoint(*self.position, job.state())


class Spectator(NoFolder):
    """What the ranks other than 0 have in place of the run folder: they know where the run stands, and write
    nothing."""

    def __init__(self, options: RunOptions, finished: bool, checkpoint: dict[str, Any] | None) -> None:
        super().__init__(options)
        self.finished, self.checkpoint = finished, checkpoint

    def keep(self, epoch: int, weights: Mapping[str, Tensor]) -> None:
        """Nothing: rank 0 does."""


@contextlib.contextmanager
def new_folder(options: RunOptions, objects: Collection[str]) -> Iterator[RunFolder]:
    """A run folder, new at `options.out`, to be written in the block; where that fails nothing is left of it.
    Raises InputError."""
    with RunFolder(options, objects) as folder:
        try:
            yield folder
        except (OSError, SafetensorError) as error:
            folder.discard()
            raise InputError(
                f"cannot write the run folder {folder.path}: {first_line(error)}; give another `out`"
            ) from None


def default_path(options: RunOptions, name: str) -> Path:
    """Where a run goes that `out` names no folder for; `name` begins its own name."""
    slug = re.split(r"[/\\]", options.dataset.rstrip("/\\"))[-1].replace(":", "-")
    return Path("runs") / f"{name}-{slug}-s{options.seed}"


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _environment(device: torch.device) -> dict[str, Any]:
    """What a run runs on."""
    packages = ("torch", "torchvision", "timm", "numpy", "reinmax-nas")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{name: _version(name) for name in packages},
        "device": str(device),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "ranks": distributed.world(),
        "job": distributed.job(),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
