"""The error that a user's input ends in."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


class InputError(Exception):
    """Bad input: one line that says what was given, what was expected and what to do.

    What was given can be anything, so characters that cannot be printed are escaped and the middle of an
    endless line is left out.
    """

    def __init__(self, message: str) -> None:
        line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in message)
        super().__init__(line if len(line) <= 1000 else f"{line[:700]} ... {line[-250:]}")


RESUME_ME = 75  # the exit code of a process that was told to stop and has saved its work (EX_TEMPFAIL)


class InterruptionError(Exception):
    """A signal has ended the work, what was done is saved: one line that says how to go on."""


def first_line(error: BaseException) -> str:
    """The beginning of an error's message, or its type where it has none."""
    if isinstance(error, KeyError):
        return f"no {error}"
    lines = str(error).splitlines()
    return lines[0][:120] if lines else type(error).__name__


MANY = 25  # names that a message lists although it has a better idea


def one_of(kind: str, name: str, known: Iterable[str]) -> str:
    """Return `name` if it is one of `known`; otherwise raise InputError with the nearest names."""
    known = list(known)
    if name in known:
        return name
    near = difflib.get_close_matches(name[:80], known, n=3, cutoff=0.4)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    if near and len(known) > MANY:
        raise InputError(f"unknown {kind} '{name[:80]}'{hint}")
    raise InputError(f"unknown {kind} '{name[:80]}', expected one of: {', '.join(known)}{hint}")


def with_flags(message: str) -> str:
    """`message` with options in place of the arguments that a library error speaks of: --draw-per image for
    `draw_per=image` in backticks."""

    def flag(found: re.Match[str]) -> str:
        name, value = found.groups()
        return f"--{name.replace('_', '-')}" + (f" {value}" if value else "")

    return re.sub(r"`([a-z][a-z0-9_]*)(?:=([^`]*))?`", flag, message)
