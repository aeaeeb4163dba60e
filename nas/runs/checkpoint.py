"""Checkpoints: the last two states of a run, each in a file with a checksum.

A file is what torch.save writes, followed by one line of JSON with the version of the format and the SHA-256
of what comes before. torch.load reads it, too; nothing in it is executed.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any

import torch

from nas.runs.files import atomic_path, sync_folder
from recipes import InputError, first_line

FORMAT = 3
NEWEST, PREVIOUS, DAMAGED = "checkpoint.pt", "checkpoint-previous.pt", "checkpoint-damaged.pt"
# Epochs done, steps done in the next one, seconds spent in that, bytes of the logs, and what Job.state gives.
PARTS = {"epoch": int, "step": int, "seconds": float, "logs": dict, "state": dict}


_PLAIN = (int, float, bool, str, bytes, complex, type(None), torch.dtype, torch.device, torch.Size)


class DamageError(Exception):
    """What is wrong with a file that should be a checkpoint."""


def save(folder: Path, content: dict[str, Any]) -> None:
    """Make `content` the newest checkpoint in `folder`, and the newest the previous one.

    Neither is touched before the new file has been flushed, read back and verified. Raises InputError where
    `content` holds what could not be read back.
    """
    _require_plain(content, "")
    buffer = io.BytesIO()
    torch.save(content, buffer)
    payload = buffer.getvalue()
    with atomic_path(folder / NEWEST) as temporary:
        with open(temporary, "wb") as file:
            file.write(payload + _seal(payload))
            file.flush()
            os.fsync(file.fileno())
        _payload(temporary)
        if (folder / NEWEST).exists():
            os.replace(folder / NEWEST, folder / PREVIOUS)
        # A process that is killed here leaves no newest checkpoint; the previous one is then the last.


def _require_plain(content: Any, place: str) -> None:
    """Raise InputError unless `content` is made of tensors, numbers, texts, lists, tuples, sets and dicts:
    whatever else torch.save would write, a loader that executes nothing does not read."""
    if isinstance(content, dict):
        for key, value in content.items():
            _require_plain(key, f"a key of {place}")
            _require_plain(value, f"{place}[{key!r}]")
    elif type(content) in (list, tuple, set):
        for value in content:
            _require_plain(value, place)
    elif not isinstance(content, torch.Tensor) and type(content) not in _PLAIN:
        raise InputError(
            f"the state of the run holds a {type(content).__name__} at {place}, expected tensors, "
            "numbers of Python, texts, lists or dicts: convert it where `state` is made"
        )


def load(folder: Path) -> tuple[dict[str, Any] | None, str | None]:
    """The newest checkpoint in `folder` that is whole, and what is wrong with the newest of all.

    Returns:
        (None, None) where there is no checkpoint.

    Raises:
        InputError: there are checkpoints, and all of them are damaged.
    """
    damages: list[str] = []
    for name in (NEWEST, PREVIOUS):
        if not (folder / name).exists():
            continue
        try:
            return read(folder / name), damages[0] if damages else None
        except DamageError as damage:
            damages.append(f"{name} {damage}")
    if damages:
        raise InputError(
            f"no checkpoint in {folder} can be used: {'; '.join(damages)}; restore one, or start again with "
            "`overwrite`"
        )
    return None, None


def set_aside(folder: Path) -> None:
    """Put the damaged newest checkpoint away, so that it never takes the place of the good previous one."""
    os.replace(folder / NEWEST, folder / DAMAGED)
    sync_folder(folder)


def read(path: Path) -> dict[str, Any]:
    """The content of a checkpoint. Raises DamageError."""
    payload = _payload(path)
    try:
        content = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a file that something else has written makes of torch.load
        raise DamageError(f"is damaged ({first_line(error)})") from None
    if (
        not isinstance(content, dict)
        or {name: type(part) for name, part in content.items()} != PARTS
        or min(content["epoch"], content["step"], content["seconds"]) < 0
        or not all(type(size) is int for size in content["logs"].values())
    ):
        raise DamageError(f"is not a checkpoint of a run, expected {', '.join(sorted(PARTS))} in it")
    return content


def _payload(path: Path) -> bytes:
    """What torch.save wrote into the file, as the checksum vouches for. Raises DamageError."""
    try:
        content = path.read_bytes()
        line = content[-200:].rstrip(b"\n").rpartition(b"\n")[2]
        found = json.loads(line)["format"]
    except OSError as error:
        raise DamageError(f"cannot be read ({error.strerror})") from None
    except (ValueError, LookupError, TypeError, RecursionError):
        raise DamageError("is damaged (truncated, or written by an old version: no checksum)") from None
    if found != FORMAT:
        raise DamageError(
            f"is of another version of the package (format {str(found)[:20]}, expected {FORMAT})"
        )
    payload = content[: -len(line) - 2]
    if content[len(payload) :] != _seal(payload):
        raise DamageError("is damaged (its checksum does not match)")
    return payload


def _seal(payload: bytes) -> bytes:
    """The line that follows the payload."""
    return b"\n%s\n" % json.dumps({"format": FORMAT, "sha256": hashlib.sha256(payload).hexdigest()}).encode()
