"""Image files decoded once, into a file that is mapped into memory: no set is too large."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from nas.data.images import Images
from nas.data.sources.pictures import WHITE, Array, Header, decode, header, scaled
from nas.runs.files import atomic_path, cache_folder, write_json
from recipes import InputError

READ_AHEAD = 1024  # files that wait to be decoded
WRITE_AHEAD = 64_000_000  # bytes of pixels that wait to be written
IN_MEMORY = 500_000_000  # bytes of pixels that are read at once; more are left in their file
FORMAT = 3  # of the files in the cache
T = TypeVar("T")
AUTO = "auto"


@dataclass(frozen=True)
class Reading:
    """How image files are to be read.

    Attributes:
        size: side in pixels of the square that they are resized to.
        channels_in: auto: one where all files are grey, three where one has colours, else as many as there
            are; or 1, or 3.
        pixel_range: auto, or LOW:HIGH, the values of the files that count as 0 and 1.
        bad_images: refuse, or leave_out: what becomes of files that cannot be read.
    """

    size: int = 32
    channels_in: str = AUTO
    pixel_range: str = AUTO
    bad_images: str = "refuse"

    def require_no_range(self, name: str) -> None:
        """Raise InputError where a range is given for a data set whose values are no choice."""
        if self.pixel_range != AUTO:
            raise InputError(f"`pixel_range` is for image files and arrays, not for '{name}': drop it")

    @property
    def span(self) -> tuple[float, float] | None:
        """The range that is given; None: auto. Raises InputError."""
        return parse_range(self.pixel_range)


def parse_range(text: str) -> tuple[float, float] | None:
    """LOW:HIGH as numbers, auto as None. Raises InputError."""
    if text == AUTO:
        return None
    try:
        low, high = map(float, text.split(":"))
    except ValueError:
        low = high = 0.0
    if not -1e30 < low < high < 1e30:
        raise InputError(
            f"`pixel_range` is '{text[:40]}', expected auto or LOW:HIGH, such as 0:4095: the values of the "
            "files that count as black and white"
        )
    return low, high


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
    if found is None or (found.bad and (reading.bad_images == "refuse" or _is_mended(paths, found))):
        plan = _plan(paths, title, reading, span)
        found = _decode_all(paths, title, reading, plan, place)
    return found


def _is_mended(paths: Sequence[Path], found: Decoded) -> bool:
    """Whether a file can be read that could not be when it was decoded."""
    _, channels, size, _ = found.pixels.shape
    for i in found.bad:
        with contextlib.suppress(InputError):
            decode(paths[i], size, channels, found.deep, found.reduced)
            return True
    return False


@contextlib.contextmanager
def _refused() -> Iterator[None]:
    """What is said of a file that cannot be read names the way to do without it."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{error}, or give `bad_images=leave_out`") from None


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
        scale, reduced = (
            None if said[name] is None else (float(said[name][0]), float(said[name][1]))
            for name in ("scale", "reduced")
        )
        bad = tuple(map(int, said["bad"]))
        pixels, mapped = _pixels(place.with_suffix(".npy"))
        if pixels.shape[0] != count or pixels.shape[2:] != (size, size):
            return None
        return Decoded(pixels, mapped, bad, scale, reduced, tuple(map(str, said["notes"])))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # it is decoded and written again


def _pixels(path: Path) -> tuple[Tensor, bool]:
    """Pixels (N, C, H, W) in a file of NumPy, (N, H, W, C) there, and whether they stay in it, which takes no
    memory for good."""
    mapped = path.stat().st_size > IN_MEMORY
    array = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    if array.ndim != 4 or array.dtype not in (np.uint8, np.float32):
        raise ValueError("not pixels")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that what is mapped must not be written to
        return torch.from_numpy(array).permute(0, 3, 1, 2), mapped


@dataclass(frozen=True)
class _Plan:
    """How all files are decoded, so that they go together."""

    channels: int
    deep: bool
    span: tuple[float, float] | None
    notes: tuple[str, ...]


