"""The command `nas`: its subcommands by name. Imports what a subcommand needs when it is called."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple

from recipes import command_line
from recipes.errors import one_of


class Command(NamedTuple):
    """A subcommand: `MODULE:FUNCTION` takes its arguments and returns the exit code."""

    function: str
    help: str


COMMANDS = {
    "search": Command("train_search:main", "search an architecture"),
    "train": Command(
        "train_final:main", "train an architecture, from scratch or from saved weights, and test it"
    ),
    "ablate": Command("ablate:main", "compare gradient estimators, alone and in searches"),
    "export": Command("recipes.deploy:export", "write a trained network as ONNX and for other programs"),
    "predict": Command("recipes.deploy:predict", "classes and probabilities of pictures"),
    "latency": Command("nas.latency:main", "time the networks of a space on this machine, for --budget"),
    "convert": Command("nas.convert_command:main", "an architecture in the notation of another tool"),
    "presets": Command("recipes.preset_list:main", "list the recipes that --preset names"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: nas COMMAND [options]; nas COMMAND --help lists the options\n")
        for name, command in COMMANDS.items():
            print(f"  {name:10}{command.help}")
        return 0 if argv else 2
    return command_line.exit_code(lambda: _call(argv), "nothing is kept")


def _call(argv: Sequence[str]) -> int:
    """Do the subcommand that `argv` begins with, which then finds its own name in sys.argv[0]."""
    module, _, function = COMMANDS[one_of("command", argv[0], COMMANDS)].function.partition(":")
    before, sys.argv = sys.argv, [f"nas {argv[0]}", *argv[1:]]
    try:
        code: int = getattr(import_module(module), function)()
        return code
    finally:
        sys.argv = before
