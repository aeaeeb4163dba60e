"""Weights kept after chosen epochs: a safetensors file for each, in the folder `weights` of a run.

Unlike a checkpoint they are never replaced, and hold nothing that only a continued run needs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from nas.runs.files import atomic_path, remove_temporary, sync_folder
from recipes import InputError, first_line

FOLDER = "weights"
Tensors = Mapping[str, Tensor]


def copied(tensors: Tensors) -> dict[str, Tensor]:
    """The tensors on the CPU, each with memory of its own."""
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }


def save(run: Path, epoch: int, tensors: Tensors) -> None:
    """Keep the tensors in the folder of a run, after so many epochs."""
    path = _path(run, epoch)
    if not path.parent.is_dir():
        path.parent.mkdir()
        sync_folder(run)
    with atomic_path(path) as temporary:
        save_file(copied(tensors), temporary, {"nas": json.dumps({"epoch": epoch})})


def epochs(run: Path) -> list[int]:
    """The epochs that weights were kept after, ascending."""
    names = [path.name for path in (run / FOLDER).iterdir()] if (run / FOLDER).is_dir() else []
    found = [re.fullmatch(r"epoch-([1-9][0-9]{0,9})\.safetensors", name) for name in names]
    return sorted(int(match[1]) for match in found if match)


def load(run: Path, epoch: int) -> dict[str, Tensor]:
    """What `save` has kept, on the CPU. Raises InputError where the file is missing or damaged."""
    path = _path(run, epoch)
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"cannot read the kept weights {path}: {first_line(error)}; restore the file, or delete it"
        ) from None


def forget_after(run: Path, epoch: int) -> None:
    """Delete what was kept after later epochs than `epoch`, and what a killed process left behind."""
    if not (run / FOLDER).is_dir():
        return
    remove_temporary(run / FOLDER)
    for later in epochs(run):
        if later > epoch:
            _path(run, later).unlink()


def _path(run: Path, epoch: int) -> Path:
    return run / FOLDER / f"epoch-{epoch}.safetensors"