def _plan(paths: Sequence[Path], title: str, reading: Reading, span: tuple[float, float] | None) -> _Plan:
    """What the headers of all files agree on. Raises InputError."""

    def look(i: int) -> Header | None:
        try:
            with _refused():
                return header(paths[i])
        except InputError:
            if reading.bad_images == "refuse":
                raise
            return None

    looked = _each(len(paths), look, f"looking at {title}", READ_AHEAD)
    headers = [found for _, found in looked if found is not None]
    if not headers:
        raise InputError(f"none of the {len(paths)} images of {title} can be read: {_why(paths[0])}")
    counts = Counter(found.channels for found in headers)
    channels = max(counts)
    if reading.channels_in != AUTO:
        channels = int(reading.channels_in)
        if unfit := sorted(set(counts) - {1, 3, channels}):
            raise InputError(
                f"images of {title} have {unfit[0]} channels, `channels_in={channels}` is for grey and "
                "colours: leave it at auto"
            )
    elif len(set(counts) - {1}) > 1 or (len(counts) > 1 and channels != 3):
        found = ", ".join(f"{n} of {c} channels" for c, n in sorted(counts.items()))
        raise InputError(f"the images of {title} differ: {found}; keep those of one kind")
    deep = sum(found.deep for found in headers)
    notes = []
    if lossy := sum(found.lossy for found in headers):
        notes.append(
            f"only the upper 8 of 16 bits are read of {lossy} files (transparency, or grey with it): save "
            "them without transparency to keep all"
        )
    if 0 < deep < len(headers):
        low, high = span or (0.0, WHITE)
        notes.append(
            f"{deep} of {len(headers)} files have 16 bits or more and are reduced to the 8 of the others, "
            f"{low:g} to {high:g} from black to white (`pixel_range`)"
        )
        return _Plan(channels, False, span, tuple(notes))
    plain = deep == 0 and span in (None, (0.0, 255.0))
    return _Plan(channels, not plain, None if plain else span, tuple(notes))


def _why(path: Path) -> str:
    try:
        header(path)
    except InputError as error:
        return str(error)
    return f"see {path}"


def _each(
    count: int, function: Callable[[int], T], title: str, step: int
) -> Generator[tuple[int, T], None, None]:
    """Indices from 0 to count - 1 and `function` of them, by several threads, `step` of them at a time."""
    progress = tqdm(total=count, desc=title, disable=None, unit="image")
    with progress, warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        warnings.simplefilter("ignore")  # about harmless flaws, such as unreadable notes of a camera
        for start in range(0, count, step):
            chunk = range(start, min(start + step, count))
            for i, result in zip(chunk, pool.map(function, chunk), strict=True):
                progress.update()
                yield i, result


def _decode_all(paths: Sequence[Path], title: str, reading: Reading, plan: _Plan, place: Path) -> Decoded:
    """Decode and cache. Where no cache can be written, the pixels stay in memory."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        _remove_left(place.parent)
        with atomic_path(place.with_suffix(".npy")) as temporary:
            said = _written(temporary, paths, title, reading, plan)
        write_json(place.with_suffix(".json"), said)
        found = _cached(place, len(paths), reading.size)
        if found is not None:
            return found
        problem: object = "the file that was written cannot be read back"
    except OSError as error:
        problem = error
    kind = 4 if plan.deep else 1
    needed = len(paths) * plan.channels * reading.size**2 * kind
    there = _memory()
    if there is not None and needed > there:
        raise InputError(
            f"the {len(paths)} images of {title} take {needed / 1e9:.1f} GB in this size, more than the "
            f"{there / 1e9:.1f} GB of this machine, and cannot be kept in {place.parent} ({problem}): make "
            "room there, name another folder in XDG_CACHE_HOME, or lower `image_size`"
        )
    print(f"note: the decoded images of {title} are not cached: {problem}", file=sys.stderr)
    pixels = np.empty((len(paths), reading.size, reading.size, plan.channels), _kind(plan))
    said = _filled(pixels, paths, title, reading, plan)
    tensor = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    return Decoded(tensor, False, tuple(said["bad"]), said["scale"], said["reduced"], tuple(said["notes"]))


def _remove_left(cache: Path) -> None:
    """Delete what processes have left that were killed while they decoded: nobody has written to it for a
    day."""
    for path in cache.glob(".*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > 24 * 3600:
                path.unlink()


def _memory() -> int | None:
    """Bytes of this machine's memory, where they are known."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on this system
        return None


def _kind(plan: _Plan) -> type[np.uint8] | type[np.float32]:
    return np.float32 if plan.deep else np.uint8


