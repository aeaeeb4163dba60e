"""How image files are to be read: what is asked for, and how all go together by their headers."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from nas.data.sources.pictures import WHITE, Header, header
from recipes import InputError

READ_AHEAD = 1024  # files that wait to be read
WRITE_AHEAD = 64_000_000  # bytes of pixels that wait to be written
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
class Plan:
    """How all files are decoded, so that they go together.

    Attributes:
        shape: of all pixels, (N, size, size, C).
        deep: whether values are those of the files, in float32, and not uint8.
        span: the range that is given, where it changes a value; else None.
        notes: about the files.
    """

    shape: tuple[int, int, int, int]
    deep: bool
    span: tuple[float, float] | None
    notes: tuple[str, ...]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the pixels."""
        return np.dtype(np.float32 if self.deep else np.uint8)


def planned(paths: Sequence[Path], title: str, reading: Reading, span: tuple[float, float] | None) -> Plan:
    """What the headers of all files agree on. Raises InputError."""
    looked = each_file(paths, header, f"looking at {title}", reading)
    headers = [found for _, found in looked if found is not None]
    if not headers:
        raise InputError(f"none of the {len(paths)} images of {title} can be read: {_why(paths[0])}")
    shape = (len(paths), reading.size, reading.size, _channels(headers, title, reading))
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
        return Plan(shape, False, span, tuple(notes))
    plain = deep == 0 and span in (None, (0.0, 255.0))
    return Plan(shape, not plain, None if plain else span, tuple(notes))


def _channels(headers: Sequence[Header], title: str, reading: Reading) -> int:
    """How many all images are to have. Raises InputError."""
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
    return channels


def _why(path: Path) -> str:
    try:
        header(path)
    except InputError as error:
        return str(error)
    return f"see {path}"


def each_file(
    paths: Sequence[Path],
    function: Callable[[Path], T],
    title: str,
    reading: Reading,
    nbytes: int = 1,
) -> Iterator[tuple[int, T | None]]:
    """The index of every file and `function` of it, by several threads that run ahead no more than
    READ_AHEAD and WRITE_AHEAD say; None of a file that cannot be read, where such are left out.

    Args:
        title: what is done, for the progress bar.
        nbytes: of a result.

    Raises:
        InputError: a file cannot be read, and `reading` refuses such.
    """

    def one(path: Path) -> T | None:
        try:
            return function(path)
        except InputError as error:
            if reading.bad_images == "refuse":
                raise InputError(f"{error}, or give `bad_images=leave_out`") from None
            return None

    step = max(1, min(READ_AHEAD, WRITE_AHEAD // nbytes))
    progress = tqdm(total=len(paths), desc=title, disable=None, unit="image")
    with progress, warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        warnings.simplefilter("ignore")  # about harmless flaws, such as unreadable notes of a camera
        for start in range(0, len(paths), step):
            for i, result in enumerate(pool.map(one, paths[start : start + step]), start):
                progress.update()
                yield i, result
