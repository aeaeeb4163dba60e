"""`nas presets`: the named recipes, and what they set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from recipes import FinalOptions, SearchOptions, command_line, presets


@dataclass(kw_only=True)
class _NoOptions:
    """List the recipes that --preset names, with the options that each of them sets."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `nas presets`; returns the exit code."""
    return command_line.main_alone("nas presets", _NoOptions, lambda _: print(_listing()), argv)


def _listing() -> str:
    lines = []
    for command, recipes, kind in (
        ("nas search", presets.SEARCH, SearchOptions),
        ("nas train", presets.FINAL, FinalOptions),
    ):
        usual = [field.name for field in fields(kind) if field.default is not None]
        for name, options in recipes.items():
            lines += [f"{command} --preset {name}", f"    {presets.ABOUT[name]}"]
            if name in presets.PUBLISHED:
                lines += [f"    published: {presets.published(name)}"]
            lines += [f"    {' '.join(command_line.words(options, usual))}"] if options else []
    return "\n".join(lines)
