"""Reading text and JSON that somebody else has written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

LARGEST_FILE = 20_000_000  # bytes; what is read here is far smaller
DEEPEST = 50  # levels of JSON; what is read here has five


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, with or without a byte order mark.

    Raises:
        OSError, ValueError: it is no ordinary file, larger than LARGEST_FILE, or not UTF-8.
    """
    if path.exists() and not path.is_file():
        raise ValueError("not a file")  # opening a pipe or a device could wait or go on for ever
    with open(path, "rb") as file:
        content = file.read(LARGEST_FILE + 1)
    if len(content) > LARGEST_FILE:
        raise ValueError(f"larger than {LARGEST_FILE:,} bytes")
    return content.decode("utf-8-sig")


def parse_json(text: str) -> Any:
    """The data in a JSON text. Stricter than `json.loads`: names are unique, numbers are finite, and data
    are nested no deeper than DEEPEST levels, so that no recursion over them can fail. Raises ValueError."""
    try:
        data = json.loads(text, object_pairs_hook=_object, parse_constant=_constant, parse_float=_float)
    except RecursionError:
        raise ValueError("nested far too deeply") from None
    level, depth = [data], 0
    while level := [inner for outer in level for inner in _children(outer)]:
        depth += 1
        if depth > DEEPEST:
            raise ValueError(f"nested deeper than {DEEPEST} levels")
    return data


def _children(data: Any) -> Iterable[Any]:
    if isinstance(data, dict):
        return data.values()
    return data if isinstance(data, list) else ()


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    names = dict(pairs)
    if len(names) < len(pairs):
        raise ValueError("a name occurs twice in one object")
    return names


def _constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number of JSON")


def _float(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"the number {text[:40]} is out of range")
    return value
