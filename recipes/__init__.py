"""Options and named recipes. They know numbers only and import nothing heavy."""

from __future__ import annotations

from recipes.errors import RESUME_ME, InputError, InterruptionError, first_line, one_of
from recipes.options import FinalOptions, RunOptions, SearchOptions

__all__ = [
    "RESUME_ME",
    "FinalOptions",
    "InputError",
    "InterruptionError",
    "RunOptions",
    "SearchOptions",
    "first_line",
    "one_of",
]
