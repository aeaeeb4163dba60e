"""`nas export`: a trained network for other programs."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nas import device
from nas.deploy.card import about, card
from nas.deploy.formats import FORMATS
from nas.deploy.trained import of_path, of_result
from nas.runs.files import write_json, write_text
from nas.training.weights import FACTS
from recipes import InputError, one_of
from recipes.deploy import ExportOptions

if TYPE_CHECKING:
    from nas.api import TrainResult

CARD = "README.md"


def export(
    model: str | Path | TrainResult,
    format: str | Sequence[str] = "safetensors",
    out: str | Path = "export",
    *,
    overwrite: bool = False,
) -> Path:
    """Write a trained network for other programs, each file compared with the network, and its card.

    Args:
        model: the result of a training, the folder of one, or a model.safetensors.
        format: one or several of onnx, torch, torchscript, safetensors, timm.
        out: the folder to write, new or empty. It appears when all of it is there.
        overwrite: replace an earlier export.

    Raises:
        InputError: bad input, a package that is missing, or a network that the format does not fit.
    """
    formats = (format,) if isinstance(format, str) else tuple(format)
    for name in formats:
        one_of("format", name, FORMATS)
    if not formats:
        raise InputError(f"`format` is empty, expected one or several of: {', '.join(FORMATS)}")
    folder = Path(out)
    earlier = _require_free(folder, overwrite)
    with device.prepared("cpu"):
        trained = of_path(os.fspath(model)) if isinstance(model, str | Path) else of_result(model)
        partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            partial.mkdir(parents=True)
            # The weights of timm's folder say all that those of safetensors say.
            written = {name: FORMATS[name](trained, partial) for name in FORMATS if name in formats}
            facts = about(trained, written)
            write_json(partial / FACTS, facts)
            write_text(partial / CARD, card(facts, written))
            if earlier:
                shutil.rmtree(folder)
            os.replace(partial, folder)
        except OSError as error:
            raise InputError(f"cannot write the export {folder}: {error}") from None
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return folder


def _require_free(folder: Path, overwrite: bool) -> bool:
    """Whether the folder holds an earlier export. Raises InputError where it is occupied."""
    try:
        names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    except OSError as error:
        raise InputError(f"`out` {folder} cannot be used as a folder: {error}") from None
    earlier = {CARD, FACTS} <= names
    if names and not earlier:
        raise InputError(f"{folder} is not empty and holds no export: give another `out`")
    if earlier and not overwrite:
        raise InputError(
            f"{folder} holds an export already: give `overwrite` to replace it, or another `out`"
        )
    return earlier


def run(options: ExportOptions) -> None:
    """What `nas export` does."""
    source = Path(options.model).resolve()
    name = source.parent.name if source.is_file() else source.name
    folder = export(
        options.model, options.format, options.out or f"{name}-export", overwrite=options.overwrite
    )
    for path in sorted(folder.iterdir()):
        print(f"{path}  {path.stat().st_size:,} bytes")
