"""Compare gradient estimators: `python ablate.py --help`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from recipes import command_line
from recipes.ablation import AblationOptions

LEVELS = {  # name: module and class of its options, module that does it
    "gradient": ("recipes.ablation", "GradientOptions", "ablation.gradient"),
    "tasks": ("studies.options", "TasksOptions", "studies.tasks.tasks"),
    "nas": ("recipes.ablation", "GridOptions", "ablation.grid"),
    "rank": ("recipes.ablation", "RankOptions", "ablation.ranking"),
    "truth": ("studies.options", "TruthOptions", "studies.truth.build"),
}


class _Missing(AblationOptions):
    """(in a checkout of the repository only)"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    commands: dict[str, tuple[type[AblationOptions], Any]] = {}
    for name, (options, kind, module) in LEVELS.items():
        try:
            commands[name] = getattr(import_module(options), kind), _late(module)
        except ModuleNotFoundError as error:
            if error.name is None or not options.startswith(error.name):
                raise
            if argv[:1] == [name]:
                print(
                    f"error: the package has no command '{name}': use a checkout of the repository",
                    file=sys.stderr,
                )
                return 2
            commands[name] = _Missing, None
    called = "nas ablate" if sys.argv[0] == "nas ablate" else "ablate.py"
    return command_line.main_of(called, commands, argv)


def _late(module: str) -> Any:
    """`module.run`, imported when called, so that --help and bad options answer at once."""
    return lambda options: import_module(module).run(options)


if __name__ == "__main__":
    sys.exit(main())
