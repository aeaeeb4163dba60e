"""Image files decoded once, into a file that is mapped into memory: no set is too large."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import mmap
import os
import stat
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nas.data.images import Images
from nas.data.sources.decoding import write_pixels
from nas.data.sources.pictures import Array, decode
from nas.data.sources.reading import Plan, Reading, planned
from nas.runs.files import atomic_path, cache_folder, write_json
from recipes import InputError, first_line

IN_MEMORY = 500_000_000  # bytes of pixels that are read at once; more are left in their file
FORMAT = 3  # of the files in the cache


@dataclass(frozen=True)
class Decoded:
    """The pixels of files, in their order.

    Attributes:
        pixels: (N, C, size, size), uint8 or float32 in [0, 1].
        mapped: whether they are left in a file.
        bad: files that cannot be read, by index; their pixels mean nothing.
        scale: values of the files that count as 0 and 1; None: 0 and 255.
        reduced: of files of more bits among those of 8, the values that became 0 and 255; None: 0 and 65535.
        notes: about them all.
    """

    pixels: Tensor
    mapped: bool
    bad: tuple[int, ...]
    scale: tuple[float, float] | None
    reduced: tuple[float, float] | None
    notes: tuple[str, ...]

    @classmethod
    def of(cls, array: Array, mapped: bool, said: Mapping[str, Any]) -> Decoded:
        """Of pixels (N, size, size, C), and what `write_pixels` has said of them."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that what is mapped must not be written to
            pixels = torch.from_numpy(array).permute(0, 3, 1, 2)
        scale, reduced = (
            None if said[name] is None else (float(said[name][0]), float(said[name][1]))
            for name in ("scale", "reduced")
        )
        bad, notes = tuple(map(int, said["bad"])), tuple(map(str, said["notes"]))
        return cls(pixels, mapped, bad, scale, reduced, notes)

    @property
    def deep(self) -> bool:
        """Whether the files have more than 8 bits, or values of their own."""
        return self.pixels.dtype != torch.uint8

    def images(self, start: int, labels: Tensor) -> Images:
        """Those that can be read of the images from index `start` on, with labels (n,)."""
        bad = [i - start for i in self.bad if start <= i < start + len(labels)]
        good = torch.ones(len(labels), dtype=torch.bool)
        good[bad] = False
        found = Images(
            self.pixels[start : start + len(labels)],
            labels,
            torch.arange(len(labels)) if self.mapped else None,
        )
        return found[good.nonzero().squeeze(1)] if bad else found


def read(paths: Sequence[Path], title: str, reading: Reading) -> Decoded:
    """The images in files; decoded once per state of the files, and cached.

    Args:
        title: what they are, for messages.

    Raises:
        InputError: a file cannot be read, or there is no room for the pixels.
    """
    span = reading.span
    place = cache_folder() / _fingerprint(paths, reading)
    found = _cached(place, len(paths), reading.size)
    if found is not None and not (found.bad and (reading.bad_images == "refuse" or _is_mended(paths, found))):
        return found
    plan = planned(paths, title, reading, span)
    try:
        return _kept(place, paths, title, reading, plan)
    except OSError as error:
        problem = error
    return _held(paths, title, reading, plan, problem)


def _fingerprint(paths: Sequence[Path], reading: Reading) -> str:
    """A name for the files as they are now, and how they are read."""
    asked = f"{FORMAT} {reading.size} {reading.channels_in} {reading.pixel_range}"
    known = hashlib.sha256(asked.encode())
    root = Path(os.path.commonpath([path.parent.absolute() for path in paths])).resolve()
    known.update(os.fsencode(root))
    for path in paths:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path} is not a file: remove it")  # reading a pipe would wait for ever
        known.update(os.fsencode(path))
        known.update(f" {status.st_size} {status.st_mtime_ns}\n".encode())
    return known.hexdigest()[:32]


def _cached(place: Path, count: int, size: int) -> Decoded | None:
    """What was decoded before, or None where it was not, or is damaged."""
    try:
        said = json.loads(place.with_suffix(".json").read_text(encoding="utf-8"))
        path = place.with_suffix(".npy")
        mapped = path.stat().st_size > IN_MEMORY
        array = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
        if array.ndim != 4 or array.shape[:3] != (count, size, size):
            return None
        if array.dtype not in (np.uint8, np.float32):
            return None
        return Decoded.of(array, mapped, said)
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError):
        return None  # it is decoded and written again


def _is_mended(paths: Sequence[Path], found: Decoded) -> bool:
    """Whether a file can be read that could not be when it was decoded."""
    _, channels, size, _ = found.pixels.shape
    for i in found.bad:
        with contextlib.suppress(InputError):
            decode(paths[i], size, channels, found.deep, found.reduced)
            return True
    return False


def _kept(place: Path, paths: Sequence[Path], title: str, reading: Reading, plan: Plan) -> Decoded:
    """Decode into the cache. Raises InputError, and OSError where it cannot be written."""
    place.parent.mkdir(parents=True, exist_ok=True)
    _remove_left(place.parent)
    with atomic_path(place.with_suffix(".npy")) as temporary, open(temporary, "w+b") as file:
        described = {"descr": plan.dtype.str, "fortran_order": False, "shape": plan.shape}
        np.lib.format.write_array_header_1_0(file, described)
        said = write_pixels(file, paths, title, reading, plan)
    write_json(place.with_suffix(".json"), said)
    found = _cached(place, len(paths), reading.size)
    if found is None:
        raise OSError("the file that was written cannot be read back")
    return found


def _remove_left(cache: Path) -> None:
    """Delete what processes have left that were killed while they decoded: nobody has written to it for a
    day."""
    for path in cache.glob(".*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > 24 * 3600:
                path.unlink()


def _held(paths: Sequence[Path], title: str, reading: Reading, plan: Plan, problem: OSError) -> Decoded:
    """Decode into memory, as the cache has a problem. Raises InputError."""
    needed, there = math.prod(plan.shape) * plan.dtype.itemsize, _memory()
    try:
        if there is not None and needed > there:
            raise OSError(f"this machine has {there / 1e9:.1f} GB")
        memory = mmap.mmap(-1, needed)  # in no file, but written like one
    except OSError as error:
        raise InputError(
            f"the {len(paths)} images of {title} take {needed / 1e9:.1f} GB in this size, for which there is "
            f"no memory ({first_line(error)}), and cannot be kept in {cache_folder()} ({problem}): make room "
            "there, name another folder in XDG_CACHE_HOME, or lower `image_size`"
        ) from None
    print(f"note: the decoded images of {title} are not cached: {problem}", file=sys.stderr)
    said = write_pixels(memory, paths, title, reading, plan)
    return Decoded.of(np.frombuffer(memory, plan.dtype).reshape(plan.shape), False, said)


def _memory() -> int | None:
    """Bytes of this machine's memory, where they are known."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on this system
        return None
