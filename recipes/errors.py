"""The error that a user's input ends in."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")


class InputError(Exception):
    """Bad input: one line that says what was given, what was expected and what to do."""


def one_of(kind: str, name: str, known: Iterable[str]) -> str:
    """Return `name` if it is one of `known`; otherwise raise InputError with the nearest names."""
    known = list(known)
    if name in known:
        return name
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise InputError(f"unknown {kind} '{name[:80]}', expected one of: {', '.join(known)}{hint}")
