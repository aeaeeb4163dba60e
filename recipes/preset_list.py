"""`nas presets`: the named recipes, and what they set."""

from __future__ import annotations

from dataclasses import dataclass, fields

from recipes import FinalOptions, SearchOptions, presets
from recipes.command_line import words


@dataclass(kw_only=True)
class PresetsOptions:
    """List the recipes that --preset names, with the options that each of them sets."""


def run(_: PresetsOptions) -> None:
    """Print the list."""
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
            lines += [f"    {' '.join(words(options, usual))}"] if options else []
    print("\n".join(lines))
