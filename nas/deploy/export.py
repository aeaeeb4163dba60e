"""`nas export`: a trained network for other programs."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nas import device
from nas.data.names import quoted
from nas.deploy.card import about, card
from nas.deploy.formats import FORMATS
from nas.deploy.trained import of_path, of_result
from nas.runs.files import write_json, write_text
from nas.training.weights import FACTS
from recipes import InputError, one_of
from recipes.deploy import ExportOptions
from recipes.text_files import parse_json, read_text

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
    folder = Path(out).absolute()
    earlier = _require_free(folder, overwrite)
    with device.prepared("cpu"):
        trained = of_path(os.fspath(model)) if isinstance(model, str | Path) else of_result(model)
        partial, aside = (
            folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.{ending}") for ending in ("tmp", "old")
        )
        try:
            partial.mkdir(parents=True)
            # The weights of timm's folder say all that those of safetensors say.
            written = {name: FORMATS[name](trained, partial) for name in FORMATS if name in formats}
            facts = about(trained, written)
            write_json(partial / FACTS, facts)
            write_text(partial / CARD, card(facts, written))
            if earlier:
                os.replace(folder, aside)
            os.replace(partial, folder)
        except OSError as error:
            if aside.exists() and not folder.exists():
                os.replace(aside, folder)
            raise InputError(f"cannot write the export {out}: {error}") from None
        finally:
            for rest in (partial, aside):
                shutil.rmtree(rest, ignore_errors=True)
    return Path(out)


def _require_free(folder: Path, overwrite: bool) -> bool:
    """Whether the folder holds an earlier export. Raises InputError where it is occupied."""
    if folder == Path.cwd():
        raise InputError("`out` is the current folder, which cannot be replaced: give one of its own")
    try:
        names = {path.name for path in folder.iterdir()} if folder.exists() else set()
        earlier = {CARD, FACTS} <= names
        known = _listed(folder / FACTS) if earlier else set()
    except OSError as error:
        raise InputError(f"`out` {folder} cannot be used as a folder: {error}") from None
    if names and not earlier:
        raise InputError(f"{folder} is not empty and holds no export: give another `out`")
    if others := sorted(names - known - {CARD, FACTS}):
        raise InputError(
            f"{folder} holds more than an export, {quoted(others)}: move that away, or give another `out`"
        )
    if earlier and not overwrite:
        raise InputError(
            f"{folder} holds an export already: give `overwrite` to replace it, or another `out`"
        )
    return earlier


def _listed(facts: Path) -> set[str]:
    """Names in the folder of an export, by its model.json."""
    try:
        return {
            Path(name).parts[0] for files in parse_json(read_text(facts))["files"].values() for name in files
        }
    except (ValueError, LookupError, TypeError, AttributeError):
        raise InputError(f"{facts} is damaged, or of something else: give another `out`") from None


def run(options: ExportOptions) -> None:
    """What `nas export` does."""
    source = Path(options.model).resolve()
    name = source.parent.name if source.is_file() else source.name
    folder = export(
        options.model, options.format, options.out or f"{name}-export", overwrite=options.overwrite
    )
    for path in sorted(folder.iterdir()):
        print(f"{path}  {path.stat().st_size:,} bytes")
