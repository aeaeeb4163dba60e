"""Pickles that hold plain data, read without executing anything.

A pickle is a program: it names functions and calls them. Here no name leads to a function of NumPy or
Python. The few that an array of numbers is written with lead to stand-ins that keep what they are given;
arrays are made of that afterwards. Every other name is refused.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from recipes import InputError, first_line

LARGEST = 2_000_000_000  # bytes of a file
DEEPEST, MOST = 20, 1_000_000  # levels, and things in all
_KINDS = "biufSU"  # of the types of NumPy that are read: numbers, texts, truth values


class _Type:
    """What is said of a type of numbers."""

    def __init__(self, code: str = "", *rest: Any) -> None:
        self.code, self.order = code, "="

    def __setstate__(self, state: Any) -> None:
        self.order = state[1] if isinstance(state, tuple) and len(state) > 1 else "?"

    def plain(self) -> np.dtype[Any]:
        """The type. Raises ValueError."""
        if not (isinstance(self.code, str) and len(self.code) < 8 and self.code[:1] in _KINDS):
            raise ValueError(f"an array of {str(self.code)[:20]!r}")
        return np.dtype(f"{self.order}{self.code}" if self.order in ("<", ">") else self.code)


class _Array:
    """What is said of an array."""

    def __init__(self, *arguments: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def plain(self) -> np.ndarray[Any, Any]:
        """The array. Raises ValueError."""
        try:
            _, shape, kind, columns_first, content = self.state
        except (TypeError, ValueError):
            raise ValueError("an array without content") from None
        content = content.encode("latin1") if isinstance(content, str) else content
        if not isinstance(kind, _Type) or not isinstance(content, bytes):
            raise ValueError("an array of objects")
        array = np.frombuffer(content, kind.plain())
        return array.reshape(tuple(map(int, shape)), order="F" if columns_first else "C")


class _Number:
    """A number of NumPy."""

    def __init__(self, kind: Any, content: Any = b"") -> None:
        self.kind, self.content = kind, content

    def plain(self) -> Any:
        """The number. Raises ValueError."""
        content = self.content.encode("latin1") if isinstance(self.content, str) else self.content
        return np.frombuffer(content, self.kind.plain())[0].item()


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """How Python 3 writes bytes for Python 2."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("a text in another encoding")
    return text.encode("latin1")


def _buffer(content: Any, kind: Any, shape: Any, order: Any) -> _Array:
    """An array as protocol 5 writes it."""
    array = _Array()
    array.state = 1, shape, kind, order == "F", bytes(content) if isinstance(content, bytearray) else content
    return array


def _no_bytes() -> bytes:
    """How no bytes are written for Python 2."""
    return b""


_KNOWN: dict[tuple[str, str], Callable[..., Any]] = {("numpy", "ndarray"): _Array, ("numpy", "dtype"): _Type}
_KNOWN |= {
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _no_bytes,
    ("builtins", "bytes"): _no_bytes,
}
for _core in ("core", "_core"):
    _KNOWN[(f"numpy.{_core}.multiarray", "_reconstruct")] = _Array
    _KNOWN[(f"numpy.{_core}.multiarray", "scalar")] = _Number
    _KNOWN[(f"numpy.{_core}.numeric", "_frombuffer")] = _buffer


class _Reader(pickle.Unpickler):
    """Knows no names but those of the stand-ins."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(f"it names {module[:40]}.{name[:40]}, which is not executed")
        return _KNOWN[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to something outside of itself")


def load(path: Path) -> Any:
    """What is in a pickle of dicts, lists, texts, numbers and arrays of numbers.

    Raises:
        InputError: there is anything else; nothing of it is executed.
        OSError: the file cannot be read.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"larger than {LARGEST:,} bytes")
        return _Plain()(_Reader(io.BytesIO(path.read_bytes()), encoding="latin1").load(), 0)
    except OSError:
        raise
    except Exception as error:  # whatever a damaged or hostile pickle ends in
        raise InputError(
            f"cannot read {path} ({first_line(error)}): only plain data are read from pickles; get the file "
            "again, or convert it to arrays:FILE.npz yourself"
        ) from None


class _Plain:
    """Puts arrays in place of what stands for them."""

    def __init__(self) -> None:
        self.left = MOST

    def __call__(self, thing: Any, level: int) -> Any:
        """Raises ValueError where a thing is not plain, or there are too many: one may be there often."""
        self.left -= 1
        if level > DEEPEST or self.left < 0:
            raise ValueError("nested too deeply, or too many things")
        if isinstance(thing, _Array | _Number):
            return thing.plain()
        if isinstance(thing, dict):
            return {self(key, level + 1): self(value, level + 1) for key, value in thing.items()}
        if isinstance(thing, list | tuple):
            return type(thing)(self(value, level + 1) for value in thing)
        if thing is None or isinstance(thing, str | bytes | int | float):
            return thing
        raise ValueError(f"a {type(thing).__name__}")
