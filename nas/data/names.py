"""Names that people write in more than one way: of parts of a data set, and of classes."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

PARTS = {
    "train": ("train", "training", "trn"),
    "valid": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "tst"),
}
"""The parts of a data set, and what they are called."""
_PART = {word: part for part, words in PARTS.items() for word in words}
_FILLERS = frozenset((
    "set", "sets", "data", "dataset", "image", "images", "img", "imgs", "picture", "pictures", "photo",
    "photos", "file", "files", "folder", "split", "part", "seg",
))  # fmt: skip


def part_of(name: str) -> str | None:
    """Which part a folder or column value is the name of: train, valid, test, or None.

    Case and what often stands around the word do not matter: `Training`, `test_set`, `TrainImages`,
    `seg_train`, `val2017`.
    """
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", unicodedata.normalize("NFKC", name))
    words = re.findall(r"[^\W\d_]+", spaced.casefold())
    words = [re.sub(r"(?<=.{3})(?:set|data|images|imgs)$", "", word) for word in words]
    parts = {_PART[word] for word in words if word in _PART}
    others = [word for word in words if word not in _PART and word not in _FILLERS]
    return parts.pop() if len(parts) == 1 and not others else None


def key_of(name: str) -> str:
    """Equal for names that differ in Unicode form (NFC, NFD) or case only."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def natural(name: str) -> tuple[Any, ...]:
    """A key to sort names by for a reader: numbers in them by their value."""
    pieces = re.split(r"([0-9]+)", unicodedata.normalize("NFC", name))
    return tuple((1, int(p), p) if i % 2 else (0, 0, p.casefold()) for i, p in enumerate(pieces))


def merged(found: Mapping[str, Sequence[Any]]) -> tuple[dict[str, list[Any]], list[str]]:
    """Things by class, where names of one class may differ in Unicode form or case, and notes about that.

    The class has the first of its names in the composed form (NFC); classes come in the order of their names.
    """
    groups: dict[str, list[str]] = {}
    for name in sorted(found, key=lambda name: (unicodedata.normalize("NFC", name), name)):
        groups.setdefault(key_of(name), []).append(name)
    classes = {
        unicodedata.normalize("NFC", names[0]): [thing for name in names for thing in found[name]]
        for names in groups.values()
    }
    notes = [
        f"{quoted(names)} are one class, '{unicodedata.normalize('NFC', names[0])}': rename them if they "
        "are different ones"
        for names in groups.values()
        if len(names) > 1
    ]
    return classes, notes


def quoted(names: Iterable[str], most: int = 5) -> str:
    """The first names in quotes, and how many more there are; an odd Unicode form is named."""
    names = list(names)
    forms = ["" if unicodedata.is_normalized("NFC", name) else " (decomposed)" for name in names]
    listed = ", ".join(f"'{name}'{form}" for name, form in zip(names[:most], forms, strict=False))
    return listed + (f" and {len(names) - most} more" if len(names) > most else "")