def _written(path: Path, paths: Sequence[Path], title: str, reading: Reading, plan: _Plan) -> dict[str, Any]:
    """Decode all files into `path`, a file of NumPy; what is to be known of them."""
    shape = (len(paths), reading.size, reading.size, plan.channels)
    dtype = np.dtype(_kind(plan))
    with open(path, "wb") as file:
        described = {"descr": dtype.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, described)
        start = file.tell()
        said = _Summary(plan)
        for chunk in said.chunks(paths, title, reading):
            file.write(chunk.data)
    rescale = said.rescale()
    if rescale is not None:
        with open(path, "r+b") as file:
            _rescaled(file, start, shape, dtype, rescale)
    return said.to_json()


def _rescaled(
    file: IO[bytes], start: int, shape: Sequence[int], dtype: np.dtype[Any], rescale: Callable[[Array], Array]
) -> None:
    """Change the values that begin at byte `start` of a file, part by part."""
    left = int(np.prod(shape))
    file.seek(start)
    while left:
        count = min(left, WRITE_AHEAD // dtype.itemsize)
        values = np.fromfile(file, dtype, count)
        file.seek(-values.nbytes, os.SEEK_CUR)
        file.write(rescale(values).data)
        left -= count


def _filled(
    pixels: Array, paths: Sequence[Path], title: str, reading: Reading, plan: _Plan
) -> dict[str, Any]:
    """Decode all files into `pixels` (N, size, size, C)."""
    said, start = _Summary(plan), 0
    for chunk in said.chunks(paths, title, reading):
        pixels[start : start + len(chunk)] = chunk
        start += len(chunk)
    rescale = said.rescale()
    if rescale is not None:
        for part in np.array_split(pixels, max(1, pixels.nbytes // WRITE_AHEAD)):
            part[:] = rescale(part)
    return said.to_json()


class _Summary:
    """Decodes files, and keeps what is to be known of all."""

    def __init__(self, plan: _Plan) -> None:
        self.plan = plan
        self.bad: list[int] = []
        self.low, self.high = np.inf, -np.inf
        self.outside = self.values = 0

    def chunks(self, paths: Sequence[Path], title: str, reading: Reading) -> Iterator[Array]:
        """The pixels (n, size, size, C) of all files, as they are in them, some at a time, which hold until
        the next are asked for."""
        plan, size = self.plan, reading.size
        image = size * size * plan.channels * np.dtype(_kind(plan)).itemsize
        step = max(1, min(READ_AHEAD, WRITE_AHEAD // image))
        buffer = np.empty((step, size, size, plan.channels), _kind(plan))

        def one(i: int) -> tuple[float, float, int] | None:
            try:
                with _refused():
                    pixels, low, high = decode(paths[i], size, plan.channels, plan.deep, plan.span)
            except InputError:
                if reading.bad_images == "refuse":
                    raise
                buffer[i % step] = 0
                return None
            buffer[i % step] = pixels
            outside = 0
            if plan.deep and plan.span is not None:
                outside = int(((pixels < plan.span[0]) | (pixels > plan.span[1])).sum())
            return low, high, outside

        for i, found in _each(len(paths), one, f"decoding {title}", step):
            if found is None:
                self.bad.append(i)
            else:
                low, high, outside = found
                self.low, self.high = min(self.low, low), max(self.high, high)
                self.outside, self.values = self.outside + outside, self.values + buffer[0].size
            if (i + 1) % step == 0 or i + 1 == len(paths):
                yield buffer[: i % step + 1]

    @property
    def scale(self) -> tuple[float, float] | None:
        """Values that become 0 and 1: those that are given, or the smallest and the largest there is."""
        if not self.plan.deep:
            return None
        return self.plan.span or (self.low, self.high if self.high > self.low else self.low + 1)

    def rescale(self) -> Callable[[Array], Array] | None:
        """What makes float32 in [0, 1] of the values; None: nothing is to be done."""
        if self.scale is None:
            return None
        scale = self.scale
        return lambda x: scaled(x, scale)

    def to_json(self) -> dict[str, Any]:
        """What is kept beside the pixels."""
        notes = list(self.plan.notes)
        if self.scale is not None:
            low, high = self.scale
            found = "as `pixel_range` says" if self.plan.span else "the values that occur"
            notes.append(f"pixel values {low:g} to {high:g}, {found}, are read as 0 to 1 in float32")
        if self.outside:
            share = f"{100 * self.outside / self.values:.3g} % of the pixels"
            notes.append(f"{share} are outside `pixel_range` and were cut off")
        reduced = None if self.plan.deep else self.plan.span
        return {"scale": self.scale, "reduced": reduced, "bad": self.bad, "notes": notes}
