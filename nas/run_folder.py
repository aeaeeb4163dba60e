"""The folder of a run: configuration, metrics, checkpoint and results."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from nas.files import atomic_path, json_text, write_json, write_text
from recipes import InputError, RunOptions, first_line
from recipes.command_line import config_json
from recipes.text_files import parse_json, read_text

CHECKPOINT_FORMAT = 1
# All that a run writes into its folder, and all that --overwrite deletes there. config.json, which tells
# a run folder, goes last.
_OWN = (
    "environment.json", "metrics.jsonl", "checkpoint.pt", "splits.json", "genotype.json",
    "result.json", "model.safetensors", "cell.svg", "cell.png", "report.html", "tensorboard",
    "config.json",
)  # fmt: skip


class RunFolder:
    """The folder of a run, new or to be resumed. Nothing is written before `create`.

    Args:
        options: `out`, `resume` and `overwrite` decide which folder and what becomes of its content.
        name: beginning of the default folder name.

    Attributes:
        path: the folder.
        checkpoint: the checkpoint to continue from, or None.
        finished: whether the run in it has ended already.

    Raises:
        InputError: the folder is occupied, not a run's, or its checkpoint is damaged.
    """

    def __init__(self, options: RunOptions, name: str) -> None:
        slug = options.dataset.rstrip("/").rpartition("/")[2].replace(":", "-")
        self.path = Path(options.out or Path("runs") / f"{name}-{slug}-s{options.seed}")
        self.options = options
        self.checkpoint: dict[str, Any] | None = None
        self.finished = False
        try:
            occupied = self.path.exists() and any(self.path.iterdir())
        except OSError as error:
            raise InputError(f"--out {self.path} cannot be used as a folder: {error}") from None
        if not occupied:
            if options.resume:
                raise InputError(f"there is no run in {self.path} to resume: check --out")
            return
        if not self._is_run():
            raise InputError(f"{self.path} is not empty and not a run folder: give another --out")
        if options.resume:
            self.finished = (self.path / "result.json").exists()
            self.checkpoint = self._load_checkpoint()
        elif not options.overwrite:
            raise InputError(
                f"{self.path} holds a run already: give --resume to continue it, --overwrite to "
                "delete it, or another --out"
            )

    def create(self, device: torch.device) -> None:
        """Make the folder ready for writing, and record the options and what it runs on."""
        try:
            if self.options.overwrite:
                for name in _OWN:
                    _delete(self.path / name)
            self.path.mkdir(parents=True, exist_ok=True)
            write_json(self.path / "config.json", config_json(self.options) | {"out": str(self.path)})
        except OSError as error:
            raise InputError(
                f"cannot write the run folder {self.path}: {error}; give another --out"
            ) from None
        self._truncate_metrics(0 if self.checkpoint is None else self.checkpoint["epoch"])
        environment = _environment(device)
        if self.checkpoint is not None:
            self._compare(environment)
        write_json(self.path / "environment.json", environment)

    def _is_run(self) -> bool:
        """Whether the configuration in the folder is that of a run."""
        try:
            config = parse_json(read_text(self.path / "config.json"))
            return config["kind"] in ("search", "final")
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def _compare(self, environment: dict[str, Any]) -> None:
        """Say what is different from before the interruption and may change the last bits."""
        try:
            before = json.loads((self.path / "environment.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return
        for name in ("torch", "device", "gpu", "threads"):
            if before.get(name) != environment[name]:
                print(
                    f"note: resumed with {name} {environment[name]} instead of {before.get(name)}; results "
                    "may differ from those of an uninterrupted run in the last bits",
                    file=sys.stderr,
                )

    def require_unchanged(self, file: str, content: Any) -> None:
        """Raise InputError if `file` was written with another content before the interruption."""
        path = self.path / file
        if path.exists() and path.read_text(encoding="utf-8") != json_text(content):
            raise InputError(
                f"{path} no longer matches the data or the genotype that the run began with: restore "
                "them, or start again with --overwrite"
            )

    def log(self, metrics: dict[str, Any]) -> None:
        """Append one line to metrics.jsonl."""
        with open(self.path / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(metrics, ensure_ascii=False) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """All lines of metrics.jsonl."""
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return []
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    def save_checkpoint(self, epoch: int, state: dict[str, Any]) -> None:
        """Replace the checkpoint: `epoch` epochs are done, `state` determines the rest."""
        with atomic_path(self.path / "checkpoint.pt") as temporary:
            torch.save({"format": CHECKPOINT_FORMAT, "epoch": epoch, "state": state}, temporary)

    def _load_checkpoint(self) -> dict[str, Any] | None:
        path = self.path / "checkpoint.pt"
        if not path.exists():
            return None
        try:
            data = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged file may end torch.load in any of them
            raise InputError(
                f"the checkpoint {path} is damaged ({first_line(error)}): restore it, or "
                "start again with --overwrite"
            ) from None
        if (
            not isinstance(data, dict)
            or data.get("format") != CHECKPOINT_FORMAT
            or type(data.get("epoch")) is not int
            or not isinstance(data.get("state"), dict)
        ):
            raise InputError(f"{path} is not a checkpoint of format {CHECKPOINT_FORMAT}")
        return data

    def _truncate_metrics(self, epoch: int) -> None:
        """Drop the lines after `epoch`: their epochs will be run again."""
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return
        kept = []
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
            try:
                if line.endswith("\n") and json.loads(line)["epoch"] <= epoch:
                    kept.append(line)
            except (ValueError, KeyError, TypeError):
                break  # a line that was being written when the run was killed
        write_text(path, "".join(kept))


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
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
